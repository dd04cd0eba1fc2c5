from pathlib import Path

import numpy as np
import pytest

from simulator.traces import (
    NYS_HOURS,
    TWITTER_HOURS,
    TraceError,
    bursts,
    day,
    flash_crowd,
    from_csv,
    named,
)

CAPACITY = 19 / 1.5


def dispersion(arrivals: np.ndarray[tuple[int], np.dtype[np.float64]], seconds: float, window: float) -> float:
    """Return the variance ÷ the mean of the counts in windows."""
    counts, _ = np.histogram(arrivals, np.arange(0, seconds + 1, window))
    return float(np.var(counts) / np.mean(counts))


def test_a_flash_crowd_grows_tenfold_within_a_minute() -> None:
    arrivals = flash_crowd(CAPACITY, seed=1).arrivals
    before, after = (((arrivals >= begin) & (arrivals < begin + 400)).sum() / 400 for begin in (200, 660))
    assert after / before == pytest.approx(10, rel=0.15)
    assert after == pytest.approx(0.8 * CAPACITY, rel=0.05)


@pytest.mark.parametrize(("hours", "name"), [(NYS_HOURS, "NYS day"), (TWITTER_HOURS, "Twitter day")])
def test_a_day_follows_its_hours_and_asks_for_four_fifths_of_the_fleet_at_most(
    hours: tuple[float, ...], name: str
) -> None:
    trace = day(name, hours, CAPACITY, seed=2)
    counts, _ = np.histogram(trace.arrivals, np.arange(25) * 3_600.0)
    assert counts.max() / 3_600 == pytest.approx(0.8 * CAPACITY, rel=0.02)
    assert counts / counts.sum() == pytest.approx(np.array(hours) / sum(hours), rel=0.1)


def test_arrivals_within_an_hour_are_poisson() -> None:
    trace = day("flat", [1.0], CAPACITY, seed=3)
    assert dispersion(trace.arrivals, 3_600, 10) == pytest.approx(1.0, abs=0.2)


def test_the_bursts_of_mmpp_are_far_from_poisson() -> None:
    trace = bursts(CAPACITY, seed=5)
    assert dispersion(trace.arrivals, 7_200, 60) > 20
    assert np.all(np.diff(trace.arrivals) >= 0)


@pytest.mark.parametrize("name", named(CAPACITY))
def test_a_trace_is_the_same_for_the_same_seed_and_within_its_length(name: str) -> None:
    make = named(CAPACITY)[name]
    one, again = make(7), make(7)
    assert np.array_equal(one.arrivals, again.arrivals)
    assert 0 <= one.arrivals[0] <= one.arrivals[-1] <= one.seconds


def test_a_csv_of_ones_own_is_sorted_and_begins_with_its_first_image(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("arrival,who\n12.5,a\n10,b\n\n14,c\n")
    trace = from_csv(file, deadline_seconds=30.0)
    assert trace.arrivals.tolist() == [0.0, 2.5, 4.0]
    assert (trace.name, trace.seconds, trace.deadline_seconds) == ("mine", 4.0, 30.0)


def test_a_csv_needs_no_heading(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("0\n1\n")
    assert from_csv(file).arrivals.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("at\n1\nsoon\n", "line 3: 'soon' is not a time"),
        ("1\nnan\n", "line 2: 'nan' is not a time"),
        ("at\n", "has no arrivals"),
        ("", "has no arrivals"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(TraceError, match=message):
        from_csv(file)


def test_a_missing_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot read the trace .*none\.csv"):
        from_csv(tmp_path / "none.csv")
