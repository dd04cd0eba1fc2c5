"""Auto Scaling groups."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.embedded.stacks.errors import ResourceError
from services.embedded.stacks.kinds.absent import gone_is_good
from services.embedded.stacks.kinds.kind import Cloud, Made
from services.embedded.stacks.model import Resource

PATIENCE_SECONDS = 120.0
"""How long instances of a group may take to come or to go."""

_LOOK_SECONDS = 0.1
_SERVICE = "autoscaling"


@dataclass
class AutoScalingGroup:
    """``AWS::AutoScaling::AutoScalingGroup``; load balancers are noted, so it registers with none.

    Args:
        clock: monotonic seconds.
        sleep: between two looks at its instances.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    fixed = frozenset({"AutoScalingGroupName"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it; its instances are on their way when this returns, as on AWS without a creation policy."""
        wanted = resource.properties
        name = wanted.get("AutoScalingGroupName") or cloud.name(resource.logical_id)
        cloud.call(_SERVICE, "create_auto_scaling_group", **_settings(name, wanted), Tags=_tags(cloud, name, wanted))
        return Made(name)

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change it, and replace its instances one by one where its update policy says so.

        Raises:
            ResourceError: they are not replaced in time.
        """
        name = resource.physical_id
        cloud.call(_SERVICE, "update_auto_scaling_group", **_settings(name, properties))
        if tags := _tags(cloud, name, properties):
            cloud.call(_SERVICE, "create_or_update_tags", Tags=tags)
        launches_otherwise = properties.get("LaunchTemplate") != resource.properties.get("LaunchTemplate")
        if launches_otherwise and "AutoScalingRollingUpdate" in resource.definition.get("UpdatePolicy", {}):
            self._replace(cloud, name)
        return Made(name, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it, and wait until its instances have ended.

        Raises:
            ResourceError: they do not end in time.
        """
        name = resource.physical_id
        instances = self._instances(cloud, name)
        with gone_is_good():
            cloud.call(_SERVICE, "delete_auto_scaling_group", AutoScalingGroupName=name, ForceDelete=True)
        if instances:
            self._await(lambda: _have_ended(cloud, instances), f"instances {instances} to end")

    def _replace(self, cloud: Cloud, name: str) -> None:
        preferences = {"MinHealthyPercentage": 100, "InstanceWarmup": 0}
        refresh = cloud.call(_SERVICE, "start_instance_refresh", AutoScalingGroupName=name, Preferences=preferences)
        wanted = [refresh["InstanceRefreshId"]]

        def is_over() -> bool:
            found = cloud.call(
                _SERVICE, "describe_instance_refreshes", AutoScalingGroupName=name, InstanceRefreshIds=wanted
            )["InstanceRefreshes"][0]
            if found["Status"] in {"Failed", "Cancelled"}:
                raise ResourceError(f"the instances of {name} were not replaced: {found.get('StatusReason', '')}")
            return bool(found["Status"] == "Successful")

        self._await(is_over, f"the instances of {name} to be replaced")

    def _instances(self, cloud: Cloud, name: str) -> list[str]:
        found = cloud.call(_SERVICE, "describe_auto_scaling_groups", AutoScalingGroupNames=[name])
        return [one["InstanceId"] for group in found["AutoScalingGroups"] for one in group["Instances"]]

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = self.clock() + PATIENCE_SECONDS
        while not condition():
            if self.clock() > deadline:
                raise ResourceError(f"waited {PATIENCE_SECONDS:.0f} s in vain for {what}")
            self.sleep(_LOOK_SECONDS)


def _settings(name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    noted = {"AutoScalingGroupName", "TargetGroupARNs", "LoadBalancerNames", "Tags", "VPCZoneIdentifier"}
    settings = {key: value for key, value in wanted.items() if key not in noted}
    if subnets := wanted.get("VPCZoneIdentifier"):
        settings["VPCZoneIdentifier"] = ",".join(subnets)
    return {"AutoScalingGroupName": name, **settings}


def _tags(cloud: Cloud, name: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    of_stack = [{"Key": key, "Value": value, "PropagateAtLaunch": True} for key, value in cloud.tags.items()]
    own = wanted.get("Tags", [])
    theirs = [tag for tag in of_stack if tag["Key"] not in {one["Key"] for one in own}]
    return [{**tag, "ResourceId": name, "ResourceType": "auto-scaling-group"} for tag in [*theirs, *own]]


def _have_ended(cloud: Cloud, instances: list[str]) -> bool:
    filters = [{"Name": "instance-id", "Values": instances}]
    found = cloud.call("ec2", "describe_instances", Filters=filters)["Reservations"]
    return all(one["State"]["Name"] == "terminated" for each in found for one in each["Instances"])
