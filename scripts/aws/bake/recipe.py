"""What an image is made of and for, and the tags by which it, its builder and its snapshot are found again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.config import EngineName
from scripts.aws.account import TAG, Account, Done
from scripts.aws.waiting import Waiting

if TYPE_CHECKING:
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


def disk_gib(role: Role, engine: EngineName) -> int:
    """Return the size of an image's disk, which torch, its CUDA libraries and NVIDIA's driver need more of."""
    return 24 if role == "worker" and engine == "torch" else 8


@dataclass(frozen=True)
class Source:
    """The source archive on this machine."""

    path: Path
    facts: "ArchiveFacts"


@dataclass(frozen=True)
class Base:
    """The image that ours begin as.

    Attributes:
        root_device: its name there, such as /dev/xvda.
    """

    image_id: str
    name: str
    root_device: str


@dataclass(frozen=True)
class Site:
    """Where and how a bake works.

    Attributes:
        prefix: begins every name, and is the value of the tag of everything.
        done: is told of each step that has changed something.
    """

    account: Account
    prefix: str
    done: Done
    waiting: Waiting

    def builder_name(self, role: str) -> str:
        """Return the name of a role's builder and of its security group; no fleet goes by it."""
        return f"{self.prefix}-bake-{role}"

    @property
    def bucket(self) -> str:
        """The bucket that source archives and reports pass through."""
        return f"{self.prefix}-bake-{self.account.id}-{self.account.region_name}"

    def parameter(self, role: str) -> str:
        """Return the name of the parameter that holds the id of a role's image."""
        return f"/{self.prefix}/image/{role}"


@dataclass(frozen=True)
class Recipe:
    """What one image is made of: the same recipe makes the same image."""

    role: Role
    source: Source
    base: Base

    def tags(self) -> dict[str, str]:
        """Return the tags that say so."""
        facts = self.source.facts
        return {
            ROLE_TAG: self.role,
            ARCHIVE_TAG: facts.sha256,
            BASE_TAG: self.base.image_id,
            f"{TAG}-version": facts.version,
            f"{TAG}-bundle": facts.bundle_digest,
            ENGINE_TAG: facts.engine,
            f"{TAG}-commit": facts.commit,
        }


def tagged(site: Site, role: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the tags of what belongs to a role's bake."""
    return {TAG: site.prefix, ROLE_TAG: role, **(more or {})}


def tag_list(tags: Mapping[str, str]) -> "list[TagTypeDef]":
    """Return tags as EC2 wants them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def specifications(tags: Mapping[str, str], *types: "ResourceTypeType") -> "list[TagSpecificationTypeDef]":
    """Return tags for resources of these types, which have them from their first moment on."""
    return [{"ResourceType": each, "Tags": tag_list(tags)} for each in types]


def filters(tags: Mapping[str, str], **others: Iterable[str]) -> "list[FilterTypeDef]":
    """Return filters for these tags, and further ones, with dashes for the underscores of their names."""
    wanted: list[FilterTypeDef] = [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]
    return wanted + [{"Name": name.replace("_", "-"), "Values": list(values)} for name, values in others.items()]
