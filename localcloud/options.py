"""Switches of the local cloud: the faults and delays that tests and users can set, and the values that each allows.

`localcloud/README.md` describes each switch. Users write switches as ``NAME=VALUE``, the value in YAML.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FaultKind = Literal[
    "unavailable",
    "throttled",
    "slow",
    "timeout",
    "reset",
    "lost_reply",
    "repeated",
    "partial",
    "denied",
    "expired",
    "skewed",
    "killed_before",
    "killed_after",
]

MAX_RULES: Final = 100
"""Largest number of rules in the switch `faults`."""

MAX_SECONDS: Final = 600.0
"""Longest time in seconds that a call may be held; no client of ours waits that long."""


class FaultRule(BaseModel):
    """One kind of fault and the calls that it can affect. A field that is left out matches every call.

    `localcloud/README.md` describes the kinds and the fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    service: str | None = None
    operation: str | None = None
    tier: Literal["web", "controller", "worker"] | None = None
    share: float = Field(default=1.0, ge=0, le=1)
    calls: int | None = Field(default=None, ge=1)
    seconds: float = Field(default=1.0, ge=0, le=MAX_SECONDS)
    from_seconds: float = Field(default=0.0, ge=0)
    until_seconds: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> "FaultRule":
        if self.until_seconds is not None and self.until_seconds <= self.from_seconds:
            raise ValueError(f"until_seconds ({self.until_seconds:g}) must be above from_seconds")
        return self

    def matches(self, service: str, operation: str, tier: str | None, elapsed: float) -> bool:
        """Return True if this rule can affect a call, `elapsed` seconds after the switch was set."""
        return (
            self.service in {None, service}
            and self.operation in {None, operation}
            and self.tier in {None, tier}
            and self.from_seconds <= elapsed
            and (self.until_seconds is None or elapsed < self.until_seconds)
        )


def rules_of(value: Any) -> tuple[FaultRule, ...]:
    """Return the rules in a value of the switch `faults`.

    Raises:
        ValueError: the value is not a list of at most `MAX_RULES` rules; the message names the rule and its fault.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_RULES:
        raise ValueError(f"a list of at most {MAX_RULES} rules")
    rules = []
    for number, rule in enumerate(value, 1):
        try:
            rules.append(FaultRule.model_validate(rule))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"rule {number}: {where}: {first['msg']}") from error
    return tuple(rules)


MAX_IN_FLIGHT = 120_000
"""Largest number of messages of one queue that may be in flight.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html
"""

MAX_DELAY_SECONDS = 900
"""Longest delay of a message in seconds, as on SQS."""

MAX_LAG_SECONDS = 600.0
"""How far back in seconds the cloud stores its history; AWS's own answers lag by up to a minute."""


class InvalidSwitchError(ValueError):
    """Raised when a switch is unknown or its value is not allowed."""


@dataclass(frozen=True)
class Allowed:
    """The values that a switch allows: a test, and its description for error messages."""

    is_met: Callable[[Any], bool]
    description: str

    def or_null(self) -> "Allowed":
        """Return a copy that allows None, too."""
        return Allowed(lambda value: value is None or self.is_met(value), f"{self.description}, or null")


def _is_number(value: Any, maximum: float = math.inf) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= maximum


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


SECONDS = Allowed(_is_number, "a number of seconds, 0 or more")
LAG = Allowed(lambda value: _is_number(value, MAX_LAG_SECONDS), f"seconds from 0 to {MAX_LAG_SECONDS:.0f}")
DELAY = Allowed(lambda value: _is_number(value, MAX_DELAY_SECONDS), f"seconds from 0 to {MAX_DELAY_SECONDS}")
COUNT = Allowed(_is_count, "a whole number, 0 or more")
FRACTION = Allowed(lambda value: _is_number(value, 1), "a number from 0 to 1")
FACTOR = Allowed(_is_number, "a number, 0 or more")
CAPACITY = Allowed(
    lambda value: (
        isinstance(value, Mapping)
        and all(isinstance(name, str) and name and _is_count(count) for name, count in value.items())
    ),
    "whole numbers by instance type or availability zone, such as {c7a.large: 2}",
)
# `rules_of` raises an error that names the invalid rule.
FAULTS = Allowed(lambda value: rules_of(value) is not None, f"a list of at most {MAX_RULES} rules")
CODE = Allowed(
    lambda value: isinstance(value, str) and re.fullmatch(r"[A-Z][A-Za-z]*(\.[A-Z][A-Za-z]*)*", value) is not None,
    "an error code of EC2, such as VcpuLimitExceeded",
)


def _switch(allowed: Allowed, default: Any) -> Any:
    if isinstance(default, dict | list):
        return field(default_factory=type(default), metadata={"allowed": allowed})
    return field(default=default, metadata={"allowed": allowed})


@dataclass(frozen=True)
class Switches:
    """Settings of the local cloud. The defaults are a cloud without faults, with instances that boot at once.

    `localcloud/README.md` describes each switch, and a test compares the defaults. None is no limit, or never.
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
    short_receives: float = _switch(FRACTION, 0.0)
    duplicate_deliveries: float = _switch(FRACTION, 0.0)
    late_deliveries: float = _switch(FRACTION, 0.0)
    late_seconds: float = _switch(DELAY, 5.0)
    max_in_flight: int = _switch(COUNT, MAX_IN_FLIGHT)
    faults: Sequence[Mapping[str, Any]] = _switch(FAULTS, [])
    fault_seed: int = _switch(COUNT, 0)

    def __post_init__(self) -> None:
        """Check each value.

        Raises:
            InvalidSwitchError: a value is not allowed; the message names switch, value and allowed values.
        """
        for switch in fields(self):
            allowed, value = switch.metadata["allowed"], getattr(self, switch.name)
            try:
                is_allowed = allowed.is_met(value)
            except ValueError as error:
                raise InvalidSwitchError(f"{switch.name}: {error}") from error
            if not is_allowed:
                raise InvalidSwitchError(f"{switch.name}={value!r}: must be {allowed.description}")

    def changed(self, values: Mapping[str, Any]) -> "Switches":
        """Return these switches with some values replaced.

        Raises:
            InvalidSwitchError: a name is unknown or a value is not allowed.
        """
        known = {switch.name for switch in fields(self)}
        if unknown := sorted(set(values) - known):
            near = get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise InvalidSwitchError(f"{unknown[0]}: there is no such switch; {hint}")
        return replace(self, **values)


def parse_switches(settings: Iterable[str]) -> Switches:
    """Return the switches of settings such as ``NAME=VALUE``; the last setting of a switch counts.

    Raises:
        InvalidSwitchError: a setting is not ``NAME=VALUE``, its name is unknown or its value is not allowed.
    """
    values = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidSwitchError(f"{text!r}: must be NAME=VALUE, such as boot_delay_seconds=5")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InvalidSwitchError(f"{text}: the value is not YAML ({' '.join(str(error).split())})") from error
    return Switches().changed(values)


def load_scenario(scenario: Path) -> dict[str, Any]:
    """Return the values of the switches in a YAML file, by name.

    Raises:
        InvalidSwitchError: the file cannot be read or is not a mapping, or a value in it is not allowed.
    """
    try:
        values = yaml.safe_load(scenario.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSwitchError(f"{scenario}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InvalidSwitchError(f"{scenario}: must be a mapping of switches, such as `boot_delay_seconds: 5`")
    Switches().changed(values)
    return values


def format_switches(values: Mapping[str, Any]) -> list[str]:
    """Return switches as settings, each ``NAME=VALUE``."""
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]
