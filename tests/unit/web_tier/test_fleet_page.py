"""The fleet page: rows of instances and the chart."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from core.fleet.models import FleetInstance, HistoryPoint
from core.messages import WorkerState
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
    ],
)
def test_a_worker_has_its_reported_state_and_is_marked_when_silent(
    shown: InstanceRow, state: str, heard: str, marked: bool
) -> None:
    assert (shown.state, shown.heard, shown.marked) == (state, heard, marked)


@pytest.mark.parametrize(
    ("shown", "images"),
    [
        (row(), "-"),
        (row(images=1_234, silence=1), "1,234"),
        (row(images=31, rate=2.444, silence=1), "31 (2.4/s)"),
        (row(images=31, rate=0.0, silence=1), "31"),
    ],
)
def test_a_row_has_images_and_their_rate(shown: InstanceRow, images: str) -> None:
    assert shown.images == images


def test_a_spot_instance_is_marked_beside_its_type() -> None:
    instance = FleetInstance(
        instance_id="i-0f3a",
        state="running",
        instance_type="c7a.large",
        zone="us-east-1a",
        launched_at=NOW,
        spot=True,
    )
    shown = InstanceRow.of(instance, NOW)
    assert (shown.instance_type, shown.market, row().market) == ("c7a.large", "Spot", "")


def test_ages_and_images_have_units() -> None:
    assert (row(age=72).age, row(images=1234).images, row().images) == ("72 s", "1,234", "-")
    assert row(age=-5).age == "1 s"
    assert [row(worker=state, silence=1).at_work for state in ("ready", "busy", "draining")] == [True, True, False]


def test_an_unhealthy_instance_has_the_reason_and_the_consequence() -> None:
    words = "no heartbeat for 2 min: checked again, then terminated"
    marked = FleetInstance(
        instance_id="i-1", state="running", instance_type="c7a.large", zone="us-east-1a",
        launched_at=NOW - timedelta(seconds=30), marked=words,
    )  # fmt: skip
    shown = InstanceRow.of(marked, NOW)
    assert (shown.state, shown.heard, shown.marked, shown.at_work) == ("stuck", words, True, False)


def point(minutes_ago: float, workers: int, queue: int) -> HistoryPoint:
    return HistoryPoint(at=NOW - timedelta(minutes=minutes_ago), workers=workers, queue=queue)


def test_lines_are_steps_from_edge_to_edge_each_on_its_own_scale() -> None:
    chart = Chart.of(WINDOWS["minutes"], [point(10, 0, 0), point(5, 2, 100), point(2.5, 1, 0)], point(0, 1, 0))
    assert chart.workers == "M36.0 190.0H360.0V12.0H522.0V101.0H684.0V101.0"
    assert chart.queue == "M36.0 190.0H360.0V12.0H522.0V190.0H684.0V190.0"
    assert chart.area == f"{chart.queue}V{BOTTOM}H36.0Z"


def test_the_chart_has_a_summary_for_screen_readers() -> None:
    chart = Chart.of(WINDOWS["hour"], [point(60, 0, 0), point(5, 3, 1_200)], point(0, 1, 0))
    assert chart.summary == "Last hour: at most 3 workers and 1,200 images in the queue; now 1 worker and 0 images."
    assert [label.text for label in chart.labels] == ["3", "0", "2,000", "0", "1 h ago", "now"]


def test_an_empty_history_is_a_line_at_zero() -> None:
    chart = Chart.of(WINDOWS["day"], [point(1440, 0, 0)], point(0, 0, 0))
    assert chart.workers == f"M{LEFT}.0 {BOTTOM}.0H{RIGHT}.0V{BOTTOM}.0"
    assert chart.gridlines[-1] == f"M{LEFT} {TOP}.0H{RIGHT}"


def test_the_script_gets_the_same_points() -> None:
    chart = Chart.of(WINDOWS["minutes"], [point(10, 1, 2)], point(0, 3, 4))
    at = round(NOW.timestamp() * 1000)
    assert json.loads(chart.samples) == [[at - 600_000, 1, 2], [at, 3, 4]]


@pytest.mark.parametrize(("most", "round_figure"), [(0, 1), (1, 1), (4, 5), (7, 10), (10, 10), (11, 20), (999, 1000)])
def test_scales_end_at_round_figures(most: int, round_figure: int) -> None:
    assert ceiling(most) == round_figure
