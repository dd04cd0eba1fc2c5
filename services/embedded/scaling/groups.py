"""moto's Auto Scaling with instances like any other: launched by RunInstances, and replaced when they end.

Stock moto makes instances past EC2's API: without profile, metadata options and the version of the template that the
group names. A group here calls RunInstances as anybody does.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from moto.autoscaling.exceptions import ValidationError

from services.embedded.loopback import loopback
from services.embedded.mend import Mend
from services.embedded.scaling.keeper import Keeper

log = logging.getLogger(__name__)

GROUP_TAG = "aws:autoscaling:groupName"
ENDED = frozenset({"shutting-down", "terminated", "stopping", "stopped"})
"""States of instances that a group counts no longer."""

changing = threading.RLock()
"""Held while instances of any group are counted and launched, so that none is launched twice."""


@dataclass(frozen=True)
class Shown:
    """An instance of a group as DescribeAutoScalingGroups shows it."""

    instance_id: str
    instance_type: str
    availability_zone: str
    lifecycle_state: str
    health_status: str
    launch_template: dict[str, str] | None
    protected_from_scale_in: bool


def lifecycle_of(instance_state: str) -> str:
    """Return the lifecycle state that an instance's state means in its group."""
    if instance_state == "pending":
        return "Pending"
    return "Terminating" if instance_state in ENDED else "InService"


def launch(group: Any, count: int, client_of: Callable[[str, str], Any] = loopback.client) -> None:
    """Launch instances of a group, as many of them as can be; one that cannot be launched is tried again later.

    Args:
        group: moto's object.
        count: how many.
        client_of: returns a client of a service in a region.
    """
    version = numbered_version(group)
    tags = [{"Key": key, "Value": value} for key, value in group.get_propagated_tags().items()]
    request: dict[str, Any] = {
        "LaunchTemplate": {"LaunchTemplateId": group.ec2_launch_template.id, "Version": version},
        "MinCount": 1,
        "MaxCount": count,
        "SubnetId": group.vpc_zone_identifier.split(",")[0] if group.vpc_zone_identifier else None,
        "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}] if tags else None,
    }
    try:
        reply = client_of("ec2", group.region).run_instances(**{k: v for k, v in request.items() if v is not None})
    except (ClientError, BotoCoreError) as error:
        log.warning("%s: %d instances could not be launched: %s", group.name, count, error)
        return
    from moto.autoscaling.models import InstanceState

    for launched in reply["Instances"]:
        instance = group.ec2_backend.get_instance(launched["InstanceId"])
        instance.autoscaling_group, instance.launched_version = group, version
        group.ec2_backend.create_tags([instance.id], {GROUP_TAG: group.name})
        protected = group.new_instances_protected_from_scale_in
        group.instance_states.append(InstanceState(instance, protected_from_scale_in=protected))


def numbered_version(group: Any) -> str:
    """Return the number of the launch template's version that a group launches now."""
    template, version = group.ec2_launch_template, group.launch_template_version
    numbers = {"$Default": template.default_version_number, "$Latest": template.latest_version_number}
    return str(numbers.get(version, version))


def drop_ended(group: Any) -> int:
    """Let a group forget the instances that have ended, and end those that have only stopped, as AWS does.

    Returns:
        how many instances it lacks then.
    """
    with changing:
        ended = [one.instance for one in group.instance_states if one.instance.state in ENDED]
        group.instance_states = [one for one in group.instance_states if one.instance not in ended]
        if stopped := [one.id for one in ended if one.state in {"stopping", "stopped"}]:
            group.ec2_backend.terminate_instances(stopped)
        return max(0, (group.desired_capacity or 0) - len(group.instance_states))


def keep(group: Any) -> bool:
    """Replace the instances of a group that have ended; return whether there were some."""
    with changing:
        if group.ec2_launch_template is None or not (missing := drop_ended(group)):
            return False
        launch(group, missing)
        return True


def all_groups() -> list[Any]:
    """Return the groups of every account and region that have not been deleted."""
    from moto.autoscaling.models import autoscaling_backends

    regions = [backend for account in autoscaling_backends.values() for backend in account.values()]
    return [group for backend in regions for group in list(backend.autoscaling_groups.values())]


keeper = Keeper(all_groups, keep)


def _replace_instances(original: Any) -> Any:
    def replace_autoscaling_group_instances(self: Any, count_needed: int, propagated_tags: dict[str, str]) -> None:
        """Launch instances by RunInstances of the group's launch template."""
        if self.ec2_launch_template is None:
            original(self, count_needed, propagated_tags)
            return
        with changing:
            launch(self, count_needed)
        keeper.start()

    return replace_autoscaling_group_instances


def _instances(_original: Any) -> Any:
    def instances(self: Any) -> list[Shown]:
        """Return what becomes of each instance, and of which version of the template it is."""
        return [_shown(one) for one in list(self.instance_states)]

    return property(instances)


def _shown(one: Any) -> Shown:
    template, state = one.launch_template, one.instance.state
    if template is not None:
        version = getattr(one.instance, "launched_version", template["Version"])
        template = {**template, "Version": str(version)}
    shown = lifecycle_of(state) if one.lifecycle_state == "InService" else one.lifecycle_state
    health = "Unhealthy" if state in ENDED else one.health_status
    return Shown(
        one.instance_id,
        one.instance_type,
        one.availability_zone,
        shown,
        health,
        template,
        bool(one.protected_from_scale_in),
    )


def _notify_terminate_instances(_original: Any) -> Any:
    def notify_terminate_instances(self: Any, instance_ids: list[str]) -> None:
        """Leave what follows to the keeper: the instances have not begun to end yet."""

    return notify_terminate_instances


def _terminate_instance(original: Any) -> Any:
    def terminate_instance(self: Any, instance_id: str, should_decrement: bool) -> Any:
        """End an instance of a group, which is replaced unless the group is to be smaller.

        Raises:
            ValidationError: no group has it.
        """
        groups = list(self.autoscaling_groups.values())
        if not any(one.instance.id == instance_id for group in groups for one in group.instance_states):
            raise ValidationError(f"Instance Id not found - No managed instance found for instance ID: {instance_id}")
        return original(self, instance_id, should_decrement)

    return terminate_instance


_GROUP = "moto.autoscaling.models:FakeAutoScalingGroup"
_BACKEND = "moto.autoscaling.models:AutoScalingBackend"
MENDS = (
    Mend(
        f"{_GROUP}.replace_autoscaling_group_instances",
        ("self", "count_needed", "propagated_tags"),
        _replace_instances,
        "launches past EC2's API, without profile, metadata options and the version that the group names",
    ),
    Mend(f"{_GROUP}.instances", ("self",), _instances, "shows every instance in service, of the default version"),
    Mend(
        f"{_BACKEND}.notify_terminate_instances",
        ("self", "instance_ids"),
        _notify_terminate_instances,
        "replaces an instance that is ended by a call, and none that ends by itself",
    ),
    Mend(
        f"{_BACKEND}.terminate_instance",
        ("self", "instance_id", "should_decrement"),
        _terminate_instance,
        "answers HTTP 500 for an instance that no group has",
    ),
)
