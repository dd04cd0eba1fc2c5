"""A machine whose clock jumps, and AWS's replies, which have the true time."""

from dataclasses import dataclass, field
from email.utils import formatdate

from services.clock import WallClock

YEAR = 365 * 86_400.0
START = 1_790_000_000.0


@dataclass
class World:
    """The true time, and a machine whose clock is `wrong_by` seconds off."""

    true: float = START
    boot: float = 1_000.0
    wrong_by: float = 0.0
    clock: WallClock = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.clock = WallClock(lambda: self.true + self.wrong_by, lambda: self.boot)

    def wait(self, seconds: float) -> None:
        self.true += seconds
        self.boot += seconds

    def reply(self, error: float = 0.0) -> None:
        self.clock.confirm(formatdate(self.true + error, usegmt=True))

    @property
    def error(self) -> float:
        return abs(self.clock.seconds() - self.true)
