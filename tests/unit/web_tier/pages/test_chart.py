"""The chart that the server draws."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from core.fleet.models import HistoryPoint
from web_tier.pages.chart import BOTTOM, LEFT, RIGHT, TOP, WINDOWS, Chart, ceiling

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def point(minutes_ago: float, workers: int, queue: int) -> HistoryPoint:
    return HistoryPoint(at=NOW - timedelta(minutes=minutes_ago), workers=workers, queue=queue)


def test_lines_are_steps_from_edge_to_edge_each_on_its_own_scale() -> None:
    chart = Chart.of(WINDOWS["minutes"], [point(10, 0, 0), point(5, 2, 100), point(2.5, 1, 0)], point(0, 1, 0))
    assert chart.workers == "M36.0 190.0H360.0V12.0H522.0V101.0H684.0V101.0"
    assert chart.queue == "M36.0 190.0H360.0V12.0H522.0V190.0H684.0V190.0"
    assert chart.area == f"{chart.queue}V{BOTTOM}H36.0Z"


def test_it_says_in_words_what_it_shows() -> None:
    chart = Chart.of(WINDOWS["hour"], [point(60, 0, 0), point(5, 3, 1_200)], point(0, 1, 0))
    assert chart.words == "Last hour: at most 3 workers and 1,200 images in the queue; now 1 worker and 0 images."
    assert [label.words for label in chart.labels] == ["3", "0", "2,000", "0", "1 h ago", "now"]


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
