"""The bake: the bundle that it takes."""

import shutil
from pathlib import Path

import pytest

from app_tier.bundle import DEMO_BUNDLE
from scripts.aws.bake.bake import select_bundle
from scripts.aws.bake.spec import BakeError
from scripts.aws.context import AwsAccount
from scripts.demo_model import DEMO_NAME

ACCOUNT = AwsAccount("us-east-1")


def test_the_default_bundle_is_the_built_one_for_photos(tmp_path: Path) -> None:
    shutil.copytree(DEMO_BUNDLE, tmp_path / "photos")
    assert select_bundle(ACCOUNT, None, "openvino", tmp_path) == tmp_path / "photos"


def test_a_missing_default_bundle_names_the_build_command(tmp_path: Path) -> None:
    with pytest.raises(BakeError, match=r"(?s)model build photos`.*--bundle.*--demo"):
        select_bundle(ACCOUNT, None, "openvino", tmp_path)


def test_the_demo_bundle_is_selected_by_name_only() -> None:
    assert select_bundle(ACCOUNT, DEMO_NAME, "torch") == DEMO_BUNDLE


def test_a_given_bundle_must_be_complete(tmp_path: Path) -> None:
    own = Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "own"))
    assert select_bundle(ACCOUNT, str(own), "openvino") == own
    (own / "model.bin").write_bytes(b"short")
    with pytest.raises(BakeError, match=r"model\.bin"):
        select_bundle(ACCOUNT, str(own), "openvino")
