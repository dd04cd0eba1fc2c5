"""What the fleet has cost, and its peak."""

from datetime import timedelta

import pytest

from core.cost import Bill
from core.messages import FleetSnapshot
from services.sqs import QueueCounts
from tests.support.controller import EPOCH, Clock, instance
from web_tier.controller.autoscaler.observe.meter import BillingMeter
from web_tier.controller.autoscaler.observe.observe import Observation


def look(running: int, images: int = 0, *, pending: int = 0, first: int = 0) -> Observation:
    instances = [instance(f"i-{number}") for number in range(first, first + running)]
    instances += [instance(f"p-{number}", "pending") for number in range(pending)]
    return Observation(QueueCounts(images, 0, 0), 0, tuple(instances))


def snapshot(billed: float, peak: int, running: int = 0) -> FleetSnapshot:
    return FleetSnapshot(
        at=EPOCH,
        running=running,
        pending=0,
        visible=0,
        in_flight=0,
        min_workers=0,
        max_workers=19,
        peak_workers=peak,
        billed_seconds=billed,
        reason="",
    )


def figures(bill: Bill) -> tuple[float, float]:
    return bill.seconds, bill.dollars


def test_each_instance_is_billed_by_the_second_and_at_least_the_minimum() -> None:
    clock = Clock()
    meter = BillingMeter(60, clock=clock, now=lambda: EPOCH)
    meter.look(look(2))
    assert meter.billed_seconds == 120
    clock.now += 90
    meter.look(look(1))
    assert meter.billed_seconds == 180
    clock.now += 10
    meter.look(look(0))
    clock.now += 1000
    assert meter.billed_seconds == 90 + 100


def test_an_instance_that_ended_within_its_first_minute_has_cost_a_minute() -> None:
    clock = Clock()
    meter = BillingMeter(60, clock=clock, now=lambda: EPOCH)
    meter.look(look(1))
    clock.now += 5
    meter.look(look(0))
    assert meter.billed_seconds == 60


def test_a_stopped_instance_that_runs_again_is_billed_anew() -> None:
    clock = Clock()
    meter = BillingMeter(60, clock=clock, now=lambda: EPOCH)
    for running in (1, 0, 1, 0):
        meter.look(look(running))
    assert meter.billed_seconds == 120


def test_pending_instances_cost_nothing_but_count_for_the_peak() -> None:
    meter = BillingMeter(60, clock=Clock())
    meter.look(look(0, 100, pending=5))
    assert (meter.billed_seconds, meter.peak_workers) == (0, 5)


def test_the_peak_stays_until_a_new_batch_begins() -> None:
    meter = BillingMeter(60, clock=Clock(), now=lambda: EPOCH)
    peaks = []
    for seen in (look(0, 100), look(5, 100), look(2, 10), look(0), look(0, 20), look(1, 20)):
        meter.look(seen)
        peaks.append(meter.peak_workers)
    assert peaks == [0, 5, 5, 5, 0, 1]


def test_a_new_holder_continues_the_figures_of_the_last() -> None:
    clock = Clock()
    # One of two has run for 100 s, of which 90 were in the snapshot; 500 s had ended before.
    meter = BillingMeter(60, snapshot(590, peak=7, running=1), clock, lambda: EPOCH + timedelta(seconds=100))
    meter.look(look(1, 5))
    assert meter.billed_seconds == pytest.approx(590)
    assert meter.peak_workers == 7
    clock.now += 10
    assert meter.billed_seconds == pytest.approx(600)


def test_each_instance_costs_what_its_type_and_market_cost_and_a_new_holder_goes_on_with_that() -> None:
    clock, hourly = Clock(), {"i-0": 0.36, "i-1": 0.036}
    priced = BillingMeter(60, None, clock, lambda: EPOCH, lambda each: hourly[each.instance_id])
    priced.look(look(2))
    clock.now += 90
    priced.look(look(1))
    assert figures(priced.bill) == pytest.approx((180, 90 * 1e-4 + 90 * 1e-5))
    left = snapshot(180, peak=2, running=1).model_copy(update={"cost": priced.bill.dollars})
    successor = BillingMeter(
        60, left, clock, lambda: EPOCH + timedelta(seconds=90), lambda each: hourly[each.instance_id]
    )
    clock.now += 10
    successor.look(look(1))
    assert figures(successor.bill) == pytest.approx((180, 90 * 1e-4 + 90 * 1e-5))
    clock.now += 10
    assert successor.bill.dollars == pytest.approx(100 * 1e-4 + 90 * 1e-5)


def test_a_clock_that_is_ten_minutes_behind_ec2s_makes_no_duration_negative() -> None:
    clock = Clock()
    meter = BillingMeter(60, clock=clock, now=lambda: EPOCH - timedelta(minutes=10))
    meter.look(look(1))
    clock.now += 70
    meter.look(look(1))
    assert meter.billed_seconds == 70
