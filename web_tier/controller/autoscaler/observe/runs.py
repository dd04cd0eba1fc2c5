"""The runs of the fleet: what is billed from one rest to the next is shared by the images that it answers meanwhile.

A run begins with an image that waits while the fleet is at rest. It ends when nothing waits and there is no worker,
or when nothing has waited for so long that a worker which still runs does so for its own sake, as the standby of
`min_workers` does: what such workers are billed until the next run is no image's. A fleet that never rests begins a
new run each hour, so that what an image costs is settled within the hour.

The collector tells of answers, the autoscaler looks, each in a thread of its own.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from core.cost import Bill
from core.messages import BillingPeriod, FleetSnapshot
from web_tier.controller.autoscaler.observe.observe import Observation

QUIET_SECONDS = 60.0
"""Nothing has waited for so long: the run is over. As long as EC2 bills a worker at least that came last."""

MAX_SECONDS = 3_600.0

LATE_SECONDS = 60.0
"""An answer may come so long after its run has ended: workers delete their requests before the collector has read."""


@dataclass
class Runs:
    """Counts answers, and attributes what is billed to runs.

    Attributes:
        before: the last snapshot of the holder of the lease before; its run goes on.
        quiet_seconds: see `QUIET_SECONDS`; longer where workers idle for longer.
    """

    before: FleetSnapshot | None = None
    quiet_seconds: float = QUIET_SECONDS
    clock: Callable[[], float] = time.monotonic
    _images: int = field(default=0, init=False)
    _run: BillingPeriod | None = field(default=None, init=False)
    _bill: Bill = field(default=Bill(), init=False)
    _begun: float = field(default=0.0, init=False)
    _busy: float = field(default=0.0, init=False)
    _ended: float = field(default=float("-inf"), init=False)
    _to_keep: list[BillingPeriod] = field(default_factory=list, init=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        """Go on where the controller before stood."""
        self._begun = self._busy = self.clock()
        if self.before is not None:
            self._images, self._run = self.before.images, self.before.run
            self._bill = Bill(self.before.billed_seconds, self.before.cost)

    @property
    def images(self) -> int:
        """Answers of workers since the fleet's first launch."""
        return self._images

    @property
    def current(self) -> BillingPeriod | None:
        """The run that goes on, or the last one."""
        return self._run

    def answered(self, images: int) -> int:
        """Count answers that were recorded just now; return the number of the run that they belong to."""
        with self._turn:
            run = self._run
            if run is None or (not run.is_open and self.clock() - self._ended > LATE_SECONDS):
                run = self._begin()
            self._run = run.model_copy(update={"images": run.images + images})
            self._images += images
            return run.number

    def look(self, observation: Observation, bill: Bill) -> None:
        """Take one observation into account, and what the fleet has been billed by now in all."""
        waiting = observation.requests.total > 0
        with self._turn:
            more, self._bill = bill - self._bill, bill
            if waiting:
                self._busy = self.clock()
            if self._run is not None and self._run.is_open:
                self._run = _charged(self._run, more)
                self._end_or_go_on(self._run, observation.supply, waiting=waiting)
            elif waiting:
                self._run = _charged(self._begin(), more)

    def to_keep(self) -> tuple[BillingPeriod, ...]:
        """Return the runs that have been followed by another and are not kept yet, oldest first."""
        return tuple(self._to_keep)

    def kept(self, run: BillingPeriod) -> None:
        """Note that a run has been stored for good."""
        with self._turn:
            self._to_keep.remove(run)

    def _end_or_go_on(self, run: BillingPeriod, supply: int, *, waiting: bool) -> None:
        now = self.clock()
        if not waiting and (supply == 0 or now - self._busy >= self.quiet_seconds):
            self._run, self._ended = run.model_copy(update={"is_open": False}), now
        elif now - self._begun >= MAX_SECONDS:
            self._begin()

    def _begin(self) -> BillingPeriod:
        if self._run is not None:
            self._to_keep.append(self._run.model_copy(update={"is_open": False}))
        self._run = BillingPeriod(number=self._run.number + 1 if self._run else 1)
        self._begun = self._busy = self.clock()
        return self._run


def _charged(run: BillingPeriod, more: Bill) -> BillingPeriod:
    seconds, cost = run.billed_seconds + more.seconds, run.cost + more.dollars
    return run.model_copy(update={"billed_seconds": seconds, "cost": cost})
