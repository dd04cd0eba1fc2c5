"""The image that ours begin as: the newest official one of Debian 12.

https://wiki.debian.org/Cloud/AmazonEC2Image/Bookworm names the account that publishes them.
"""

from typing import TYPE_CHECKING

from scripts.aws.bake.errors import BakeError
from scripts.aws.bake.recipe import Base

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.literals import InstanceTypeType

OWNER = "136693071363"
DEBIAN_NAMES = {"x86_64": "amd64", "arm64": "arm64"}
"""What Debian calls EC2's architectures."""


def architecture_of(ec2: "EC2Client", instance_type: str) -> str:
    """Return the architecture of an instance type: x86_64, or arm64 as for AWS's Graviton.

    Raises:
        BakeError: it has another one.
    """
    kind: InstanceTypeType = instance_type  # type: ignore[assignment]  # EC2 knows which there are
    (described,) = ec2.describe_instance_types(InstanceTypes=[kind])["InstanceTypes"]
    supported = described.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    found = next((each for each in DEBIAN_NAMES if each in supported), None)
    if found is None:
        raise BakeError(
            f"{instance_type} has the architecture {', '.join(supported)}: name a type of x86_64 or arm64"
        )
    return found


def newest_debian(ec2: "EC2Client", architecture: str) -> Base:
    """Return the newest official image of Debian 12 for an architecture in this region.

    Raises:
        BakeError: the region has none.
    """
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
