"""The web instance is replaced when its group launches another version than it was launched from."""

from dataclasses import dataclass

from botocore.exceptions import ClientError

from scripts.aws.account import TAG
from scripts.aws.operation import Operation
from scripts.aws.roll.versions import RollError

REFRESH_SECONDS = 1800.0
RUNNING = {"Pending", "InProgress", "Baking", "RollbackInProgress", "Cancelling"}


@dataclass(frozen=True)
class Group:
    """A group of web instances; `version` is what it launches, `old` are the instances of other versions."""

    name: str
    version: str
    old: tuple[str, ...]


def groups(operation: Operation) -> list[Group]:
    """Return the groups of this prefix."""
    pages = operation.account.autoscaling.get_paginator("describe_auto_scaling_groups").paginate(
        Filters=[{"Name": f"tag:{TAG}", "Values": [operation.prefix]}]
    )
    found = []
    for each in (each for page in pages for each in page["AutoScalingGroups"]):
        template = each.get("LaunchTemplate", {})
        version = _number(operation, template.get("LaunchTemplateId", ""), template.get("Version", "$Default"))
        old = [
            instance["InstanceId"]
            for instance in each["Instances"]
            if instance.get("LaunchTemplate", {}).get("Version") != version
        ]
        found.append(Group(each["AutoScalingGroupName"], version, tuple(old)))
    return found


def _number(operation: Operation, template_id: str, version: str) -> str:
    if version not in {"$Default", "$Latest"}:
        return version
    found = operation.account.ec2.describe_launch_templates(LaunchTemplateIds=[template_id])["LaunchTemplates"][0]
    return str(found["DefaultVersionNumber" if version == "$Default" else "LatestVersionNumber"])


def refresh(operation: Operation, group: Group, *, wait: bool, every: bool = False) -> None:
    """Replace the old instances of a group: a new one first, and the old one ends once that is in service.

    With `every` those of the version that it launches are replaced too, so that they start anew.

    Raises:
        RollError: Auto Scaling has given up.
        TimedOutError: it takes too long.
    """
    if not (group.old or every):
        return
    try:
        operation.account.autoscaling.start_instance_refresh(
            AutoScalingGroupName=group.name,
            Preferences={"MinHealthyPercentage": 100, "MaxHealthyPercentage": 200, "SkipMatching": not every},
        )
        replaced = "every instance" if every else ", ".join(group.old)
        operation.done(f"told {group.name} to replace {replaced} by version {group.version}")
    except ClientError as error:
        if error.response["Error"]["Code"] != "InstanceRefreshInProgress":
            raise
        operation.say(f"{group.name} replaces its instances already")
    if wait:
        operation.waiting.until(
            lambda: _is_over(operation, group), f"{group.name} to have replaced its instance", seconds=REFRESH_SECONDS
        )
        operation.say(f"{group.name} runs version {group.version}")


def _is_over(operation: Operation, group: Group) -> bool:
    newest = operation.account.autoscaling.describe_instance_refreshes(AutoScalingGroupName=group.name)
    last = newest["InstanceRefreshes"][0]
    if last["Status"] not in {*RUNNING, "Successful"}:
        raise RollError(f"{group.name} was not replaced ({last['Status']}): {last.get('StatusReason', 'no reason')}")
    return last["Status"] == "Successful"
