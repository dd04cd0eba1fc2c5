"""What a load test must reach, its timeline and its HTML report."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.load.metrics import MAX_STEPS, FleetSample, LoadMetrics, LoadSummary, timeline
from scripts.load.report import nice_ticks, render_report
from scripts.load.runner import FleetWatch
from scripts.load.thresholds import MaxFailed, Thresholds, check_thresholds
from scripts.run.batch import AwsCost
from tests.support.clocks import ManualClock


def summary_of(slow: float = 1.0, wrong: int = 0, problem: str = "") -> LoadSummary:
    """Return the summary of 100 images in 100 s, whose requests took up to `slow` seconds."""
    clock = ManualClock()
    metrics = LoadMetrics(clock=clock)
    for number in range(100):
        clock.sleep(1)
        metrics.record_time(slow * (number + 1) / 100)
    metrics.record_verdict("right", images=100 - wrong)
    metrics.record_verdict("wrong", problem, images=wrong)
    return metrics.summary("classic", 100, 100.0, AwsCost(100, 0.004, 0.001), ended=100)


@pytest.mark.parametrize(
    ("limits", "missed"),
    [
        (Thresholds(), []),
        (Thresholds(max_p50=0.5, max_p95=0.95, max_p99=0.99, min_rate=1.0, max_dollars_per_1000=0.05), []),
        (Thresholds(max_p95=0.9), ["p95 at most 0.9 s"]),
        (Thresholds(min_rate=2), ["images/s at least 2"]),
        (Thresholds(max_dollars_per_1000=0.04), ["1,000 images at most $0.040"]),
    ],
)
def test_a_threshold_is_reached_or_missed(limits: Thresholds, missed: list[str]) -> None:
    results = check_thresholds(summary_of(), limits)
    assert [result.limit for result in results if not result.is_reached] == missed


@pytest.mark.parametrize(
    ("limit", "wrong", "reached"),
    [
        (MaxFailed(), 0, True),
        (MaxFailed(), 1, False),
        (MaxFailed(2), 2, True),
        (MaxFailed(2), 3, False),
        (MaxFailed(0.02, True), 2, True),
        (MaxFailed(0.02, True), 3, False),
    ],
)
def test_so_many_images_may_be_wrong(limit: MaxFailed, wrong: int, reached: bool) -> None:
    [result] = check_thresholds(summary_of(wrong=wrong), Thresholds(max_failed=limit))
    assert result.is_reached is reached


def test_a_figure_that_was_not_measured_does_not_reach_its_threshold() -> None:
    nothing = LoadMetrics().summary("classic", 0, 1.0)
    limits = Thresholds(max_p95=5, max_dollars_per_1000=5)
    assert [result.is_reached for result in check_thresholds(nothing, limits)] == [True, False, False]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), max_size=200))
def test_the_timeline_has_each_request_once(requests: list[tuple[float, float]]) -> None:
    steps = timeline([7 + moment for moment, _ in requests], [taken for _, taken in requests], 7, 100)
    assert sum(step.requests for step in steps) == len(requests)
    assert len(steps) <= MAX_STEPS
    assert [step.second for step in steps] == sorted({step.second for step in steps})
    assert max((step.slowest_s for step in steps), default=0.0) == pytest.approx(
        max((taken for _, taken in requests), default=0.0), abs=1e-4
    )


@given(st.floats(1e-6, 1e9))
def test_ticks_reach_the_highest_value(highest: float) -> None:
    ticks = nice_ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-6)
    assert 2 <= len(ticks) <= 7


HOSTILE = """<script>alert(1)</script>"'&"""


class Elements(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


def test_a_report_has_plots_and_runs_nothing() -> None:
    fleet = (FleetSample(0.0, 0, 1, 20), FleetSample(1.0, 1, 0, 5))
    summary = replace(summary_of(wrong=1, problem=HOSTILE), fleet=fleet, settings={"url": HOSTILE})
    page = render_report(summary, check_thresholds(summary, Thresholds(max_p95=0.9)))
    found = Elements(page)
    assert found.names.count("svg") == 5
    assert "script" not in found.names
    assert HOSTILE not in page
    outside = {"src", "href", "action", "onload", "onerror", "style"}
    assert not [name for name, _ in found.attributes if name in outside]
    assert "http:" not in re.sub(r"&lt;.*", "", page)
    assert re.search(r"p95 at most 0.9 s</th><td>0.950 s</td>\s*<td class=\"bad\">missed", page)
    assert "<th>images/s</th><td>1.0</td>" in page


def test_a_report_of_a_test_whose_fleet_was_not_sampled_says_so() -> None:
    page = render_report(summary_of(), ())
    assert "<strong>Passed: all " in page
    assert Elements(page).names.count("svg") == 3
    assert page.count("Nothing was measured.") == 2


class Reports(FleetWatch):
    """A fleet with these statuses, the last one for good."""

    def __init__(self, statuses: list[dict[str, Any] | None], clock: ManualClock) -> None:
        super().__init__(None, clock)  # type: ignore[arg-type]
        self.statuses = statuses

    def read(self) -> dict[str, Any] | None:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@pytest.mark.parametrize(
    ("reported", "cost"),
    [
        ([(1, 5), (1, 5), (2, 8), (3, 9)], 8),
        ([(1, 5)], 5),
        ([(1, 5), None, (2, 8)], 8),
    ],
    ids=["the next one", "the controller is silent", "a call fails"],
)
def test_the_cost_is_of_a_report_after_the_test(reported: list[tuple[int, int] | None], cost: int) -> None:
    clock = ManualClock()
    statuses = [None if each is None else {"at": each[0], "cost": each[1]} for each in reported]
    found = Reports(statuses, clock).next_report()
    assert found is not None
    assert found["cost"] == cost


def test_a_system_without_a_fleet_has_no_report() -> None:
    clock = ManualClock()
    assert Reports([None], clock).next_report() is None
