"""`classify --watch`: new and replaced files are classified once they are complete, and results appended."""

import csv
import gc
import os
import sqlite3
import sys
import time
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from client.tests.support.results_api import Photos, ResultsApi, image_id_of, problem, result_of
from fleetsight_client import journal as journal_module
from fleetsight_client.api import ApiClient, RejectedError, RejectedFile
from fleetsight_client.classification import Summary
from fleetsight_client.display import words
from fleetsight_client.journal import Journal
from fleetsight_client.output import ResultRowsFile
from fleetsight_client.retries import PatientCalls, StoppedError
from fleetsight_client.rows import ResultRow
from fleetsight_client.watch import Watch

Steps = Sequence[Callable[[], object]]
RunWatch = Callable[..., Summary]


@pytest.fixture
def watch(url: str, tmp_path: Path) -> Iterator[RunWatch]:
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
            return Watch(client, journal, calls, (folder,), (), "watched", out=out).watch()
        finally:
            journal.close()

    yield run
    client.close()


def nothing() -> None:
    """Let a pause pass."""


def labels(tmp_path: Path) -> list[tuple[str, str]]:
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as lines:
        return [(row["filename"], row["label"]) for row in csv.DictReader(lines)]


def test_a_file_that_still_grows_waits_until_it_is_complete(
    api: ResultsApi, watch: RunWatch, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"a.jpg": b"c"})
    grow = [lambda: photos({"a.jpg": b"ca"}), lambda: photos({"a.jpg": b"cat"})]
    watch(folder, [*grow, nothing, nothing])
    assert labels(tmp_path) == [("a.jpg", "cat")]
    assert api.names == {"a.jpg": 1}


@pytest.mark.parametrize(
    ("part", "whole"),
    [(b"", b"cat"), (b"\xff\xd8 half", b"\xff\xd8 whole \xff\xd9"), (b"\x89PNG half", b"\x89PNG whole IEND")],
)
def test_a_file_whose_end_is_missing_waits_however_long_its_writer_pauses(
    api: ResultsApi, watch: RunWatch, photos: Photos, part: bytes, whole: bytes
) -> None:
    folder = photos({"a.jpg": part})
    summary = watch(folder, [*([nothing] * 5), lambda: photos({"a.jpg": whole}), *([nothing] * 4)])
    assert (api.names, summary.missed, summary.total) == ({"a.jpg": 1}, 0, 1)


def test_a_file_without_its_end_is_sent_once_it_is_not_written_any_more(
    api: ResultsApi, watch: RunWatch, photos: Photos
) -> None:
    folder = photos({"a.jpg": b"\xff\xd8 half"})
    minute_ago = time.time() - 61
    os.utime(folder / "a.jpg", (minute_ago, minute_ago))
    watch(folder, [nothing] * 4)
    assert api.names == {"a.jpg": 1}


def test_a_closed_job_is_followed_by_another(
    api: ResultsApi, watch: RunWatch, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"a.jpg": b"cat"})

    def expire() -> None:
        api.jobs.clear()
        photos({"b.jpg": b"dog"})

    watch(folder, [nothing, nothing, expire, nothing, nothing])
    assert labels(tmp_path) == [("a.jpg", "cat"), ("b.jpg", "dog")]
    assert len(api.jobs) == 1


def test_files_that_no_job_took_are_sent_in_the_next_round(
    api: ResultsApi, watch: RunWatch, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"a.jpg": b"cat"})
    closed = partial(problem, 409, "the job was cancelled", "job-cancelled")
    api.faults = [closed, closed]
    watch(folder, [nothing, nothing, nothing])
    assert labels(tmp_path) == [("a.jpg", "cat")]
    assert api.names == {"a.jpg": 1}


@pytest.mark.parametrize("first", [None, "-", "other.csv"])
def test_a_resumed_watch_with_another_file_begins_it_with_the_next_result(
    watch: RunWatch, photos: Photos, tmp_path: Path, first: str | None
) -> None:
    folder = photos({"a.jpg": b"cat"})
    (tmp_path / "r.csv").write_text("of another command")
    watch(folder, [nothing, nothing], out=str(tmp_path / first) if first == "other.csv" else first)
    photos({"b.jpg": b"dog"})
    watch(folder, [nothing, nothing])
    assert labels(tmp_path) == [("b.jpg", "dog")]


@pytest.mark.parametrize("is_moved", [True, False])
def test_rows_begin_a_new_file_after_the_file_of_results_was_moved_or_emptied(
    watch: RunWatch, photos: Photos, tmp_path: Path, is_moved: bool
) -> None:
    folder = photos({"a.jpg": b"cat"})

    def move() -> None:
        if is_moved:
            (tmp_path / "r.csv").rename(tmp_path / "yesterday.csv")
        else:
            os.truncate(tmp_path / "r.csv", 0)
        photos({"b.jpg": b"dog"})

    watch(folder, [nothing, nothing, move, nothing, nothing])
    assert labels(tmp_path) == [("b.jpg", "dog")]


class Killed(BaseException):
    """Raised at each step after a kill -9: what is left of the command has no effect."""


@dataclass
class Effects:
    """The steps of a command with an effect outside its memory; it is killed before the one at `kill_at`."""

    kill_at: int = sys.maxsize
    done: int = 0
    journals: list[sqlite3.Connection] = field(default_factory=list)

    def reach(self) -> None:
        self.done += 1
        if self.done >= self.kill_at:
            raise Killed


class DirectApi(ApiClient):
    """An API of jobs without HTTP; an image is `NAME CONTENT`, and has no result as long as it is in `stuck`."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.effects = Effects()
        self.stuck: set[str] = set()
        self.images: dict[str, dict[str, str]] = {}
        self.sent = Counter[str]()
        self.refusals: list[RejectedError] = []
        self._replies: dict[str | None, Any] = {}

    def limits(self) -> dict[str, Any]:
        return {}

    def fleet(self) -> dict[str, Any] | None:
        return {"running": 0, "reason": "paused by ops since 12:00 UTC", "problem": None}

    def create_job(self, name: str, *, key: str | None = None, **_: Any) -> str:
        self.effects.reach()
        job_id = self._replies.setdefault(key, str(ULID()))
        self.images.setdefault(job_id, {})
        self.effects.reach()
        return str(job_id)

    def send_images(
        self,
        job_id: str,
        files: Sequence[tuple[str, bytes]],
        key: str | None = None,
        *,
        positions: Sequence[int] | None = None,
        remaining: int | None = None,
        trace_id: str | None = None,
    ) -> dict[int, str | RejectedFile]:
        self.effects.reach()
        if self.refusals:
            raise self.refusals.pop()
        assert positions is not None
        assert max(positions) <= journal_module.MAX_POSITION
        if key not in self._replies:
            self._replies[key] = [image_id_of(job_id, position) for position in positions]
            for image_id, (name, content) in zip(self._replies[key], files, strict=True):
                self.images[job_id][image_id] = f"{name} {content.decode()}"
                self.sent[self.images[job_id][image_id]] += 1
        self.effects.reach()
        return dict(enumerate(self._replies[key]))

    def status(self, job_id: str) -> dict[str, Any]:
        waiting = sum(image in self.stuck for image in self.images[job_id].values())
        return {"done": len(self.images[job_id]) - waiting, "failed": 0, "waiting": waiting}

    def results_page(
        self, job_id: str, after: str | None = None, limit: int = 500
    ) -> tuple[list[dict[str, Any]], str | None]:
        ids = sorted(each for each in self.images[job_id] if each > (after or ""))
        page = [self.result(each, self.images[job_id][each]) for each in ids[:limit]]
        return page, ids[limit - 1] if len(ids) > limit else None

    def result(self, image_id: str, image: str) -> dict[str, Any]:
        name, content = image.split(" ", 1)
        result = result_of(image_id, name, content.encode())
        if image in self.stuck:
            result |= {"status": "waiting", "label": None, "score": None, "top": [], "model": None}
        return result


@dataclass
class Camera:
    """A watch by a virtual clock; `steps` are done in its pauses, and then it is stopped."""

    tmp_path: Path
    api: DirectApi = field(default_factory=DirectApi)
    now: float = 0.0
    shown: deque[str] = field(default_factory=lambda: deque(maxlen=200))

    def __post_init__(self) -> None:
        self.folder = self.tmp_path / "photos"
        self.folder.mkdir()

    def write(self, image: str) -> Callable[[], object]:
        name, content = image.split(" ", 1)
        return lambda: (self.folder / name).write_bytes(content.encode())

    def watch(self, steps: Iterator[Callable[[], object]], *, searches: bool = True) -> tuple[Summary, bool]:
        """Return what the command says at its end, and whether it must be continued."""

        def wait(seconds: float) -> bool:
            self.now += seconds
            step = next(steps, None)
            if step is not None:
                step()
            return step is None

        journal = Journal(self.tmp_path / "journal", (self.folder,))
        try:
            calls = PatientCalls(wait=wait, clock=lambda: self.now)
            work = Watch(
                *(self.api, journal, calls, (self.folder,), (), "watched"),
                out=str(self.tmp_path / "r.csv"),
                show=lambda state: self.shown.append(words(state)),
            )
            self.summary = work._summary()
            work._summary = lambda: self.summary  # type: ignore[method-assign] # also of a watch that is stopped
            return work.watch(searches=searches), False
        except StoppedError:
            return self.summary, True
        finally:
            journal.base.close()

    def rows(self) -> list[tuple[str, str]]:
        return labels(self.tmp_path) if (self.tmp_path / "r.csv").exists() else []


def nothing_to_wait_for(_descriptor: int) -> None:
    """Stand in for fsync."""


class Unsynchronized(sqlite3.Connection):
    """A connection that does not wait for the disk, which takes most of the time of a test with many writes."""

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        return super().execute(statement.replace("synchronous = FULL", "synchronous = OFF"), *arguments)


@pytest.fixture
def camera(tmp_path: Path) -> Camera:
    return Camera(tmp_path)


def test_new_files_go_on_while_an_old_image_has_no_result_and_the_reason_is_said(camera: Camera) -> None:
    camera.api.stuck = {"a.jpg cat"}
    camera.write("a.jpg cat")()
    steps = [nothing, nothing, *(camera.write(f"{number}.jpg dog") for number in range(9)), nothing, nothing]
    _, is_left = camera.watch(iter(steps))
    assert camera.rows() == [(f"{number}.jpg", "dog") for number in range(9)]
    assert camera.shown[-1] == (
        "sent 10 of 10, classified 9, without a result 1 (waiting: paused by ops since 12:00 UTC)"
    )
    assert is_left, "the journal stays for --resume"


def replace_in_place(file: Path) -> None:
    """Write another content of the same size, and set the time of before."""
    before = file.stat()
    file.write_bytes(b"dog")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def rename_over(file: Path) -> None:
    """Put another file in its place, with its size and time."""
    other = file.with_name("other.tmp")
    other.write_bytes(b"dog")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)


@pytest.mark.parametrize(
    "replace",
    [lambda file: file.write_bytes(b"dog 2"), lambda file: file.write_bytes(b"dog"), replace_in_place, rename_over],
    ids=["size", "time", "content", "other file"],
)
def test_a_replaced_file_is_taken_as_a_new_one_and_counted(replace: Callable[[Path], object], camera: Camera) -> None:
    camera.write("latest.jpg cat")()
    steps = [nothing, nothing, lambda: replace(camera.folder / "latest.jpg"), *[nothing] * 4]
    summary, is_left = camera.watch(iter(steps))
    assert camera.rows() == [("latest.jpg", "cat"), ("latest.jpg", "dog")]
    assert (summary.replaced, is_left) == (1, False)
    assert camera.shown[-1] == "sent 2 of 2, replaced 1, classified 2"


def test_a_file_that_is_only_touched_or_linked_is_not_sent_again_if_its_time_stays(camera: Camera) -> None:
    camera.write("a.jpg cat")()
    link = partial(os.link, camera.folder / "a.jpg", camera.tmp_path / "sorted")
    chmod = partial(os.chmod, camera.folder / "a.jpg", 0o600)
    camera.watch(iter([nothing, nothing, link, nothing, nothing, chmod, nothing, nothing]))
    assert camera.api.sent == {"a.jpg cat": 1}


def test_a_file_replaced_while_its_first_version_waits_has_a_row_for_each(camera: Camera) -> None:
    camera.api.stuck = {"latest.jpg cat"}
    camera.write("latest.jpg cat")()
    release = camera.api.stuck.clear
    steps = [nothing, nothing, camera.write("latest.jpg dog 2"), nothing, nothing, release, nothing, nothing]
    camera.watch(iter(steps))
    assert camera.rows() == [("latest.jpg", "dog"), ("latest.jpg", "cat")], "in the order of the answers"


def test_a_file_that_is_removed_before_it_could_be_sent_is_counted(camera: Camera) -> None:
    camera.write("a.jpg cat")()
    camera.api.refusals = [RejectedError("POST", 429, "the day's quota", retry_after_seconds=7200.0)]
    steps = [nothing, nothing, (camera.folder / "a.jpg").unlink, *[nothing] * 80]
    summary, _ = camera.watch(iter(steps))
    assert (camera.rows(), summary.missed, sum(camera.api.sent.values())) == ([], 1, 0)
    assert "(waiting: the day's quota (possible again in 2 h 0 min))" in " ".join(camera.shown)


def test_a_server_that_refuses_is_called_again_and_results_are_read_meanwhile(camera: Camera) -> None:
    camera.api.stuck = {"a.jpg cat"}
    camera.write("a.jpg cat")()

    def refuse() -> None:
        camera.api.refusals = [RejectedError("POST", 429, "quota", retry_after_seconds=7200.0)]
        camera.write("b.jpg dog")()

    rows = list[list[tuple[str, str]]]()
    look = lambda: rows.append(camera.rows())  # noqa: E731
    steps = [nothing, nothing, refuse, nothing, camera.api.stuck.clear, nothing, look, *[nothing] * 40]
    camera.watch(iter(steps))
    assert rows == [[("a.jpg", "cat")]]
    assert camera.rows() == [("a.jpg", "cat"), ("b.jpg", "dog")]


def test_an_interrupted_watch_is_finished_without_the_option(camera: Camera) -> None:
    camera.api.stuck = {"a.jpg cat"}
    for image in ("a.jpg cat", "b.jpg dog"):
        camera.write(image)()
    assert camera.watch(iter([nothing, nothing]))[1]
    camera.write("c.jpg bird")()
    _, is_left = camera.watch(iter([nothing, camera.api.stuck.clear, nothing]), searches=False)
    assert (camera.rows(), is_left) == ([("b.jpg", "dog"), ("a.jpg", "cat")], False)


def test_more_files_than_a_job_has_positions_each_get_their_own_result(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"MAX_POSITION": 19, "MAX_JOBS": 1}
    for name, limit in limits.items():
        monkeypatch.setattr(f"fleetsight_client.journal.{name}", limit)

    def write_three(number: int) -> None:
        for at in range(3):
            camera.write(f"{number}-{at}.jpg {number}{at}")()

    camera.watch(iter([*(partial(write_three, number) for number in range(16)), nothing, nothing, nothing]))
    expected = [(f"{number}-{at}.jpg", f"{number}{at}") for number in range(16) for at in range(3)]
    assert sorted(camera.rows()) == sorted(expected)
    assert len(camera.api.images) > 3


DAYS, ROUND_SECONDS, NEW_FILES, IN_FOLDER, REMEMBERED, OF_A_JOB = 7, 3_600.0, 30, 90, 150, 300
MAX_KEPT_BYTES = 30_000
"""Memory of the command that is newer than its last day, in which it has classified 720 files."""

MAX_JOURNAL_BYTES = 4 * 2**20 + 2**18
"""The log of SQLite, 4 MB, and a file for what is in the folder, what is remembered, and one round."""


def test_a_week_with_an_image_without_a_result_stays_bounded(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds: rows of waiting files and of one round; known files in the folder and `MAX_REMEMBERED`; two jobs."""
    monkeypatch.setattr("fleetsight_client.watch.WATCH_SECONDS", ROUND_SECONDS)
    monkeypatch.setattr("fleetsight_client.known_files.MAX_REMEMBERED", REMEMBERED)
    monkeypatch.setattr("fleetsight_client.journal.JOB_IMAGES", OF_A_JOB)
    connect = partial(sqlite3.connect, factory=Unsynchronized)
    monkeypatch.setattr("fleetsight_client.journal_file.sqlite3.connect", connect)
    monkeypatch.setattr("fleetsight_client.output.os.fsync", nothing_to_wait_for)
    camera.api.stuck = {"0-00.jpg cat 0"}
    sizes, written = list[int](), 0

    def pictures() -> Iterator[Callable[[], object]]:
        nonlocal written
        rounds = round(DAYS * 86_400 / ROUND_SECONDS)
        for number in range(rounds):
            names = [f"{number}-{at:02}.jpg" for at in range(NEW_FILES)]
            for name in names:
                camera.write(f"{name} cat {number}")()
            written += NEW_FILES
            for old in [f"{number - IN_FOLDER // NEW_FILES}-{at:02}.jpg" for at in range(NEW_FILES)]:
                (camera.folder / old).unlink(missing_ok=True)
            if number % 3 == 0:
                camera.write(f"latest.jpg cat {number}")()
                written += 1
            sizes.append(sum(each.stat().st_size for each in camera.tmp_path.glob("journal*")))
            if number == rounds * 6 // 7:
                tracemalloc.start()
            yield nothing
        yield from [nothing] * 3

    try:
        summary, _ = camera.watch(pictures())
        gc.collect()
        kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/fleetsight_client/*")])
    finally:
        tracemalloc.stop()
    assert written > 5_000
    assert camera.api.sent.total() == len(camera.api.sent) == written, "each version is sent once"
    rows = Counter(name for name, _ in camera.rows())
    assert sum(rows.values()) == written - 1
    assert {name for name, times in rows.items() if times > 1} == {"latest.jpg"}
    assert summary.replaced == rows["latest.jpg"] - 1
    assert max(sizes) < MAX_JOURNAL_BYTES
    assert sum(each.size for each in kept.traces) < MAX_KEPT_BYTES
    journal = Journal(camera.tmp_path / "journal", (camera.folder,))
    assert journal.counts() == {"listed": 0, "sent": 0, "accepted": 1, "rejected": 0}
    assert [images for _, images in journal.jobs()] == [1, 0]
    assert len(list(journal.names())) <= IN_FOLDER + 2 + REMEMBERED
    assert len(camera.api.images) > 10, "old jobs end"
    journal.base.close()


@pytest.fixture
def effects(monkeypatch: pytest.MonkeyPatch) -> Effects:
    """The effects of commands on journal, file of results and API."""
    effects, synchronize = Effects(), os.fsync

    class Connection(Unsynchronized):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            effects.journals.append(self)

        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            effects.reach()
            return super().execute(*arguments)

        def executemany(self, *arguments: Any) -> sqlite3.Cursor:
            effects.reach()
            return super().executemany(*arguments)

    def write(file: ResultRowsFile, row: ResultRow) -> None:
        effects.reach()
        file._write(row)

    def sync(descriptor: int) -> None:
        effects.reach()
        synchronize(descriptor)
        effects.reach()

    connect = partial(sqlite3.connect, factory=Connection)
    monkeypatch.setattr("fleetsight_client.journal_file.sqlite3.connect", connect)
    monkeypatch.setattr(ResultRowsFile, "write", write)
    monkeypatch.setattr("fleetsight_client.output.os.fsync", sync)
    return effects


def test_a_kill_at_any_step_loses_and_doubles_no_row_and_sends_nothing_twice(
    tmp_path: Path, effects: Effects
) -> None:
    effects.kill_at = 1
    while effects.done >= effects.kill_at - 1:  # until a command ends before it is killed
        (folder := tmp_path / str(effects.kill_at)).mkdir()
        camera = Camera(folder)
        camera.api.effects = effects
        camera.api.stuck = {"a.jpg cat", "b.jpg dog"}
        for image in ("a.jpg cat", "b.jpg dog", "c.jpg owl"):
            camera.write(image)()
        release_one = partial(camera.api.stuck.discard, "b.jpg dog")
        steps: list[Callable[[], object]] = [nothing, camera.write("a.jpg bird 2"), nothing, release_one, nothing]
        left = iter([*steps, camera.api.stuck.clear, *[nothing] * 4])
        effects.done = 0
        with suppress(Killed):
            camera.watch(left)
        killed_at, done, effects.kill_at = effects.kill_at, effects.done, sys.maxsize
        while effects.journals:
            effects.journals.pop().close()
        camera.watch(left)
        camera.watch(iter([nothing] * 4))
        expected = [image.split(" ")[0] for images in camera.api.images.values() for image in images.values()]
        assert sorted(name for name, _ in camera.rows()) == sorted(expected), killed_at
        assert {*camera.api.sent} >= {"a.jpg bird 2", "b.jpg dog", "c.jpg owl"}, killed_at
        assert set(camera.api.sent.values()) == {1}, killed_at
        effects.kill_at, effects.done = killed_at + 1, done
    assert effects.kill_at > 100
