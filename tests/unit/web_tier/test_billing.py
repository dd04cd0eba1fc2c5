"""Billing: what the fleet costs, and what an image costs."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.cost import Bill, share_of
from core.fleet.models import BillingPeriod, FleetSnapshot
from services.ec2 import Instance
from services.sqs import QueueCounts
from tests.support.autoscaler import EPOCH, Clock, instance
from tests.support.fleet import fleet_snapshot
from web_tier.autoscaler.billing import MAX_PERIOD_SECONDS, QUIET_SECONDS, BillingMeter, CostAttribution
from web_tier.autoscaler.observe import Observation


def free(_instance: Instance) -> float:
    return 0.0


def look(running: int, images: int = 0, *, pending: int = 0, first: int = 0) -> Observation:
    instances = [instance(f"i-{number}") for number in range(first, first + running)]
    instances += [instance(f"p-{number}", "pending") for number in range(pending)]
    return Observation(QueueCounts(images, 0, 0), 0, tuple(instances))


def snapshot(billed: float, peak: int, running: int = 0) -> FleetSnapshot:
    return fleet_snapshot(EPOCH, running=running, peak_workers=peak, billed_seconds=billed)


def figures(bill: Bill) -> tuple[float, float]:
    return bill.seconds, bill.dollars


def test_each_instance_is_billed_by_the_second_and_at_least_the_minimum() -> None:
    clock = Clock()
    meter = BillingMeter(60, free, clock=clock, now=lambda: EPOCH)
    meter.update(look(2))
    assert meter.bill.seconds == 120
    clock.now += 90
    meter.update(look(1))
    assert meter.bill.seconds == 180
    clock.now += 10
    meter.update(look(0))
    clock.now += 1000
    assert meter.bill.seconds == 90 + 100


def test_an_instance_that_ended_within_its_first_minute_has_cost_a_minute() -> None:
    clock = Clock()
    meter = BillingMeter(60, free, clock=clock, now=lambda: EPOCH)
    meter.update(look(1))
    clock.now += 5
    meter.update(look(0))
    assert meter.bill.seconds == 60


def test_a_stopped_instance_that_runs_again_is_billed_anew() -> None:
    clock = Clock()
    meter = BillingMeter(60, free, clock=clock, now=lambda: EPOCH)
    for running in (1, 0, 1, 0):
        meter.update(look(running))
    assert meter.bill.seconds == 120


def test_pending_instances_cost_nothing_but_count_for_the_peak() -> None:
    meter = BillingMeter(60, free, clock=Clock())
    meter.update(look(0, 100, pending=5))
    assert (meter.bill.seconds, meter.peak_workers) == (0, 5)


def test_the_peak_stays_until_a_new_batch_begins() -> None:
    meter = BillingMeter(60, free, clock=Clock(), now=lambda: EPOCH)
    peaks = []
    for seen in (look(0, 100), look(5, 100), look(2, 10), look(0), look(0, 20), look(1, 20)):
        meter.update(seen)
        peaks.append(meter.peak_workers)
    assert peaks == [0, 5, 5, 5, 0, 1]


def test_a_new_holder_continues_the_figures_of_the_last() -> None:
    clock = Clock()
    # One of two has run for 100 s, of which 90 were in the snapshot; 500 s had ended before.
    meter = BillingMeter(60, free, snapshot(590, peak=7, running=1), clock, lambda: EPOCH + timedelta(seconds=100))
    meter.update(look(1, 5))
    assert meter.bill.seconds == pytest.approx(590)
    assert meter.peak_workers == 7
    clock.now += 10
    assert meter.bill.seconds == pytest.approx(600)


def test_each_instance_costs_what_its_type_and_market_cost_and_a_new_holder_goes_on_with_that() -> None:
    clock, hourly = Clock(), {"i-0": 0.36, "i-1": 0.036}
    priced = BillingMeter(60, lambda each: hourly[each.instance_id], None, clock, lambda: EPOCH)
    priced.update(look(2))
    clock.now += 90
    priced.update(look(1))
    assert figures(priced.bill) == pytest.approx((180, 90 * 1e-4 + 90 * 1e-5))
    left = snapshot(180, peak=2, running=1).model_copy(update={"cost": priced.bill.dollars})
    successor = BillingMeter(
        60, lambda each: hourly[each.instance_id], left, clock, lambda: EPOCH + timedelta(seconds=90)
    )
    clock.now += 10
    successor.update(look(1))
    assert figures(successor.bill) == pytest.approx((180, 90 * 1e-4 + 90 * 1e-5))
    clock.now += 10
    assert successor.bill.dollars == pytest.approx(100 * 1e-4 + 90 * 1e-5)


def test_a_clock_that_is_ten_minutes_behind_ec2s_makes_no_duration_negative() -> None:
    clock = Clock()
    meter = BillingMeter(60, free, clock=clock, now=lambda: EPOCH - timedelta(minutes=10))
    meter.update(look(1))
    clock.now += 70
    meter.update(look(1))
    assert meter.bill.seconds == 70


HOURLY = 0.36


@dataclass
class Site:
    """A controller over a fleet of which each test says what it looks like; a look takes place each second."""

    clock: Clock = field(default_factory=Clock)
    stored: list[BillingPeriod] = field(default_factory=list)
    meter: BillingMeter = field(init=False)
    waiting: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        self.take_over(None)

    def take_over(self, before: FleetSnapshot | None) -> None:
        began = EPOCH + timedelta(seconds=self.clock.now - 1000)
        runs = CostAttribution(before, clock=self.clock)
        self.meter = BillingMeter(60, lambda _: HOURLY, before, self.clock, lambda: began, runs)

    def look(self, seconds: int = 1) -> None:
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
            EPOCH,
            running=self.workers,
            visible=self.waiting,
            billed_seconds=bill.seconds,
            cost=bill.dollars,
            images=self.meter.attribution.images,
            run=self.meter.attribution.current,
        )

    @property
    def run(self) -> BillingPeriod:
        assert self.meter.attribution.current is not None
        return self.meter.attribution.current


def test_a_job_alone_pays_boots_work_idle_time_and_the_minimum() -> None:
    site = Site()
    site.look(100)
    site.waiting = 50
    site.look(3)
    site.workers = 2
    site.look(10)
    number = site.meter.attribution.add_answers(50)
    site.waiting = 0
    site.look(5)
    site.workers = 0
    site.look(5)
    assert (number, site.run.is_open, site.run.images) == (1, False, 50)
    alone, bill = share_of(site.run, 50), site.meter.bill
    assert (alone.seconds, alone.dollars) == pytest.approx((120, 120 / 3600 * HOURLY))
    assert (alone.seconds, alone.dollars) == pytest.approx((bill.seconds, bill.dollars))


def test_idle_time_beyond_the_paid_minute_belongs_to_the_run_until_it_has_been_quiet_for_long() -> None:
    site = Site()
    site.workers = 1  # a standby: what it costs at rest is no image's
    site.look(500)
    site.waiting = 5
    site.look(10)
    site.meter.attribution.add_answers(5)
    site.waiting = 0
    site.look(1_000)
    assert site.run.billed_seconds == pytest.approx(9 + QUIET_SECONDS, abs=1)
    assert not site.run.is_open


def test_images_that_come_while_the_last_run_is_being_paid_for_are_of_the_same_run() -> None:
    site = Site()
    site.waiting, site.workers = 5, 1
    site.look(10)
    site.waiting = 0
    site.look(30)
    site.waiting = 5
    site.look(10)
    assert (site.run.number, site.stored) == (1, [])
    site.waiting = site.workers = 0
    site.look()
    site.waiting = 5
    site.look()
    assert (site.run.number, [run.number for run in site.stored]) == (2, [1])


def test_an_answer_that_comes_a_little_late_is_of_the_run_that_was_and_one_much_later_of_a_new_one() -> None:
    site = Site()
    site.waiting, site.workers = 5, 1
    site.look(10)
    site.waiting = site.workers = 0
    site.look(5)
    assert (site.run.is_open, site.meter.attribution.add_answers(5)) == (False, 1)
    site.look(600)
    assert site.meter.attribution.add_answers(1) == 2
    site.look()
    assert [(run.number, run.images, run.is_open) for run in site.stored] == [(1, 5, False)]


def test_a_fleet_that_never_rests_begins_a_new_run_each_hour() -> None:
    site = Site()
    site.waiting, site.workers = 5, 1
    site.look(int(2.5 * MAX_PERIOD_SECONDS))
    assert [run.billed_seconds for run in site.stored] == [pytest.approx(MAX_PERIOD_SECONDS, abs=60)] * 2
    total = sum(run.billed_seconds for run in [*site.stored, site.run])
    assert total == pytest.approx(site.meter.bill.seconds)


def test_a_new_holder_goes_on_with_the_run_of_the_last() -> None:
    site = Site()
    site.waiting, site.workers = 100, 2
    site.look(80)
    site.meter.attribution.add_answers(40)
    site.take_over(site.snapshot())
    site.look(80)
    site.meter.attribution.add_answers(60)
    site.waiting = site.workers = 0
    site.look()
    assert (site.run.number, site.run.images, site.meter.attribution.images) == (1, 100, 100)
    assert site.run.billed_seconds == pytest.approx(site.meter.bill.seconds)


def test_a_rest_stays_a_rest_when_the_holder_changes() -> None:
    site = Site()
    site.waiting, site.workers = 5, 1
    site.look(100)
    site.waiting = 0
    site.look(200)
    cost = site.run.billed_seconds
    site.take_over(site.snapshot())
    site.look(500)
    assert (site.run.is_open, site.run.billed_seconds) == (False, cost)


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


@settings(max_examples=60)
@given(_steps)
def test_what_runs_cost_is_never_more_than_the_bill_whoever_holds_the_lease(
    steps: list[tuple[int, int, int, int, bool]],
) -> None:
    """The bill and its parts only ever grow, each start of a worker costs its minute, and no image is lost."""
    site, answered, starts, last = Site(), 0, 0, 0.0
    for workers, waiting, answers, seconds, changes in steps:
        starts += max(0, workers - site.workers)
        site.workers, site.waiting = workers, waiting
        site.look()
        if answers:
            site.meter.attribution.add_answers(answers)
            answered += answers
        site.look(seconds)
        if changes:
            site.take_over(site.snapshot())
            site.look()
        runs = [*site.stored, *([site.meter.attribution.current] if site.meter.attribution.current else [])]
        bill = site.meter.bill
        assert last <= bill.seconds + 1e-6
        last = bill.seconds
        assert sum(run.billed_seconds for run in runs) <= bill.seconds + 1e-6
        assert sum(run.cost for run in runs) <= bill.dollars + 1e-9
        assert bill.dollars == pytest.approx(bill.seconds / 3600 * HOURLY)
        assert sum(run.images for run in runs) == site.meter.attribution.images == answered
        assert bill.seconds >= 60 * starts - 1e-6
        assert [run.number for run in runs] == list(range(1, len(runs) + 1))
