"""Billing: what the fleet costs, and what an image costs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cost import Bill, share_of
from core.fleet.models import BillingPeriod, FleetDay, FleetSnapshot
from services.ec2 import Instance
from services.sqs import QueueCounts
from tests.support.autoscaler import Clock, flat_prices, fleet_snapshot, instance
from tests.support.clocks import PlayedClock
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.billing import (
    MAX_PERIOD_SECONDS,
    QUIET_SECONDS,
    STRANGE_DAY_SECONDS,
    BillingMeter,
    DailyLedger,
)
from web_tier.autoscaler.observe import FleetDescription, Observation

FREE = flat_prices(0.0)


def observed(running: int, images: int = 0, *, pending: int = 0, first: int = 0) -> Observation:
    instances = [instance(f"i-{number}") for number in range(first, first + running)]
    instances += [instance(f"p-{number}", "pending") for number in range(pending)]
    return Observation(QueueCounts(images, 0, 0), 0, tuple(instances))


def snapshot(billed: float, peak: int, running: int = 0) -> FleetSnapshot:
    return fleet_snapshot(EPOCH, running=running, peak_workers=peak, billed_seconds=billed)


def figures(bill: Bill) -> tuple[float, float]:
    return bill.seconds, bill.dollars


def test_the_peak_stays_until_a_new_batch_begins() -> None:
    meter = BillingMeter(FREE, clock=Clock(0.0))
    peaks = []
    for seen in (
        observed(0, 100),
        observed(3, 100, pending=2),
        observed(2, 10),
        observed(0),
        observed(0, 20),
        observed(1, 20),
    ):
        meter.update(seen)
        peaks.append(meter.peak_workers)
    assert peaks == [0, 5, 5, 5, 0, 1], "pending workers count, too"


def test_each_instance_keeps_the_price_of_its_type_and_market_under_a_new_controller() -> None:
    clock, prices = Clock(), flat_prices(0.36, **{"c7a.large": 0.036})
    priced = BillingMeter(prices, None, PlayedClock(clock, lambda: EPOCH))
    spot = replace(instance("i-1"), spot=True)
    priced.update(replace(observed(1), instances=(instance("i-0"), spot)))
    clock.now += 90
    priced.update(observed(1))
    assert figures(priced.bill) == pytest.approx((180, 90 * 1e-4 + 90 * 1e-5))
    at = EPOCH + timedelta(seconds=90)
    left = snapshot(180, peak=2, running=1).model_copy(update={"cost": priced.bill.dollars, "at": at})
    successor = BillingMeter(prices, left, PlayedClock(clock, lambda: at))
    clock.now += 10
    successor.update(observed(1))
    assert figures(successor.bill) == pytest.approx((180, 90 * 1e-4 + 90 * 1e-5))
    assert successor.peak_workers == 2
    clock.now += 10
    assert successor.bill.dollars == pytest.approx(100 * 1e-4 + 90 * 1e-5)


def test_a_clock_that_is_ten_minutes_behind_ec2s_makes_no_duration_negative() -> None:
    clock = Clock()
    meter = BillingMeter(FREE, clock=PlayedClock(clock, lambda: EPOCH - timedelta(minutes=10)))
    meter.update(observed(1))
    clock.now += 70
    meter.update(observed(1))
    assert meter.bill.seconds == 70


def described(*instances: Instance, launched: Sequence[str] = ()) -> FleetDescription:
    """A description in which tracked launches that are not shown are starting."""
    shown = {each.instance_id for each in instances}
    starting = frozenset(launched) - shown
    return FleetDescription(QueueCounts(9, 0, 0), 0, instances, starting, frozenset(launched))


FIRST, AGAIN = EPOCH, EPOCH + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("rounds", "starts"),
    [
        ([described(launched=["i-0"]), described(instance("i-0", "terminated"), launched=["i-0"]), described()], 1),
        ([described(instance("i-0", "terminated"), launched=["i-0"]), described()], 1),
        ([described(instance("i-0", "pending")), described(instance("i-0", "terminated"), launched=["i-0"])], 1),
        (
            [
                described(instance("i-0"), launched=["i-0"]),
                described(instance("i-0", "terminated"), launched=["i-0"]),
            ],
            1,
        ),
        ([described(instance("i-0"), launched=["i-0"]), described(launched=["i-0"]), described(instance("i-0"))], 1),
        ([described(instance("i-0", launched_at=FIRST)), described(instance("i-0", launched_at=AGAIN))], 2),
        (
            [
                described(instance("i-0")),
                described(instance("i-0", "stopped")),
                described(launched=["i-0"]),
                described(instance("i-0", "stopped", AGAIN), launched=["i-0"]),
                described(instance("i-0", "stopped", AGAIN)),
            ],
            2,
        ),
        ([described(replace(instance("i-0", "terminated"), failed_to_start=True), launched=["i-0"])], 0),
        ([described(launched=["i-0"]), described()], 0),
        ([described(instance("i-0", "terminated"), instance("i-1", "stopped"))], 0),
    ],
    ids=[
        "ended before it was seen",
        "ended in its first round",
        "ended while it was pending",
        "seen running",
        "left out by one description",
        "started again between two rounds",
        "started again and ended unseen",
        "could not be started",
        "never described",
        "of an earlier time",
    ],
)
def test_each_start_costs_its_minimum_once_whether_it_was_seen_running_or_not(
    rounds: list[FleetDescription], starts: int
) -> None:
    meter = BillingMeter(FREE, clock=Clock(0.0))
    for each in rounds:
        meter.update(each)
    assert meter.bill.seconds == 60 * starts


@pytest.mark.parametrize(
    ("launched_after", "pending", "billed"), [(1, 0, 60), (-1, 0, 0), (-1, 1, 60)], ids=["later", "before", "pending"]
)
def test_a_start_of_the_previous_controller_is_billed_by_only_one_of_them(
    launched_after: int, pending: int, billed: float
) -> None:
    before = fleet_snapshot(EPOCH, pending=pending)
    meter = BillingMeter(FREE, before, Clock(0.0))
    ended = instance("i-0", "terminated", EPOCH + timedelta(seconds=launched_after))
    for each in (described(), described(launched=["i-0"]), described(ended, launched=["i-0"]), described(ended)):
        meter.update(each)
    assert meter.bill.seconds == billed


HOURLY = 0.36


@dataclass
class Site:
    """A controller that observes the fleet each second; tests set its workers and images."""

    clock: Clock = field(default_factory=Clock)
    stored: list[BillingPeriod] = field(default_factory=list)
    meter: BillingMeter = field(init=False)
    waiting: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        self.take_over(None)

    def take_over(self, before: FleetSnapshot | None) -> None:
        began = EPOCH + timedelta(seconds=self.clock.now - 1000)
        self.meter = BillingMeter(flat_prices(HOURLY), before, PlayedClock(self.clock, lambda: began))

    def run_for(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.clock.now += 1
            workers = tuple(instance(f"i-{number}") for number in range(self.workers))
            self.meter.update(Observation(QueueCounts(self.waiting, 0, 0), 0, workers))
            for run in self.meter.attribution.unsaved():
                self.stored.append(run)
                self.meter.attribution.mark_saved(run)

    def snapshot(self) -> FleetSnapshot:
        bill = self.meter.bill
        return fleet_snapshot(
            EPOCH + timedelta(seconds=self.clock.now - 1000),
            running=self.workers,
            visible=self.waiting,
            billed_seconds=bill.seconds,
            cost=bill.dollars,
            images=self.meter.attribution.images,
            requests_cost=self.meter.bill.requests_dollars,
            run=self.meter.attribution.current,
        )

    @property
    def run(self) -> BillingPeriod:
        assert self.meter.attribution.current is not None
        return self.meter.attribution.current


def test_idle_time_belongs_to_the_period_until_no_image_has_waited_for_long() -> None:
    site = Site()
    site.workers = 1  # a protected worker: its cost at rest is no image's
    site.run_for(500)
    site.waiting = 5
    site.run_for(10)
    site.meter.attribution.add_answers(5)
    site.waiting = 0
    site.run_for(1_000)
    assert site.run.billed_seconds == pytest.approx(9 + QUIET_SECONDS, abs=1)
    assert not site.run.is_open


def test_a_fleet_that_is_never_idle_begins_a_new_period_each_hour() -> None:
    site = Site()
    site.waiting, site.workers = 5, 1
    site.run_for(int(2.5 * MAX_PERIOD_SECONDS))
    assert [run.billed_seconds for run in site.stored] == [pytest.approx(MAX_PERIOD_SECONDS, abs=60)] * 2
    total = sum(run.billed_seconds for run in [*site.stored, site.run])
    assert total == pytest.approx(site.meter.bill.seconds)


_steps = st.lists(
    st.tuples(
        st.integers(0, 3),  # workers
        st.sampled_from((0, 0, 5)),  # images in the queue
        st.integers(0, 9),  # answers
        st.sampled_from((1, 20, 70, 130)),  # seconds
        st.sampled_from((False, False, False, True)),  # another controller takes over
    ),
    max_size=25,
)


@given(_steps)
def test_periods_never_cost_more_than_the_bill_across_changes_of_the_controller(
    steps: list[tuple[int, int, int, int, bool]],
) -> None:
    """The bill and its parts only ever grow, each start of a worker costs its minute, and no image is lost."""
    site, answered, starts, last = Site(), 0, 0, 0.0
    for workers, waiting, answers, seconds, changes in steps:
        starts += max(0, workers - site.workers)
        site.workers, site.waiting = workers, waiting
        site.run_for()
        if answers:
            site.meter.attribution.add_answers(answers, 0.001 * answers)
            answered += answers
        site.run_for(seconds)
        if changes:
            site.take_over(site.snapshot())
            site.run_for()
        runs = [*site.stored, *([site.meter.attribution.current] if site.meter.attribution.current else [])]
        bill = site.meter.bill
        assert last <= bill.seconds + 1e-6
        last = bill.seconds
        assert sum(run.billed_seconds for run in runs) <= bill.seconds + 1e-6
        assert sum(run.cost for run in runs) <= bill.dollars + 1e-9
        assert bill.dollars == pytest.approx(bill.seconds / 3600 * HOURLY)
        assert sum(run.images for run in runs) == site.meter.attribution.images == answered
        assert bill.requests_dollars == pytest.approx(0.001 * answered)
        assert bill.seconds >= 60 * starts - 1e-6
        assert [run.number for run in runs] == list(range(1, len(runs) + 1))


START = date(2026, 11, 1)
_moments = st.lists(
    st.tuples(
        st.sampled_from((0, 0, 0, 1)),  # days that pass
        st.sampled_from((0, 0, 1, -1, 40, -40, 365, -3650)),  # days by which the clock is wrong in a round
        st.integers(0, 10),  # dollars
        st.booleans(),  # another controller takes over
    ),
    max_size=40,
)


@given(_moments)
def test_rounds_with_a_wrong_clock_change_no_day_and_lose_no_dollar(
    moments: list[tuple[int, int, int, bool]],
) -> None:
    """Each round with a wrong clock is followed by one with the right one before the wrong day is believed."""
    clock, bill, today, stored = Clock(), 0.0, START, dict[date, FleetDay]()
    ledger, expected = DailyLedger(), {START: 0.0}
    ledger.update(START, Bill(), 0, clock.now)
    for passed, wrong_by, dollars, changes in moments:
        today += timedelta(days=passed)
        for shown in (today, today + timedelta(days=wrong_by), today):
            clock.now += STRANGE_DAY_SECONDS - 1
            bill += dollars
            is_next = shown == today + timedelta(days=1)
            if not is_next:
                expected[today] = expected.get(today, 0.0) + dollars
                ledger.update(shown, Bill(dollars=bill), 0, clock.now)
            else:
                bill -= dollars  # midnight cannot be told from a clock that is a day ahead
        for day in ledger.unsaved():
            stored[day.day] = day
            ledger.mark_saved(day)
        if changes:
            before = fleet_snapshot(EPOCH, cost=bill, today=ledger.today)
            ledger = DailyLedger(before, tuple(stored.values()))
        assert ledger.today is not None
        figures = {day: each.cost for day, each in stored.items()} | {today: ledger.today.cost}
        assert ledger.today.day == today
        assert figures == pytest.approx({day: cost for day, cost in expected.items() if cost or day == today})
        month = sum(cost for day, cost in expected.items() if (day.year, day.month) == (today.year, today.month))
        assert ledger.month_dollars() == pytest.approx(month)


@pytest.mark.parametrize("days", [-3650, -1, 1, 2, 92])
def test_a_wrong_day_that_was_believed_ends_with_the_clock_and_keeps_every_dollar(days: int) -> None:
    clock = Clock()
    ledger = DailyLedger()

    def spend(day: date, total: float) -> None:
        ledger.update(day, Bill(dollars=total), 0, clock.now)
        clock.now += STRANGE_DAY_SECONDS
        ledger.update(day, Bill(dollars=total), 0, clock.now)

    spend(START, 3.0)
    wrong = START + timedelta(days=days)
    spend(wrong, 4.0)
    assert ledger.today is not None
    assert ledger.today.day == wrong
    spend(START, 6.0)
    stored = {day.day: day.cost for day in ledger.unsaved()} | {ledger.today.day: ledger.today.cost}
    assert ledger.today.day == START
    assert stored[START] >= 4.0, "what was spent before counts towards the cap"
    assert sum(stored.values()) >= 6.0
    if days > 0:
        assert stored == {START: pytest.approx(6.0)}
    spend(START + timedelta(days=1), 7.0)  # the next midnight
    stored |= {day.day: day.cost for day in ledger.unsaved()} | {ledger.today.day: ledger.today.cost}
    assert sum(stored.values()) == pytest.approx(7.0), "no dollar is counted twice"
    month = sum(cost for day, cost in stored.items() if (day.year, day.month) == (START.year, START.month))
    assert ledger.month_dollars() == pytest.approx(month)
    if days != 1:
        assert ledger.today.cost == pytest.approx(1.0)


def test_spot_saves_the_on_demand_price_of_its_seconds_also_under_a_new_controller() -> None:
    clock, moment = Clock(), datetime(2026, 3, 1, 12, tzinfo=UTC)

    def meter_after(before: FleetSnapshot | None) -> BillingMeter:
        began = clock.now
        return BillingMeter(
            flat_prices(1.08, **{"c7a.large": 0.36}),
            before,
            PlayedClock(clock, lambda: moment + timedelta(seconds=clock.now - began)),
        )

    def fleet_since(at: datetime) -> Observation:
        both = (instance("i-0", launched_at=at), Instance("i-1", "running", "c7a.large", "a", at, spot=True))
        return Observation(QueueCounts(9, 0, 0), 0, both)

    fleet, meter = fleet_since(moment), meter_after(None)
    meter.update(fleet)
    meter.attribution.add_answers(9, requests_dollars=0.02)
    clock.now += 100
    meter.update(fleet)
    assert meter.bill.saved == pytest.approx(100 * 0.72 / 3_600)
    assert meter.daily.today is not None
    assert meter.daily.today.saved == pytest.approx(meter.bill.saved)
    assert meter.daily.today.dollars == pytest.approx(meter.bill.dollars + 0.02), "a day has the cost of its requests"
    period = meter.attribution.current
    assert period is not None
    assert period.day == moment.date()
    assert period.saved == pytest.approx(meter.bill.saved)
    assert share_of(period, 3).saved == pytest.approx(meter.bill.saved / 3)
    bill, today = meter.bill, meter.daily.today
    left = fleet_snapshot(moment, running=2, billed_seconds=200, cost=bill.dollars, saved=bill.saved, today=today)
    successor = meter_after(left)
    successor.update(fleet_since(moment - timedelta(seconds=100)))
    clock.now += 100
    assert successor.bill.saved == pytest.approx(200 * 0.72 / 3_600)


def test_while_images_wait_a_new_period_begins_at_midnight_utc() -> None:
    clock = Clock()
    began, evening = clock.now, datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
    meter = BillingMeter(
        flat_prices(3.6), None, PlayedClock(clock, lambda: evening + timedelta(seconds=clock.now - began))
    )
    for _ in range(120):
        meter.update(observed(1, 5))
        clock.now += 1
    meter.update(observed(1, 5))
    [before] = meter.attribution.unsaved()
    after = meter.attribution.current
    assert after is not None
    assert (before.day, after.day) == (date(2026, 3, 1), date(2026, 3, 2))
    assert meter.daily.today is not None
    assert after.cost == pytest.approx(meter.daily.today.cost), "each day's periods have its cost"
    assert before.cost + after.cost == pytest.approx(meter.bill.dollars)
