"""What benchmarks measure: latencies, steady windows, other work on the machine, and runs of a whole system."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.end_to_end import bars_of, draw
from benchmarks.fleet_runs import LocalRun, local_report
from benchmarks.growth import Job, enlarged, growth_report
from benchmarks.measure import CpuSample, Window, latencies, percentile, result_moments, steady, used, watch_others
from benchmarks.recovery import seconds_down
from benchmarks.report import Report
from benchmarks.running import Measured
from benchmarks.ten_thousand import Tasks, Way, report_of


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (95, 95), (99, 99), (100, 100), (0.5, 1)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == value


def test_the_percentiles_of_one_value_are_that_value() -> None:
    assert percentile([0.7], 50) == percentile([0.7], 99) == 0.7


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


SAMPLES = [CpuSample(10.0, {"worker": 1.0}), CpuSample(12.0, {"worker": 2.0}), CpuSample(14.0, {"worker": 4.0})]


def sends(count: int, of: int = 10, every: float = 0.1) -> list[float]:
    """Return the moments of `count` sends of ten results, which are stamped within two milliseconds."""
    return [100 + every * send + 0.0002 * place for send in range(count) for place in range(of)]


def test_steady_results_give_their_true_speed() -> None:
    window = steady(sends(40))
    assert window.images / window.seconds == pytest.approx(100)


def test_a_slow_start_and_a_slow_end_do_not_count() -> None:
    moments = sends(40)
    late_end = [*moments[:-10], *(moment + 5 for moment in moments[-10:])]
    early_start = [*(moment - 5 for moment in late_end[:10]), *late_end[10:]]
    assert steady(early_start) == steady(moments)


def test_the_window_begins_and_ends_after_a_whole_send() -> None:
    window = steady(sends(11, of=8))
    assert window.images % 8 == 0


def test_the_order_in_which_results_are_read_changes_nothing() -> None:
    assert steady(sends(20)[::-1]) == steady(sends(20))


def test_too_few_results_have_no_steady_state() -> None:
    with pytest.raises(ValueError, match="take more images"):
        steady(sends(1))


def test_what_was_used_between_two_samples_counts_evenly() -> None:
    assert used(SAMPLES, "worker", Window(11.0, 13.0, 1)) == pytest.approx(1.5)
    assert used(SAMPLES, "worker", Window(10.0, 14.0, 1)) == pytest.approx(3.0)


def test_a_window_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no sample"):
        used(SAMPLES, "worker", Window(9.0, 13.0, 1))


BATCH = Measured(
    images=1_000,
    right=1_000,
    seconds=4.0,
    first_result_s=1.0,
    latency_s=[1.0],
    cpu_ms={},
    resident_mb={"web": 90.0, "controller": 80.0, "worker": 100.0, "cloud": 200.0},
    peak_mb={},
    growth={},
    others_cores=0.0,
)


def test_the_cost_of_an_image_and_memory_are_compared_with_those_of_the_smaller_job() -> None:
    small = replace(BATCH, cpu_ms={"web": 1.0, "controller": 1.0, "worker": 2.0, "cloud": 1.0})
    slow = replace(small, images=10_000, seconds=60.0, resident_mb=dict.fromkeys(BATCH.resident_mb, 500.0))
    large = replace(slow, images=100_000, seconds=600.0, cpu_ms={**small.cpu_ms, "worker": 3.0})
    large = replace(large, resident_mb={"web": 99.0, "controller": 100.0, "worker": 100.0, "cloud": 750.0})
    report = growth_report([Job(small, 0.02), Job(slow, 0.02), Job(large, 0.05)])
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
        first_result_s=batch.first_result_s * times,
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


def test_a_fitting_fleet_must_not_be_slower_or_larger_than_one_of_nineteen() -> None:
    small, large = LocalRun(SENT, 200.0), LocalRun(slowed(SENT, 2), 1_600.0)
    report = local_report({("fitting", 1_000): small, ("nineteen", 1_000): large}, bare=500.0)
    assert [bar.value for bar in report.bars] == [2.0, 0.5, 0.125]
    assert missed(report) == []
    assert report.figures["fitting_1000_to_bare_ratio"] == 0.5
    swapped = local_report({("fitting", 1_000): large, ("nineteen", 1_000): small}, bare=500.0)
    assert [bar.ok for bar in swapped.bars] == [False, False, False]


WAY = Way(images=1_000, right=995, answered=1_000, refused=0, seconds=10.0, web_peak_mb=120.0)
TASKS = {"uploading": 310.0, "finished": 60.0}


def missed(report: Report) -> list[str]:
    return [bar.what for bar in report.bars if not bar.ok]


def test_a_run_of_which_everything_is_known_holds_every_bar() -> None:
    report = report_of(WAY, replace(WAY, seconds=20.0), 200.0, TASKS, 12.0, 50.0)
    assert missed(report) == []
    assert report.figures["browser_to_api_ratio"] == 0.5
    assert report.figures["api_to_bare_ratio"] == 0.5
    assert report.figures["longest_task_uploading_ms"] == 310.0


def test_a_file_that_was_refused_is_accounted_for_and_one_without_a_result_is_not() -> None:
    assert missed(report_of(WAY, replace(WAY, answered=999, refused=1), 200.0, TASKS, 0.0, 50.0)) == []
    assert missed(report_of(WAY, replace(WAY, answered=999), 200.0, TASKS, 0.0, 50.0)) == [
        "browser: files of which nothing is known in the end"
    ]


def test_wrong_labels_memory_and_a_page_that_hangs_miss_their_bars() -> None:
    report = report_of(
        replace(WAY, right=900), replace(WAY, web_peak_mb=301.0), 200.0, {"finished": 201.0}, 0.0, 50.0
    )
    assert missed(report) == [
        "api: images with their true label, share",
        "browser: most memory of a web process, MiB: a bound of size",
        "the finished job's page: longest task while it scrolls ÷ layout of a list of 5,000 lines",
    ]


def test_tasks_count_for_what_is_going_on() -> None:
    tasks = Tasks()
    tasks.enter("uploading")
    for duration in (60.0, 90.0, 70.0):
        tasks.record("/", duration)
    tasks.enter("finished")
    assert tasks.longest == {"uploading": 90.0, "finished": 0.0}


LEVEL = 20.0
STEADY = [(moment / 10, 2 * moment) for moment in range(1, 200)]
"""Two results every tenth of a second; the kill is at 5 s, with 100 results."""


def kept(until: float, since: float, late: float = 0.0) -> list[tuple[float, int]]:
    """Steady results without those between two moments; what is missing comes `late` seconds after the second."""
    missing = sum(2 for moment, _ in STEADY if until < moment <= since)
    return [
        (moment, results if moment <= until or moment >= since + late else results - missing)
        for moment, results in STEADY
        if not until < moment <= since
    ]


def test_results_that_come_as_before_were_never_down() -> None:
    assert seconds_down(STEADY, 5.0, 100, LEVEL) == 0.0
    assert seconds_down(kept(5.0, 5.4), 5.0, 100, LEVEL) == 0.0


@pytest.mark.parametrize("late", [0.0, 3.0, 60.0])
def test_throughput_is_back_when_results_come_again_whenever_the_missing_ones_follow(late: float) -> None:
    assert seconds_down(kept(5.0, 8.0, late), 5.0, 100, LEVEL) == pytest.approx(3.1)


def test_results_at_half_the_level_are_down() -> None:
    half = [(moment, results if moment <= 5.0 else 100 + (results - 100) // 2) for moment, results in STEADY]
    assert seconds_down(half, 5.0, 100, LEVEL) > 10
