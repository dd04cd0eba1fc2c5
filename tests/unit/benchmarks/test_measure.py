"""What benchmarks measure: latencies, other work on the machine, and runs of a whole system."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.end_to_end import bars_of, draw
from benchmarks.growth import MeasuredJob, enlarged, growth_report
from benchmarks.measure import latencies, percentile, result_moments, watch_others
from benchmarks.running import Measured


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (95, 95), (99, 99), (100, 100), (0.5, 1)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == value


def test_a_result_is_as_old_as_the_first_sample_that_saw_it() -> None:
    assert result_moments([(1.0, 0), (2.0, 2), (3.0, 2), (4.0, 3)], 3) == [2.0, 2.0, 4.0]


def test_results_beyond_those_asked_for_do_not_count() -> None:
    assert result_moments([(1.0, 5)], 3) == [1.0, 1.0, 1.0]


def test_samples_that_miss_results_are_refused() -> None:
    with pytest.raises(ValueError, match="2 of 3 results"):
        result_moments([(1.0, 2)], 3)


def test_results_pair_with_images_in_order_of_acceptance() -> None:
    assert latencies([3.0, 1.0], [4.0, 6.0]) == [3.0, 3.0]


TICKS = os.sysconf("SC_CLK_TCK")


def stat(path: Path, user: float, idle: float) -> Path:
    """Write a ``/proc/stat`` of a machine that was busy and idle for so many seconds."""
    path.write_text(f"cpu  {int(user * TICKS)} 0 0 {int(idle * TICKS)} 0 0 0 0 0 0\ncpu0 1 2 3\n")
    return path


@pytest.mark.parametrize(("others", "trusted"), [(0.0, True), (1000.0, False)])
def test_a_machine_that_is_busy_with_something_else_is_not_trusted(
    others: float, trusted: bool, tmp_path: Path
) -> None:
    path = stat(tmp_path / "stat", 10, 10)
    with watch_others(path) as share:
        stat(path, 10 + others, 99)
    assert (share.ratio > 0) is not trusted
    assert share.trusted is trusted


BATCH = Measured(
    images=1_000,
    right=1_000,
    seconds=4.0,
    latency_s=[1.0],
    cpu_ms={},
    resident_mb={"web": 90.0, "controller": 80.0, "worker": 100.0, "cloud": 200.0},
    peak_mb={},
    others_cores=0.0,
)


def test_the_cost_of_an_image_and_memory_are_compared_with_those_of_the_smaller_job() -> None:
    small = replace(BATCH, cpu_ms={"web": 1.0, "controller": 1.0, "worker": 2.0, "cloud": 1.0})
    slow = replace(small, images=10_000, seconds=60.0, resident_mb=dict.fromkeys(BATCH.resident_mb, 500.0))
    large = replace(slow, images=100_000, seconds=600.0, cpu_ms={**small.cpu_ms, "worker": 3.0})
    large = replace(large, resident_mb={"web": 99.0, "controller": 100.0, "worker": 100.0, "cloud": 750.0})
    report = growth_report([MeasuredJob(small, 0.02), MeasuredJob(slow, 0.02), MeasuredJob(large, 0.05)])
    assert [(bar.value, bar.ok) for bar in report.bars] == [
        (pytest.approx(1.5), False),
        (1.0, True),
        (1.0, True),
        (pytest.approx(1.0), True),
        (1.25, False),
        (2.5, False),
        (pytest.approx(1.1), True),
        (1.25, False),
        (1.0, True),
        (3.75, False),
    ]
    assert report.figures["job_10000_web_mb"] == 500.0
    assert report.figures["job_100000_page_ms"] == 50.0
    assert report.figures["cloud_kept_kb_an_image"] == pytest.approx(5.12)


def test_no_two_files_of_an_enlarged_set_are_alike(tmp_path: Path) -> None:
    images = draw(tmp_path / "drawn", 3)
    larger = enlarged(images, 8, tmp_path / "larger")
    assert len({file.read_bytes() for file in larger.files}) == len(larger.truth) == 8
    assert {larger.truth[file.name] for file in larger.files} == set(images.truth.values())


def slowed(batch: Measured, times: float) -> Measured:
    """Return what `batch` would have been on a machine that is so many times slower."""
    return replace(
        batch,
        seconds=batch.seconds * times,
        latency_s=[seconds * times for seconds in batch.latency_s],
        cpu_ms={name: milliseconds * times for name, milliseconds in batch.cpu_ms.items()},
    )


SENT = replace(BATCH, cpu_ms={"web": 1.5, "controller": 0.5, "worker": 1.0, "cloud": 0.7})
COLD, AGAIN = replace(SENT, images=100, seconds=1.0, latency_s=[0.6]), replace(SENT, seconds=0.5)


@pytest.mark.parametrize("times", [0.2, 1.0, 5.0])
def test_a_slower_machine_holds_and_misses_the_same_bars_of_the_whole_system(times: float) -> None:
    cold, warm, again = (slowed(batch, times) for batch in (COLD, SENT, AGAIN))
    bars = bars_of({100: cold}, {1_000: warm}, again, bare=320 / times, bare_cpu_ms=2 * times)
    assert [bar.value for bar in bars] == pytest.approx([0.3125, 1.92, 0.78125, 1.5, 0.35, 8.0])
    assert {bar.ok for bar in bars} == {True}
    slow = bars_of({100: slowed(cold, 2)}, {1_000: slowed(warm, 2)}, again, bare=320 / times, bare_cpu_ms=2 * times)
    assert [bar.ok for bar in slow] == [False, False, False, False, False, True]
