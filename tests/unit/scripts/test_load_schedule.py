"""An open loop: when images are sent, from when their latency counts, and what the options refuse."""

import threading
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from scripts.load import command
from scripts.load.clients import ClassicClient
from scripts.load.inputs import LoadImages, LoadTarget
from scripts.load.metrics import LoadMetrics
from scripts.load.runner import LoadTest
from scripts.load.schedule import LATE_SECONDS, Pacer, ScheduleError, parse_rate, parse_seconds, steady
from tests.support.clocks import ManualClock

HERE = LoadTarget("http://127.0.0.1:8000", "127.0.0.1", 8000)


@given(rate=st.floats(0.1, 500), count=st.integers(1, 500))
def test_a_rate_spaces_its_images_evenly_from_the_begin(rate: float, count: int) -> None:
    first, *others = steady(rate, count)
    assert (first, len(others)) == (0, count - 1)
    gaps = [after - before for before, after in pairwise([first, *others])]
    assert gaps == pytest.approx([1 / rate] * len(gaps))


@pytest.mark.parametrize(
    ("text", "rate"), [("50", 50), ("50/s", 50), ("3000/min", 50), ("1800/h", 0.5), ("2.5/s", 2.5)]
)
def test_a_rate_has_a_unit(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("250ms", 0.25), ("2min", 120), ("1h", 3_600)]
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "fast", "-3", "5/day", "nan", "inf", "1e3"])
def test_an_invalid_rate_or_duration_is_rejected(text: str) -> None:
    with pytest.raises(ScheduleError, match="write one such as"):
        parse_rate(text)
    with pytest.raises(ScheduleError, match="write one such as"):
        parse_seconds(text)


def test_each_image_waits_for_its_moment() -> None:
    clock, stopped = ManualClock(100), threading.Event()
    pacer = Pacer([0, 5, 9], stopped, clock, clock.sleep)
    started = []
    for moment in pacer:
        assert pacer.hold(moment)
        started.append(clock())
    assert (started, pacer.late) == ([100, 105, 109], 0)


def test_a_request_that_starts_late_is_counted_with_the_delay() -> None:
    clock = ManualClock()
    pacer = Pacer([1, 2, 3], threading.Event(), clock, clock.sleep)
    moments = list(pacer)
    clock.sleep(2 + LATE_SECONDS / 2)
    for moment in moments:
        pacer.hold(moment)
    assert pacer.late == 1
    assert pacer.latest_seconds == pytest.approx(1 + LATE_SECONDS / 2)


def test_a_stopped_load_test_sends_nothing_more() -> None:
    stopped = threading.Event()
    pacer = Pacer([60], stopped, ManualClock(), lambda _seconds: stopped.set())
    assert [pacer.hold(moment) for moment in pacer] == [False]


def test_latency_counts_from_the_scheduled_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven images come at once, and one connection answers them one after the other."""
    clock = ManualClock(1_000)
    monkeypatch.setattr("time.monotonic", clock)

    def classify(
        client: ClassicClient, file: Path, images: LoadImages, metrics: LoadMetrics, scheduled: float | None = None
    ) -> None:
        assert scheduled is not None
        clock.sleep(1)
        metrics.record_time(clock() - scheduled)
        metrics.record_verdict("answered")

    monkeypatch.setattr(ClassicClient, "classify", classify)
    images = LoadImages([tmp_path / "a.jpg"], 7, {})
    load = LoadTest(HERE, "classic", 1, 5, [0.0] * 7)
    monkeypatch.setattr("scripts.load.runner.FleetWatch.read", lambda _watch: None)
    monkeypatch.setattr(
        "scripts.load.runner.Pacer", lambda arrivals, stopped, **_wait: Pacer(arrivals, stopped, clock, clock.sleep)
    )
    summary = load.run(images, threading.Event(), lambda _done: None)
    assert (summary.p50_s, summary.slowest_s) == (4, 7)
    assert (summary.late, summary.latest_s) == (6, 6)


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ("--rate 5/s --mode api", "--rate is for --mode classic"),
        ("--duration 5s", "--duration goes with --rate"),
        ("--rate 0", "must be more than 0"),
        ("--rate 5/s --duration 60s --count 3", "--duration sets the number of images: omit --count"),
        ("--rate 5000/s --duration 1h", "18,000,000 images: 1 to 100,000 are possible"),
        ("--rat 5", "Did you mean"),
        ("--json /no/such/folder/a.json", "cannot write /no/such/folder/a.json"),
        ("--report /", "it is a folder itself"),
        ("--max-failed many", "--max-failed"),
        ("--max-p95 fast", "write one such as 30s"),
    ],
)
def test_options_that_do_not_fit_are_named(arguments: str, reported: str) -> None:
    result = CliRunner().invoke(command.load_test, arguments.split())
    assert result.exit_code == 2
    assert reported in " ".join(result.output.replace("│", " ").split()), result.output
