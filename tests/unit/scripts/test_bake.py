"""The bake: bundles, its bucket, and the images that a stack launches."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from app_tier.bundle import DEMO_BUNDLE
from scripts.aws.bake.bake import select_bundle
from scripts.aws.bake.spec import BakeError
from scripts.aws.buckets import ensure_bucket
from scripts.aws.context import AwsAccount, AwsContext, TimedOutError
from scripts.aws.deploy.up import available_images, worker_disk_gib
from scripts.demo_model import DEMO_NAME
from tests.support.aws_stage import StubbedAccount, Time, stubbed, stubbed_account

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


@pytest.mark.parametrize(
    ("refusals", "error", "words"),
    [
        (["OperationAborted"] * 3, None, ""),
        (["OperationAborted"] * 361, TimedOutError, r"free the name of the deleted bucket .*; try again then"),
        (["BucketAlreadyExists"], ClientError, "BucketAlreadyExists"),
    ],
    ids=["released", "never released", "of another account"],
)
def test_the_bake_waits_an_hour_for_a_bucket_name_that_s3_has_not_released(
    refusals: list[str], error: type[Exception] | None, words: str
) -> None:
    done = list[str]()
    with stubbed("s3") as s3:
        s3.add_client_error("head_bucket", "404")
        for code in refusals:
            s3.add_client_error("create_bucket", code, http_status_code=409)
        if error is not None:
            with pytest.raises(error, match=words):
                ensure_bucket(context(s3, done))
            return
        for call in ("create_bucket", "put_bucket_tagging", "put_public_access_block", "put_bucket_encryption"):
            s3.add_response(call, {})
        for call in ("put_bucket_lifecycle_configuration", "put_bucket_policy"):
            s3.add_response(call, {})
        ensure_bucket(context(s3, done))
    assert done[0] == "made the bucket fs-bake-123456789012-us-east-1"


@pytest.mark.parametrize("partition", ["aws", "aws-us-gov", "aws-cn"])
def test_the_policy_of_the_bakes_bucket_names_it_in_the_accounts_partition(partition: str) -> None:
    """S3 refuses a policy with the ARN of another partition as malformed:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html.
    """
    requests: list[Any] = []
    with stubbed("s3") as s3:
        s3.client.meta.events.register(
            "provide-client-params.s3.PutBucketPolicy", lambda params, **_: requests.append(params)
        )
        for call in ("head_bucket", "put_bucket_tagging", "put_public_access_block", "put_bucket_encryption"):
            s3.add_response(call, {})
        for call in ("put_bucket_lifecycle_configuration", "put_bucket_policy"):
            s3.add_response(call, {})
        ensure_bucket(context(s3, [], partition))
    resources = [each["Resource"] for each in json.loads(requests[0]["Policy"])["Statement"]]
    bucket = f"arn:{partition}:s3:::fs-bake-123456789012-us-east-1"
    assert resources == [[bucket, f"{bucket}/*"]] * 2


ROOT_DISK = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 24, "SnapshotId": "snap-1"}}
INSTANCE_STORE = {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}


def stored(at: StubbedAccount, *image_ids: str) -> AwsContext:
    """Let the parameter store name an image for each role that is asked about."""
    for image_id in image_ids:
        at.stubs["ssm"].add_response("get_parameter", {"Parameter": {"Value": image_id}})
    return AwsContext(at.account, "fs", lambda _: None, lambda _: None)


@pytest.mark.parametrize(("disks", "gib"), [([ROOT_DISK, INSTANCE_STORE], 24), ([], 8)])
def test_a_workers_disk_has_the_size_of_its_image(disks: Sequence[Any], gib: int) -> None:
    with stubbed_account("ssm", "ec2") as at:
        there = {"Images": [{"ImageId": "ami-2", "BlockDeviceMappings": disks}]}
        at.stubs["ec2"].add_response("describe_images", there)
        assert worker_disk_gib(stored(at, "ami-2"), "openvino") == gib


def test_without_an_image_a_workers_disk_has_the_size_of_the_image_to_bake() -> None:
    for engine, gib in (("openvino", 8), ("torch", 24)):
        with stubbed_account("ssm", "ec2") as at:
            at.stubs["ec2"].add_response("describe_images", {"Images": []})
            assert worker_disk_gib(stored(at, "ami-gone"), engine) == gib  # type: ignore[arg-type]


def test_a_deleted_image_is_not_available() -> None:
    with stubbed_account("ssm", "ec2") as at:
        at.stubs["ec2"].add_response("describe_images", {"Images": [{"ImageId": "ami-1"}]})
        assert available_images(stored(at, "ami-gone", "ami-1")) == {"web": "ami-1"}
