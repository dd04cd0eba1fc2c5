"""Images: made of a builder that has stopped, found again by their tags, and taken away with their snapshots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from scripts.aws.account import TAG
from scripts.aws.bake.builders import Builder
from scripts.aws.bake.errors import BakeError
from scripts.aws.bake.recipe import ARCHIVE_TAG, BAKED_TAG, BASE_TAG, ROLE_TAG, Recipe, Site, filters, specifications

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import ImageTypeDef

AVAILABLE_SECONDS = 1800.0
UNUSED_SECONDS = 120.0
NOT_FOUND = {"InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidSnapshot.NotFound"}


@dataclass(frozen=True)
class Image:
    """One of our images.

    Attributes:
        baked_at: in ISO 8601, so that they sort by it.
        snapshots: ids of those that it consists of.
    """

    image_id: str
    role: str
    state: str
    baked_at: str
    snapshots: tuple[str, ...]


def images(site: Site, role: str, recipe: Recipe | None = None) -> list[Image]:
    """Return this prefix's images of a role, newest first: all, or those made by a recipe."""
    same = {} if recipe is None else {key: recipe.tags()[key] for key in (ARCHIVE_TAG, BASE_TAG)}
    pages = site.account.ec2.get_paginator("describe_images").paginate(
        Owners=["self"], Filters=filters({TAG: site.prefix, ROLE_TAG: role, **same})
    )
    found = [_image(each) for page in pages for each in page["Images"]]
    return sorted(found, key=lambda image: image.baked_at, reverse=True)


def whole(site: Site, recipe: Recipe) -> Image | None:
    """Return the newest image made by a recipe that is there, or about to be."""
    found = [each for each in images(site, recipe.role, recipe) if each.state in {"available", "pending"}]
    return min(found, key=lambda image: image.state, default=None)


def create(site: Site, recipe: Recipe, builder: Builder, baked_at: str) -> str:
    """Make an image of a builder that has stopped and return its id; it takes EC2 some minutes to have it."""
    tags = {TAG: site.prefix, "Name": f"{site.prefix}-{recipe.role}", BAKED_TAG: baked_at, **recipe.tags()}
    facts = recipe.source.facts
    image_id = site.account.ec2.create_image(
        InstanceId=builder.instance_id,
        Name=f"{site.prefix}-{recipe.role}-{builder.run}",
        Description=f"Fleetsight {facts.version}, {recipe.role}, on {recipe.base.name}",
        TagSpecifications=specifications(tags, "image", "snapshot"),
    )["ImageId"]
    site.done(f"told EC2 to make {image_id} of {builder.instance_id}")
    return image_id


def wait_until_available(site: Site, image_id: str) -> None:
    """Wait until instances can be launched from an image.

    Raises:
        BakeError: EC2 could not make it.
        TimedOutError: it takes too long.
    """

    def available() -> bool | None:
        found = site.account.ec2.describe_images(
            Owners=["self"], Filters=[{"Name": "image-id", "Values": [image_id]}]
        )
        state = found["Images"][0]["State"] if found["Images"] else "pending"  # EC2 may not show it yet
        if state not in {"available", "pending"}:
            raise BakeError(f"EC2 could not make {image_id}: it is {state}. Run this again")
        return True if state == "available" else None

    site.waiting.until(available, f"{image_id} to be available", seconds=AVAILABLE_SECONDS, every=10.0)


def remove(site: Site, image: Image) -> None:
    """Deregister an image and delete its snapshots.

    Raises:
        TimedOutError: EC2 holds on to a snapshot.
    """
    _unless_gone(lambda: site.account.ec2.deregister_image(ImageId=image.image_id))
    site.done(f"deregistered {image.image_id}")
    for snapshot_id in image.snapshots:
        remove_snapshot(site, snapshot_id)


def remove_snapshot(site: Site, snapshot_id: str) -> None:
    """Delete a snapshot, once EC2 knows that no image needs it any more."""

    def deleted() -> bool | None:
        try:
            site.account.ec2.delete_snapshot(SnapshotId=snapshot_id)
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvalidSnapshot.InUse":
                return None
            if error.response["Error"]["Code"] not in NOT_FOUND:
                raise
        return True

    site.waiting.until(deleted, f"{snapshot_id} to be of no more use", seconds=UNUSED_SECONDS)
    site.done(f"deleted the snapshot {snapshot_id}")


def remove_what_is_not_whole(site: Site, roles: Sequence[str]) -> None:
    """Remove images that are not available, and snapshots without their image, which a cut-short bake leaves."""
    for role in roles:
        there = images(site, role)
        for image in there:
            if image.state != "available":
                remove(site, image)
        needed = {each for image in there for each in image.snapshots}
        pages = site.account.ec2.get_paginator("describe_snapshots").paginate(
            OwnerIds=["self"], Filters=filters({TAG: site.prefix, ROLE_TAG: role})
        )
        for snapshot in (each for page in pages for each in page["Snapshots"]):
            if snapshot["SnapshotId"] not in needed:
                remove_snapshot(site, snapshot["SnapshotId"])


def _unless_gone(call: Callable[[], object]) -> None:
    try:
        call()
    except ClientError as error:
        if error.response["Error"]["Code"] not in NOT_FOUND:
            raise


def _image(described: "ImageTypeDef") -> Image:
    tags = {tag["Key"]: tag["Value"] for tag in described.get("Tags", [])}
    snapshots = [
        mapping["Ebs"]["SnapshotId"]
        for mapping in described.get("BlockDeviceMappings", [])
        if mapping.get("Ebs", {}).get("SnapshotId")
    ]
    return Image(
        described["ImageId"], tags.get(ROLE_TAG, ""), described["State"], tags.get(BAKED_TAG, ""), tuple(snapshots)
    )
