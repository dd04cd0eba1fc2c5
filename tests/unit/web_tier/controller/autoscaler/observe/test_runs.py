"""Runs of the fleet: what is billed from one rest to the next belongs to the images that are answered meanwhile."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.cost import share_of
from core.messages import BillingPeriod, FleetSnapshot
from services.sqs import QueueCounts
from tests.support.controller import EPOCH, Clock, instance
from web_tier.controller.autoscaler.observe.meter import BillingMeter
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.autoscaler.observe.runs import MAX_SECONDS, QUIET_SECONDS, Runs

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
        runs = Runs(before, clock=self.clock)
        self.meter = BillingMeter(60, before, self.clock, lambda: began, lambda _instance: HOURLY, runs)

    def look(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.clock.now += 1
            workers = tuple(instance(f"i-{number}") for number in range(self.workers))
            self.meter.look(Observation(QueueCounts(self.waiting, 0, 0), 0, workers))
            for run in self.meter.runs.to_keep():
                self.stored.append(run)
                self.meter.runs.kept(run)

    def snapshot(self) -> FleetSnapshot:
        bill = self.meter.bill
        return FleetSnapshot(
            at=EPOCH, running=self.workers, pending=0, visible=self.waiting, in_flight=0, min_workers=0,
            max_workers=19, peak_workers=0, billed_seconds=bill.seconds, cost=bill.dollars,
            images=self.meter.runs.images, run=self.meter.runs.current, reason="",
        )  # fmt: skip

    @property
    def run(self) -> BillingPeriod:
        assert self.meter.runs.current is not None
        return self.meter.runs.current


def test_a_job_alone_pays_boots_work_idle_time_and_the_minimum() -> None:
    site = Site()
    site.look(100)
    site.waiting = 50
    site.look(3)
    site.workers = 2
    site.look(10)
    number = site.meter.runs.answered(50)
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
    site.meter.runs.answered(5)
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
    assert (site.run.is_open, site.meter.runs.answered(5)) == (False, 1)
    site.look(600)
    assert site.meter.runs.answered(1) == 2
    site.look()
    assert [(run.number, run.images, run.is_open) for run in site.stored] == [(1, 5, False)]


def test_a_fleet_that_never_rests_begins_a_new_run_each_hour() -> None:
    site = Site()
    site.waiting, site.workers = 5, 1
    site.look(int(2.5 * MAX_SECONDS))
    assert [run.billed_seconds for run in site.stored] == [pytest.approx(MAX_SECONDS, abs=60)] * 2
    total = sum(run.billed_seconds for run in [*site.stored, site.run])
    assert total == pytest.approx(site.meter.billed_seconds)


def test_a_new_holder_goes_on_with_the_run_of_the_last() -> None:
    site = Site()
    site.waiting, site.workers = 100, 2
    site.look(80)
    site.meter.runs.answered(40)
    site.take_over(site.snapshot())
    site.look(80)
    site.meter.runs.answered(60)
    site.waiting = site.workers = 0
    site.look()
    assert (site.run.number, site.run.images, site.meter.runs.images) == (1, 100, 100)
    assert site.run.billed_seconds == pytest.approx(site.meter.billed_seconds)


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
            site.meter.runs.answered(answers)
            answered += answers
        site.look(seconds)
        if changes:
            site.take_over(site.snapshot())
            site.look()
        runs = [*site.stored, *([site.meter.runs.current] if site.meter.runs.current else [])]
        bill = site.meter.bill
        assert last <= bill.seconds + 1e-6
        last = bill.seconds
        assert sum(run.billed_seconds for run in runs) <= bill.seconds + 1e-6
        assert sum(run.cost for run in runs) <= bill.dollars + 1e-9
        assert bill.dollars == pytest.approx(bill.seconds / 3600 * HOURLY)
        assert sum(run.images for run in runs) == site.meter.runs.images == answered
        assert bill.seconds >= 60 * starts - 1e-6
        assert [run.number for run in runs] == list(range(1, len(runs) + 1))
