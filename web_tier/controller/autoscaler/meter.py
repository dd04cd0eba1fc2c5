"""What the fleet has cost and how large it was: billed instance-seconds and the peak.

Durations come from this process's monotonic clock; wall clocks are compared only for instances that were already
running when it took over.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.ec2 import Instance
from services.messages import FleetSnapshot
from web_tier.controller.autoscaler.observe import Observation


@dataclass
class Meter:
    """Adds up billed seconds: each run of an instance from `running` until it is not, at least the billed minimum.

    Attributes:
        minimum_seconds: EC2 bills at least so much for each start (60 s for Linux).
        before: the last snapshot of whoever held the lease before; None for a new fleet.
    """

    minimum_seconds: float
    before: FleetSnapshot | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    peak_workers: int = field(default=0, init=False)
    _ended: float = field(default=0.0, init=False)
    _since: dict[str, float] = field(default_factory=dict, init=False)
    _first_look: bool = field(default=True, init=False)
    _at_rest: bool = field(default=True, init=False)

    def look(self, observation: Observation) -> None:
        """Take one observation into account."""
        running = [instance for instance in observation.instances if instance.state == "running"]
        if self._first_look:
            self._adopt(running)
            self._first_look = False
        self._bill({instance.instance_id for instance in running})
        self._measure_peak(observation)

    def paid(self) -> list[str]:
        """Return the running instances that have run for as long as EC2 bills at least, longest first."""
        since = sorted((begun, instance_id) for instance_id, begun in self._since.items())
        return [instance_id for begun, instance_id in since if self.clock() - begun >= self.minimum_seconds]

    @property
    def billed_seconds(self) -> float:
        """Instance-seconds so far."""
        return self._ended + sum(self._billed(since) for since in self._since.values())

    def _billed(self, since: float) -> float:
        return max(self.minimum_seconds, self.clock() - since)

    def _adopt(self, running: list[Instance]) -> None:
        """Continue from the snapshot `before`, whose figure holds what the running ones had cost by then."""
        for instance in running:
            age = max(0.0, (self.now() - instance.launched_at).total_seconds())
            self._since[instance.instance_id] = self.clock() - age
        if self.before is not None:
            self._ended = max(0.0, self.before.billed_seconds - self.billed_seconds)
            self.peak_workers = self.before.peak_workers
            self._at_rest = _is_at_rest(self.before)

    def _bill(self, running: set[str]) -> None:
        for ended in self._since.keys() - running:
            self._ended += self._billed(self._since.pop(ended))
        for begun in running - self._since.keys():
            self._since[begun] = self.clock()

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
