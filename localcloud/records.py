"""What the local EC2 keeps of each instance, and what it tells the hypervisor of it."""

from dataclasses import dataclass
from typing import Any, Protocol

from localcloud.eventual_consistency import ValueHistory


class Stock(Protocol):
    """What moto does when an instance ends for good or stops, without a process to wait for."""

    def terminate(self, instance: Any) -> Any:
        """Release what the instance holds and mark it terminated."""

    def stop(self, instance: Any) -> Any:
        """Mark the instance stopped."""

    def seen(self, instance: Any) -> Any:
        """Return what the API shows of the instance that may change."""


class UnknownInstanceError(LookupError):
    """Raised when an instance id was never launched here."""


@dataclass
class Record:
    """One instance.

    Attributes:
        instance: moto's object.
        past: what the API showed of it, and when.
        generation: boots so far; tells the report of an earlier boot from one of this.
        stuck: this boot never starts a process.
        boot_delay_seconds: from launch to process.
        console: path of the console log, once known.
        notice: the Spot notice (action and time), once given.
        reason: code and text of why EC2 itself ends it, or None.
    """

    instance: Any
    past: ValueHistory[Any]
    generation: int = 0
    stuck: bool = False
    boot_delay_seconds: float = 0.0
    console: str | None = None
    notice: dict[str, str] | None = None
    reason: tuple[str, str] | None = None


@dataclass(frozen=True)
class Work:
    """What the hypervisor must know of one instance that is not terminated."""

    id: str
    state: str
    generation: int
    stuck: bool
    boot_delay_seconds: float
