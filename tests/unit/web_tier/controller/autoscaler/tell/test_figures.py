"""The line that the log has of the fleet each minute."""

import logging
from dataclasses import replace

import pytest

from core.logs import JsonFormatter
from scripts.aws.deploy.idle_cost import LOG_LINE_BYTES
from services.sqs import QueueCounts
from tests.support.controller import Clock, instance
from tests.unit.web_tier.controller.autoscaler.decide.test_decide import limits
from tests.unit.web_tier.controller.autoscaler.tell.test_board import PAUSE
from web_tier.controller.autoscaler.observe.demand import Demand
from web_tier.controller.autoscaler.observe.meter import BillingMeter
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.autoscaler.tell.figures import EVERY_SECONDS, Figures, figures_of

SEEN = Observation(
    QueueCounts(7, 2, 1),
    4,
    (instance("i-1"), instance("i-2", "stopped")),
    frozenset({"i-3"}),
    demand=Demand(((31.27, 5), (4.0, 3))),
)


def test_the_line_says_how_the_fleet_stands() -> None:
    assert figures_of(SEEN, limits(), BillingMeter(60)) == {
        "workers": 2,
        "maximum": 19,
        "at_maximum": 0,
        "waiting": 8,
        "in_flight": 2,
        "dead_letters": 4,
        "oldest_seconds": 31.3,
        "paused": 0,
        "answered": 0,
        "dollars": 0.0,
    }


def test_the_fleet_is_at_its_maximum_when_it_may_not_grow_and_images_wait() -> None:
    there_may_be_two = limits(max_workers=2)
    assert figures_of(SEEN, there_may_be_two, BillingMeter(60))["at_maximum"] == 1
    nothing_waits = replace(SEEN, requests=QueueCounts(0, 2, 0))
    assert figures_of(nothing_waits, there_may_be_two, BillingMeter(60))["at_maximum"] == 0


def test_a_pause_and_an_empty_queue_are_figures_too() -> None:
    resting = replace(SEEN, requests=QueueCounts(0, 0, 0), demand=Demand(), paused=PAUSE)
    figures = figures_of(resting, limits(), BillingMeter(60))
    assert (figures["oldest_seconds"], figures["paused"]) == (0.0, 1)


def test_there_is_one_line_a_minute_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    figures, meter = Figures(clock), BillingMeter(60)
    with caplog.at_level(logging.INFO):
        figures.look(SEEN, limits(), meter)
        assert len(caplog.records) == 1  # the first look of a shift is told of at once
        for _ in range(600):
            clock.now += 1
            figures.look(SEEN, limits(), meter)
    assert len(caplog.records) == 1 + 600 / EVERY_SECONDS
    assert {record.getMessage() for record in caplog.records} == {"fleet"}
    # CloudWatch counts 26 bytes more for each line. What it costs at rest follows.
    assert len(JsonFormatter("controller").format(caplog.records[0])) + 26 <= LOG_LINE_BYTES
