"""What the embedded cloud can be told: switches that tests turn while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


class InvalidSwitchError(ValueError):
    """Raised when a switch is unknown or its value is not allowed."""


@dataclass(frozen=True)
class Switches:
    """How the embedded EC2 behaves. The defaults are an EC2 without faults that boots at once.

    Attributes:
        boot_delay_seconds: from the launch to the start of the instance's process.
        boot_delay_tail_seconds: added to every tenth boot, as some instances are slow.
        stuck_boot_fraction: 0..1 of the boots reach `running` and never start a process; 0.25 is every fourth.
        max_instances: capacity; launches beyond it are partial or fail with InsufficientInstanceCapacity.
            None is no limit.
        lost_launch_replies: so many of the next launches succeed and answer HTTP 500.
    """

    boot_delay_seconds: float = 0.0
    boot_delay_tail_seconds: float = 0.0
    stuck_boot_fraction: float = 0.0
    max_instances: int | None = None
    lost_launch_replies: int = 0

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            InvalidSwitchError: naming switch, value and what is allowed.
        """
        if not 0 <= self.stuck_boot_fraction <= 1:
            raise InvalidSwitchError(f"stuck_boot_fraction={self.stuck_boot_fraction}: must be within 0..1")
        for name in ("boot_delay_seconds", "boot_delay_tail_seconds", "lost_launch_replies"):
            if getattr(self, name) < 0:
                raise InvalidSwitchError(f"{name}={getattr(self, name)}: must be 0 or more")
        if self.max_instances is not None and self.max_instances < 0:
            raise InvalidSwitchError(f"max_instances={self.max_instances}: must be 0 or more, or null")

    def changed(self, values: Mapping[str, Any]) -> "Switches":
        """Return these switches with some values replaced.

        Raises:
            InvalidSwitchError: a name is unknown or a value is not allowed.
        """
        known = {field.name for field in fields(self)}
        if unknown := sorted(set(values) - known):
            raise InvalidSwitchError(f"unknown switches {unknown}; there are {sorted(known)}")
        for name, value in values.items():
            optional = name == "max_instances" and value is None
            if not optional and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise InvalidSwitchError(f"{name}={value!r}: must be a number")
        return replace(self, **values)
