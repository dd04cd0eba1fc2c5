"""The instances of a stack, known by their `Name` tags; instance types; and a shell by Session Manager."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from scripts.aws.context import TAG, AwsAccount
from services.ec2 import TEMPLATE_TAG, VERSION_TAG, WORKER_SUFFIX
from services.errors import FleetsightError
from services.metadata import DRAIN_TAG, PROTECTED_TAG

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef, InstanceTypeInfoTypeDef

EXISTING_STATES = ("pending", "running", "stopping", "stopped", "shutting-down")
"""All states except `terminated`: EC2 lists a terminated instance for about an hour."""


@dataclass(frozen=True)
class StackInstance:
    """An instance of the stack, or of a bake.

    Attributes:
        name: its `Name` tag.
        address: public, or empty.
        template: id and version of the launch template that it was launched from, or empty.
    """

    instance_id: str
    name: str
    state: str
    instance_type: str
    image_id: str
    launched_at: datetime
    address: str = ""
    draining: bool = False
    protected: bool = False
    template: tuple[str, str] = ("", "")


def web_name(prefix: str) -> str:
    """Return the web instance's name."""
    return f"{prefix}-web"


def worker_name(prefix: str) -> str:
    """Return the workers' name."""
    return f"{prefix}{WORKER_SUFFIX}"


def instances_named(account: AwsAccount, *names: str, states: Sequence[str] = EXISTING_STATES) -> list[StackInstance]:
    """Return the instances of these names, oldest first."""
    return _describe_instances(account, {"Name": "tag:Name", "Values": list(names)}, states)


def instances_tagged(
    account: AwsAccount, prefix: str, states: Sequence[str] = EXISTING_STATES
) -> list[StackInstance]:
    """Return the instances that carry this prefix's tag, oldest first."""
    return _describe_instances(account, {"Name": f"tag:{TAG}", "Values": [prefix]}, states)


def _describe_instances(account: AwsAccount, selector: "FilterTypeDef", states: Sequence[str]) -> list[StackInstance]:
    state: FilterTypeDef = {"Name": "instance-state-name", "Values": list(states)}
    pages = account.ec2.get_paginator("describe_instances").paginate(Filters=[selector, state])
    found = []
    for each in (each for page in pages for reservation in page["Reservations"] for each in reservation["Instances"]):
        tags = {tag["Key"]: tag["Value"] for tag in each.get("Tags", [])}
        instance = StackInstance(
            instance_id=each["InstanceId"],
            name=tags.get("Name", ""),
            state=each["State"]["Name"],
            instance_type=each["InstanceType"],
            image_id=each["ImageId"],
            launched_at=each["LaunchTime"],
            address=each.get("PublicIpAddress", ""),
            draining=DRAIN_TAG in tags,
            protected=PROTECTED_TAG in tags,
            template=(tags.get(TEMPLATE_TAG, ""), tags.get(VERSION_TAG, "")),
        )
        found.append(instance)
    return sorted(found, key=lambda instance: (instance.launched_at, instance.instance_id))


@dataclass(frozen=True)
class InstanceType:
    """An instance type.

    Attributes:
        name: such as c7a.large.
        architecture: x86_64, arm64 (AWS's Graviton), or another name of EC2's.
        gpus: its number of NVIDIA GPUs.
        is_in_free_plan: whether accounts on AWS's Free plan can launch it.
    """

    name: str
    architecture: str
    vcpus: int
    gpus: int
    is_in_free_plan: bool = False


def describe_instance_types(ec2: "EC2Client", names: Sequence[str]) -> dict[str, InstanceType]:
    """Return EC2's descriptions of these instance types by name.

    Raises:
        botocore.exceptions.ClientError: the region does not have one of them.
    """
    described = ec2.describe_instance_types(InstanceTypes=list(names))["InstanceTypes"]  # type: ignore[arg-type]
    return {each["InstanceType"]: _parse_instance_type(each) for each in described}


def _parse_instance_type(described: "InstanceTypeInfoTypeDef") -> InstanceType:
    supported = described.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    gpus = described.get("GpuInfo", {}).get("Gpus", [])
    return InstanceType(
        described["InstanceType"],
        # Some types run i386 as well.
        next((each for each in ("x86_64", "arm64") if each in supported), ", ".join(supported)),
        described.get("VCpuInfo", {}).get("DefaultVCpus", 0),
        sum(gpu.get("Count", 0) for gpu in gpus if gpu.get("Manufacturer") == "NVIDIA"),
        described.get("FreeTierEligible", False),
    )


class SessionError(FleetsightError):
    """Raised when no single instance is selected; the message says what to do."""


def select_instance(running: Sequence[StackInstance], prefix: str, wanted: str | None) -> StackInstance:
    """Return the instance to open a session on.

    Args:
        running: the running instances.
        prefix: of the stack.
        wanted: an id, the beginning of one, or `web`; None selects the only instance.

    Raises:
        SessionError: no instance or several instances match; the message lists them.
    """
    if wanted is None:
        found = list(running)
    elif wanted == "web":
        found = [each for each in running if each.name == web_name(prefix)]
    else:
        found = [each for each in running if each.instance_id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    listed = "".join(f"\n  {each.instance_id}  {each.name}" for each in found or running)
    if not found:
        raise SessionError(f"no running instance of {prefix} is {wanted or 'there'}; there are:{listed or ' none'}")
    raise SessionError(f"several instances run; name one:{listed}")


def session_command(account: AwsAccount, instance: StackInstance) -> list[str]:
    """Return the command that opens a session."""
    words = ["aws", "ssm", "start-session", "--target", instance.instance_id, "--region", account.region_name]
    return [*words, "--profile", account.profile] if account.profile else words
