"""What runs of a whole system are held to: memory, every file accounted for, throughput after a kill."""

from dataclasses import replace

import pytest

from benchmarks.end_to_end import memory_report
from benchmarks.recovery import seconds_down
from benchmarks.report import Report
from benchmarks.running import Measured
from benchmarks.ten_thousand import Tasks, Way, report_of

BATCH = Measured(
    images=1_000,
    right=1_000,
    seconds=4.0,
    latency_s=[1.0],
    cpu_ms={},
    resident_mb={"web": 90.0, "controller": 80.0, "worker": 100.0, "cloud": 200.0},
    peak_mb={},
    growth={},
    others_cores=0.0,
)


def test_growth_is_counted_from_the_end_of_the_first_batch() -> None:
    later = replace(BATCH, resident_mb={"web": 99.0, "controller": 100.0, "worker": 100.0, "cloud": 210.0})
    report = memory_report([BATCH, replace(BATCH, resident_mb=dict.fromkeys(BATCH.resident_mb, 500.0)), later])
    grown = {bar.what.partition(":")[0]: (bar.value, bar.ok) for bar in report.bars}
    assert grown == {
        "web": (pytest.approx(1.1), True),
        "controller": (1.25, False),
        "worker": (1.0, True),
        "cloud": (1.05, True),
    }
    assert report.figures["images"] == 3_000
    assert report.figures["cloud_kept_kb_an_image"] == pytest.approx(5.12)
    assert report.figures["batch_2_web_mb"] == 500.0


WAY = Way(images=1_000, right=995, answered=1_000, refused=0, seconds=10.0, web_peak_mb=120.0)
TASKS = {"uploading": 310.0, "finished": 60.0}


def missed(report: Report) -> list[str]:
    return [bar.what for bar in report.bars if not bar.ok]


def test_a_run_of_which_everything_is_known_holds_every_bar() -> None:
    report = report_of(WAY, replace(WAY, seconds=20.0), 200.0, TASKS, 12.0)
    assert missed(report) == []
    assert report.figures["browser_to_api_ratio"] == 0.5
    assert report.figures["api_to_bare_ratio"] == 0.5
    assert report.figures["longest_task_uploading_ms"] == 310.0


def test_a_file_that_was_refused_is_accounted_for_and_one_without_a_result_is_not() -> None:
    assert missed(report_of(WAY, replace(WAY, answered=999, refused=1), 200.0, TASKS, 0.0)) == []
    assert missed(report_of(WAY, replace(WAY, answered=999), 200.0, TASKS, 0.0)) == [
        "browser: files of which nothing is known in the end"
    ]


def test_wrong_labels_memory_and_a_page_that_hangs_miss_their_bars() -> None:
    report = report_of(replace(WAY, right=900), replace(WAY, web_peak_mb=301.0), 200.0, {"finished": 201.0}, 0.0)
    assert missed(report) == [
        "api: images with their true label, share",
        "browser: most memory of a web process, MiB",
        "the finished job's page: longest task while it scrolls, ms",
    ]


def test_tasks_count_for_what_is_going_on() -> None:
    tasks = Tasks()
    tasks.enter("uploading")
    for duration in (60.0, 90.0, 70.0):
        tasks.hear("/", duration)
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
