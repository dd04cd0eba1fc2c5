"""Auto Scaling groups of N instances, which are launched by RunInstances and replaced when they end.

moto launches instances without EC2's API, and so without profile, metadata options and the template version of the
group. Scaling policies and health checks of load balancers have no effect; instance refreshes are unknown.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from moto.autoscaling.models import InstanceState, autoscaling_backends

from localcloud.clients import loopback
from localcloud.patches import Patches

log = logging.getLogger(__name__)

GROUP_TAG = "aws:autoscaling:groupName"
ENDED = frozenset({"shutting-down", "terminated", "stopping", "stopped"})
"""States of instances that a group does not count any more."""

CHECK_SECONDS = 0.2
"""Interval between checks in seconds."""

PAUSE_SECONDS = 2.0
"""Pause after a replacement in seconds, which limits the rate of launches if instances end at once."""

_lock = threading.RLock()
"""Held while the instances of any group are counted and launched, so that none is launched twice."""


def launch(group: Any, count: int, client_of: Callable[[str, str], Any] = loopback.client) -> None:
    """Launch up to `count` instances of moto's group; failed launches are retried later."""
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
    for launched in reply["Instances"]:
        instance = group.ec2_backend.get_instance(launched["InstanceId"])
        instance.autoscaling_group = group
        group.ec2_backend.create_tags([instance.id], {GROUP_TAG: group.name})
        protected = group.new_instances_protected_from_scale_in
        group.instance_states.append(InstanceState(instance, protected_from_scale_in=protected))


def drop_ended(group: Any) -> int:
    """Remove ended instances from a group, and terminate those that are only stopped, as AWS does.

    Returns:
        Number of instances that the group lacks.
    """
    with _lock:
        ended = [one.instance for one in group.instance_states if one.instance.state in ENDED]
        group.instance_states = [one for one in group.instance_states if one.instance not in ended]
        if stopped := [one.id for one in ended if one.state in {"stopping", "stopped"}]:
            group.ec2_backend.terminate_instances(stopped)
        return max(0, (group.desired_capacity or 0) - len(group.instance_states))


def _run_replacements() -> None:
    while True:
        lacked = False
        regions = [backend for account in autoscaling_backends.values() for backend in account.values()]
        for group in [group for one in regions for group in list(one.autoscaling_groups.values())]:
            with _lock:
                if group.ec2_launch_template is not None and (count := drop_ended(group)):
                    launch(group, count)
                    lacked = True
        time.sleep(PAUSE_SECONDS if lacked else CHECK_SECONDS)


_replacer = threading.Thread(target=_run_replacements, daemon=True, name="auto-scaling")

PATCHES = Patches()


@PATCHES.wrap(
    "moto.autoscaling.models:FakeAutoScalingGroup.replace_autoscaling_group_instances",
    "launches past EC2's API, without profile, metadata options and the version that the group names",
)
def replace_autoscaling_group_instances(
    original: Any, self: Any, count_needed: int, propagated_tags: dict[str, str]
) -> None:
    """Launch instances of the group's launch template by RunInstances."""
    if self.ec2_launch_template is None:
        original(self, count_needed, propagated_tags)
        return
    with _lock:
        launch(self, count_needed)
        if _replacer.ident is None:
            _replacer.start()


@PATCHES.replace(
    "moto.autoscaling.models:AutoScalingBackend.notify_terminate_instances",
    "replaces an instance that is ended by a call, and none that ends by itself",
)
def notify_terminate_instances(self: Any, instance_ids: list[str]) -> None:
    """Do nothing: terminated instances are replaced like all others that end."""
