"""What EC2 has of a prefix outside the stack: workers, builders, images, snapshots, disks, security groups."""

from typing import TYPE_CHECKING

from scripts.aws.account import TAG, Account
from scripts.aws.instances import named, tagged, web_name, worker_name
from scripts.aws.teardown.belongings.kind import Kind

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef


def _known_by(prefix: str) -> "list[FilterTypeDef]":
    return [{"Name": f"tag:{TAG}", "Values": [prefix]}]


def _instances(account: Account, prefix: str) -> list[str]:
    own = [*named(account, web_name(prefix), worker_name(prefix)), *tagged(account, prefix)]
    return sorted({each.instance_id for each in own})


def _images(account: Account, prefix: str) -> list[str]:
    pages = account.ec2.get_paginator("describe_images").paginate(Owners=["self"], Filters=_known_by(prefix))
    return [each["ImageId"] for page in pages for each in page["Images"]]


def _snapshots(account: Account, prefix: str) -> list[str]:
    pages = account.ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], Filters=_known_by(prefix))
    return [each["SnapshotId"] for page in pages for each in page["Snapshots"]]


def _volumes(account: Account, prefix: str) -> list[str]:
    pages = account.ec2.get_paginator("describe_volumes").paginate(Filters=_known_by(prefix))
    # Those of instances that are about to go, go with them.
    return [each["VolumeId"] for page in pages for each in page["Volumes"] if each["State"] != "deleting"]


def _groups(account: Account, prefix: str) -> list[str]:
    pages = account.ec2.get_paginator("describe_security_groups").paginate(Filters=_known_by(prefix))
    return [each["GroupId"] for page in pages for each in page["SecurityGroups"]]


def _terminate(account: Account, one: str) -> None:
    account.ec2.terminate_instances(InstanceIds=[one])


def _deregister(account: Account, one: str) -> None:
    account.ec2.deregister_image(ImageId=one)


def _delete_snapshot(account: Account, one: str) -> None:
    account.ec2.delete_snapshot(SnapshotId=one)


def _delete_volume(account: Account, one: str) -> None:
    account.ec2.delete_volume(VolumeId=one)


def _delete_group(account: Account, one: str) -> None:
    account.ec2.delete_security_group(GroupId=one)


COMPUTE = (
    Kind("instance", _instances, _terminate),
    Kind("image", _images, _deregister),
    Kind("snapshot", _snapshots, _delete_snapshot),
    Kind("volume", _volumes, _delete_volume),
    Kind("security group", _groups, _delete_group),
)
