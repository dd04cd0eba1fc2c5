"""Which bundle is baked."""

import shutil
from pathlib import Path

import pytest

from app_tier.bundle.load import DEMO_BUNDLE
from scripts.aws.account import Account
from scripts.aws.bake.bake import DEMO_NAME, select_bundle
from scripts.aws.bake.spec import BakeError

NOBODYS = Account("us-east-1")


def test_the_default_is_the_resnet_that_was_built(tmp_path: Path) -> None:
    shutil.copytree(DEMO_BUNDLE, tmp_path / "resnet18")
    assert select_bundle(NOBODYS, None, "openvino", tmp_path) == tmp_path / "resnet18"


def test_without_one_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(BakeError, match=r"(?s)model build resnet18`.*--bundle.*--demo"):
        select_bundle(NOBODYS, None, "openvino", tmp_path)


def test_the_demo_bundle_has_to_be_asked_for() -> None:
    assert select_bundle(NOBODYS, DEMO_NAME, "torch") == DEMO_BUNDLE


def test_a_bundle_that_is_named_is_taken_where_it_is_whole(tmp_path: Path) -> None:
    own = Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "own"))
    assert select_bundle(NOBODYS, str(own), "openvino") == own
    (own / "model.bin").write_bytes(b"short")
    with pytest.raises(BakeError, match=r"model\.bin"):
        select_bundle(NOBODYS, str(own), "openvino")
