"""Machine images: created from a stopped builder, found by their tags, stored as parameters, and deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from scripts.aws.bake.builders import Builder
from scripts.aws.bake.spec import (
    ARCHIVE_TAG,
    BAKED_TAG,
    BASE_TAG,
    ROLE_TAG,
    BakeError,
    ImageSpec,
    tag_filters,
    tag_specifications,
)
from scripts.aws.context import TAG, AwsContext

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import ImageTypeDef
    from mypy_boto3_ssm.type_defs import PutParameterRequestTypeDef

AVAILABLE_SECONDS = 1800.0
"""The longest wait until EC2 has created an image."""

UNUSED_SECONDS = 120.0
"""The longest wait until EC2 allows the snapshot of a deregistered image to be deleted."""

NOT_FOUND = {"InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidSnapshot.NotFound"}

USABLE_STATES = {"available", "pending"}
"""States of an image that can be launched, or that EC2 is still creating."""

KEPT_IMAGES = 3
"""The number of newest images of each role that are kept: the present one, the one before, and a spare one."""

STORED_SECONDS = 120.0
"""The longest wait until a parameter has its new value: the parameter store first verifies that the image exists."""

NO_TEMPLATE = {"InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound"}


@dataclass(frozen=True)
class BakedImage:
    """An image of ours.

    Attributes:
        baked_at: in ISO 8601, so that images sort by it.
    """

    image_id: str
    role: str
    state: str
    baked_at: str
    snapshots: tuple[str, ...]


def list_images(context: AwsContext, role: str, spec: ImageSpec | None = None) -> list[BakedImage]:
    """Return this prefix's images of a role, newest first: all of them, or those of one spec."""
    same = {} if spec is None else {key: spec.tags()[key] for key in (ARCHIVE_TAG, BASE_TAG)}
    pages = context.account.ec2.get_paginator("describe_images").paginate(
        Owners=["self"], Filters=tag_filters({TAG: context.prefix, ROLE_TAG: role, **same})
    )
    found = [_parse_image(each) for page in pages for each in page["Images"]]
    return sorted(found, key=lambda image: image.baked_at, reverse=True)


def create_image(context: AwsContext, spec: ImageSpec, builder: Builder, baked_at: str) -> str:
    """Create an image from a stopped builder and return its id; EC2 needs some minutes to complete it."""
    tags = {TAG: context.prefix, "Name": f"{context.prefix}-{spec.role}", BAKED_TAG: baked_at, **spec.tags()}
    facts = spec.source.facts
    image_id = context.account.ec2.create_image(
        InstanceId=builder.instance_id,
        Name=f"{context.prefix}-{spec.role}-{builder.run}",
        Description=f"Fleetsight {facts.version}, {spec.role}, on {spec.base.name}",
        TagSpecifications=tag_specifications(tags, "image", "snapshot"),
    )["ImageId"]
    context.report_change(f"requested image {image_id} of {builder.instance_id}")
    return image_id


def wait_until_available(context: AwsContext, image_id: str) -> None:
    """Wait until instances can be launched from an image.

    Raises:
        BakeError: EC2 could not create the image.
        TimedOutError: EC2 takes too long.
    """

    def available() -> bool | None:
        found = context.account.ec2.describe_images(
            Owners=["self"], Filters=[{"Name": "image-id", "Values": [image_id]}]
        )
        state = found["Images"][0]["State"] if found["Images"] else "pending"  # EC2 may not show it yet
        if state not in USABLE_STATES:
            raise BakeError(f"EC2 could not make {image_id}: it is {state}. Run this again")
        return True if state == "available" else None

    context.waiter.until(available, f"{image_id} to be available", seconds=AVAILABLE_SECONDS, every=10.0)


def delete_image(context: AwsContext, image: BakedImage) -> None:
    """Deregister an image and delete its snapshots.

    Raises:
        TimedOutError: EC2 does not release a snapshot.
    """
    try:
        context.account.ec2.deregister_image(ImageId=image.image_id)
    except ClientError as error:
        if error.response["Error"]["Code"] not in NOT_FOUND:
            raise
    context.report_change(f"deregistered {image.image_id}")
    for snapshot_id in image.snapshots:
        delete_snapshot(context, snapshot_id)


def delete_snapshot(context: AwsContext, snapshot_id: str) -> None:
    """Delete a snapshot, once EC2 knows that no image uses it any more."""

    def deleted() -> bool | None:
        try:
            context.account.ec2.delete_snapshot(SnapshotId=snapshot_id)
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvalidSnapshot.InUse":
                return None
            if error.response["Error"]["Code"] not in NOT_FOUND:
                raise
        return True

    context.waiter.until(deleted, f"{snapshot_id} to be of no more use", seconds=UNUSED_SECONDS)
    context.report_change(f"deleted the snapshot {snapshot_id}")


def delete_incomplete_images(context: AwsContext, roles: Sequence[str]) -> None:
    """Delete images that are not available, and snapshots without an image: a bake that was cut short leaves both."""
    for role in roles:
        there = list_images(context, role)
        for image in there:
            if image.state != "available":
                delete_image(context, image)
        needed = {each for image in there for each in image.snapshots}
        pages = context.account.ec2.get_paginator("describe_snapshots").paginate(
            OwnerIds=["self"], Filters=tag_filters({TAG: context.prefix, ROLE_TAG: role})
        )
        for snapshot in (each for page in pages for each in page["Snapshots"]):
            if snapshot["SnapshotId"] not in needed:
                delete_snapshot(context, snapshot["SnapshotId"])


def _parse_image(described: "ImageTypeDef") -> BakedImage:
    tags = {tag["Key"]: tag["Value"] for tag in described.get("Tags", [])}
    snapshots = [
        mapping["Ebs"]["SnapshotId"]
        for mapping in described.get("BlockDeviceMappings", [])
        if mapping.get("Ebs", {}).get("SnapshotId")
    ]
    return BakedImage(
        described["ImageId"], tags.get(ROLE_TAG, ""), described["State"], tags.get(BAKED_TAG, ""), tuple(snapshots)
    )


def stored_image(context: AwsContext, role: str) -> str | None:
    """Return the id of a role's image in the parameter store, or None if there is none."""
    try:
        return context.account.ssm.get_parameter(Name=context.image_parameter(role))["Parameter"]["Value"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ParameterNotFound":
            return None
        raise


def store_image(context: AwsContext, role: str, image_id: str) -> None:
    """Store an image's id in the parameter store, where the stack reads it.

    Raises:
        TimedOutError: the parameter store does not accept it: it first verifies that the image exists.
    """
    name, before = context.image_parameter(role), stored_image(context, role)
    if before == image_id:
        return
    asked: PutParameterRequestTypeDef = {
        "Name": name,
        "Description": f"Image of {context.prefix}'s {role} instances",
        "Value": image_id,
        "Type": "String",
        "DataType": "aws:ec2:image",
    }
    if before is None:
        asked["Tags"] = [{"Key": TAG, "Value": context.prefix}]
    else:  # an existing parameter keeps its tags, and the call accepts none
        asked["Overwrite"] = True
    context.account.ssm.put_parameter(**asked)
    # https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-ec2-aliases.html
    context.waiter.until(
        lambda: stored_image(context, role) == image_id or None, f"{name} to hold {image_id}", seconds=STORED_SECONDS
    )
    context.report_change(f"{name} is {image_id}" + (f", and was {before}" if before else ""))


def prune_images(context: AwsContext, role: str) -> None:
    """Delete a role's oldest images, but none that the parameter store or a launch template names."""
    needed = {stored_image(context, role), *launched_images(context, role)}
    available = [image for image in list_images(context, role) if image.state == "available"]
    for image in available[KEPT_IMAGES:]:
        if image.image_id not in needed:
            delete_image(context, image)


def launched_images(context: AwsContext, role: str) -> set[str]:
    """Return the image ids of the default and the newest version of a role's launch template, if it exists."""
    try:
        versions = context.account.ec2.describe_launch_template_versions(
            LaunchTemplateName=f"{context.prefix}-{role}", Versions=["$Default", "$Latest"]
        )["LaunchTemplateVersions"]
    except ClientError as error:
        if error.response["Error"]["Code"] in NO_TEMPLATE:
            return set()
        raise
    return {version["LaunchTemplateData"].get("ImageId", "") for version in versions}
