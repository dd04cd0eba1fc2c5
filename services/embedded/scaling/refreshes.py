"""Instance refreshes of Auto Scaling groups, which moto does not know: new instances take the place of old ones."""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.core.responses import ActionResult

from services.embedded.mend import Addition
from services.embedded.scaling.groups import ENDED, changing, keep, launch, numbered_version

PATIENCE_SECONDS = 300.0
"""How long a new instance may take until it runs, and an old one until it has ended."""

ALL_HEALTHY = 100
"""Percent: new instances are there before old ones end."""

LOOK_SECONDS = 0.05


class RefreshFailedError(Exception):
    """Raised when a refresh cannot go on; the message says why."""


@dataclass
class Refresh:
    """One refresh of a group.

    Args:
        group: moto's object.
        old: the instances to replace, as moto's group has them.
        healthy_percent: how many of the group are to stay healthy.
        warmup_seconds: between a new instance that runs and the next step.
        clock: monotonic seconds.
        sleep: between two looks.
    """

    group: Any
    old: list[Any]
    healthy_percent: int
    warmup_seconds: float
    previous_template: dict[str, str] | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "Pending"
    reason: str | None = None
    done: int = 0
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Say whether nothing follows any more."""
        return self.status in {"Successful", "Failed", "Cancelled"}

    def run(self) -> None:
        """Replace every old instance, one after another."""
        self.status = "InProgress"
        try:
            for one in self.old:
                if self.status == "Cancelling":
                    break
                self._replace(one)
                self.done += 1
        except RefreshFailedError as error:
            self._end("Failed", str(error))
        else:
            self._end("Cancelled" if self.status == "Cancelling" else "Successful", None)

    def _end(self, status: str, reason: str | None) -> None:
        if status != "Successful" and self.previous_template is not None:
            self.group._set_launch_configuration("", self.previous_template, None)
        self.reason, self.ended_at, self.status = reason, datetime.now(UTC), status

    def _replace(self, one: Any) -> None:
        if self.healthy_percent >= ALL_HEALTHY:
            self._launch()
            self._terminate(one)
        else:
            self._terminate(one)
            self._launch()

    def _launch(self) -> None:
        with changing:
            before = list(self.group.instance_states)
            self.group.desired_capacity += 1
            try:
                launch(self.group, 1)
            finally:
                self.group.desired_capacity -= 1
            new = [state for state in self.group.instance_states if state not in before]
        if not new:
            raise RefreshFailedError("a new instance could not be launched")
        self._await(lambda: self._runs(new[0].instance), f"{new[0].instance.id} to run")
        self.sleep(self.warmup_seconds)
        self._runs(new[0].instance)

    def _runs(self, instance: Any) -> bool:
        if instance.state in ENDED:
            raise RefreshFailedError(f"the new instance {instance.id} has ended; its console says why")
        return bool(instance.state == "running")

    def _terminate(self, one: Any) -> None:
        with changing:
            self.group.instance_states = [state for state in self.group.instance_states if state is not one]
            self.group.ec2_backend.terminate_instances([one.instance.id])
        self._await(lambda: one.instance.state == "terminated", f"{one.instance.id} to end")

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = self.clock() + PATIENCE_SECONDS
        while not condition():
            if self.clock() > deadline:
                raise RefreshFailedError(f"waited {PATIENCE_SECONDS:.0f} s in vain for {what}")
            self.sleep(LOOK_SECONDS)

    def told(self) -> dict[str, Any]:
        """Return what DescribeInstanceRefreshes says of it."""
        count = len(self.old)
        return {
            "InstanceRefreshId": self.id,
            "AutoScalingGroupName": self.group.name,
            "Status": self.status,
            "StatusReason": self.reason,
            "StartTime": self.started_at,
            "EndTime": self.ended_at,
            "PercentageComplete": 100 * self.done // count if count else 100,
            "InstancesToUpdate": count - self.done,
        }


def in_background(work: Callable[[], None]) -> None:
    """Do something in a thread that ends with the process."""
    threading.Thread(target=work, daemon=True, name="refresh").start()


def refreshes_of(group: Any) -> list[Refresh]:
    """Return the refreshes of a group, the oldest first."""
    found: list[Refresh] = vars(group).setdefault("refreshes", [])
    return found


def begin(group: Any, parameters: dict[str, Any]) -> Refresh:
    """Return a refresh of a group, which is not running yet.

    Args:
        group: moto's object.
        parameters: of StartInstanceRefresh.

    Raises:
        AutoscalingClientError: InstanceRefreshInProgress.
    """
    if any(not one.is_over for one in refreshes_of(group)):
        raise AutoscalingClientError(
            "InstanceRefreshInProgress", "An Instance Refresh is already in progress and blocks the execution."
        )
    preferences = parameters.get("Preferences") or {}
    wanted = (parameters.get("DesiredConfiguration") or {}).get("LaunchTemplate")
    previous = None
    with changing:
        keep(group)
        if wanted:
            template = group.ec2_launch_template
            previous = {"LaunchTemplateId": template.id, "Version": group.launch_template_version}
            group._set_launch_configuration("", wanted, None)
        old = list(group.instance_states)
        if preferences.get("SkipMatching"):
            version = numbered_version(group)
            old = [one for one in old if getattr(one.instance, "launched_version", None) != version]
    healthy = preferences.get("MinHealthyPercentage", 90)
    refresh = Refresh(group, old, int(healthy), float(preferences.get("InstanceWarmup", 0)), previous)
    refreshes_of(group).append(refresh)
    return refresh


def _group_of(response: Any) -> Any:
    name = response._get_param("AutoScalingGroupName")
    group = response.autoscaling_backend.autoscaling_groups.get(name)
    if group is None:
        raise ValidationError("AutoScalingGroup name not found - null")
    return group


def start_instance_refresh(self: Any) -> Any:
    """Begin to replace the instances of a group."""
    refresh = begin(_group_of(self), self.params)
    in_background(refresh.run)
    return ActionResult({"InstanceRefreshId": refresh.id})


def describe_instance_refreshes(self: Any) -> Any:
    """Tell of a group's refreshes, the newest first."""
    wanted = self._get_param("InstanceRefreshIds", [])
    found = [one.told() for one in reversed(refreshes_of(_group_of(self))) if not wanted or one.id in wanted]
    return ActionResult({"InstanceRefreshes": found})


def cancel_instance_refresh(self: Any) -> Any:
    """Let a group's refresh end with the instance that it is at."""
    running = [one for one in refreshes_of(_group_of(self)) if not one.is_over]
    if not running:
        raise AutoscalingClientError("ActiveInstanceRefreshNotFound", "No in progress or pending refresh found.")
    running[-1].status = "Cancelling"
    return ActionResult({"InstanceRefreshId": running[-1].id})


_RESPONSE = "moto.autoscaling.responses:AutoScalingResponse"
_WHY = "does not know instance refreshes"
MENDS = (
    Addition(f"{_RESPONSE}.start_instance_refresh", start_instance_refresh, _WHY),
    Addition(f"{_RESPONSE}.describe_instance_refreshes", describe_instance_refreshes, _WHY),
    Addition(f"{_RESPONSE}.cancel_instance_refresh", cancel_instance_refresh, _WHY),
)
