"""What a stack's account may hold besides: workers, data, and what other commands or a crash have left."""

from typing import Any

from scripts.aws.context import TAG
from scripts.aws.resources import RESOURCE_TYPES
from tests.support.aws_stage import IMAGE, Stage

WITH_SITE = {
    "StaticSite": "true",
    "WebCidr": "0.0.0.0/0",
    "DomainName": "images.example.org",
    "HostedZoneId": "Z1",
    "CertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/1",
}
"""Parameters of a stack with a static site, as the rules of the template want them."""


def tagged(stage: Stage, *kinds: str, **more: str) -> Any:
    """Return the tags for new things of these types."""
    tags = [{"Key": key, "Value": value} for key, value in {TAG: stage.prefix, **more}.items()]
    return [{"ResourceType": kind, "Tags": tags} for kind in kinds]


def launch_workers(stage: Stage, count: int) -> list[str]:
    """Launch workers, as the controller does, and return their ids."""
    told = stage.account.ec2.run_instances(
        MinCount=count,
        MaxCount=count,
        ImageId=IMAGE,
        TagSpecifications=tagged(stage, "instance", Name=f"{stage.prefix}-worker"),
    )
    return [each["InstanceId"] for each in told["Instances"]]


def make_belongings(stage: Stage) -> None:
    """Make one of each kind that a bake, or an instance that was forgotten, may leave; and a user pool."""
    ec2 = stage.account.ec2
    specs = tagged(stage, "instance")
    (builder,) = ec2.run_instances(MinCount=1, MaxCount=1, ImageId=IMAGE, TagSpecifications=specs)["Instances"]
    specs = tagged(stage, "image", "snapshot")
    ec2.create_image(InstanceId=builder["InstanceId"], Name=f"{stage.prefix}-1", TagSpecifications=specs)
    specs = tagged(stage, "volume")
    volume = ec2.create_volume(AvailabilityZone="us-east-1a", Size=8, TagSpecifications=specs)["VolumeId"]
    ec2.create_snapshot(VolumeId=volume, TagSpecifications=tagged(stage, "snapshot"))
    specs = tagged(stage, "security-group")
    ec2.create_security_group(GroupName=f"{stage.prefix}-bake", Description="a builder", TagSpecifications=specs)
    stage.account.cognito.create_user_pool(PoolName=stage.prefix, UserPoolTags={TAG: stage.prefix})


def data_buckets(stage: Stage) -> list[str]:
    """Return the names of the buckets of images and of results."""
    return [f"{stage.prefix}-{each}-123456789012-us-east-1" for each in ("input", "output")]


def left(stage: Stage) -> set[str]:
    """Return the kinds of which there is something."""
    return {kind.name for kind in RESOURCE_TYPES if kind.find(stage.account, stage.prefix)}
