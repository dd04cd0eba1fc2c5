"""A fleet played forward in time: workers boot, take images, idle, drain and end as decisions have it.

The upload page's forecast and the fleet simulator run this one model of a worker. Images are handed out in the order
of their arrival, each to the worker that has been free for longest, at the very moment when both are there. So events
are exact, and only decisions are bound to an interval.

All times are seconds since the playback's beginning. The model is pure: its caller passes the arrivals and how long
each boot takes, and decides.
"""

import heapq
import math
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.fleet.models import FleetPause, FleetSpending
from services.ec2 import Instance
from services.sqs import QueueCounts
from web_tier.autoscaler.decide import Plan
from web_tier.autoscaler.observe import RECENT_SECONDS, Demand, FleetMetrics, Observation

NEVER = math.inf
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


@dataclass(frozen=True, slots=True)
class Lots:
    """Images in the order of their arrival. A worker takes the images of a lot one after the other.

    Attributes:
        arrivals: when each lot arrived, ascending; negative before the beginning.
        sizes: images of each lot.
        seconds: time of one worker for each lot.
    """

    arrivals: list[float]
    sizes: list[int]
    seconds: list[float]

    @classmethod
    def split(cls, images: int, lot_images: int, image_seconds: float, arrived_at: float = 0.0) -> "Lots":
        """Return `images` that arrived together, in lots of at most `lot_images`."""
        sizes = [min(lot_images, images - begin) for begin in range(0, images, lot_images)]
        return cls([arrived_at] * len(sizes), sizes, [image_seconds * size for size in sizes])

    def insert(self, position: int, lots: "Lots") -> None:
        """Insert `lots` before the lot at `position`."""
        self.arrivals[position:position] = lots.arrivals
        self.sizes[position:position] = lots.sizes
        self.seconds[position:position] = lots.seconds

    def __len__(self) -> int:
        """Return the number of lots."""
        return len(self.sizes)


@dataclass(slots=True)
class PlayedWorker:
    """A worker of the playback.

    Attributes:
        ready_at: its first receive, or `NEVER`.
        ended_at: when it ended; None while it has not.
        has_worked: whether it had an image in flight before it ended.
    """

    instance_id: str
    instance_type: str
    spot: bool
    launched_at: float
    ready_at: float
    is_draining: bool = False
    is_protected: bool = False
    ended_at: float | None = None
    has_worked: bool = False


class Playback:
    """One fleet and its queue, at one moment that only moves forward.

    Args:
        boots: the seconds from each launch to the first receive, or `NEVER`.
        idle_seconds: a worker without an image for so long ends itself.
        instance_type, spot: of what is launched.
        begin: when the playback begins by the wall clock.

    Attributes:
        workers: those that have not ended by id, oldest first; draining ones are among them.
        finished: when the last image of each lot was or will be classified; of all lots that were handed out.
        handed_out: images that workers have received so far.
        booted: seconds that each boot took which has ended.
    """

    def __init__(
        self,
        lots: Lots,
        times: InstanceTimes,
        boots: Iterator[float],
        idle_seconds: float,
        *,
        instance_type: str,
        spot: bool,
        begin: datetime,
    ) -> None:
        self._lots, self._times, self._boots, self._idle_seconds = lots, times, boots, idle_seconds
        self._instance_type, self._spot, self._begin = instance_type, spot, begin
        self.workers: dict[str, PlayedWorker] = {}
        self.ended: list[PlayedWorker] = []
        self.finished = array("d")
        self.handed_out = self.launched = 0
        self.booted: list[float] = []
        self._waiting = self._arrived_lots = 0
        # Heap of those that receive or will: when each is free, its id, and the images that it works on until then.
        # A booting worker is one that is free when its boot ends.
        self._free: list[tuple[float, str, int]] = []
        self._leaving: list[tuple[float, str, int]] = []
        self._booting: list[tuple[float, str]] = []
        self._silent: deque[tuple[float, str]] = deque()
        self._pending: deque[float] = deque()
        self._recent_launches: deque[float] = deque()
        self._instances: tuple[Instance, ...] | None = None  # described anew once the fleet has changed
        self._draining = self._protected = frozenset[str]()

    @property
    def has_events(self) -> bool:
        """Whether anything will happen without another decision: a worker takes images, boots, or is given up."""
        return bool(self._free or self._leaving or self._silent)

    @property
    def free_at(self) -> float:
        """When the last worker is free, if no more images are handed out; 0 without workers."""
        return max((at for at, _, _ in (*self._free, *self._leaving)), default=0.0)

    def add(self, worker: PlayedWorker, in_flight: int = 0, free_at: float = 0.0) -> None:
        """Add a worker that has been launched; if it is ready, it has `in_flight` images until `free_at`."""
        name = worker.instance_id
        self.workers[name], self._instances = worker, None
        self._pending.append(worker.launched_at + self._times.pending_seconds)
        if worker.ready_at == NEVER:
            self._silent.append((worker.launched_at + self._times.boot_allowance_seconds, name))
        else:
            heapq.heappush(self._free, (max(worker.ready_at, free_at), name, in_flight))
            if worker.ready_at > 0:
                self._booting.append((worker.ready_at, name))
        self.handed_out += in_flight

    def put_back(self, lots: Lots) -> None:
        """Put images that wait again before all that wait."""
        self._lots.insert(len(self.finished), lots)
        self._arrived_lots += len(lots)
        self._waiting += sum(lots.sizes)

    def advance(self, now: float) -> None:
        """Let everything take place that is due by `now`."""
        self._hand_out(now)
        while self._arrived_lots < len(self._lots) and self._lots.arrivals[self._arrived_lots] <= now:
            self._waiting += self._lots.sizes[self._arrived_lots]
            self._arrived_lots += 1
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
            self._end(each[1], each[0], has_worked=True)
        while self._silent and self._silent[0][0] <= now:
            at, name = self._silent.popleft()
            if name in self.workers:  # else it was drained before
                self._end(name, at, has_worked=False)

    def requests(self, now: float) -> QueueCounts:
        """Return the queue's counts; `advance` comes first."""
        in_flight = sum(images for at, _, images in self._free if at > now) + sum(each[2] for each in self._leaving)
        return QueueCounts(self._waiting, in_flight, 0)

    def observe(
        self,
        now: float,
        requests: QueueCounts,
        demand: Demand,
        measured: FleetMetrics,
        *,
        launched_before: int = 0,
        pause: FleetPause | None = None,
        spending: FleetSpending | None = None,
    ) -> Observation:
        """Return what a decision is made from; `advance` comes first.

        Args:
            now: seconds since the beginning.
            requests: the queue's counts at that time.
            demand: what its caller knows of the images.
            measured: times and circuit; which workers boot and which are spare is the playback's.
            launched_before: launches before the beginning that are recent.
            pause: of the fleet, if any.
            spending: beside the caps, if there are any.
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
            at=self._begin + timedelta(seconds=now),
            recent_launches=launched_before + len(self._recent_launches),
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
                circuit=measured.circuit,
            ),
            pause=pause,
            spending=spending,
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
            name = f"new-{self.launched}"
            self.add(PlayedWorker(name, self._instance_type, self._spot, now, now + next(self._boots)))
            self.launched += 1
            self._recent_launches.append(now)

    def _spare(self, now: float) -> tuple[str, ...]:
        """Return the idle workers that have run for the billed minimum, oldest first."""
        idle = {name for at, name, _ in self._free if at <= now}
        launched_by = now - self._times.minimum_seconds - self._times.pending_seconds
        return tuple(name for name, each in self.workers.items() if name in idle and each.launched_at <= launched_by)

    def _hand_out(self, until: float) -> None:
        """Hand every lot that starts before `until` to a worker."""
        lots, finished, free, idle_seconds = self._lots, self.finished, self._free, self._idle_seconds
        head, end = len(finished), len(lots)
        images = 0
        while head < end and free:
            start, name, _ = free[0]
            arrival = lots.arrivals[head]
            if start < arrival:
                if start + idle_seconds <= min(arrival, until):
                    self._end_idle()
                    continue
                start = arrival
            if start >= until:
                break
            start += lots.seconds[head]
            finished.append(start)
            heapq.heapreplace(free, (start, name, lots.sizes[head]))
            images += lots.sizes[head]
            head += 1
        self.handed_out += images
        self._waiting -= images

    def _end_idle(self) -> None:
        """End the worker that has been free for longest, at the end of its idle time; a protected one stays."""
        since, name, images = heapq.heappop(self._free)
        if self.workers[name].is_protected:
            heapq.heappush(self._free, (since + self._idle_seconds, name, images))
        else:
            self._end(name, since + self._idle_seconds, has_worked=images > 0)

    def _drain(self, names: frozenset[str], now: float) -> None:
        """Let the named workers finish what they have in flight; those that have nothing end now."""
        chosen = {name for name in names if name in self.workers and not self.workers[name].is_draining}
        entries = {each[1]: each for each in self._free if each[1] in chosen}
        self._free[:] = [each for each in self._free if each[1] not in chosen]
        heapq.heapify(self._free)
        self._booting = [each for each in self._booting if each[1] not in chosen]
        self._instances = None
        for name in sorted(chosen):
            self.workers[name].is_draining = True
            at, _, images = entries.get(name, (now, name, 0))
            if images and at > now:
                self._leaving.append(entries[name])
            else:
                self._end(name, now, has_worked=images > 0)

    def _end(self, name: str, at: float, *, has_worked: bool) -> None:
        worker = self.workers.pop(name)
        worker.ended_at, worker.has_worked = at, has_worked
        self.ended.append(worker)
        self._instances = None

    def _described(self, worker: PlayedWorker, now: float) -> Instance:
        return Instance(
            instance_id=worker.instance_id,
            state="running" if worker.launched_at + self._times.pending_seconds <= now else "pending",
            instance_type=worker.instance_type,
            zone="",
            launched_at=self._begin + timedelta(seconds=worker.launched_at),
            draining=worker.is_draining,
            spot=worker.spot,
        )
