"""The fleet page: rows of instances, the chart, and how long the controller has not reported."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from core.fleet.models import FleetInstance, HistoryPoint
from core.messages import WorkerState
from tests.support.fleet import fleet_snapshot
from web_tier.controller_reports import MAX_AGE_SECONDS, ControllerReports
from web_tier.pages.fleet import BOTTOM, LEFT, RIGHT, TOP, WINDOWS, Chart, ceiling
from web_tier.pages.instances import BOOT_SECONDS, SILENT_SECONDS, InstanceRow

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def row(
    state: str = "running",
    *,
    age: float = 72,
    worker: WorkerState | None = None,
    silence: float | None = None,
    images: int | None = None,
    rate: float | None = None,
    spot: bool = False,
    marked: str | None = None,
) -> InstanceRow:
    instance = FleetInstance(
        instance_id="i-0f3a",
        state=state,
        instance_type="c7a.large",
        zone="us-east-1a",
        launched_at=NOW - timedelta(seconds=age),
        worker=worker,
        images=images,
        images_per_second=rate,
        heard_at=None if silence is None else NOW - timedelta(seconds=silence),
        spot=spot,
        marked=marked,
    )
    return InstanceRow.of(instance, NOW)


@pytest.mark.parametrize(
    ("shown", "state", "heard", "marked"),
    [
        (row("pending", age=5), "starts", "not yet", False),
        (row(age=40), "boots", "not yet", False),
        (row(age=BOOT_SECONDS + 60), "silent", "none for 3 min", True),
        (row(worker="ready", silence=0.4), "ready", "just now", False),
        (row(worker="busy", silence=9), "busy", "9 s ago", False),
        (row(worker="draining", silence=9), "draining", "9 s ago", False),
        (row(worker="busy", silence=SILENT_SECONDS + 10), "silent", "none for 40 s", True),
        (row(worker=None, silence=2, images=1), "busy", "2 s ago", False),
        (row(worker="ended", silence=1), "ended", "1 s ago", False),
        (row("stopping", worker="busy", silence=90), "stops", "90 s ago", False),
        (row("stopped", age=7200), "stopped", "not yet", False),
        (row(age=30, marked="no heartbeat: terminated"), "stuck", "no heartbeat: terminated", True),
    ],
)
def test_a_worker_has_its_reported_state_and_is_marked_when_silent(
    shown: InstanceRow, state: str, heard: str, marked: bool
) -> None:
    assert (shown.state, shown.heard, shown.marked) == (state, heard, marked)


UNHEALTHY = "no heartbeat for 2 min: checked again, then terminated"


@pytest.mark.parametrize(
    ("shown", "field", "value"),
    [
        (row(age=72), "age", "72 s"),
        (row(age=-5), "age", "1 s"),
        (row(), "images", "-"),
        (row(images=1_234, silence=1), "images", "1,234"),
        (row(images=31, rate=2.444, silence=1), "images", "31 (2.4/s)"),
        (row(images=31, rate=0.0, silence=1), "images", "31"),
        (row(), "market", ""),
        (row(spot=True), "market", "Spot"),
        (row(spot=True), "instance_type", "c7a.large"),
        (row(worker="ready", silence=1), "at_work", True),
        (row(worker="busy", silence=1), "at_work", True),
        (row(worker="draining", silence=1), "at_work", False),
        (row(age=30, marked=UNHEALTHY), "at_work", False),
    ],
)
def test_a_row_shows_age_images_market_and_work(shown: InstanceRow, field: str, value: object) -> None:
    assert getattr(shown, field) == value


def point(minutes_ago: float, workers: int, queue: int) -> HistoryPoint:
    return HistoryPoint(at=NOW - timedelta(minutes=minutes_ago), workers=workers, queue=queue)


def test_lines_are_steps_from_edge_to_edge_each_on_its_own_scale() -> None:
    chart = Chart.of(WINDOWS["minutes"], [point(10, 0, 0), point(5, 2, 100), point(2.5, 1, 0)], point(0, 1, 0))
    assert chart.workers == "M36.0 190.0H360.0V12.0H522.0V101.0H684.0V101.0"
    assert chart.queue == "M36.0 190.0H360.0V12.0H522.0V190.0H684.0V190.0"
    assert chart.area == f"{chart.queue}V{BOTTOM}H36.0Z"
    at = round(NOW.timestamp() * 1000)
    assert json.loads(chart.samples)[1:] == [[at - 300_000, 2, 100], [at - 150_000, 1, 0], [at, 1, 0]], "for scripts"


def test_the_chart_has_a_summary_for_screen_readers() -> None:
    chart = Chart.of(WINDOWS["hour"], [point(60, 0, 0), point(5, 3, 1_200)], point(0, 1, 0))
    assert chart.summary == "Last hour: at most 3 workers and 1,200 images in the queue; now 1 worker and 0 images."
    assert [label.text for label in chart.labels] == ["3", "0", "2,000", "0", "1 h ago", "now"]


def test_an_empty_history_is_a_line_at_zero() -> None:
    chart = Chart.of(WINDOWS["day"], [point(1440, 0, 0)], point(0, 0, 0))
    assert chart.workers == f"M{LEFT}.0 {BOTTOM}.0H{RIGHT}.0V{BOTTOM}.0"
    assert chart.gridlines[-1] == f"M{LEFT} {TOP}.0H{RIGHT}"


@pytest.mark.parametrize(("most", "round_figure"), [(0, 1), (1, 1), (4, 5), (7, 10), (10, 10), (11, 20), (999, 1000)])
def test_scales_end_at_round_figures(most: int, round_figure: int) -> None:
    assert ceiling(most) == round_figure


FIRST = fleet_snapshot(NOW, running=1, max_workers=5, peak_workers=1, billed_seconds=60, reason="one worker, enough")


@pytest.mark.parametrize("step", [timedelta(seconds=5), -timedelta(minutes=10)], ids=["onwards", "back"])
def test_a_controller_is_silent_since_its_last_report_was_read_whatever_its_clock_shows(step: timedelta) -> None:
    now = 1_000.0
    reports = ControllerReports(lambda: now)
    assert reports.silent_seconds(None) == 0
    assert reports.silent_seconds(FIRST) == 0
    now += 40
    assert reports.silent_seconds(FIRST) == 40
    following = FIRST.model_copy(update={"at": NOW + step})
    assert reports.silent_seconds(following) == 0
    now += 7
    assert reports.silent_seconds(following) == 7


@pytest.mark.parametrize(("seconds", "found"), [(-600, -600), (29, 0), (31, 31)])
def test_the_difference_of_the_clocks_is_known_once_a_report_replaces_another(seconds: int, found: int) -> None:
    seconds_passed, ahead = 0.0, timedelta(seconds=seconds)
    reports = ControllerReports(lambda: seconds_passed, lambda: NOW + timedelta(seconds=seconds_passed))

    def report() -> timedelta:
        at = NOW + timedelta(seconds=seconds_passed) + ahead
        reports.silent_seconds(FIRST.model_copy(update={"at": at}))
        return reports.ahead

    assert report() == timedelta(), "it may be old"
    seconds_passed = MAX_AGE_SECONDS + 1
    assert report() == timedelta(), "it may be old"
    seconds_passed += MAX_AGE_SECONDS
    assert report() == timedelta(seconds=found)
    ahead = timedelta()
    seconds_passed += 5
    assert report() == timedelta()
