"""The instances of a stack: web tier and workers, known by their `Name` tags."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from scripts.aws.account import TAG, Account
from services.ec2 import WORKER_SUFFIX
from services.metadata import DRAIN_TAG

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef

TEMPLATE_TAG = "aws:ec2launchtemplate:id"
VERSION_TAG = "aws:ec2launchtemplate:version"
"""Which EC2 gives to each instance that it launches from a template."""

THERE = ("pending", "running", "stopping", "stopped", "shutting-down")
"""Every state but `terminated`, in which EC2 goes on listing an instance for an hour."""


@dataclass(frozen=True)
class Machine:
    """An instance.

    Attributes:
        name: its `Name` tag.
        address: public, or empty.
        draining: whether its worker is asked to end.
        template: id and version of the launch template that it was launched from; empty where there was none.
    """

    instance_id: str
    name: str
    state: str
    instance_type: str
    image_id: str
    launched_at: datetime
    address: str = ""
    draining: bool = False
    template: tuple[str, str] = ("", "")


def web_name(prefix: str) -> str:
    """Return the web instance's name."""
    return f"{prefix}-web"


def worker_name(prefix: str) -> str:
    """Return the workers' name."""
    return f"{prefix}{WORKER_SUFFIX}"


def named(account: Account, *names: str, states: Sequence[str] = THERE) -> list[Machine]:
    """Return the instances of these names, oldest first."""
    return _machines(account, {"Name": "tag:Name", "Values": list(names)}, states)


def tagged(account: Account, prefix: str, states: Sequence[str] = THERE) -> list[Machine]:
    """Return the instances that carry this prefix's tag, oldest first."""
    return _machines(account, {"Name": f"tag:{TAG}", "Values": [prefix]}, states)


def _machines(account: Account, known_by: "FilterTypeDef", states: Sequence[str]) -> list[Machine]:
    state: FilterTypeDef = {"Name": "instance-state-name", "Values": list(states)}
    pages = account.ec2.get_paginator("describe_instances").paginate(Filters=[known_by, state])
    found = []
    for each in (each for page in pages for reservation in page["Reservations"] for each in reservation["Instances"]):
        tags = {tag["Key"]: tag["Value"] for tag in each.get("Tags", [])}
        machine = Machine(
            instance_id=each["InstanceId"],
            name=tags.get("Name", ""),
            state=each["State"]["Name"],
            instance_type=each["InstanceType"],
            image_id=each["ImageId"],
            launched_at=each["LaunchTime"],
            address=each.get("PublicIpAddress", ""),
            draining=DRAIN_TAG in tags,
            template=(tags.get(TEMPLATE_TAG, ""), tags.get(VERSION_TAG, "")),
        )
        found.append(machine)
    return sorted(found, key=lambda machine: (machine.launched_at, machine.instance_id))
