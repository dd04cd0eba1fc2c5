"""Auto Scaling groups of N instances, which are launched by RunInstances and replaced when they end.

moto launches instances past EC2's API: without profile, metadata options and the template's version that the group
names. Scaling policies, health checks of load balancers and instance refreshes have no effect or are unknown.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from localcloud.clients import loopback
from localcloud.patches import Patch

log = logging.getLogger(__name__)

GROUP_TAG = "aws:autoscaling:groupName"
ENDED = frozenset({"shutting-down", "terminated", "stopping", "stopped"})
"""States of instances that a group no longer counts."""

CHECK_SECONDS = 0.2
PAUSE_SECONDS = 2.0
"""After a replacement: instances that end at once are not launched faster than this."""

_changing = threading.RLock()
"""Held while instances of any group are counted and launched, so that none is launched twice."""


def launch(group: Any, count: int, client_of: Callable[[str, str], Any] = loopback.client) -> None:
    """Launch up to `count` instances of a group; those that cannot be launched are tried again later.

    Args:
        group: moto's object.
        count: of instances.
        client_of: returns a client of a service in a region.
    """
    tags = [{"Key": key, "Value": value} for key, value in group.get_propagated_tags().items()]
    template = {"LaunchTemplateId": group.ec2_launch_template.id, "Version": str(group.launch_template_version)}
    request: dict[str, Any] = {"LaunchTemplate": template, "MinCount": 1, "MaxCount": count}
    if group.vpc_zone_identifier:
        request["SubnetId"] = group.vpc_zone_identifier.split(",")[0]
    if tags:
        request["TagSpecifications"] = [{"ResourceType": "instance", "Tags": tags}]
    try:
        reply = client_of("ec2", group.region).run_instances(**request)
    except (ClientError, BotoCoreError) as error:
        log.warning("%s: %d instances could not be launched: %s", group.name, count, error)
        return
    from moto.autoscaling.models import InstanceState

    for launched in reply["Instances"]:
        instance = group.ec2_backend.get_instance(launched["InstanceId"])
        instance.autoscaling_group = group
        group.ec2_backend.create_tags([instance.id], {GROUP_TAG: group.name})
        protected = group.new_instances_protected_from_scale_in
        group.instance_states.append(InstanceState(instance, protected_from_scale_in=protected))


def drop_ended(group: Any) -> int:
    """Remove from a group the instances that have ended; terminate those that have only stopped, as AWS does.

    Returns:
        how many instances the group then lacks.
    """
    with _changing:
        ended = [one.instance for one in group.instance_states if one.instance.state in ENDED]
        group.instance_states = [one for one in group.instance_states if one.instance not in ended]
        if stopped := [one.id for one in ended if one.state in {"stopping", "stopped"}]:
            group.ec2_backend.terminate_instances(stopped)
        return max(0, (group.desired_capacity or 0) - len(group.instance_states))


def replace_ended(groups: list[Any]) -> bool:
    """Launch the instances that groups lack; return True if there were some."""
    lacking = False
    for group in groups:
        with _changing:
            if group.ec2_launch_template is not None and (count := drop_ended(group)):
                launch(group, count)
                lacking = True
    return lacking


def _replace_for_ever() -> None:
    from moto.autoscaling.models import autoscaling_backends

    while True:
        regions = [backend for account in autoscaling_backends.values() for backend in account.values()]
        lacked = replace_ended([group for one in regions for group in list(one.autoscaling_groups.values())])
        time.sleep(PAUSE_SECONDS if lacked else CHECK_SECONDS)


_watch = threading.Thread(target=_replace_for_ever, daemon=True, name="auto-scaling")


def _replace_instances(original: Any) -> Any:
    def replace_autoscaling_group_instances(self: Any, count_needed: int, propagated_tags: dict[str, str]) -> None:
        """Launch instances of the group's launch template by RunInstances."""
        if self.ec2_launch_template is None:
            original(self, count_needed, propagated_tags)
            return
        with _changing:
            launch(self, count_needed)
            if _watch.ident is None:
                _watch.start()

    return replace_autoscaling_group_instances


def _notify_terminate_instances(_original: Any) -> Any:
    def notify_terminate_instances(self: Any, instance_ids: list[str]) -> None:
        """Do nothing: instances that are about to end are replaced like those that end by themselves."""

    return notify_terminate_instances


PATCHES = (
    Patch(
        "moto.autoscaling.models:FakeAutoScalingGroup.replace_autoscaling_group_instances",
        ("self", "count_needed", "propagated_tags"),
        _replace_instances,
        "launches past EC2's API, without profile, metadata options and the version that the group names",
    ),
    Patch(
        "moto.autoscaling.models:AutoScalingBackend.notify_terminate_instances",
        ("self", "instance_ids"),
        _notify_terminate_instances,
        "replaces an instance that is ended by a call, and none that ends by itself",
    ),
)
