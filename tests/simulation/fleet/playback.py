"""A fleet played forward in time: workers boot, take images, idle, drain and end as decisions have it.

Images are handed out in the order of their arrival, each to the worker that has been free for longest, at the very
moment when both are there. So events are exact, and only decisions are bound to an interval. All times are seconds
since the playback's beginning.
"""

import heapq
import math
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from services.ec2 import Instance
from services.sqs import QueueCounts
from web_tier.autoscaler.decide import Plan
from web_tier.autoscaler.observe import RECENT_SECONDS, Demand, FleetMetrics, Observation

BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When each playback begins by the wall clock, which schedules use."""

NEVER: Final = math.inf
"""`ready_at` of an instance whose worker never reports."""


@dataclass(frozen=True, slots=True)
class InstanceTimes:
    """How long an instance takes, and what is billed for it. All times in seconds.

    Attributes:
        pending_seconds: from the launch to `running`; not billed.
        init_seconds: from `running` to the first receive; billed.
        minimum_seconds: billed at least for each start.
        boot_allowance_seconds: an instance that has not reported by then is ended.
    """

    pending_seconds: float = 17.0
    init_seconds: float = 25.0
    minimum_seconds: float = 60.0
    boot_allowance_seconds: float = 120.0

    @property
    def boot_seconds(self) -> float:
        """From the launch to the first receive."""
        return self.pending_seconds + self.init_seconds

    def billed(self, launched_at: float, until: float) -> int:
        """Return the seconds billed: whole ones from `running` on, at least the minimum; 0 if it has not run.

        Source: EC2 bills Linux instances per second from `running`, with a minimum of 60 s for each start
        (https://aws.amazon.com/ec2/pricing/on-demand/).
        """
        ran = until - launched_at - self.pending_seconds
        # A sum of floats may exceed a whole number of seconds by a rounding error.
        return math.ceil(max(self.minimum_seconds, ran - 1e-6)) if ran > 0 else 0


@dataclass(slots=True)
class PlayedWorker:
    """A worker of the playback.

    Attributes:
        ready_at: its first receive, or `NEVER`.
        ended_at: when it ended; None while it has not.
    """

    instance_id: str
    launched_at: float
    ready_at: float
    is_draining: bool = False
    is_protected: bool = False
    ended_at: float | None = None


class Playback:
    """One fleet and its queue, at one moment that only moves forward.

    Args:
        arrivals: when each image arrives, ascending.
        seconds: time of one worker for each image.
        boots: the seconds from each launch to the first receive, or `NEVER`.
        idle_seconds: a worker without an image for so long ends itself.

    Attributes:
        workers: those that have not ended by id, oldest first; draining ones are among them.
        finished: when each image was or will be classified; of all that were handed out.
        booted: seconds that each boot took which has ended.
    """

    def __init__(
        self,
        arrivals: Sequence[float],
        seconds: Sequence[float],
        times: InstanceTimes,
        boots: Iterator[float],
        idle_seconds: float,
    ) -> None:
        self._arrivals, self._seconds = arrivals, seconds
        self._times, self._boots, self._idle_seconds = times, boots, idle_seconds
        self.workers: dict[str, PlayedWorker] = {}
        self.ended: list[PlayedWorker] = []
        self.finished = array("d")
        self.launched = 0
        self.booted: list[float] = []
        self._arrived = 0
        # Heap of those that receive or will: when each is free, its id, and whether it works on an image until then.
        # A booting worker is one that is free when its boot ends.
        self._free: list[tuple[float, str, bool]] = []
        self._leaving: list[tuple[float, str]] = []
        self._booting: list[tuple[float, str]] = []
        self._silent: deque[tuple[float, str]] = deque()
        self._pending: deque[float] = deque()
        self._recent_launches: deque[float] = deque()
        self._instances: tuple[Instance, ...] | None = None  # described anew once the fleet has changed
        self._draining = self._protected = frozenset[str]()

    def add(self, worker: PlayedWorker) -> None:
        """Add a worker that has been launched."""
        name = worker.instance_id
        self.workers[name], self._instances = worker, None
        self._pending.append(worker.launched_at + self._times.pending_seconds)
        if worker.ready_at == NEVER:
            self._silent.append((worker.launched_at + self._times.boot_allowance_seconds, name))
        else:
            heapq.heappush(self._free, (worker.ready_at, name, False))
            if worker.ready_at > 0:
                self._booting.append((worker.ready_at, name))

    def advance(self, now: float) -> None:
        """Let everything take place that is due by `now`."""
        self._hand_out(now)
        while self._arrived < len(self._arrivals) and self._arrivals[self._arrived] <= now:
            self._arrived += 1
        while self._pending and self._pending[0] <= now:
            self._pending.popleft()
            self._instances = None
        if booted := [name for ready_at, name in self._booting if ready_at <= now]:
            self._booting = [each for each in self._booting if each[0] > now]
            # A worker that has idled out within the same interval has ended already.
            workers = [self.workers[name] for name in booted if name in self.workers]
            self.booted.extend(each.ready_at - each.launched_at for each in workers)
        while self._free and self._free[0][0] + self._idle_seconds <= now:
            self._end_idle()
        for each in [each for each in self._leaving if each[0] <= now]:
            self._leaving.remove(each)
            self._end(each[1], each[0])
        while self._silent and self._silent[0][0] <= now:
            at, name = self._silent.popleft()
            if name in self.workers:  # else it was drained before
                self._end(name, at)

    def requests(self, now: float) -> QueueCounts:
        """Return the queue's counts; `advance` comes first."""
        in_flight = sum(works and at > now for at, _, works in self._free) + len(self._leaving)
        return QueueCounts(self._arrived - len(self.finished), in_flight, 0)

    def observe(self, now: float, requests: QueueCounts, demand: Demand, measured: FleetMetrics) -> Observation:
        """Return what a decision is made from; `advance` comes first.

        Args:
            now: seconds since the beginning.
            requests: the queue's counts at that time.
            demand: what its caller knows of the images.
            measured: times of a boot and of an image; which workers boot and which are spare is the playback's.
        """
        if self._instances is None:
            self._instances = tuple(self._described(each, now) for each in self.workers.values())
            self._draining = frozenset(name for name, each in self.workers.items() if each.is_draining)
            self._protected = frozenset(name for name, each in self.workers.items() if each.is_protected)
        while self._recent_launches and now - self._recent_launches[0] >= RECENT_SECONDS:
            self._recent_launches.popleft()
        return Observation(
            requests=requests,
            dead_letters=0,
            instances=self._instances,
            at=BEGIN + timedelta(seconds=now),
            recent_launches=len(self._recent_launches),
            draining=self._draining,
            protected=self._protected,
            demand=demand,
            metrics=FleetMetrics(
                image_seconds=measured.image_seconds,
                boot_seconds=measured.boot_seconds,
                unregistered={
                    name: now - each.launched_at
                    for name, each in self.workers.items()
                    if each.ready_at > now and not each.is_draining
                },
                spare=self._spare(now),
            ),
        )

    def carry_out(self, plan: Plan, now: float) -> None:
        """Drain, protect and launch as decided."""
        if plan.drain:
            self._drain(frozenset(plan.drain), now)
        for is_protected, names in ((True, plan.protect), (False, plan.unprotect)):
            for name in names:
                if name in self.workers:
                    self.workers[name].is_protected, self._instances = is_protected, None
        for _ in range(plan.starts):
            self.add(PlayedWorker(f"new-{self.launched}", now, now + next(self._boots)))
            self.launched += 1
            self._recent_launches.append(now)

    def _spare(self, now: float) -> tuple[str, ...]:
        """Return the idle workers that have run for the billed minimum, oldest first."""
        idle = {name for at, name, _ in self._free if at <= now}
        launched_by = now - self._times.minimum_seconds - self._times.pending_seconds
        return tuple(name for name, each in self.workers.items() if name in idle and each.launched_at <= launched_by)

    def _hand_out(self, until: float) -> None:
        """Hand every image that starts before `until` to a worker."""
        arrivals, finished, free, idle_seconds = self._arrivals, self.finished, self._free, self._idle_seconds
        head, end = len(finished), len(arrivals)
        while head < end and free:
            start, name, _ = free[0]
            arrival = arrivals[head]
            if start < arrival:
                if start + idle_seconds <= min(arrival, until):
                    self._end_idle()
                    continue
                start = arrival
            if start >= until:
                break
            start += self._seconds[head]
            finished.append(start)
            heapq.heapreplace(free, (start, name, True))
            head += 1

    def _end_idle(self) -> None:
        """End the worker that has been free for longest, at the end of its idle time; a protected one stays."""
        since, name, works = heapq.heappop(self._free)
        if self.workers[name].is_protected:
            heapq.heappush(self._free, (since + self._idle_seconds, name, works))
        else:
            self._end(name, since + self._idle_seconds)

    def _drain(self, names: frozenset[str], now: float) -> None:
        """Let the named workers finish what they have in flight; those that have nothing end now."""
        chosen = {name for name in names if name in self.workers and not self.workers[name].is_draining}
        busy = {name: at for at, name, works in self._free if name in chosen and works and at > now}
        self._free[:] = [each for each in self._free if each[1] not in chosen]
        heapq.heapify(self._free)
        self._booting = [each for each in self._booting if each[1] not in chosen]
        self._instances = None
        for name in sorted(chosen):
            self.workers[name].is_draining = True
            if name in busy:
                self._leaving.append((busy[name], name))
            else:
                self._end(name, now)

    def _end(self, name: str, at: float) -> None:
        worker = self.workers.pop(name)
        worker.ended_at = at
        self.ended.append(worker)
        self._instances = None

    def _described(self, worker: PlayedWorker, now: float) -> Instance:
        return Instance(
            instance_id=worker.instance_id,
            state="running" if worker.launched_at + self._times.pending_seconds <= now else "pending",
            instance_type="c7a.large",
            zone="",
            launched_at=BEGIN + timedelta(seconds=worker.launched_at),
            draining=worker.is_draining,
        )
