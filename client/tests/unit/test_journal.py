"""The journal: it agrees with a model over every history and every kill, and nothing is sent that a disk has not."""

import os
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from client.tests.support.failing_syncs import CAN_FAIL_SYNCS, with_failing_syncs
from fleetsight_client.api import RejectedFile
from fleetsight_client.folders import FoundFile
from fleetsight_client.journal import (
    Journal,
    ListedFile,
    Outcome,
    Slice,
)
from fleetsight_client.journal_file import JournalError, journal_file, state_folder

FOLDERS = (Path("/photos/day"), Path("/photos/night"))
FOUND = st.dictionaries(
    st.tuples(st.integers(0, 1), st.sampled_from([b"a.jpg", b"b/c.jpg", b"d\xff.jpg", b"e.jpg"])),
    st.tuples(st.integers(1, 3), st.integers(0, 1)),
    min_size=1,
)
"""Files by folder and path, each with size and time."""

Found = dict[tuple[int, bytes], tuple[int, int]]


MAX_UNFINISHED, MAX_REMEMBERED = 6, 2


@pytest.fixture(scope="module", autouse=True)
def _small_limits() -> Iterator[None]:
    """Let a few files fill several writes and several pages of outcomes, and reach the limits of a watch."""
    limits = {
        "journal.INSERTED": 2,
        "journal.MAX_UNFINISHED": MAX_UNFINISHED,
        "known_files.INSERTED": 2,
        "known_files.MAX_REMEMBERED": MAX_REMEMBERED,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in limits.items():
            patch.setattr(f"fleetsight_client.{name}", limit)
        yield


@dataclass(frozen=True)
class Expected:
    """What the journal must know of a file."""

    root: int
    path: bytes
    size: int
    mtime: int
    state: str = "listed"
    tries: int = 0
    slice: int = 0
    job: int = 0
    result: str | RejectedFile = ""

    def listed(self, position: int) -> ListedFile:
        name = f"{FOLDERS[self.root].name}/{self.path.decode(errors='replace')}"
        path = Path(str(FOLDERS[self.root]) + "/" + self.path.decode(errors="surrogateescape"))
        return ListedFile(position, path, name, self.size, self.mtime, self.tries)


class Classification(RuleBasedStateMachine):
    """A classification whose command may be killed after any call; the next one opens the same journal."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.journal = Journal(self.folder / "a.journal", FOLDERS)
        self.files: dict[int, Expected] = {}
        self.next_position = 0
        self.is_watched = False
        self.known: dict[tuple[int, bytes], tuple[int, int, int]] = {}
        self.found: Found = {}
        self.jobs: dict[int, tuple[str, str | None]] = {}
        self.keys: dict[int, str] = {}
        self.facts: dict[str, str] = {}

    def teardown(self) -> None:
        self.journal.base.close()
        for suffix in ("-wal", "-shm"):  # SQLite's files, which a killed command leaves
            (self.folder / f"a.journal{suffix}").touch()
        self.journal.remove()
        assert list(self.folder.iterdir()) == []
        shutil.rmtree(self.folder)

    @rule()
    def kill(self) -> None:
        self.journal.base.close()
        self.journal = Journal(self.folder / "a.journal", FOLDERS)
        self.found = {}

    @initialize(found=FOUND)
    def begin(self, found: Found) -> None:
        """Begin anew, with some files and a job: what an earlier command has left is forgotten."""
        self.journal.clear()
        self.files, self.jobs, self.keys, self.facts, self.known = {}, {}, {}, {}, {}
        self.next_position, self.is_watched = 0, False
        self.the_journal_agrees()
        self.search(found, False)
        self.begin_job("created")

    @rule(found=FOUND, chance=st.integers(0, 9))
    def restart(self, found: Found, chance: int) -> None:
        if chance == 0:
            self.begin(found)

    @rule()
    def begin_watch(self) -> None:
        self.journal.begin_watch()
        if not self.is_watched:
            self.is_watched = True
            for at, each in sorted(self.files.items()):
                self.known.setdefault((each.root, each.path), (each.size, each.mtime, at))

    @rule(found=FOUND, is_watch=st.booleans())
    def search(self, found: Found, is_watch: bool) -> None:
        new, replaced = list(found), 0
        files = (FoundFile(*place, *facts) for place, facts in found.items())
        if is_watch:
            stable = [place for place in found if self.found.get(place) == found[place]]
            changed = [place for place in stable if self.known.get(place, ())[:2] != found[place]]
            new = sorted(changed)[: max(0, MAX_UNFINISHED - len(self.files))]
            replaced = sum(place in self.known for place in new)
            assert self.journal.list_stable_files(files) == (len(new) - replaced, replaced)
        else:
            self.journal.list_files(files)
        for place in sorted(new):
            self.files[self.next_position] = Expected(*place, *found[place])
            if is_watch:
                self.known[place] = *found[place], self.next_position
            self.next_position += 1
        self.found = found
        if is_watch:
            removed = sorted((each[2], place) for place, each in self.known.items() if place not in found)
            for _, place in removed[: max(0, len(removed) - MAX_REMEMBERED)]:
                del self.known[place]

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        ended = [at for at, each in self.files.items() if each.state in {"accepted", "rejected"}]
        written = data.draw(st.sets(st.sampled_from(ended))) if ended else set[int]()
        self.journal.finish([self.files[at].listed(at) for at in sorted(written)], {"out": str(len(written))})
        self.facts["out"] = str(len(written))
        self.files = {at: each for at, each in self.files.items() if at not in written}
        needed = {each.job for each in self.files.values() if each.state in {"sent", "accepted"}}
        self.jobs = {job: each for job, each in self.jobs.items() if job in needed or job == max(self.jobs)}

    @rule(names=st.sets(st.sampled_from(["skipped a", "skipped b", "out"]), min_size=1), value=st.sampled_from("12"))
    def set_facts(self, names: set[str], value: str) -> None:
        self.facts |= dict.fromkeys(names, value)
        self.journal.set_facts(dict.fromkeys(names, value))
        self.journal.set_fact(min(names), value)

    @rule(outcome=st.sampled_from(["created", "refused", "unknown"]))
    def begin_job(self, outcome: str) -> None:
        number, no_id, key = self.journal.begin_job()
        assert no_id is None
        assert key not in [known for known, _ in self.jobs.values()]
        self.jobs[number] = key, None
        if outcome == "created":
            self.jobs[number] = key, f"JOB{number}"
            self.journal.set_job_id(number, f"JOB{number}")
        elif outcome == "refused":
            del self.jobs[number]
            self.journal.forget_job(number)

    @rule(max_files=st.integers(1, 5), max_bytes=st.integers(1, 9))
    def begin_slice(self, max_files: int, max_bytes: int) -> None:
        created = [(number, job_id) for number, (_, job_id) in self.jobs.items() if job_id]
        if not created:
            return
        number, job_id = created[-1]
        wanted, total = list[int](), 0
        for position in [at for at, each in sorted(self.files.items()) if each.state == "listed"][:max_files]:
            total += self.files[position].size
            if wanted and total > max_bytes:
                break
            wanted.append(position)
        made = self.journal.begin_slice(number, job_id, max_files, max_bytes)
        assert (made is None) is (not wanted)
        if made is not None:
            self._note_slice(made, job_id, wanted)

    def _note_slice(self, made: Slice, job_id: str, positions: list[int]) -> None:
        assert made.key not in self.keys.values()
        assert made.job_id == job_id
        assert not made.is_repeated
        assert list(made.files) == [self.files[at].listed(at) for at in positions]
        self.keys[made.number] = made.key
        for at in positions:
            self.files[at] = replace(self.files[at], state="sent", slice=made.number, job=int(job_id[3:]))

    def _unknown(self) -> dict[int, list[int]]:
        slices: dict[int, list[int]] = {}
        for at, each in sorted(self.files.items()):
            if each.state == "sent":
                slices.setdefault(each.slice, []).append(at)
        return slices

    @precondition(lambda self: self._unknown())
    @rule(data=st.data())
    def halve(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self._unknown())))
        whole = self.journal.slice(number)
        positions = self._unknown()[number]
        middle = len(positions) // 2
        parts = self.journal.halve(whole)
        if middle:
            for part, half in zip(parts, (positions[:middle], positions[middle:]), strict=True):
                self._note_slice(part, whole.job_id, half)
        else:
            self._note_slice(parts[1], whole.job_id, positions)

    @precondition(lambda self: self._unknown())
    @rule(data=st.data(), relist=st.booleans())
    def settle(self, data: st.DataObject, relist: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self._unknown())))
        outcome, again = dict[int, str | RejectedFile](), list[int]()
        sent = self.journal.slice(number)
        for at in self._unknown()[number]:
            became = data.draw(st.sampled_from(["accepted", "changed", "too_large", "again"]))
            each = self.files[at]
            if became == "again":
                again.append(at)
                self.files[at] = replace(each, state="listed", tries=each.tries + 1)
            elif became == "accepted":
                outcome[at] = f"IMAGE{at}"
                self.files[at] = replace(each, state="accepted", result=f"IMAGE{at}")
            else:
                outcome[at] = RejectedFile(became, f"it is {became}")
                self.files[at] = replace(each, state="rejected", result=outcome[at])
                if relist and became == "changed":
                    del self.files[at]
                    self.known = {place: value for place, value in self.known.items() if value[2] != at}
        missed = sum(at not in self.files for at in outcome)
        assert self.journal.settle(sent, outcome, again, relist=relist) == missed

    @precondition(lambda self: self._unknown())
    @rule(data=st.data())
    def release_unknown(self, data: st.DataObject) -> None:
        """Release the files of one job; those of the others may have been accepted."""
        unknown = {each.job for each in self.files.values() if each.state == "sent"}
        job = data.draw(st.sampled_from(sorted(unknown)))
        self.journal.release_unknown(f"JOB{job}")
        self.files = {
            at: replace(each, state="listed") if (each.state, each.job) == ("sent", job) else each
            for at, each in self.files.items()
        }

    @invariant()
    def the_journal_agrees(self) -> None:
        states = Counter(each.state for each in self.files.values())
        assert self.journal.counts() == {state: states[state] for state in ("listed", "sent", "accepted", "rejected")}
        assert self.journal.next_position == self.next_position
        assert self.journal.is_watched is self.is_watched
        assert self.journal.rejections() == Counter(
            each.result.code for each in self.files.values() if isinstance(each.result, RejectedFile)
        )
        assert self.journal.is_started is bool(self.jobs)
        if self.jobs:
            number, (key, job_id) = max(self.jobs.items())
            assert self.journal.job() == (number, job_id, key)
        else:
            assert self.journal.job() is None
        assert self.journal.jobs() == [
            (job_id, sum(each.state == "accepted" and each.job == number for each in self.files.values()))
            for number, (_, job_id) in self.jobs.items()
            if job_id
        ]
        assert {name: self.journal.fact(name) for name in self.facts} == self.facts
        skipped = {
            name.removeprefix("skipped "): value for name, value in self.facts.items() if name.startswith("skipped ")
        }
        assert self.journal.facts("skipped ") == skipped

    @invariant()
    def unknown_slices_are_repeated_under_their_keys(self) -> None:
        unknown = self._unknown()
        assert self.journal.unknown_slices() == sorted(unknown)
        for number, positions in unknown.items():
            files = [self.files[at].listed(at) for at in positions]
            job_id = self.jobs[self.files[positions[0]].job][1]
            assert self.journal.slice(number) == Slice(number, self.keys[number], job_id or "", files, True)

    @invariant()
    def each_outcome_is_kept(self) -> None:
        for after in (-1, 1):
            expected = [self._outcome(at, each) for at, each in sorted(self.files.items()) if at > after]
            assert list(self.journal.outcomes(after)) == expected
            rejected = [each for each in expected if each.rejected]
            assert list(self.journal.outcomes(after, state="rejected")) == rejected
            for job_id, _ in self.journal.jobs():
                of_job = [each for each in expected if each.job_id == job_id]
                assert list(self.journal.outcomes(after, job_id=job_id)) == of_job
        places = {(each.root, each.path) for each in self.files.values()} | set(self.known)
        assert sorted(self.journal.names()) == sorted(Expected(*place, 0, 0).listed(0).name for place in places)

    def _outcome(self, at: int, each: Expected) -> Outcome:
        if isinstance(each.result, RejectedFile):
            return Outcome(each.listed(at), rejected=each.result)
        if each.result:
            return Outcome(each.listed(at), self.jobs[each.job][1] or "", each.result)
        return Outcome(each.listed(at))


TestClassification = Classification.TestCase
TestClassification.settings = settings(
    stateful_step_count=20,
    phases=[Phase.reuse, Phase.generate],  # to shorten a history that fails takes minutes
)


@dataclass
class Begun:
    """A classification of four files, of which two were sent in one slice."""

    journal: Journal
    job: int
    sent: Slice


def begun(folder: Path) -> Begun:
    journal = Journal(folder / "a.journal", [folder])
    journal.list_files(FoundFile(0, f"{number}.jpg".encode(), 1, 1) for number in range(4))
    job = journal.begin_job()[0]
    journal.set_job_id(job, "JOB")
    sent = journal.begin_slice(job, "JOB", 2, 10)
    assert sent is not None
    return Begun(journal, job, sent)


@pytest.mark.skipif(not CAN_FAIL_SYNCS, reason="a disk that fails can be had on Linux only")
@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda each: each.journal.set_facts({"out": "a.csv"}), id="facts"),
        pytest.param(lambda each: each.journal.begin_job(), id="the key of a job"),
        pytest.param(lambda each: each.journal.set_job_id(each.job, "JOB2"), id="the id of a job"),
        pytest.param(lambda each: each.journal.begin_slice(each.job, "JOB", 2, 10), id="the key of a slice"),
        pytest.param(lambda each: each.journal.halve(each.sent), id="the keys of two halves"),
        pytest.param(lambda each: each.journal.settle(each.sent, {0: "IMAGE"}, [1], relist=False), id="outcomes"),
        pytest.param(lambda each: each.journal.finish(each.sent.files, {}), id="rows that are written"),
    ],
)
def test_nothing_is_recorded_that_a_power_failure_would_lose(act: Callable[[Begun], object], tmp_path: Path) -> None:
    def act_and_close(each: Begun) -> None:
        with closing(each.journal.base):  # in the thread that made it
            act(each)

    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        with_failing_syncs(lambda: begun(tmp_path), act_and_close)


def test_files_of_other_jobs_keep_their_keys_when_a_job_is_closed(tmp_path: Path) -> None:
    journal, sent = (now := begun(tmp_path)).journal, now.sent
    other = journal.begin_job()[0]
    journal.set_job_id(other, "OTHER")
    assert journal.begin_slice(other, "OTHER", 2, 10) is not None
    journal.release_unknown("OTHER")
    assert journal.unknown_slices() == [sent.number]
    assert journal.slice(sent.number).key == sent.key
    journal.remove()


def text_in(file: Path) -> None:
    file.write_bytes(b"this is no database, but a text " * 99)


def other_version(file: Path) -> None:
    journal = Journal(file, [])
    journal.begin_job()
    journal.set_fact("version", "0")
    journal.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_version, "the journal {file} is of another version of this command: remove it"),
        (text_in, "the journal {file} cannot be used: file is not a database"),
        (Path.mkdir, "the journal {file} cannot be used: unable to open database file"),
        (lambda file: Journal(file, []), "another command classifies these folders: wait for it, or stop it"),
        (
            lambda file: text_in(file.parent),
            "the journal {file} cannot be used: [Errno 17] File exists: '{file.parent}'",
        ),
    ],
    ids=["version", "text", "folder", "in use", "no folder"],
)
def test_a_journal_that_cannot_be_used_is_refused_with_the_reason(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "state" / "a.journal"
    if "Errno" not in message:
        file.parent.mkdir()
    kept = make(file)
    with pytest.raises(JournalError) as caught:
        Journal(file, [])
    assert str(caught.value) == message.format(file=file)
    if isinstance(kept, Journal):
        kept.remove()
        Journal(file, []).remove()


def test_journals_are_private_and_one_for_each_server_and_folders(tmp_path: Path) -> None:
    assert state_folder({}) == state_folder({"XDG_STATE_HOME": ""}) == Path.home() / ".local/state/fleetsight"
    assert state_folder({"XDG_STATE_HOME": "/elsewhere"}) == Path("/elsewhere/fleetsight")
    cases = [("a", [Path("b"), Path("c")]), ("a", [Path("c"), Path("b")]), ("a", [Path("b")]), ("b", [Path("b")])]
    files = [journal_file(url, folders, tmp_path / "x" / "y") for url, folders in cases]
    assert len({*files}) == len(files)
    assert files == [journal_file(url, folders, tmp_path / "x" / "y") for url, folders in cases]
    assert journal_file("a", [Path(os.fsdecode(b"\xff"))], tmp_path).parent == tmp_path
    assert all(re.fullmatch(r"[0-9a-f]{24}\.journal", file.name) for file in files)
    for file in files:
        Journal(file, []).close()
    assert (tmp_path / "x" / "y").stat().st_mode & 0o777 == 0o700


def test_the_key_of_a_job_is_used_for_20_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1.8e9]
    monkeypatch.setattr("fleetsight_client.journal.time.time", lambda: now[0])
    journal = Journal(tmp_path / "a.journal", [tmp_path])
    begun_job = journal.begin_job()
    now[0] += 20 * 3600
    assert journal.job() == begun_job
    now[0] += 1
    assert journal.job() is None
    journal.set_job_id(begun_job[0], "JOB")
    assert journal.job() == (begun_job[0], "JOB", begun_job[2])
    journal.remove()


def test_a_slice_is_repeated_in_the_way_in_which_it_was_sent_first(tmp_path: Path) -> None:
    journal = (now := begun(tmp_path)).journal
    direct = journal.begin_slice(now.job, "JOB", 2, 10, is_direct=True)
    assert direct is not None
    with closing(journal.base):
        assert [direct.is_direct, now.sent.is_direct] == [True, False]
    again = Journal(tmp_path / "a.journal", [tmp_path])
    assert [again.slice(number).is_direct for number in again.unknown_slices()] == [False, True]
    again.remove()
