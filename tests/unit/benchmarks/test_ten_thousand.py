from dataclasses import replace

from benchmarks.in_browser import Tasks, Way
from benchmarks.report import Report
from benchmarks.ten_thousand import report_of

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
