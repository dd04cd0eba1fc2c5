"""Clocks that a test sets; a machine with a clock that jumps, and AWS's replies, which have the true time."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import formatdate

from services.clock import Clock, utc_now
from tests.support.memory_aws.ec2 import EPOCH

YEAR = 365 * 86_400.0
START = 1_790_000_000.0


class ManualClock(Clock):
    """Clocks that pass only when a test says so; it can be called for the seconds, as fakes of AWS do.

    Attributes:
        now: seconds of the monotonic clock.
        at: the time of day when `now` is 0.
    """

    def __init__(self, now: float = 1000.0, at: datetime = EPOCH) -> None:
        super().__init__()
        self.now, self.at = now, at

    def __call__(self) -> float:
        return self.monotonic()

    def monotonic(self) -> float:
        return self.now

    def boot_seconds(self) -> float:
        return self.monotonic()

    def epoch_seconds(self) -> float:
        return self.utc_now().timestamp()

    def utc_now(self) -> datetime:
        return self.at + timedelta(seconds=self.monotonic())

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let so much time pass at once."""
        self.now += seconds


class PlayedClock(Clock):
    """Clocks of which a test plays some: the seconds, the time of day, pauses, and the CPU time of the thread."""

    def __init__(
        self,
        seconds: Callable[[], float] = time.monotonic,
        utc_now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], object] = lambda _seconds: None,
        cpu_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__()
        self._seconds, self._utc_now, self._sleep, self._cpu_seconds = seconds, utc_now, sleep, cpu_seconds

    def monotonic(self) -> float:
        return self._seconds()

    def boot_seconds(self) -> float:
        return self._seconds()

    def epoch_seconds(self) -> float:
        return self.utc_now().timestamp()

    def utc_now(self) -> datetime:
        return self._utc_now()

    def sleep(self, seconds: float) -> None:
        self._sleep(seconds)

    def cpu_seconds(self) -> float:
        return self._cpu_seconds()


@dataclass
class World:
    """The true time, and a machine with a clock that is `wrong_by` seconds off."""

    true: float = START
    boot: float = 1_000.0
    wrong_by: float = 0.0
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.clock = Clock(lambda: self.true + self.wrong_by, lambda: self.boot)

    def wait(self, seconds: float) -> None:
        self.true += seconds
        self.boot += seconds

    def reply(self, error: float = 0.0) -> None:
        self.clock.confirm(formatdate(self.true + error, usegmt=True))

    @property
    def error(self) -> float:
        return abs(self.clock.epoch_seconds() - self.true)
