"""What the fleet has cost and how large it was: billed instance-seconds, US dollars and the peak.

Durations come from this process's monotonic clock; wall clocks are compared only for instances that were already
running when it took over.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from core.cost import SECONDS_AN_HOUR, Bill, total
from core.messages import FleetSnapshot
from services.ec2 import Instance
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.autoscaler.observe.runs import Runs


@dataclass(frozen=True, slots=True)
class BilledInstance:
    """A run of an instance: since when, in monotonic seconds, and what an hour of it costs."""

    since: float
    hourly: float


@dataclass
class BillingMeter:
    """Adds up billed seconds: each run of an instance from `running` until it is not, at least the billed minimum.

    Attributes:
        minimum_seconds: EC2 bills at least so much for each start (60 s for Linux).
        before: the last snapshot of the holder of the lease before; None for a new fleet.
        hourly: what an hour of an instance costs, by its type and market, in US dollars.
        runs: attributes what is billed to the images that are answered meanwhile.
    """

    minimum_seconds: float
    before: FleetSnapshot | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    hourly: Callable[[Instance], float] = lambda _instance: 0.0
    runs: Runs = field(default_factory=Runs)
    peak_workers: int = field(default=0, init=False)
    _ended: Bill = field(default=Bill(), init=False)
    _rented: dict[str, BilledInstance] = field(default_factory=dict, init=False)
    _first_look: bool = field(default=True, init=False)
    _at_rest: bool = field(default=True, init=False)

    def look(self, observation: Observation) -> None:
        """Take one observation into account."""
        running = {each.instance_id: each for each in observation.instances if each.state == "running"}
        if self._first_look:
            self._adopt(running)
            self._first_look = False
        self._bill(running)
        self.runs.look(observation, self.bill)
        self._measure_peak(observation)

    def paid(self) -> list[str]:
        """Return the running instances that have run for as long as EC2 bills at least, longest first."""
        since = sorted((rented.since, instance_id) for instance_id, rented in self._rented.items())
        return [instance_id for begun, instance_id in since if self.clock() - begun >= self.minimum_seconds]

    @property
    def bill(self) -> Bill:
        """Instance-seconds and dollars so far."""
        return self._ended + total(self._billed(rented) for rented in self._rented.values())

    @property
    def billed_seconds(self) -> float:
        """Instance-seconds so far."""
        return self.bill.seconds

    def _billed(self, rented: BilledInstance) -> Bill:
        seconds = max(self.minimum_seconds, self.clock() - rented.since)
        return Bill(seconds, seconds * rented.hourly / SECONDS_AN_HOUR)

    def _adopt(self, running: dict[str, Instance]) -> None:
        """Continue from the snapshot `before`: its figures hold what the running ones had cost by then."""
        for instance_id, instance in running.items():
            age = max(0.0, (self.now() - instance.launched_at).total_seconds())
            self._rented[instance_id] = BilledInstance(self.clock() - age, self.hourly(instance))
        if self.before is not None:
            seconds, dollars = self.before.billed_seconds, self.before.cost
            counted = self.bill
            self._ended = Bill(max(0.0, seconds - counted.seconds), max(0.0, dollars - counted.dollars))
            self.peak_workers = self.before.peak_workers
            self._at_rest = _is_at_rest(self.before)

    def _bill(self, running: dict[str, Instance]) -> None:
        for ended in self._rented.keys() - running.keys():
            self._ended += self._billed(self._rented.pop(ended))
        for begun in running.keys() - self._rented.keys():
            self._rented[begun] = BilledInstance(self.clock(), self.hourly(running[begun]))

    def _measure_peak(self, observation: Observation) -> None:
        workers = observation.supply
        resting = workers == 0 and observation.requests.total == 0
        if self._at_rest and not resting:
            # The last peak stays to be read until a new batch begins.
            self.peak_workers = 0
        self._at_rest = resting
        self.peak_workers = max(self.peak_workers, workers)


def _is_at_rest(snapshot: FleetSnapshot) -> bool:
    return not any((snapshot.running, snapshot.pending, snapshot.visible, snapshot.in_flight, snapshot.delayed))
