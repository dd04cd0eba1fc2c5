"""What a machine image is built from, and the tags by which it, its builder and its snapshots are found again.

Images begin as the newest official image of Debian 12; https://wiki.debian.org/Cloud/AmazonEC2Image/Bookworm names
the account that publishes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.config import EngineName
from scripts.aws.context import TAG, AwsContext
from scripts.aws.instances import InstanceType, describe_instance_types
from services.errors import FleetsightError

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.literals import ResourceTypeType
    from mypy_boto3_ec2.type_defs import FilterTypeDef, TagSpecificationTypeDef, TagTypeDef

    from ami.archive import ArchiveFacts

Role = Literal["worker", "web"]
ROLES: tuple[Role, ...] = ("worker", "web")

ROLE_TAG = f"{TAG}-role"
ARCHIVE_TAG = f"{TAG}-archive"
BASE_TAG = f"{TAG}-base"
RUN_TAG = f"{TAG}-run"
BAKED_TAG = f"{TAG}-baked-at"
ENGINE_TAG = f"{TAG}-engine"
BUNDLE_TAG = f"{TAG}-bundle"

DEBIAN_OWNER = "136693071363"
"""Debian's AWS account."""

DEBIAN_NAMES = {"x86_64": "amd64", "arm64": "arm64"}
"""Debian's names of EC2's architectures."""


class BakeError(FleetsightError):
    """Raised when an image cannot be baked; the message names what failed and what to do."""


class BuilderError(BakeError):
    """Raised when a builder has ended without a complete image; `log` is the end of its log."""

    def __init__(self, problem: str, log: str) -> None:
        self.log = log
        super().__init__(problem)


@dataclass(frozen=True)
class SourceArchive:
    """The source archive on this machine."""

    path: Path
    facts: "ArchiveFacts"


@dataclass(frozen=True)
class BaseImage:
    """The Debian image that our images begin as.

    Attributes:
        root_device: name of its root device, such as /dev/xvda.
    """

    image_id: str
    name: str
    root_device: str


@dataclass(frozen=True)
class ImageSpec:
    """What an image is built from: the same spec builds the same image."""

    role: Role
    source: SourceArchive
    base: BaseImage

    def tags(self) -> dict[str, str]:
        """Return the tags that record the spec."""
        facts = self.source.facts
        return {
            ROLE_TAG: self.role,
            ARCHIVE_TAG: facts.sha256,
            BASE_TAG: self.base.image_id,
            f"{TAG}-version": facts.version,
            BUNDLE_TAG: facts.bundle_digest,
            ENGINE_TAG: facts.engine,
            f"{TAG}-commit": facts.commit,
        }


def disk_gib(role: Role, engine: EngineName) -> int:
    """Return the disk size of an image; torch, its CUDA libraries and NVIDIA's driver need more than openvino."""
    return 24 if role == "worker" and engine == "torch" else 8


def role_tags(context: AwsContext, role: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the tags of the resources of a role's bake."""
    return {TAG: context.prefix, ROLE_TAG: role, **(more or {})}


def tag_specifications(tags: Mapping[str, str], *types: "ResourceTypeType") -> "list[TagSpecificationTypeDef]":
    """Return the tags as EC2 takes them for resources of these types, which carry them from their creation on."""
    tag_list: list[TagTypeDef] = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": each, "Tags": tag_list} for each in types]


def tag_filters(tags: Mapping[str, str], **others: Iterable[str]) -> "list[FilterTypeDef]":
    """Return EC2's filters for these tags, and for `others`, with dashes instead of underscores in their names."""
    filters: list[FilterTypeDef] = [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]
    return filters + [{"Name": name.replace("_", "-"), "Values": list(values)} for name, values in others.items()]


def base_image(ec2: "EC2Client", instance_type: str, engine: EngineName, roles: Sequence[Role]) -> BaseImage:
    """Return the Debian image that the images of these roles begin as, for builders of this instance type.

    Raises:
        BakeError: no Debian image has its architecture, or the engine cannot be installed on it.
    """
    builder_type = describe_instance_types(ec2, [instance_type])[instance_type]
    if engine == "torch" and "worker" in roles and builder_type.architecture != "x86_64":
        raise BakeError(
            f"NVIDIA's driver and torch with CUDA are installed on x86_64 only, and {instance_type} is "
            f"{builder_type.architecture}: build on another type, or choose the engine openvino"
        )
    return newest_debian(ec2, builder_type)


def newest_debian(ec2: "EC2Client", instance_type: InstanceType) -> BaseImage:
    """Return the newest official image of Debian 12 for the architecture of an instance type in this region.

    Debian publishes to the partition aws. An account of another one, such as AWS GovCloud, has copies of its own:
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ami-store-restore.html#copy-to-partition

    Raises:
        BakeError: the region has no such image, or Debian has none for this architecture.
    """
    architecture = instance_type.architecture
    if architecture not in DEBIAN_NAMES:
        raise BakeError(
            f"{instance_type.name} has the architecture {architecture}: name a type of {' or '.join(DEBIAN_NAMES)}"
        )
    names, is_elsewhere = f"debian-12-{DEBIAN_NAMES[architecture]}-*", ec2.meta.partition != "aws"
    images = [
        image
        for page in ec2.get_paginator("describe_images").paginate(
            Owners=["self" if is_elsewhere else DEBIAN_OWNER],
            Filters=[{"Name": "name", "Values": [names]}, {"Name": "state", "Values": ["available"]}],
        )
        for image in page["Images"]
    ]
    if not images and is_elsewhere:
        raise BakeError(
            f"Debian publishes no image in the partition {ec2.meta.partition}: copy one from another partition as "
            f"{names} into your account, with `aws ec2 create-store-image-task` and `create-restore-image-task`"
        )
    if not images:
        raise BakeError(
            f"account {DEBIAN_OWNER}, which is Debian's, has no image {names} in this region, or the account's "
            f"Allowed AMIs leave it out: allow those of {DEBIAN_OWNER} (`aws ec2 get-allowed-images-settings`), or "
            "try another --region"
        )
    newest = max(images, key=lambda image: image["CreationDate"])
    return BaseImage(newest["ImageId"], newest["Name"], newest["RootDeviceName"])
