"""`classify --watch`: new files are classified once they are complete, and results appended."""

import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from client.tests.support.results_api import Photos, ResultsApi, problem
from fleetsight_client.api import ApiClient
from fleetsight_client.classification import Classification, Summary
from fleetsight_client.folders import FoundFile
from fleetsight_client.journal import Journal
from fleetsight_client.retries import PatientCalls

Steps = Sequence[Callable[[], object]]
Watch = Callable[..., Summary]


@pytest.fixture
def watch(url: str, tmp_path: Path) -> Iterator[Watch]:
    """Watch a folder; each step is done in one of the pauses, and the last pause ends the watch."""
    client = ApiClient(url)

    def run(folder: Path, steps: Steps, out: str | None = str(tmp_path / "r.csv")) -> Summary:
        left = iter(steps)

        def wait(_seconds: float) -> bool:
            step = next(left, None)
            if step is not None:
                step()
            return step is None

        journal = Journal(tmp_path / "journal", (folder,))
        try:
            calls = PatientCalls(wait=wait)
            return Classification(client, journal, calls, (folder,), (), "watched", out=out).watch()
        finally:
            journal.close()

    yield run
    client.close()


def nothing() -> None:
    """Let a pause pass."""


def labels(tmp_path: Path) -> list[tuple[str, str]]:
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as lines:
        return [(row["path"], row["label"]) for row in csv.DictReader(lines)]


def test_new_files_join_the_same_job_and_rows_are_appended(
    api: ResultsApi, watch: Watch, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"b.jpg": b"cat"})
    summary = watch(folder, [nothing, nothing, lambda: photos({"a.jpg": b"dog"}), nothing, nothing])
    assert labels(tmp_path) == [("b.jpg", "cat"), ("a.jpg", "dog")]
    assert (summary.total, summary.ok, len(api.jobs)) == (2, True, 1)


def test_a_file_that_still_grows_waits_until_it_is_complete(
    api: ResultsApi, watch: Watch, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"a.jpg": b"c"})
    grow = [lambda: photos({"a.jpg": b"ca"}), lambda: photos({"a.jpg": b"cat"})]
    watch(folder, [*grow, nothing, nothing])
    assert labels(tmp_path) == [("a.jpg", "cat")]
    assert api.names == {"a.jpg": 1}


def test_a_closed_job_is_followed_by_another(api: ResultsApi, watch: Watch, photos: Photos, tmp_path: Path) -> None:
    folder = photos({"a.jpg": b"cat"})

    def expire() -> None:
        api.jobs.clear()
        photos({"b.jpg": b"dog"})

    watch(folder, [nothing, nothing, expire, nothing, nothing])
    assert labels(tmp_path) == [("a.jpg", "cat"), ("b.jpg", "dog")]
    assert len(api.jobs) == 1


def test_files_that_no_job_took_are_sent_in_the_next_round(
    api: ResultsApi, watch: Watch, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"a.jpg": b"cat"})
    closed = partial(problem, 409, "the job was cancelled", "job-cancelled")
    api.faults = [closed, closed]
    watch(folder, [nothing, nothing, nothing])
    assert labels(tmp_path) == [("a.jpg", "cat")]
    assert api.names == {"a.jpg": 1}


def test_a_resumed_watch_repeats_no_row(api: ResultsApi, watch: Watch, photos: Photos, tmp_path: Path) -> None:
    folder = photos({"a.jpg": b"cat"})
    watch(folder, [nothing, nothing])
    with (tmp_path / "r.csv").open("a") as file:
        file.write("half a row of a command that was killed")
    photos({"b.jpg": b"dog"})
    watch(folder, [nothing, nothing])
    assert labels(tmp_path) == [("a.jpg", "cat"), ("b.jpg", "dog")]
    assert api.names == {"a.jpg": 1, "b.jpg": 1}


@pytest.mark.parametrize("first", [None, "-", "other.csv"])
def test_a_resumed_watch_with_another_file_writes_all_rows(
    watch: Watch, photos: Photos, tmp_path: Path, first: str | None
) -> None:
    folder = photos({"a.jpg": b"cat"})
    (tmp_path / "r.csv").write_text("of another command")
    watch(folder, [nothing, nothing], out=str(tmp_path / first) if first == "other.csv" else first)
    watch(folder, [nothing, nothing])
    assert labels(tmp_path) == [("a.jpg", "cat")]


def test_rows_begin_a_new_file_after_the_file_of_results_was_moved(
    watch: Watch, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"a.jpg": b"cat"})

    def move() -> None:
        (tmp_path / "r.csv").rename(tmp_path / "yesterday.csv")
        photos({"b.jpg": b"dog"})

    watch(folder, [nothing, nothing, move, nothing, nothing])
    assert labels(tmp_path) == [("b.jpg", "dog")]


def test_a_search_that_finds_nothing_new_writes_no_file_again(tmp_path: Path) -> None:
    journal, log = Journal(tmp_path / "journal", (tmp_path,)), tmp_path / "journal-wal"
    found = [FoundFile(0, b"%d.jpg" % number, 10, 1) for number in range(1_000)]
    assert [journal.list_stable_files(found) for _ in range(4)] == [0, 1_000, 0, 0]
    before = log.stat().st_size
    assert journal.list_stable_files(found) == 0
    assert log.stat().st_size - before < 10_000, "some pages, however many files there are"
    journal.close()
