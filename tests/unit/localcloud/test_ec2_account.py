"""Machine images of the local cloud."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from localcloud.patches import apply_patches


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    apply_patches("ec2")
    with mock_aws():
        yield boto3.client("ec2", "us-east-1")


@pytest.fixture
def instance(ec2: Any) -> str:
    launched = ec2.run_instances(ImageId="ami-0deb1a12000000002", MinCount=1, MaxCount=1)["Instances"][0]
    return str(launched["InstanceId"])


def test_debians_images_belong_to_its_account(ec2: Any) -> None:
    names = [{"Name": "name", "Values": ["debian-12-amd64-*"]}]
    images = ec2.describe_images(Owners=["136693071363"], Filters=names)["Images"]
    assert [image["Name"] for image in images] == ["debian-12-amd64-20240717-1811", "debian-12-amd64-20250316-2053"]
    assert {image["RootDeviceName"] for image in images} == {"/dev/xvda"}
    assert ec2.describe_images(Owners=["self"], Filters=names)["Images"] == []


def test_a_type_of_another_architecture_than_the_images_is_refused(ec2: Any) -> None:
    arm = "ami-0deb1a12000000003"
    assert ec2.run_instances(ImageId=arm, InstanceType="c7g.large", MinCount=1, MaxCount=1)["Instances"]
    with pytest.raises(ClientError, match=r"The architecture 'x86_64' .* does not match the architecture 'arm64'"):
        ec2.run_instances(ImageId=arm, InstanceType="c7a.large", MinCount=1, MaxCount=1)


def test_an_image_and_its_snapshot_each_get_their_tags(ec2: Any, instance: str) -> None:
    specifications = [
        {"ResourceType": kind, "Tags": [{"Key": "of", "Value": kind}]} for kind in ("image", "snapshot")
    ]
    image_id = ec2.create_image(InstanceId=instance, Name="one", TagSpecifications=specifications)["ImageId"]
    image = ec2.describe_images(ImageIds=[image_id])["Images"][0]
    snapshot_id = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    snapshot = ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]
    assert (image["Tags"], snapshot["Tags"]) == (
        [{"Key": "of", "Value": "image"}],
        [{"Key": "of", "Value": "snapshot"}],
    )


def test_a_name_is_given_to_one_image(ec2: Any, instance: str) -> None:
    image_id = ec2.create_image(InstanceId=instance, Name="one")["ImageId"]
    with pytest.raises(ClientError, match=rf"InvalidAMIName\.Duplicate.*one is already in use by AMI {image_id}"):
        ec2.create_image(InstanceId=instance, Name="one")
