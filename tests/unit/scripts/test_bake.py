"""The bake: the bundle that it takes."""

import shutil
from pathlib import Path

import pytest
from botocore.stub import Stubber

from app_tier.bundle import DEMO_BUNDLE
from scripts.aws.bake.bake import select_bundle
from scripts.aws.bake.spec import BakeError
from scripts.aws.context import AwsAccount, AwsContext
from scripts.demo_model import DEMO_NAME
from tests.support.aws_stage import Time

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


def context(s3: Stubber, done: list[str], partition: str = "aws") -> AwsContext:
    """Return a context of an account with a stub of S3 and a known id."""
    account = AwsAccount("us-east-1", _clients={"s3": s3.client})
    account.__dict__["id"] = "123456789012"  # without a call of STS
    account.__dict__["_caller"] = {"Arn": f"arn:{partition}:iam::123456789012:user/ann"}
    return AwsContext(account, "fs", done.append, lambda _: None, Time(pause=0).waiter)
