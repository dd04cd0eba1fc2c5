"""The image that ours begin as: the newest official one of Debian 12.

https://wiki.debian.org/Cloud/AmazonEC2Image/Bookworm names the account that publishes them.
"""

from typing import TYPE_CHECKING

from scripts.aws.bake.errors import BakeError
from scripts.aws.bake.recipe import Base

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

OWNER = "136693071363"
NAMES = "debian-12-amd64-*"


def newest_debian(ec2: "EC2Client") -> Base:
    """Return the newest official image of Debian 12 in this region.

    Raises:
        BakeError: the region has none.
    """
    images = [
        image
        for page in ec2.get_paginator("describe_images").paginate(
            Owners=[OWNER], Filters=[{"Name": "name", "Values": [NAMES]}, {"Name": "state", "Values": ["available"]}]
        )
        for image in page["Images"]
    ]
    if not images:
        raise BakeError(
            f"account {OWNER}, which is Debian's, has no image {NAMES} in this region, or the account's Allowed AMIs "
            f"leave it out: allow those of {OWNER} (`aws ec2 get-allowed-images-settings`), or try another --region"
        )
    newest = max(images, key=lambda image: image["CreationDate"])
    return Base(newest["ImageId"], newest["Name"], newest["RootDeviceName"])
