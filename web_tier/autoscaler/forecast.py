"""The forecast of a batch before it is sent: workers that start, seconds to its results, and its cost.

The forecast plays the real `decide` forward from the controller's last report, so it is right under every policy. It
simulates what the decisions lead to: boots take the measured time, each worker takes the measured time for an image,
workers take images in the order of their arrival. All images of the batch arrive at once. `tests/simulation` compares
the forecast with the simulator.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from core.config import Config
from core.cost import SECONDS_AN_HOUR, Bill, requests_of
from core.fleet.models import FleetInstance, FleetSnapshot, FleetSpending
from core.fleet.store import FleetState
from core.format import dollars, duration, plural, resume_words
from services.ec2 import ALIVE, Instance
from services.sqs import QueueCounts
from web_tier.autoscaler.deadline import OVERDUE_SECONDS
from web_tier.autoscaler.decide import Plan, decide
from web_tier.autoscaler.observe import RECENT_SECONDS, Demand, FleetMetrics, Observation

MAX_IMAGES = 100_000
"""Largest batch of a forecast."""

MAX_LOTS = 2_000
"""A larger batch is played in so many lots; a worker takes the images of a lot one after the other."""

STEP_SHARE = 0.04
"""Time between two decisions by the time since the start, so that a long batch takes few hundred decisions; at least
the controller's interval."""

PENDING_SHARE = 0.4
"""Share of a boot for which the instance is `pending`, which EC2 does not bill: 17 of 42 s."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of a batch.

    Attributes:
        images: size of the batch.
        workers: workers that run or start already.
        launches: workers that will start until the last image is taken.
        max_workers: the limit in force.
        first_seconds: seconds to the batch's first result; None if nothing will classify it as things are.
        last_seconds: seconds to its last result; None as before.
        bill: its share of the fleet's bill.
        requests_dollars: cost of its requests to AWS services.
        is_measured: whether the times are from measurements; otherwise they are config.yaml's estimates.
        is_paused: whether the fleet is paused.
        resumes: when the spending cap that is reached ends, in words; empty if none is.
    """

    images: int
    workers: int
    launches: int
    max_workers: int
    first_seconds: float | None
    last_seconds: float | None
    bill: Bill
    requests_dollars: float
    is_measured: bool
    is_paused: bool
    resumes: str = ""

    @property
    def dollars(self) -> float:
        """The cost of instances and requests."""
        return self.bill.dollars + self.requests_dollars

    def sentences(self) -> Iterator[str]:
        """Yield the forecast in words, for the user who is about to send the batch."""
        yield (
            f"{plural(self.workers, 'worker')} {'runs' if self.workers == 1 else 'run'} now."
            if self.workers
            else ("No worker runs now.")
        )
        if self.launches:
            more = " more" if self.workers else ""
            yield f"About {self.launches:,}{more} will start (at most {self.max_workers:,})."
        if self.first_seconds is None or self.last_seconds is None:
            yield self._why_it_waits()
            return
        if self.images == 1:
            yield f"The result comes in about {_rounded(self.last_seconds)}."
        else:
            first, last = _rounded(self.first_seconds), _rounded(self.last_seconds, up=True)
            yield f"First results in about {first}, all within {last}."
        yield f"The batch costs about {dollars(self.dollars)}."
        if not self.is_measured:
            yield "These are estimates until the first workers have been measured."

    def _why_it_waits(self) -> str:
        if self.is_paused:
            return "The fleet is paused: the images wait until it resumes."
        if self.resumes:
            return f"A spending cap is reached: the images wait until {self.resumes}."
        if not self.max_workers:
            return "The limit is 0 workers: the images wait until it is raised."
        return "Workers fail to start at the moment: the images wait."


def _rounded(seconds: float, *, up: bool = False) -> str:
    """Return seconds in words, from 20 s on to 5 s, then to minutes and hours; `up` never rounds down."""
    step = next((step for limit, step in ((20, 1), (115, 5), (7_200, 60)) if seconds <= limit), 3_600)
    whole = math.ceil(seconds / step) if up else round(seconds / step)
    return duration(whole * step)


def forecast(images: int, state: FleetState, config: Config) -> Forecast | None:
    """Return the forecast of a batch of `images`.

    Args:
        images: from 1 to `MAX_IMAGES`.
        state: what the controller reported last.
        config: `fleet` has the settings in force.

    Returns:
        None if the controller has not reported yet, or decides by another policy than that of `config`.
    """
    fleet = state.snapshot
    if fleet is None or (fleet.policy or config.fleet.policy) != config.fleet.policy:
        return None
    limits = state.limits or fleet
    settings = {"min_workers": limits.min_workers, "max_workers": limits.max_workers}
    config = config.model_copy(update={"fleet": config.fleet.model_copy(update=settings)})
    return _Playback(images, fleet, state, config).run()


@dataclass(slots=True)
class _Worker:
    """A worker of the playback; times in seconds from now.

    Attributes:
        ready_at: its first receive; infinite for one that is not expected to boot any more.
        free_at: end of the lot that it works on, or `ready_at` before its first one.
        lot: images that it works on.
        is_new: whether the playback launched it.
    """

    instance: Instance
    launched_at: float
    ready_at: float
    free_at: float
    is_new: bool = False
    lot: int = 0
    has_worked: bool = False
    is_draining: bool = False
    is_protected: bool = False


@dataclass
class _Playback:
    """One forecast under way."""

    images: int
    fleet: FleetSnapshot
    state: FleetState
    config: Config
    _workers: dict[str, _Worker] = field(default_factory=dict, init=False)
    _ended: list[_Worker] = field(default_factory=list, init=False)
    _free: list[tuple[float, str]] = field(default_factory=list, init=False)
    _instances: tuple[Instance, ...] | None = field(default=None, init=False)
    _launches: list[tuple[float, int]] = field(default_factory=list, init=False)
    _first: float | None = field(default=None, init=False)
    _last: float | None = field(default=None, init=False)
    _spending: FleetSpending | None = field(default=None, init=False)
    _returning: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Begin with the fleet and the queue as they are."""
        fleet, settings = self.fleet, self.config.fleet
        self._image_seconds = fleet.image_seconds or settings.image_seconds
        self._boot_seconds = fleet.boot_seconds or settings.boot_seconds
        self._left, self._older_left = self.images, fleet.visible + fleet.delayed
        self._older = self._older_left + fleet.in_flight  # images before the batch
        self._lot = max(1, math.ceil((self._older + self.images) / MAX_LOTS))
        listed = [each for each in self.state.instances.instances if each.state in ALIVE]
        capacity = fleet.running + fleet.pending
        workers = [self._known(each) for each in listed[:capacity]]
        are_old = self.state.instances.total > len(self.state.instances.instances)
        ready_at = 0.0 if are_old else self._boot_seconds
        unlisted = range(capacity - len(workers))
        workers += [self._assumed(f"unlisted-{number}", ready_at) for number in unlisted]
        self._returning = self._share_in_flight(workers)
        for worker in workers:
            self._add(worker)

    def run(self) -> Forecast:
        """Play until the last image of the batch is taken, or until it is clear that none will be."""
        now, interval = 0.0, self.config.controller.interval_seconds
        workers = len(self._workers)
        while True:
            if now >= self.config.queues.visibility_timeout_seconds:
                self._older_left, self._returning = self._older_left + self._returning, 0
            self._serve(now)
            if now and not self._left:
                break
            plan = self._decide(now)
            self._apply(plan, now)
            # Later decisions are other ones only once earlier launches no longer count.
            may_change = self._launched_recently(now) or any(
                each.ready_at == math.inf for each in self._workers.values()
            )
            if not (self._free or may_change):
                break
            now += max(interval, STEP_SHARE * now)
        is_known = not self._left
        return Forecast(
            images=self.images,
            workers=workers,
            launches=sum(count for _, count in self._launches) if is_known else 0,
            max_workers=self.config.fleet.max_workers,
            first_seconds=self._first if is_known else None,
            last_seconds=self._last if is_known else None,
            bill=self._bill() if is_known else Bill(),
            requests_dollars=requests_of(self.images).dollars(self.config.prices),
            is_measured=self.fleet.image_seconds is not None and self.fleet.boot_seconds is not None,
            is_paused=self.state.pause is not None,
            resumes=resume_words(self._spending) if self._spending else "",
        )

    def _share_in_flight(self, workers: list[_Worker]) -> int:
        """Share the images in flight among the workers that are ready; return how many no worker holds."""
        holding = [each for each in workers if each.ready_at == 0 and not each.is_draining]
        for number, worker in enumerate(holding):
            worker.lot = (self.fleet.in_flight + number) // len(holding)
            worker.has_worked, worker.free_at = worker.lot > 0, worker.lot * self._image_seconds
        return 0 if holding else self.fleet.in_flight

    def _known(self, listed: FleetInstance) -> _Worker:
        """Return a worker of the fleet's list."""
        age = max(0.0, (self.fleet.at - listed.launched_at).total_seconds())
        ready_at = 0.0
        if listed.worker is None:
            overdue = age > self._boot_seconds + OVERDUE_SECONDS
            ready_at = math.inf if overdue else max(0.0, self._boot_seconds - age)
        ends = listed.draining or listed.marked is not None
        described = self._instance(listed.instance_id, listed.instance_type, spot=listed.spot)
        return _Worker(described, -age, ready_at, ready_at, is_draining=ends)

    def _assumed(self, name: str, ready_at: float, now: float = 0.0, *, is_new: bool = False) -> _Worker:
        """Return a worker that the fleet's list does not contain."""
        fleet = self.config.fleet
        described = self._instance(name, fleet.instance_types[0], spot=fleet.market == "spot")
        return _Worker(described, now if ready_at else -self._boot_seconds, ready_at, ready_at, is_new=is_new)

    def _instance(self, name: str, instance_type: str, *, spot: bool) -> Instance:
        # Decisions do not depend on the zone, nor on whether an instance is pending or running.
        return Instance(name, "running", instance_type, "", self.fleet.at, spot=spot)

    def _add(self, worker: _Worker) -> None:
        name = worker.instance.instance_id
        self._workers[name], self._instances = worker, None
        if worker.ready_at < math.inf and not worker.is_draining:
            heapq.heappush(self._free, (worker.free_at, name))

    def _serve(self, until: float) -> None:
        """Hand out every lot that starts before `until`; the workers that end until then leave."""
        while self._left and self._free and self._free[0][0] < until:
            at, name = heapq.heappop(self._free)
            worker = self._workers[name]
            if worker.is_draining:
                continue
            if self._older_left:
                worker.lot = min(self._lot, self._older_left)
                self._older_left -= worker.lot
            else:
                worker.lot = min(self._lot, self._left)
                self._left -= worker.lot
                self._first = min(self._first or math.inf, at + self._image_seconds)
                self._last = max(self._last or 0.0, at + worker.lot * self._image_seconds)
            worker.has_worked, worker.free_at = True, at + worker.lot * self._image_seconds
            heapq.heappush(self._free, (worker.free_at, name))
        allowance = self.config.fleet.boot_allowance_seconds
        for name, worker in list(self._workers.items()):
            has_failed = worker.ready_at == math.inf and until - worker.launched_at >= allowance
            if has_failed or (worker.is_draining and worker.free_at <= until):
                self._ended.append(self._workers.pop(name))
                self._instances = None

    def _decide(self, now: float) -> Plan:
        fleet = self.fleet
        if self._instances is None:
            self._instances = tuple(each.instance for each in self._workers.values())
        waiting = self._older_left + self._left
        in_flight = sum(each.lot for each in self._workers.values() if each.has_worked and each.free_at > now)
        self._spending = self._spent(now)
        arrived = ((now + fleet.waiting_seconds, self._older_left), (now, self._left))
        observation = Observation(
            requests=QueueCounts(waiting, in_flight, 0),
            dead_letters=0,
            instances=self._instances,
            at=fleet.at + timedelta(seconds=now),
            recent_launches=self._launched_recently(now),
            draining=frozenset(name for name, each in self._workers.items() if each.is_draining),
            protected=frozenset(name for name, each in self._workers.items() if each.is_protected),
            demand=Demand(tuple(each for each in arrived if each[1]), fleet.arrival_rate),
            metrics=FleetMetrics(
                image_seconds=fleet.image_seconds,
                boot_seconds=fleet.boot_seconds,
                unregistered={
                    name: now - each.launched_at
                    for name, each in self._workers.items()
                    if each.ready_at > now and not each.is_draining
                },
                failed_boots=fleet.failed_boots,
            ),
            pause=self.state.pause,
            spending=self._spending,
        )
        return decide(observation, self.config.fleet)

    def _apply(self, plan: Plan, now: float) -> None:
        launches = 0 if plan.kind == "failing" else plan.launch + len(plan.start)
        if launches:
            start = sum(count for _, count in self._launches)
            self._launches.append((now, launches))
            for number in range(start, start + launches):
                self._add(self._assumed(f"new-{number}", now + self._boot_seconds, now, is_new=True))
        for name in plan.drain:
            self._workers[name].is_draining = True
        for name in plan.protect:
            self._workers[name].is_protected = True
        for name in plan.unprotect:
            self._workers[name].is_protected = False

    def _spent(self, now: float) -> FleetSpending | None:
        """Return the last report on cost and caps, and what was billed since; None without a cap.

        It stays the report's day: a forecast that crosses midnight expects its images rather too late.
        """
        spending = self.state.spending
        if spending is None:
            return None
        more = 0.0
        for worker in (*self._workers.values(), *self._ended):
            # An ended worker is billed until the last image that it took.
            seconds = now if worker.instance.instance_id in self._workers else min(now, worker.free_at)
            if worker.is_new:
                seconds = max(self.config.prices.minimum_billed_seconds, seconds - worker.launched_at)
            more += max(0.0, seconds) * self._hourly(worker) / SECONDS_AN_HOUR
        spent = {"today": spending.today + more, "month": spending.month + more}
        return spending.model_copy(update=spent)

    def _hourly(self, worker: _Worker) -> float:
        return self.config.prices.hourly(worker.instance.instance_type, spot=worker.instance.spot)

    def _launched_recently(self, now: float) -> int:
        before = self.fleet.recent_launches if now < RECENT_SECONDS else 0
        return before + sum(count for at, count in self._launches if now - at < RECENT_SECONDS)

    def _bill(self) -> Bill:
        """Return the batch's share of what is billed from now on until the fleet has returned to rest."""
        seconds, cost = 0.0, 0.0
        for worker in (*self._workers.values(), *self._ended):
            added = self._billed_seconds(worker)
            seconds, cost = seconds + added, cost + added * self._hourly(worker) / SECONDS_AN_HOUR
        share = self.images / (self.images + self._older)
        return Bill(seconds * share, cost * share)

    def _billed_seconds(self, worker: _Worker) -> float:
        idle, minimum = self.config.worker.idle_seconds, self.config.prices.minimum_billed_seconds
        if not (worker.is_new or worker.has_worked or worker.is_protected):
            return 0.0
        if worker.is_protected:  # it stays; a period of the bill ends when no image has waited for so long
            end = (self._last or 0.0) + idle + minimum
        else:
            end = worker.free_at + (0.0 if worker.is_draining else idle)
        running_at = worker.launched_at + PENDING_SHARE * self._boot_seconds
        before = 0.0 if worker.is_new else max(minimum, -running_at)
        return max(minimum, end - running_at) - before
