"""Switches of the local cloud: the faults and delays that tests and users can set, and the values that each allows.

`localcloud/README.md` describes each switch. Users write switches as ``NAME=VALUE``, the value in YAML.
"""

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

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

MAX_IN_FLIGHT: Final = 120_000
"""Largest number of messages of one queue that may be in flight.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html
"""

MAX_DELAY_SECONDS: Final = 900
"""Longest delay of a message in seconds, as on SQS."""

MAX_LAG_SECONDS: Final = 600.0
"""How far back in seconds the cloud stores its history; AWS's own answers lag by up to a minute."""

_CHECKED: Final = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Lag = Annotated[float, Field(ge=0, le=MAX_LAG_SECONDS)]
Share = Annotated[float, Field(ge=0, le=1)]


class FaultRule(BaseModel):
    """One kind of fault and the calls that it can affect. A field that is left out matches every call.

    `localcloud/README.md` describes the kinds and the fields.
    """

    model_config = _CHECKED

    kind: FaultKind
    service: str | None = None
    operation: str | None = None
    tier: Literal["web", "controller", "worker"] | None = None
    share: Share = 1.0
    calls: int | None = Field(default=None, ge=1)
    seconds: float = Field(default=1.0, ge=0, le=MAX_SECONDS)
    from_seconds: Seconds = 0.0
    until_seconds: Seconds | None = None

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


class InvalidSwitchError(ValueError):
    """Raised when a switch is unknown or its value is not allowed."""


class Switches(BaseModel):
    """Settings of the local cloud. The defaults are a cloud without faults, with instances that boot at once.

    `localcloud/README.md` describes each switch, and a test compares the defaults. None is no limit, or never.
    """

    model_config = _CHECKED

    boot_delay_seconds: Seconds = 0.0
    boot_delay_tail_seconds: Seconds = 0.0
    stuck_boot_fraction: Share = 0.0
    max_instances: Count | None = None
    capacity: dict[Annotated[str, Field(min_length=1)], Count] = {}
    spot_capacity: Count | None = None
    launch_error: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]*(\.[A-Z][A-Za-z]*)*$")] | None = None
    lost_launch_replies: Count = 0
    describe_lag_seconds: Lag = 0.0
    describe_failures: Count = 0
    spot_notice_after_seconds: Seconds | None = None
    spot_notice_seconds: Seconds = 120.0
    stale_count_seconds: Lag = 0.0
    count_factor: float = Field(default=1.0, ge=0)
    short_receives: Share = 0.0
    duplicate_deliveries: Share = 0.0
    late_deliveries: Share = 0.0
    late_seconds: float = Field(default=5.0, ge=0, le=MAX_DELAY_SECONDS)
    max_in_flight: Count = MAX_IN_FLIGHT
    faults: list[FaultRule] = Field(default=[], max_length=MAX_RULES)
    fault_seed: Count = 0

    def changed(self, values: Mapping[str, Any]) -> "Switches":
        """Return these switches with some values replaced.

        Raises:
            InvalidSwitchError: a name is unknown or a value is not allowed; the message names both.
        """
        known = type(self).model_fields
        if unknown := sorted(set(values) - known.keys()):
            near = get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise InvalidSwitchError(f"{unknown[0]}: there is no such switch; {hint}")
        try:
            return Switches.model_validate({**self.model_dump(), **values})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidSwitchError(f"{where}: {first['msg']}, not {str(first['input'])[:200]}") from error


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
