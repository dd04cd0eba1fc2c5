"""What the local cloud can be told: switches that tests turn while it runs, and a person from the start.

`localcloud/README.md` tells a person of each.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from localcloud.fault_rules import MAX_RULES, rules_of

MAX_IN_FLIGHT = 120_000
"""Messages of one queue that may be in flight.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html
"""

MAX_DELAY_SECONDS = 900
"""Longest delay of a message, as on SQS."""

MAX_LAG_SECONDS = 600.0
"""How far back the cloud remembers what it was; AWS's own answers lag by up to a minute."""


class InvalidSwitchError(ValueError):
    """Raised when a switch is unknown or its value is not allowed."""


@dataclass(frozen=True)
class Allowed:
    """What a switch may be: a test of a value, and the same in words."""

    holds: Callable[[Any], bool]
    told: str

    def or_null(self) -> "Allowed":
        """Return the same, or None."""
        return Allowed(lambda value: value is None or self.holds(value), f"{self.told}, or null")


def _is_number(value: Any, most: float = math.inf) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= most


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_capacity(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and name and _is_count(count) for name, count in value.items()
    )


def _are_faults(value: Any) -> bool:
    rules_of(value)  # which says what is wrong with one
    return True


def _is_code(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Z][A-Za-z]*(\.[A-Z][A-Za-z]*)*", value) is not None


SECONDS = Allowed(_is_number, "a number of seconds, 0 or more")
LAG = Allowed(lambda value: _is_number(value, MAX_LAG_SECONDS), f"seconds from 0 to {MAX_LAG_SECONDS:.0f}")
DELAY = Allowed(lambda value: _is_number(value, MAX_DELAY_SECONDS), f"seconds from 0 to {MAX_DELAY_SECONDS}")
COUNT = Allowed(_is_count, "a whole number, 0 or more")
FRACTION = Allowed(lambda value: _is_number(value, 1), "a number from 0 to 1")
FACTOR = Allowed(_is_number, "a number, 0 or more")
CAPACITY = Allowed(_is_capacity, "whole numbers by instance type or availability zone, such as {c7a.large: 2}")
FLAG = Allowed(lambda value: isinstance(value, bool), "true or false")
FAULTS = Allowed(_are_faults, f"a list of at most {MAX_RULES} rules, such as [{{kind: unavailable, service: s3}}]")
CODE = Allowed(_is_code, "an error code of EC2, such as VcpuLimitExceeded")


def _switch(allowed: Allowed, default: Any) -> Any:
    if isinstance(default, dict | list):
        return field(default_factory=type(default), metadata={"allowed": allowed})
    return field(default=default, metadata={"allowed": allowed})


@dataclass(frozen=True)
class Switches:
    """How the local EC2 and SQS behave. The defaults are a cloud without faults that boots at once.

    Attributes:
        boot_delay_seconds: from the launch to the start of the instance's process.
        boot_delay_tail_seconds: added to every tenth boot, as some instances are slow.
        stuck_boot_fraction: 0..1 of the boots reach `running` and never start a process; 0.25 is every fourth.
        max_instances: capacity; launches beyond it are partial or fail with InsufficientInstanceCapacity.
            None is no limit.
        capacity: the same for an instance type or an availability zone; what is not named has no limit.
        spot_capacity: the same for Spot instances of all types. None is no limit.
        launch_error: the error code that every launch, and every start of a stopped instance, answers. None is none.
        lost_launch_replies: so many of the next launches succeed and answer HTTP 500.
        describe_lag_seconds: DescribeInstances answers as things stood so long ago.
        describe_failures: so many of the next DescribeInstances answer HTTP 503 RequestLimitExceeded.
        spot_notice_after_seconds: each Spot instance gets its notice so long after it runs. None is never.
        spot_notice_seconds: from that notice to the end of the instance.
        stale_count_seconds: the approximate counts of a queue are those of so long ago.
        count_factor: and they are multiplied by this: 0.5 is too low, 3 too high.
        enforce_iam: who acts with a role may do what its policies say, and nothing else.
        short_receives: 0..1 of the receives return fewer messages than there are.
        duplicate_deliveries: 0..1 of the messages of a standard queue are delivered twice.
        late_deliveries: 0..1 of the messages of a standard queue arrive `late_seconds` late, behind others.
        late_seconds: see there.
        max_in_flight: with so many messages in flight a queue delivers none.
        faults: what calls meet, as rules: `fault_rules.FaultRule`.
        fault_seed: chooses which of the calls that a rule matches meet its fault.
    """

    boot_delay_seconds: float = _switch(SECONDS, 0.0)
    boot_delay_tail_seconds: float = _switch(SECONDS, 0.0)
    stuck_boot_fraction: float = _switch(FRACTION, 0.0)
    max_instances: int | None = _switch(COUNT.or_null(), None)
    capacity: Mapping[str, int] = _switch(CAPACITY, {})
    spot_capacity: int | None = _switch(COUNT.or_null(), None)
    launch_error: str | None = _switch(CODE.or_null(), None)
    lost_launch_replies: int = _switch(COUNT, 0)
    describe_lag_seconds: float = _switch(LAG, 0.0)
    describe_failures: int = _switch(COUNT, 0)
    spot_notice_after_seconds: float | None = _switch(SECONDS.or_null(), None)
    spot_notice_seconds: float = _switch(SECONDS, 120.0)
    stale_count_seconds: float = _switch(LAG, 0.0)
    count_factor: float = _switch(FACTOR, 1.0)
    enforce_iam: bool = _switch(FLAG, False)
    short_receives: float = _switch(FRACTION, 0.0)
    duplicate_deliveries: float = _switch(FRACTION, 0.0)
    late_deliveries: float = _switch(FRACTION, 0.0)
    late_seconds: float = _switch(DELAY, 5.0)
    max_in_flight: int = _switch(COUNT, MAX_IN_FLIGHT)
    faults: Sequence[Mapping[str, Any]] = _switch(FAULTS, [])
    fault_seed: int = _switch(COUNT, 0)

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            InvalidSwitchError: naming switch, value and what is allowed.
        """
        for switch in fields(self):
            allowed, value = switch.metadata["allowed"], getattr(self, switch.name)
            try:
                is_allowed = allowed.holds(value)
            except ValueError as error:
                raise InvalidSwitchError(f"{switch.name}: {error}") from error
            if not is_allowed:
                raise InvalidSwitchError(f"{switch.name}={value!r}: must be {allowed.told}")

    def changed(self, values: Mapping[str, Any]) -> "Switches":
        """Return these switches with some values replaced.

        Raises:
            InvalidSwitchError: a name is unknown or a value is not allowed.
        """
        known = {switch.name for switch in fields(self)}
        if unknown := sorted(set(values) - known):
            raise InvalidSwitchError(f"unknown switches {unknown}; there are {sorted(known)}")
        return replace(self, **values)
