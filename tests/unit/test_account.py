"""What the extension of the local cloud for rehearsals corrects in moto."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.iam.access_control import PermissionResult

from localcloud.patches import MODULES, apply_patches, patches_of
from tests.support.account.s3 import get_permission


@pytest.mark.parametrize("service", ["autoscaling", "cognitoidp", "dynamodb", "ec2", "s3"])
def test_the_patches_of_rehearsals_fit_the_installed_moto(service: str) -> None:
    assert MODULES[service][-1].startswith("tests.support.account.")
    assert all(patch.why for patch in patches_of(service))
    apply_patches(service)


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a client, which tries once, of the EC2 of a new account."""
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    apply_patches("ec2")
    with mock_aws():
        yield boto3.client("ec2", "us-east-1", config=Config(retries={"total_max_attempts": 1}))


OVER_TLS = {
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": "*",
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}
OVER_NEW_TLS = {**OVER_TLS, "Condition": {"NumericLessThan": {"s3:TlsVersion": "1.2"}}}
NEVER = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": "*"}


TLS_AND_MORE = {**OVER_TLS, "Condition": {"Bool": {"aws:SecureTransport": "false", "aws:ViaAWSService": "false"}}}


@pytest.mark.parametrize(
    ("statements", "action", "permission"),
    [
        (None, "s3:GetObject", PermissionResult.NEUTRAL),
        (OVER_TLS, "s3:GetObject", PermissionResult.NEUTRAL),
        ([OVER_TLS, OVER_NEW_TLS, NEVER], "s3:GetObject", PermissionResult.NEUTRAL),
        ([OVER_TLS, NEVER], "s3:DeleteObject", PermissionResult.DENIED),
        ([TLS_AND_MORE], "s3:GetObject", PermissionResult.DENIED),
    ],
)
def test_a_bucket_policy_holds_without_its_statements_about_tls_alone(
    statements: object, action: str, permission: PermissionResult
) -> None:
    document = {"Version": "2012-10-17", "Statement": statements}
    bucket = SimpleNamespace(policy=None if statements is None else json.dumps(document).encode())
    assert get_permission(bucket, action, "arn:aws:s3:::b/k") == permission


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
