"""DescribeInstances that fails, or answers as things stood a while ago, as EC2's does: eventually it is right."""

import copy
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moto.ec2.models.instances import InstanceState, StateReason

from localcloud.fleet import fleet
from localcloud.patches import Patch
from localcloud.records import UnknownInstanceError
from localcloud.refusals import refusal

_seconds_ago: ContextVar[float] = ContextVar("seconds_ago", default=0.0)
"""How old the answer is that this thread is making; 0 outside of DescribeInstances."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the API shows of an instance that may change: its state, why, when it was launched last, and its tags."""

    state: str
    code: int
    transition: str
    reason: tuple[str, str]
    launched: datetime
    tags: tuple[tuple[str, str], ...]


def seen(instance: Any) -> Seen:
    """Return what the API shows of one of moto's instances now."""
    reason = instance.state_reason
    tags = instance.ec2_backend.tags.get(instance.id, {})
    return Seen(
        instance.state,
        instance.state_code,
        instance._reason,
        (reason.message, reason.code),
        instance.launch_time,
        tuple(tags.items()),
    )


def as_seen(instance: Any, then: Seen) -> Any:
    """Return a copy of one of moto's instances that looks as it did then."""
    past = copy.copy(instance)
    past._private_ips = set()  # moto gives an instance's addresses back when its object goes
    past._state, past.launch_time = InstanceState(then.state, then.code), then.launched
    past._reason, past.state_reason = then.transition, StateReason(*then.reason)
    tags = [
        {"resource_id": instance.id, "resource_type": "instance", "key": key, "value": value}
        for key, value in then.tags
    ]
    past.get_tags = lambda: tags
    return past


def _describe_instances(original: Any) -> Any:
    def describe_instances(self: Any) -> Any:
        """Answer as of `describe_lag_seconds` ago, or fail as `describe_failures` says."""
        if fleet.take("describe_failures"):
            raise refusal("RequestLimitExceeded")
        token = _seconds_ago.set(fleet.switches.describe_lag_seconds)
        try:
            return original(self)
        finally:
            _seconds_ago.reset(token)

    return describe_instances


def _all_reservations(original: Any) -> Any:
    def all_reservations(self: Any, filters: Any = None) -> Any:
        """Return every reservation that has instances, as they were known when the answer is from."""
        ago = _seconds_ago.get()
        if not ago:
            return original(self, filters)
        from moto.ec2.utils import filter_reservations

        reservations = []
        for reservation in original(self):
            reservation.instances = [past for one in reservation.instances if (past := _past(one, ago)) is not None]
            if reservation.instances:
                reservations.append(reservation)
        return reservations if filters is None else filter_reservations(reservations, filters)

    return all_reservations


def _past(instance: Any, seconds_ago: float) -> Any | None:
    try:
        then = fleet.record(instance.id).past.value_ago(seconds_ago)
    except UnknownInstanceError:
        return None  # it is being launched
    return None if then is None else as_seen(instance, then)


def _noting_tags(original: Any) -> Any:
    def change_tags(self: Any, resource_ids: list[str], tags: Any) -> Any:
        """Change tags, and remember since when the instances among the resources have them."""
        result = original(self, resource_ids, tags)
        for resource_id in resource_ids:
            fleet.note(resource_id)
        return result

    return change_tags


_TAGS = "moto.ec2.models.tags:TagBackend"
_NO_PAST = "knows only what is now"
PATCHES = (
    Patch(
        "moto.ec2.responses.instances:InstanceResponse.describe_instances",
        ("self",),
        _describe_instances,
        "neither lags nor fails",
    ),
    Patch(
        "moto.ec2.models.instances:InstanceBackend.all_reservations", ("self", "filters"), _all_reservations, _NO_PAST
    ),
    Patch(f"{_TAGS}.create_tags", ("self", "resource_ids", "tags"), _noting_tags, _NO_PAST),
    Patch(f"{_TAGS}.delete_tags", ("self", "resource_ids", "tags"), _noting_tags, _NO_PAST),
)
