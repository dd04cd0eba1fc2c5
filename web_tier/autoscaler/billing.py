"""What the fleet costs: billed instance-seconds, US dollars and peak size, attributed to the images answered.

Durations come from this process's monotonic clock. The wall clock is used only for instances that were already
running when this controller acquired the lease.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from core.cost import SECONDS_AN_HOUR, Bill, total
from core.fleet.models import BillingPeriod, FleetDay, FleetSnapshot
from services.ec2 import Instance
from web_tier.autoscaler.observe import FleetDescription

QUIET_SECONDS = 60.0
"""A billing period ends when no image has waited for so long: the minimum that EC2 bills for the last worker."""

MAX_PERIOD_SECONDS = 3_600.0
"""Longest billing period: the cost of an image is final within the hour, also if the fleet is never idle."""

LATE_ANSWER_SECONDS = 60.0
"""How long after the end of a period answers still count towards it: workers delete a request before the collector
reads the answer."""


@dataclass
class CostAttribution:
    """Divides what is billed into periods, and shares each period's cost among the images answered in it.

    A period begins when an image waits and the fleet is at rest. It ends when no image waits and no worker is left,
    or when no image has waited for `quiet_seconds`: workers that still run then, such as those of `min_workers`, are
    no image's cost until the next period.

    The collector reports answers and the autoscaler reports bills, each in its own thread.

    Attributes:
        before: the last snapshot of the previous controller; its period continues.
        quiet_seconds: see `QUIET_SECONDS`; longer where workers are idle for longer.
        images: images answered since the fleet's first launch.
        current: the period that is open, or else the last one.
    """

    before: FleetSnapshot | None = None
    quiet_seconds: float = QUIET_SECONDS
    clock: Callable[[], float] = time.monotonic
    images: int = field(default=0, init=False)
    current: BillingPeriod | None = field(default=None, init=False)
    _bill: Bill = field(default=Bill(), init=False)
    _began_at: float = field(default=0.0, init=False)
    _last_waiting_at: float = field(default=0.0, init=False)
    _ended_at: float = field(default=float("-inf"), init=False)
    _unsaved: list[BillingPeriod] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        """Continue the period of the previous controller."""
        self._began_at = self._last_waiting_at = self.clock()
        if self.before is not None:
            self.images, self.current = self.before.images, self.before.run
            self._bill = Bill(self.before.billed_seconds, self.before.cost)

    def add_answers(self, images: int) -> int:
        """Count answers that were recorded just now; return the number of the period that they belong to."""
        with self._lock:
            period = self.current
            if period is None or (not period.is_open and self.clock() - self._ended_at > LATE_ANSWER_SECONDS):
                period = self._begin()
            self.current = period.model_copy(update={"images": period.images + images})
            self.images += images
            return period.number

    def update(self, fleet: FleetDescription, bill: Bill) -> None:
        """Attribute what was billed since the last update; `bill` is the total so far."""
        is_waiting = fleet.requests.total > 0
        with self._lock:
            more, self._bill = bill - self._bill, bill
            now = self.clock()
            if is_waiting:
                self._last_waiting_at = now
            period = self.current
            if period is None or not period.is_open:
                if is_waiting:
                    self._charge(self._begin(), more)
                return
            period = self._charge(period, more)
            if not is_waiting and (fleet.capacity == 0 or now - self._last_waiting_at >= self.quiet_seconds):
                self.current, self._ended_at = period.model_copy(update={"is_open": False}), now
            elif now - self._began_at >= MAX_PERIOD_SECONDS:
                self._begin()

    def unsaved(self) -> tuple[BillingPeriod, ...]:
        """Return the periods that are over and were not stored yet, oldest first."""
        return tuple(self._unsaved)

    def mark_saved(self, period: BillingPeriod) -> None:
        """Note that a period has been stored."""
        with self._lock:
            self._unsaved.remove(period)

    def _begin(self) -> BillingPeriod:
        if self.current is not None:
            self._unsaved.append(self.current.model_copy(update={"is_open": False}))
        self.current = BillingPeriod(number=self.current.number + 1 if self.current else 1)
        self._began_at = self._last_waiting_at = self.clock()
        return self.current

    def _charge(self, period: BillingPeriod, more: Bill) -> BillingPeriod:
        seconds, cost = period.billed_seconds + more.seconds, period.cost + more.dollars
        self.current = period.model_copy(update={"billed_seconds": seconds, "cost": cost})
        return self.current


@dataclass
class DailyLedger:
    """Adds up images and cost of each day (UTC), from the totals since the fleet's first launch.

    Attributes:
        before: the last snapshot of the previous controller; its day continues.
        today: the current day; None before the first update.
    """

    before: FleetSnapshot | None = None
    today: FleetDay | None = field(default=None, init=False)
    _bill: Bill = field(default=Bill(), init=False)
    _images: int = field(default=0, init=False)
    _unsaved: list[FleetDay] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Continue the day of the previous controller."""
        if self.before is not None:
            self.today, self._images = self.before.today, self.before.images
            self._bill = Bill(self.before.billed_seconds, self.before.cost)

    def update(self, day: date, bill: Bill, images: int) -> None:
        """Count what was added since the last update towards `day`; `bill` and `images` are totals."""
        if self.today is None or day > self.today.day:
            if self.today is not None and (self.today.images or self.today.cost):
                self._unsaved.append(self.today)
            self.today = FleetDay(day=day)
        more = bill - self._bill
        self.today = FleetDay(
            day=self.today.day,
            images=self.today.images + images - self._images,
            billed_seconds=self.today.billed_seconds + more.seconds,
            cost=self.today.cost + more.dollars,
        )
        self._bill, self._images = bill, images

    def unsaved(self) -> tuple[FleetDay, ...]:
        """Return the days that are over and were not stored yet, oldest first."""
        return tuple(self._unsaved)

    def mark_saved(self, day: FleetDay) -> None:
        """Note that a day has been stored."""
        self._unsaved.remove(day)


@dataclass(frozen=True, slots=True)
class BilledInstance:
    """A running instance: since when, in monotonic seconds and by the wall clock, and its price in US dollars/h."""

    since: float
    hourly: float
    began_at: datetime


@dataclass
class BillingMeter:
    """Adds up billed seconds: each instance from `running` until it is not, at least the minimum that EC2 bills.

    Attributes:
        minimum_seconds: shortest time that EC2 bills for each start: 60 s for Linux.
        hourly: returns the price of an instance for an hour in US dollars, by its type and market.
        before: the last snapshot of the previous controller; None for a new fleet.
        quiet_seconds: see `CostAttribution`.
        attribution: attributes what is billed to the images answered meanwhile.
        daily: what is billed on each day.
        peak_workers: most workers since the fleet was last at rest.
        last_bill: the bill of the last update, which takes no time to read.
    """

    minimum_seconds: float
    hourly: Callable[[Instance], float]
    before: FleetSnapshot | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    quiet_seconds: float = QUIET_SECONDS
    attribution: CostAttribution = field(init=False)
    daily: DailyLedger = field(init=False)
    peak_workers: int = field(default=0, init=False)
    last_bill: Bill = field(default=Bill(), init=False)
    _ended: Bill = field(default=Bill(), init=False)
    _running: dict[str, BilledInstance] = field(default_factory=dict, init=False)
    _is_first_update: bool = field(default=True, init=False)
    _is_at_rest: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        """Continue the figures of the previous controller."""
        self.attribution = CostAttribution(self.before, self.quiet_seconds, self.clock)
        self.daily = DailyLedger(self.before)

    def update(self, fleet: FleetDescription) -> None:
        """Bill the instances that run now."""
        running = {each.instance_id: each for each in fleet.instances if each.state == "running"}
        if self._is_first_update:
            self._take_over(running)
            self._is_first_update = False
        for ended in self._running.keys() - running.keys():
            self._ended += self._billed(self._running.pop(ended))
        for begun in running.keys() - self._running.keys():
            self._running[begun] = BilledInstance(self.clock(), self.hourly(running[begun]), self.now())
        self.last_bill = bill = self.bill
        self.attribution.update(fleet, bill)
        self.daily.update(self.now().date(), bill, self.attribution.images)
        is_at_rest = fleet.capacity == 0 and fleet.requests.total == 0
        if self._is_at_rest and not is_at_rest:
            self.peak_workers = 0  # only now, so that the last peak can be read until a new batch begins
        self._is_at_rest = is_at_rest
        self.peak_workers = max(self.peak_workers, fleet.capacity)

    def past_minimum_billing(self) -> list[str]:
        """Return the instances that have run for the minimum that EC2 bills, oldest first."""
        since = sorted((each.since, instance_id) for instance_id, each in self._running.items())
        return [instance_id for begun, instance_id in since if self.clock() - begun >= self.minimum_seconds]

    @property
    def billed_since(self) -> dict[str, datetime]:
        """Since when each running instance is billed, by its id."""
        return {instance_id: each.began_at for instance_id, each in self._running.items()}

    @property
    def bill(self) -> Bill:
        """Instance-seconds and dollars so far."""
        return self._ended + total(self._billed(each) for each in self._running.values())

    def _billed(self, instance: BilledInstance) -> Bill:
        seconds = max(self.minimum_seconds, self.clock() - instance.since)
        return Bill(seconds, seconds * instance.hourly / SECONDS_AN_HOUR)

    def _take_over(self, running: dict[str, Instance]) -> None:
        """Continue from the snapshot `before`; its figures contain the cost of the running instances until then."""
        for instance_id, instance in running.items():
            age = max(0.0, (self.now() - instance.launched_at).total_seconds())
            self._running[instance_id] = BilledInstance(
                self.clock() - age, self.hourly(instance), instance.launched_at
            )
        if self.before is not None:
            last, counted = self.before, self.bill
            self._ended = Bill(max(0.0, last.billed_seconds - counted.seconds), max(0.0, last.cost - counted.dollars))
            self.peak_workers = last.peak_workers
            self._is_at_rest = not any((last.running, last.pending, last.visible, last.in_flight, last.delayed))
