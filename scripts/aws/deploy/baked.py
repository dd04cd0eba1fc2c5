"""The images that a stack launches: whether they are there, and how large what lies behind them is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.config import EngineName
from scripts.aws.account import TAG
from scripts.aws.bake.recipe import ROLES, Role, disk_gib
from scripts.aws.bake.shelf import stored_image
from scripts.aws.operation import Operation

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, ImageTypeDef

    from scripts.aws.bake.builders import Machines


def baked_images(operation: Operation) -> dict[Role, str]:
    """Return the ids of the images that the parameter store names, and that are there, by role."""
    return {role: image["ImageId"] for role, image in _described(operation, ROLES).items()}


def worker_disk_gib(operation: Operation, engine: EngineName) -> int:
    """Return the size of the workers' disk: that of their image, or of the one that would be baked."""
    image = _described(operation, ["worker"]).get("worker")
    if image is None:
        return disk_gib("worker", engine)
    sizes = [mapping.get("Ebs", {}).get("VolumeSize", 0) for mapping in image.get("BlockDeviceMappings", [])]
    return max([disk_gib("worker", "openvino"), *sizes])


def _described(operation: Operation, roles: Sequence[Role]) -> "dict[Role, ImageTypeDef]":
    """Return what EC2 says of the images that the parameter store names for these roles, if they are there."""
    stored = {role: stored_image(operation.site, role) for role in roles}
    ids = [each for each in stored.values() if each]
    wanted: FilterTypeDef = {"Name": "image-id", "Values": ids}
    there = operation.account.ec2.describe_images(Filters=[wanted])["Images"] if ids else []
    found = {each["ImageId"]: each for each in there}
    return {role: found[image_id] for role, image_id in stored.items() if image_id in found}


def bake_missing(
    operation: Operation, roles: Sequence[Role], bundle: str | None, engine: EngineName, machines: "Machines"
) -> None:
    """Bake the images of these roles, for the architecture of the machines that build them.

    Args:
        operation: for which account and prefix.
        roles: of the images.
        bundle: as `fleetsight bake --bundle` takes it.
        engine: of the workers.
        machines: what to build on, and where.

    Raises:
        BakeError: an image could not be made.
    """
    # Here, since with images there is no need to wait for what makes them.
    from scripts.aws.bake.archived import archived
    from scripts.aws.bake.bake import Order, bake
    from scripts.aws.bake.chosen import chosen_bundle
    from scripts.aws.bake.debian import base_for

    base = base_for(operation.account.ec2, machines.instance_type, engine, roles)
    with archived(chosen_bundle(operation.account, bundle, engine), engine) as source:
        bake(operation.site, Order(machines, roles=tuple(roles)), source, base)


def snapshots_gb(operation: Operation) -> float:
    """Return the size in GB of the disks behind this prefix's images, of which EBS bills only what was written."""
    pages = operation.account.ec2.get_paginator("describe_snapshots").paginate(
        OwnerIds=["self"], Filters=[{"Name": f"tag:{TAG}", "Values": [operation.prefix]}]
    )
    return float(sum(each["VolumeSize"] for page in pages for each in page["Snapshots"]))
