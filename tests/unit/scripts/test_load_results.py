"""What a load test must reach, its timeline, its HTML report, and the comparison of two."""

import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from scripts.load import __main__ as command
from scripts.load.metrics import MAX_STEPS, FleetSample, LoadMetrics, LoadSummary, timeline
from scripts.load.report import nice_ticks, render_report
from scripts.load.runner import FleetWatch
from scripts.load.thresholds import MaxFailed, Thresholds, check_thresholds
from scripts.run.batch import AwsCost
from tests.support.waiting import ManualClock


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


def run_of(summary: LoadSummary, **settings: str) -> dict[str, Any]:
    fleet = (FleetSample(0.0, 0, 1, 20), FleetSample(1.0, 1, 0, 5))
    shown = replace(summary, fleet=fleet, settings=settings)
    run = {**asdict(shown), "dollars_per_1000_images": 0.05, "thresholds": []}
    read: dict[str, Any] = json.loads(json.dumps(run))
    return read


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


@pytest.mark.parametrize("pair", [False, True])
def test_a_report_has_plots_and_runs_nothing(pair: bool) -> None:
    run = run_of(summary_of(wrong=1, problem=HOSTILE), url=HOSTILE)
    page = render_report([(HOSTILE, run), ("second", run)] if pair else [(HOSTILE, run)])
    found = Elements(page)
    assert found.names.count("svg") == 5
    assert "script" not in found.names
    assert HOSTILE not in page
    outside = {"src", "href", "action", "onload", "onerror", "style"}
    assert not [name for name, _ in found.attributes if name in outside]
    assert "http:" not in re.sub(r"&lt;.*", "", page)


def test_a_test_whose_fleet_was_not_sampled_is_compared() -> None:
    run = run_of(summary_of())
    page = render_report([("before", run | {"fleet": []}), ("after", run)])
    assert Elements(page).names.count("svg") == 5


def test_a_report_without_a_request_says_so() -> None:
    page = render_report([("none", run_of(LoadMetrics().summary("classic", 3, 1.0)))])
    assert "Nothing was measured." in page


@pytest.mark.parametrize(
    ("after", "status"),
    [
        (summary_of(), 0),
        (summary_of(slow=1.15), 0),
        (summary_of(slow=1.3), 1),
        (summary_of(slow=0.5), 0),
        (summary_of(wrong=1), 1),
        (replace(summary_of(), images_per_second=0.8), 1),
        (replace(summary_of(), p95_s=None), 0),
    ],
)
def test_a_comparison_ends_with_status_1_if_the_second_is_worse(
    tmp_path: Path, after: LoadSummary, status: int
) -> None:
    for name, summary in (("a", summary_of()), ("b", after)):
        (tmp_path / f"{name}.json").write_text(json.dumps(run_of(summary, mode="classic", rate=f"{name}/s")))
    paths = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    report = tmp_path / "both.html"
    judged = CliRunner().invoke(command.load_test, ["compare", *paths, "--max-ratio", "1.2", "--report", str(report)])
    assert judged.exit_code == status, judged.output
    assert "The settings differ: rate: a/s, then b/s." in judged.output
    assert "rate: a/s, then b/s" in report.read_text()
    assert CliRunner().invoke(command.load_test, ["compare", *paths]).exit_code == 0


def test_a_file_that_is_no_load_test_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    other.write_text("[]")
    monkeypatch.setattr("sys.argv", ["load_test", "compare", str(other), str(other)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert f"{other} is not from ./scripts/load_test --json" in capsys.readouterr().err


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
    found = Reports(statuses, clock).next_report(clock.sleep)
    assert found is not None
    assert found["cost"] == cost


def test_a_system_without_a_fleet_has_no_report() -> None:
    clock = ManualClock()
    assert Reports([None], clock).next_report(clock.sleep) is None
