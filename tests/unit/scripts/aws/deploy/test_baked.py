"""What `up` finds out about the images that a stack launches."""

from collections.abc import Sequence
from typing import Any

import pytest

from scripts.aws.context import AwsContext
from scripts.aws.deploy.up import available_images, worker_disk_gib
from tests.support.preflight import StubbedAccount, stubbed_account

ROOT_DISK = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 24, "SnapshotId": "snap-1"}}
INSTANCE_STORE = {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}


def stored(at: StubbedAccount, *image_ids: str) -> AwsContext:
    """Let the parameter store name an image for each role that is asked about."""
    for image_id in image_ids:
        at.stubs["ssm"].add_response("get_parameter", {"Parameter": {"Value": image_id}})
    return AwsContext(at.account, "fs", lambda _: None, lambda _: None)


@pytest.mark.parametrize(("disks", "gib"), [([ROOT_DISK, INSTANCE_STORE], 24), ([], 8)])
def test_a_workers_disk_is_as_large_as_its_image_says(disks: Sequence[Any], gib: int) -> None:
    with stubbed_account("ssm", "ec2") as at:
        there = {"Images": [{"ImageId": "ami-2", "BlockDeviceMappings": disks}]}
        at.stubs["ec2"].add_response("describe_images", there)
        assert worker_disk_gib(stored(at, "ami-2"), "openvino") == gib


def test_without_its_image_a_workers_disk_is_as_large_as_that_which_would_be_baked() -> None:
    for engine, gib in (("openvino", 8), ("torch", 24)):
        with stubbed_account("ssm", "ec2") as at:
            at.stubs["ec2"].add_response("describe_images", {"Images": []})
            assert worker_disk_gib(stored(at, "ami-gone"), engine) == gib  # type: ignore[arg-type]


def test_an_image_that_is_gone_is_not_there() -> None:
    with stubbed_account("ssm", "ec2") as at:
        at.stubs["ec2"].add_response("describe_images", {"Images": [{"ImageId": "ami-1"}]})
        assert available_images(stored(at, "ami-gone", "ami-1")) == {"web": "ami-1"}
