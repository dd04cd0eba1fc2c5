"""The forecast of a batch before it is sent: workers that start, seconds to its results, and its cost.

The forecast plays the real `decide` forward from the controller's last report, so it is right under every policy. The
decisions have the effects of `playback`, the model that the fleet simulator runs too. Here each boot and each image
takes the measured time, and all images of the batch arrive at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, repeat

from core.config import Config
from core.cost import SECONDS_AN_HOUR, Bill, requests_of
from core.fleet.models import FleetInstance, FleetSnapshot, FleetSpending
from core.fleet.store import FleetState
from core.format import dollars, duration, plural, resume_words
from services.ec2 import ALIVE
from web_tier.autoscaler.deadline import OVERDUE_SECONDS
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.observe import RECENT_SECONDS, Demand, FleetMetrics, Observation
from web_tier.autoscaler.playback import NEVER, InstanceTimes, Lots, Playback, PlayedWorker

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
        workers: workers that run or start already.
        launches: workers that will start until the last image is taken.
        first_seconds: seconds to the batch's first result; None if nothing will classify it as things are.
        last_seconds: seconds to its last result; None as before.
        bill: its share of the fleet's bill.
        is_measured: whether the times are from measurements; otherwise they are config.yaml's estimates.
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
            is_limit = self.workers + self.launches >= self.max_workers
            limit = "the limit" if is_limit else f"at most {self.max_workers:,}"
            yield f"About {self.launches:,}{more} will start ({limit})."
        if self.first_seconds is None or self.last_seconds is None:
            yield self._why_it_waits()
            return
        if self.images == 1:
            yield f"The result comes in about {_rounded(self.last_seconds)}."
        else:
            first, last = _rounded(self.first_seconds), _rounded(self.last_seconds, up=True)
            yield f"First results in about {first}, all within {last}."
        yield f"These images cost about {dollars(self.dollars)}."
        if not self.is_measured:
            yield "These are estimates until the first workers have been measured."

    def _why_it_waits(self) -> str:
        if self.is_paused:
            return "The fleet is paused: the images wait until it resumes."
        if self.resumes:
            return f"A spending cap is reached: the images wait until {self.resumes}."
        if not self.max_workers:
            return "The limit is 0 workers: the images wait until it is raised."
        return "No worker can work at the moment: the images wait."


def _rounded(seconds: float, *, up: bool = False) -> str:
    """Return seconds in words, from 20 s on to 5 s, then to minutes and hours; `up` never rounds down."""
    step = next((step for limit, step in ((20, 1), (115, 5), (7_200, 60)) if seconds <= limit), 3_600)
    whole = math.ceil(seconds / step) if up else round(seconds / step)
    return duration(whole * step)


def forecast(images: int, state: FleetState, config: Config, finish_by: datetime | None = None) -> Forecast | None:
    """Return the forecast of a batch of `images`.

    Args:
        images: from 1 to `MAX_IMAGES`.
        state: what the controller reported last.
        config: `fleet` has the settings in force.
        finish_by: as of a job.

    Returns:
        None if the controller has not reported yet, or decides by another policy than that of `config`.
    """
    fleet = state.snapshot
    if fleet is None or (fleet.policy or config.fleet.policy) != config.fleet.policy:
        return None
    limits = state.limits or fleet
    settings = {"min_workers": limits.min_workers, "max_workers": limits.max_workers}
    config = config.model_copy(update={"fleet": config.fleet.model_copy(update=settings)})
    finish_seconds = None if finish_by is None else (finish_by - fleet.at).total_seconds()
    return _BatchPlayback(images, fleet, state, config, finish_seconds).run()


class _BatchPlayback:
    """One forecast under way."""

    def __init__(
        self, images: int, fleet: FleetSnapshot, state: FleetState, config: Config, finish_seconds: float | None
    ) -> None:
        self._images, self._fleet, self._state, self._config = images, fleet, state, config
        self._finish_seconds = finish_seconds
        self._image_seconds = fleet.image_seconds or config.fleet.image_seconds
        self._boot_seconds = fleet.boot_seconds or config.fleet.boot_seconds
        self._measured = FleetMetrics(fleet.image_seconds, fleet.boot_seconds, circuit=fleet.circuit)
        self._times = InstanceTimes(
            PENDING_SHARE * self._boot_seconds,
            (1 - PENDING_SHARE) * self._boot_seconds,
            config.prices.minimum_billed_seconds,
            config.fleet.boot_allowance_seconds,
        )
        waiting = fleet.visible + fleet.delayed
        self._later = sorted(
            (((each.by - fleet.at).total_seconds(), each.images) for each in fleet.later_images), reverse=True
        )
        # Images that may be finished later wait behind a batch that may not.
        later = min(waiting, sum(count for _, count in self._later))
        self._behind = later if finish_seconds is None else 0
        self._older = waiting - self._behind + fleet.in_flight  # images before the batch
        self._lot_images = max(1, math.ceil((self._older + images + self._behind) / MAX_LOTS))
        lots = self._lots_of(waiting - self._behind, -fleet.waiting_seconds)
        self._first_lot, batch = len(lots), self._lots_of(images, 0.0)
        self._batch_lots = len(batch)
        lots.insert(len(lots), batch)
        lots.insert(len(lots), self._lots_of(self._behind, 0.0))
        self._playback = Playback(
            lots,
            self._times,
            repeat(self._boot_seconds),
            config.worker.idle_seconds,
            instance_type=config.fleet.instance_types[0],
            spot=config.fleet.market == "spot",
            begin=fleet.at,
        )
        self._returning = fleet.in_flight  # images in flight that no worker holds
        self._add_present_workers()
        self._present = frozenset(self._playback.workers)
        self._spending: FleetSpending | None = None

    def run(self) -> Forecast:
        """Play until the last image of the batch is taken, or until it is clear that none will be."""
        now, playback, fleet = 0.0, self._playback, self._fleet
        while True:
            playback.advance(now)
            if self._returning and now >= self._config.queues.visibility_timeout_seconds:
                self._put_back_returning()
            observation = self._observe(now)
            if now and observation.requests.visible <= self._behind:
                break
            plan = decide(observation, self._config.fleet)
            if plan.kind == "failing":
                plan = replace(plan, launch=0, start=())
            playback.carry_out(plan, now)
            # Nothing but the time of earlier launches, which no longer count after a while, can change the decision.
            if not (playback.has_events or observation.recent_launches):
                break
            now += max(self._config.controller.interval_seconds, STEP_SHARE * now)
        is_known = observation.requests.visible <= self._behind
        first, last = self._first_and_last() if is_known else (None, None)
        return Forecast(
            images=self._images,
            workers=fleet.running + fleet.pending,
            launches=playback.launched if is_known else 0,
            max_workers=self._config.fleet.max_workers,
            first_seconds=first,
            last_seconds=last,
            bill=Bill() if last is None else self._bill(last),
            requests_dollars=requests_of(self._images).dollars(self._config.prices),
            is_measured=fleet.image_seconds is not None and fleet.boot_seconds is not None,
            is_paused=self._state.pause is not None,
            resumes=resume_words(self._spending) if self._spending else "",
        )

    def _lots_of(self, images: int, arrived_at: float) -> Lots:
        return Lots.split(images, self._lot_images, self._image_seconds, arrived_at)

    def _add_present_workers(self) -> None:
        """Add the workers that run or start, but for those that are about to end; share the images in flight."""
        fleet, listed = self._fleet, self._state.instances
        capacity = fleet.running + fleet.pending
        alive = [each for each in listed.instances if each.state in ALIVE][:capacity]
        workers = [self._listed(each) for each in alive if not each.draining and each.marked is None]
        # The list has the latest launches: what it leaves out is older, unless it is only behind.
        ready_at = 0.0 if listed.total > len(listed.instances) else self._boot_seconds
        kind, is_spot = self._config.fleet.instance_types[0], self._config.fleet.market == "spot"
        for number in range(capacity - len(alive)):
            launched_at = ready_at - self._boot_seconds
            workers.append(PlayedWorker(f"unlisted-{number}", kind, is_spot, launched_at, ready_at))
        holding = [each.instance_id for each in workers if each.ready_at == 0]
        for worker in sorted(workers, key=lambda each: each.launched_at):
            held = 0
            if worker.ready_at == 0:
                held = (fleet.in_flight + holding.index(worker.instance_id)) // len(holding)
                self._returning = 0
            self._playback.add(worker, held, held * self._image_seconds)

    def _listed(self, listed: FleetInstance) -> PlayedWorker:
        age = max(0.0, (self._fleet.at - listed.launched_at).total_seconds())
        ready_at = 0.0
        if listed.worker is None:
            is_overdue = age > self._boot_seconds + OVERDUE_SECONDS
            ready_at = NEVER if is_overdue else max(0.0, self._boot_seconds - age)
        return PlayedWorker(listed.instance_id, listed.instance_type, listed.spot, -age, ready_at)

    def _put_back_returning(self) -> None:
        """Let the images wait that no worker holds, once their visibility timeout has ended."""
        lots = self._lots_of(self._returning, 0.0)
        if len(self._playback.finished) <= self._first_lot:
            self._first_lot += len(lots)
        self._playback.put_back(lots)
        self._returning = 0

    def _observe(self, now: float) -> Observation:
        """Return what the controller will observe: the playback, and what it has reported last."""
        fleet, requests = self._fleet, self._playback.requests(now)
        behind = min(self._behind, requests.visible)
        batch = min(self._images, requests.visible - behind)
        older = requests.visible - behind - batch
        left, later = behind if self._finish_seconds is None else older, list[tuple[float, int]]()
        for seconds, images in self._later:  # the latest ones first: the others are classified before them
            if left:
                later.append((seconds - now, min(images, left)))
                left -= later[-1][1]
        if self._finish_seconds is None:
            arrived = [(now + fleet.waiting_seconds, older), (now, batch)]
        else:
            arrived = [(now + fleet.waiting_seconds, left)]
            later.append((self._finish_seconds - now, batch))
        self._spending = self._spent(now)
        return self._playback.observe(
            now,
            requests,
            Demand(tuple(each for each in arrived if each[1]), fleet.arrival_rate, tuple(later)),
            self._measured,
            launched_before=fleet.recent_launches if now < RECENT_SECONDS else 0,
            pause=self._state.pause,
            spending=self._spending,
        )

    def _first_and_last(self) -> tuple[float, float]:
        """Return when the batch's first and last image are classified."""
        finished = self._playback.finished[self._first_lot : self._first_lot + self._batch_lots]
        after_first = min(self._images, self._lot_images) - 1  # images of the same lot
        return finished[0] - after_first * self._image_seconds, max(finished)

    def _spent(self, now: float) -> FleetSpending | None:
        """Return the last report on cost and caps, and what was billed since; None without a cap.

        It stays the report's day: a forecast that crosses midnight expects its images rather too late.
        """
        spending = self._state.spending
        if spending is None:
            return None
        more = sum(self._bill_of(each, now).dollars for each in self._all_workers())
        return spending.model_copy(update={"today": spending.today + more, "month": spending.month + more})

    def _bill(self, last: float) -> Bill:
        """Return the batch's share of what is billed from now on until the fleet has returned to rest."""
        idle, minimum = self._config.worker.idle_seconds, self._times.minimum_seconds
        self._playback.advance(self._playback.free_at + idle)
        # A protected worker stays; a period of the bill ends when no image has waited for so long.
        end, bill = last + idle + minimum, Bill()
        for worker in self._all_workers():
            if worker.has_worked or worker.is_protected or worker.instance_id not in self._present:
                bill += self._bill_of(worker, end)
        share = self._images / (self._images + self._older)
        return Bill(bill.seconds * share, bill.dollars * share)

    def _bill_of(self, worker: PlayedWorker, until: float) -> Bill:
        """Return what a worker is billed from now until it ends, or `until`; a launch costs at least the minimum."""
        minimum = self._times.minimum_seconds
        end = until if worker.ended_at is None else worker.ended_at
        billed = max(minimum, self._times.billed(worker.launched_at, end))
        if worker.instance_id in self._present:
            billed -= max(minimum, self._times.billed(worker.launched_at, 0.0))
        hourly = self._config.prices.worker_hour(worker.instance_type, spot=worker.spot)
        return Bill(billed, billed * hourly / SECONDS_AN_HOUR)

    def _all_workers(self) -> Iterator[PlayedWorker]:
        return chain(self._playback.workers.values(), self._playback.ended)
