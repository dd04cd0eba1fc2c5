"""What the fleet costs: billed instance-seconds, US dollars and peak size, attributed to the images answered.

Durations come from this process's monotonic clock. The wall clock is used for days and months, and for instances that
were already running when this controller acquired the lease.

EC2 bills each start of an instance from `running`, for 60 s at least
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html). A worker may run and end between
two descriptions of the fleet. So each launch or start that EC2 has accepted costs its minimum once it has ended,
whether it was seen running or not. EC2 does not bill an instance that it could not start, and neither does the meter.
One that is terminated while it is `pending` costs nothing on EC2 and its minimum here: nothing shows when it ended.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from core.config import FleetSettings, PriceSettings
from core.cost import SECONDS_AN_HOUR, Bill, bill_of, total
from core.fleet.models import BillingPeriod, FleetDay, FleetSnapshot, FleetSpending, SpendingAllowance
from services.clock import CLOCK, Clock
from services.ec2 import Instance
from web_tier.autoscaler.observe import FleetDescription

QUIET_SECONDS = 60.0
"""A billing period ends when no image has waited for so long: the minimum that EC2 bills for the last worker."""

MAX_PERIOD_SECONDS = 3_600.0
"""Longest billing period: the cost of an image is final within the hour, also if the fleet is never idle."""

STRANGE_DAY_SECONDS = 600.0
"""Time after which a day is believed that is neither the last one nor the next. A wrong clock is usually right by
then. After days without a controller, so much time counts towards the last day."""

LATE_ANSWER_SECONDS = 60.0
"""How long after the end of a period answers still count towards it: workers delete a request before the collector
reads the answer."""


@dataclass
class CostAttribution:
    """Divides what is billed into periods, and shares each period's cost among the images answered in it.

    A period begins when an image waits and the fleet is at rest. It ends when no image waits and no worker is left,
    or when no image has waited for `quiet_seconds`: workers that still run then, such as those of `min_workers`, are
    no image's cost until the next period. While images wait, a new period begins at midnight UTC, so that the cost of
    a day is known.

    The collector reports answers and the autoscaler reports bills, each in its own thread.

    Attributes:
        before: the last snapshot of the previous controller; its period continues.
        day: the present day (UTC), by the ledger.
        quiet_seconds: see `QUIET_SECONDS`; longer where workers are idle for longer.
        images: images answered since the fleet's first launch.
        requests_dollars: cost of their requests.
        current: the period that is open, or else the last one.
    """

    before: FleetSnapshot | None
    day: date
    quiet_seconds: float = QUIET_SECONDS
    clock: Clock = CLOCK
    images: int = field(default=0, init=False)
    requests_dollars: float = field(default=0.0, init=False)
    current: BillingPeriod | None = field(default=None, init=False)
    _bill: Bill = field(default=Bill(), init=False)
    _began_at: float = field(default=0.0, init=False)
    _last_waiting_at: float = field(default=0.0, init=False)
    _ended_at: float = field(default=float("-inf"), init=False)
    _unsaved: list[BillingPeriod] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        """Continue the period of the previous controller."""
        self._began_at = self._last_waiting_at = self.clock.monotonic()
        if self.before is not None:
            self.day = self.before.today.day if self.before.today else self.day
            self.images, self.current = self.before.images, self.before.run
            self.requests_dollars = self.before.requests_cost
            self._bill = bill_of(self.before)

    def add_answers(self, images: int, requests_dollars: float = 0.0) -> int:
        """Count answers that were recorded just now, and the cost of their requests; return the number of the period.

        The period is that to which they belong.
        """
        with self._lock:
            period = self.current
            is_late = self.clock.monotonic() - self._ended_at > LATE_ANSWER_SECONDS
            if period is None or (not period.is_open and is_late):
                period = self._begin()
            self.current = period.model_copy(update={"images": period.images + images})
            self.images += images
            self.requests_dollars += requests_dollars
            return period.number

    def update(self, fleet: FleetDescription, bill: Bill, day: date) -> None:
        """Attribute what was billed since the last update; `bill` is the total so far."""
        is_waiting = fleet.requests.total > 0
        with self._lock:
            self.day = day
            more, self._bill = bill - self._bill, bill
            now = self.clock.monotonic()
            if is_waiting:
                self._last_waiting_at = now
            period = self.current
            if period is None or not period.is_open:
                if is_waiting:
                    self._charge(self._begin(), more)
                return
            if is_waiting and period.day not in {None, day}:
                period = self._begin()
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
        number = self.current.number + 1 if self.current else 1
        self.current = BillingPeriod(number=number, day=self.day)
        self._began_at = self._last_waiting_at = self.clock.monotonic()
        return self.current

    def _charge(self, period: BillingPeriod, more: Bill) -> BillingPeriod:
        bill = bill_of(period) + more
        figures = {"billed_seconds": bill.seconds, "cost": bill.dollars, "saved": bill.saved}
        self.current = period.model_copy(update=figures)
        return self.current


@dataclass
class DailyLedger:
    """Adds up images and cost of each day (UTC), from the totals since the fleet's first launch.

    A wrong clock loses no figure, and counts none twice. A day that is not the next one begins only once it has
    lasted. If it is an earlier one, the figures of the later day move to it. They move back if the later day is the
    next one that begins, since the earlier day may be the wrong one.

    Attributes:
        before: the last snapshot of the previous controller; its day continues.
        over: the stored days, for the cost of the month.
        today: the current day; None before the first update.
    """

    before: FleetSnapshot | None = None
    over: Iterable[FleetDay] = ()
    today: FleetDay | None = field(default=None, init=False)
    _days: dict[date, FleetDay] = field(default_factory=dict, init=False)
    _moved: dict[date, FleetDay] = field(default_factory=dict, init=False)
    """Later days whose figures are part of the current day's."""
    _strange: tuple[date, float] | None = field(default=None, init=False)
    """A day that does not follow the current one, and since when the clock shows it."""
    _bill: Bill = field(default=Bill(), init=False)
    _images: int = field(default=0, init=False)
    _unsaved: list[FleetDay] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Continue the day of the previous controller."""
        self._days = {each.day: each for each in self.over}
        if self.before is not None:
            self.today, self._images = self.before.today, self.before.images
            self._bill = bill_of(self.before)

    def update(self, day: date, bill: Bill, images: int, now: float) -> FleetDay:
        """Count what was added since the last update; return the current day.

        `day` is today by the clock; `bill` and `images` are totals; `now` is in monotonic seconds.
        """
        today = self.today
        if today is None:
            today = self._days.get(day) or FleetDay(day=day)
        elif self._begins(day, today.day, now):
            today = self._earlier(day, today) if day < today.day else self._later(day, today)
        self.today = _added(today, bill - self._bill, images - self._images)
        self._bill, self._images = bill, images
        return self.today

    def _earlier(self, day: date, today: FleetDay) -> FleetDay:
        """Return an earlier day, with the figures of `today` moved to it."""
        self._moved[today.day] = _without(today, self._moved.values())
        return _added(self._days.get(day) or FleetDay(day=day), bill_of(today), today.images)

    def _later(self, day: date, today: FleetDay) -> FleetDay:
        """Return a later day, with the figures that were moved from it."""
        back = {each: figures for each, figures in self._moved.items() if each <= day}
        self._days |= {**back, today.day: _without(today, back.values())}
        ended = sorted(each for each in {today.day, *back} if each < day)
        self._unsaved += [self._days[each] for each in ended if self._days[each].images or self._days[each].cost]
        following = self._days.get(day) or FleetDay(day=day)
        self._days = {each: figures for each, figures in self._days.items() if each < day}
        self._moved.clear()
        return following

    def _begins(self, day: date, last: date, now: float) -> bool:
        """Return whether `day` begins now: it is the next one, or the clock has shown it for long."""
        if day in {last, last + timedelta(days=1)}:
            self._strange = None
            return day != last
        if self._strange is None or self._strange[0] != day:
            self._strange = (day, now)
        return now - self._strange[1] >= STRANGE_DAY_SECONDS

    def month_dollars(self) -> float:
        """Return the cost of the current month (UTC) until now."""
        if self.today is None:
            return 0.0
        first = self.today.day.replace(day=1)
        # A day may be stored although it is continued: its controller died right after it had stored it.
        before = sum(figures.cost for day, figures in self._days.items() if first <= day < self.today.day)
        return before + self.today.cost

    def unsaved(self) -> tuple[FleetDay, ...]:
        """Return the days that are over and were not stored yet, oldest first."""
        return tuple(self._unsaved)

    def mark_saved(self, day: FleetDay) -> None:
        """Note that a day has been stored."""
        self._unsaved.remove(day)


def _added(day: FleetDay, bill: Bill, images: int) -> FleetDay:
    """Return the figures of a day with more added to them."""
    billed = bill_of(day) + bill
    figures = {"billed_seconds": billed.seconds, "cost": billed.dollars, "saved": billed.saved}
    figures["requests_cost"] = billed.requests_dollars
    return day.model_copy(update={"images": day.images + images, **figures})


def _without(day: FleetDay, others: Iterable[FleetDay]) -> FleetDay:
    """Return the figures of a day less those of others that were added to it."""
    for each in others:
        day = _added(day, Bill() - bill_of(each), -each.images)
    return day


@dataclass(frozen=True, slots=True)
class BilledInstance:
    """A running instance.

    Attributes:
        launched_at: its last start, by EC2's clock.
        since: when its billing began, in monotonic seconds.
        hourly: its price for an hour in US dollars, with its public address and disk.
        began_at: as `since`, by the wall clock.
        saved_hourly: how much less that is than its type's On-Demand price.
    """

    launched_at: datetime
    since: float
    hourly: float
    began_at: datetime
    saved_hourly: float = 0.0


@dataclass
class BillingMeter:
    """Adds up billed seconds: each start from `running` until it is not, at least the minimum that EC2 bills.

    Attributes:
        prices: of instances by their type and market; shortest time that EC2 bills for each start: 60 s for Linux.
        before: the last snapshot of the previous controller; None for a new fleet.
        quiet_seconds: see `CostAttribution`.
        over: the stored days, for the cost of the month.
        attribution: attributes what is billed to the images answered meanwhile.
        daily: what is billed on each day.
        peak_workers: most workers since the fleet was last at rest.
        last_bill: the bill of the last update, which takes no time to read.
    """

    prices: PriceSettings
    before: FleetSnapshot | None = None
    clock: Clock = CLOCK
    quiet_seconds: float = QUIET_SECONDS
    over: Iterable[FleetDay] = ()
    attribution: CostAttribution = field(init=False)
    daily: DailyLedger = field(init=False)
    peak_workers: int = field(default=0, init=False)
    last_bill: Bill = field(default=Bill(), init=False)
    _ended: Bill = field(default=Bill(), init=False)
    _running: dict[str, BilledInstance] = field(default_factory=dict, init=False)
    _starting: set[str] = field(default_factory=set, init=False)
    """Launches and starts that EC2 has accepted, and that were not seen running yet."""
    _inherited_starts: int = field(default=0, init=False)
    """Of the starts that the previous controller has made before its last snapshot: how many it has not billed."""
    _is_first_update: bool = field(default=True, init=False)
    _is_at_rest: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        """Continue the figures of the previous controller."""
        self.attribution = CostAttribution(self.before, self.clock.utc_now().date(), self.quiet_seconds, self.clock)
        self.daily = DailyLedger(self.before, self.over)

    def update(self, fleet: FleetDescription) -> None:
        """Bill the instances that run now, and those that have ended."""
        described = {each.instance_id: each for each in fleet.instances}
        running = {instance_id: each for instance_id, each in described.items() if each.state == "running"}
        if self._is_first_update:
            self._take_over(running)
            self._is_first_update = False
        seen = set(self._running)
        for instance_id in seen:
            now = running.get(instance_id)
            is_again = now is not None and now.launched_at > self._running[instance_id].launched_at
            if is_again or (now is None and instance_id not in fleet.launching):
                self._ended += self._billed(self._running.pop(instance_id))
        for begun in running.keys() - self._running.keys():
            self._running[begun] = self._begun(running[begun], self.clock.monotonic(), self.clock.utc_now())
        self._starting |= fleet.capacity_ids | fleet.launched - seen
        self._starting -= self._running.keys()
        for instance_id in self._starting - fleet.capacity_ids:
            self._starting.remove(instance_id)
            ended = described.get(instance_id)
            if ended is not None and not ended.failed_to_start and self._is_unbilled(ended):
                at = self.clock.monotonic()
                self._ended += self._billed(self._begun(ended, at, self.clock.utc_now()), at)  # the minimum
        self.last_bill = bill = self.bill
        today = self.daily.update(self.clock.utc_now().date(), bill, self.attribution.images, self.clock.monotonic())
        self.attribution.update(fleet, bill, today.day)
        is_at_rest = fleet.capacity == 0 and fleet.requests.total == 0
        if self._is_at_rest and not is_at_rest:
            self.peak_workers = 0  # only now, so that the last peak can be read until a new batch begins
        self._is_at_rest = is_at_rest
        self.peak_workers = max(self.peak_workers, fleet.capacity)

    def past_minimum_billing(self) -> list[str]:
        """Return the instances that have run for the minimum that EC2 bills, oldest first."""
        since = sorted((each.since, instance_id) for instance_id, each in self._running.items())
        until = self.clock.monotonic() - self.prices.minimum_billed_seconds
        return [instance_id for begun, instance_id in since if begun <= until]

    def spending(
        self, fleet: FleetDescription, settings: FleetSettings, allowance: SpendingAllowance | None = None
    ) -> FleetSpending | None:
        """Return the cost of day and month beside the spending caps; None if no cap is configured.

        `fleet` is what the last `update` was made with. Instances that are starting are not billed yet; each will be,
        for the minimum at least, so this counts as committed.
        """
        if not settings.has_spending_cap:
            return None
        launch = self.prices.launch_dollars(settings.instance_types)
        described = {each.instance_id: each for each in fleet.instances}
        starting = [described.get(each) for each in fleet.capacity_ids - self._running.keys()]
        # A stopped instance may be of a type that is not configured any more.
        stopped = [self._minimum_dollars(each) for each in fleet.instances if each.state == "stopped"]
        today = self.daily.today
        return FleetSpending(
            day=self.clock.utc_now().date() if today is None else today.day,
            today=0.0 if today is None else today.cost,
            month=self.daily.month_dollars(),
            committed=sum(launch if each is None else self._minimum_dollars(each) for each in starting),
            launch=max([launch, *stopped]),
            dollars_per_day=settings.dollars_per_day,
            dollars_per_month=settings.dollars_per_month,
            allowance=allowance,
        )

    @property
    def billed_since(self) -> dict[str, datetime]:
        """Since when each running instance is billed, by its id."""
        return {instance_id: each.began_at for instance_id, each in self._running.items()}

    @property
    def bill(self) -> Bill:
        """What AWS has billed so far."""
        requests = Bill(requests_dollars=self.attribution.requests_dollars)
        return self._ended + requests + total(self._billed(each) for each in self._running.values())

    def _begun(self, instance: Instance, since: float, began_at: datetime) -> BilledInstance:
        hourly = self._hourly(instance)
        saved = max(0.0, self.prices.worker_hour(instance.instance_type) - hourly)
        return BilledInstance(instance.launched_at, since, hourly, began_at, saved)

    def _is_unbilled(self, instance: Instance) -> bool:
        """Return whether the previous controller has not billed a start that has ended, and was not seen running."""
        if self.before is None or instance.launched_at > self.before.at:
            return True
        self._inherited_starts -= 1
        return self._inherited_starts >= 0

    def _hourly(self, instance: Instance) -> float:
        return self.prices.worker_hour(instance.instance_type, spot=instance.spot)

    def _minimum_dollars(self, instance: Instance) -> float:
        return self._hourly(instance) * self.prices.minimum_billed_seconds / SECONDS_AN_HOUR

    def _billed(self, instance: BilledInstance, until: float | None = None) -> Bill:
        until = self.clock.monotonic() if until is None else until
        seconds = max(self.prices.minimum_billed_seconds, until - instance.since)
        return Bill(seconds, *(seconds * each / SECONDS_AN_HOUR for each in (instance.hourly, instance.saved_hourly)))

    def _take_over(self, running: dict[str, Instance]) -> None:
        """Continue from the snapshot `before`.

        Its figures contain the cost until then of the instances that ran then: of the oldest ones, if fewer or more
        run now. What these and others were billed since is added, so that a controller that dies right after a launch
        makes none forget its cost.
        """
        by_age = sorted(running.values(), key=lambda each: (each.launched_at, each.instance_id))
        for instance in by_age:
            age = max(0.0, (self.clock.utc_now() - instance.launched_at).total_seconds())
            since = self.clock.monotonic() - age
            self._running[instance.instance_id] = self._begun(instance, since, instance.launched_at)
        if self.before is not None:
            last = self.before
            until = self.clock.monotonic() - max(0.0, (self.clock.utc_now() - last.at).total_seconds())
            counted = total(self._billed(self._running[each.instance_id], until) for each in by_age[: last.running])
            left = bill_of(last) - counted
            self._ended = Bill(max(0.0, left.seconds), max(0.0, left.dollars), max(0.0, left.saved))
            self._inherited_starts = max(0, last.pending - max(0, len(running) - last.running))
            self.peak_workers = last.peak_workers
            self._is_at_rest = not any((last.running, last.pending, last.visible, last.in_flight, last.delayed))
