"""The image that ours begin as: the newest official one of Debian 12.

https://wiki.debian.org/Cloud/AmazonEC2Image/Bookworm names the account that publishes them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.config import EngineName
from scripts.aws.bake.errors import BakeError
from scripts.aws.bake.recipe import Base, Role
from scripts.aws.machine_types import MachineType, machine_types

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

OWNER = "136693071363"
DEBIAN_NAMES = {"x86_64": "amd64", "arm64": "arm64"}
"""What Debian calls EC2's architectures."""


def base_for(ec2: "EC2Client", instance_type: str, engine: EngineName, roles: Sequence[Role]) -> Base:
    """Return the Debian that the images of these roles begin as, where builders are of this type.

    Raises:
        BakeError: there is none for its architecture, or none on which the engine can be installed.
    """
    machine_type = machine_types(ec2, [instance_type])[instance_type]
    if engine == "torch" and "worker" in roles and machine_type.architecture != "x86_64":
        raise BakeError(
            f"NVIDIA's driver and torch with CUDA are installed on x86_64 only, and {instance_type} is "
            f"{machine_type.architecture}: build on another type, or choose the engine openvino"
        )
    return newest_debian(ec2, machine_type)


def newest_debian(ec2: "EC2Client", machine_type: MachineType) -> Base:
    """Return the newest official image of Debian 12 for the architecture of an instance type in this region.

    Raises:
        BakeError: the region has none, or there is none for this architecture.
    """
    architecture = machine_type.architecture
    if architecture not in DEBIAN_NAMES:
        raise BakeError(
            f"{machine_type.name} has the architecture {architecture}: name a type of {' or '.join(DEBIAN_NAMES)}"
        )
    names = f"debian-12-{DEBIAN_NAMES[architecture]}-*"
    images = [
        image
        for page in ec2.get_paginator("describe_images").paginate(
            Owners=[OWNER], Filters=[{"Name": "name", "Values": [names]}, {"Name": "state", "Values": ["available"]}]
        )
        for image in page["Images"]
    ]
    if not images:
        raise BakeError(
            f"account {OWNER}, which is Debian's, has no image {names} in this region, or the account's Allowed AMIs "
            f"leave it out: allow those of {OWNER} (`aws ec2 get-allowed-images-settings`), or try another --region"
        )
    newest = max(images, key=lambda image: image["CreationDate"])
    return Base(newest["ImageId"], newest["Name"], newest["RootDeviceName"])
