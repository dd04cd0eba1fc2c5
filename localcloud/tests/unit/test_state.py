"""The state on disk: what was acknowledged survives a kill at any byte, and damage is an error, never silence."""

import errno
import json
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from localcloud.access_keys import KEY_FILE
from localcloud.state.folder import MARKER, StateError, StateFolder, StateInUseError, restore
from localcloud.state.journal import (
    CorruptedStateError,
    Files,
    Journal,
    Record,
    encoded,
    frame_of,
    load,
    log_path,
    read_snapshot,
    snapshot_path,
    write_snapshot,
)
from localcloud.state.recorder import NOT_WRITTEN, Recorder
from tests.support.waiting import DEADLINE_SECONDS, wait_until

SEGMENT_BYTES = 400
"""So small that a few records fill a file."""

KEYS = st.sampled_from([b'["a"]', b'["b"]', b'["c"]', b'["d"]'])
RECORDS = st.lists(
    st.builds(Record, KEYS, st.one_of(st.none(), st.binary(max_size=40)), st.binary(max_size=60)), max_size=4
)


def merge_here(folder: Path, upto: int, target: Path) -> None:
    write_snapshot(folder, target, upto=upto)


def fail_to_merge(_folder: Path, _upto: int, _target: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def opened(folder: Path, segment_bytes: int = SEGMENT_BYTES) -> Journal:
    return Journal(folder, segment_bytes=segment_bytes, sync=lambda _descriptor: None, merge=merge_here)


def applied(model: dict[bytes, Record], groups: list[list[Record]]) -> dict[bytes, Record]:
    """Return the model after groups of records."""
    after = dict(model)
    for record in (record for group in groups for record in group):
        if record.value is None:
            after.pop(record.key, None)
        else:
            after[record.key] = record
    return after


class KilledJournal(RuleBasedStateMachine):
    """A log that is killed at any byte of what was never acknowledged has everything that was."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.journal = opened(self.folder)
        self.acknowledged: dict[bytes, Record] = {}
        self.pending: list[list[Record]] = []

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)

    @rule(records=RECORDS)
    def append(self, records: list[Record]) -> None:
        self.journal.append(records)
        self.pending.append(records)

    @rule()
    def commit(self) -> None:
        self.journal.commit()
        self.acknowledged, self.pending = applied(self.acknowledged, self.pending), []
        if self.journal._merging is not None:
            self.journal._merging.join(DEADLINE_SECONDS)

    @rule(at=st.floats(0, 1), zeros=st.integers(0, 50))
    def kill_while_it_writes(self, at: float, zeros: int) -> None:
        path = log_path(self.folder, self.journal._number)
        before = path.stat().st_size
        self.journal._segment_bytes = 1 << 30
        self.journal.close()
        written = path.stat().st_size - before
        kept = int(at * written)
        complete = path.read_bytes()
        # The size of a file may be on the disk before its content.
        path.write_bytes(complete[: before + kept] + bytes(min(zeros, written - kept)))
        is_complete = path.read_bytes() == complete
        self.journal = opened(self.folder)
        everything = applied(self.acknowledged, self.pending)
        assert self.journal.restored == (everything if is_complete else self.acknowledged)
        self.acknowledged, self.pending = self.journal.restored, []

    @rule()
    def restart(self) -> None:
        self.commit()
        self.journal.close()
        self.journal = opened(self.folder)
        assert self.journal.restored == self.acknowledged

    @rule()
    def kill_before_a_merge_is_complete(self) -> None:
        """The snapshot is there, and what it replaces, too; or a part of a snapshot."""
        self.restart()
        files = Files.of(self.folder)
        if files.logs[:-1]:
            write_snapshot(self.folder, snapshot_path(self.folder, files.logs[-2]), upto=files.logs[-2])
        (self.folder / "00000009.partial").write_bytes(b"partial")
        self.restart()
        assert not list(self.folder.glob("*.partial"))

    @invariant()
    def another_reader_sees_what_is_acknowledged(self) -> None:
        assert load(self.folder) == self.acknowledged

    @invariant()
    def files_are_merged_once_they_have_more_bytes_than_the_snapshot(self) -> None:
        files = Files.of(self.folder)
        sealed = sum(log_path(self.folder, number).stat().st_size for number in files.logs[:-1])
        snapshot = 0 if files.snapshot is None else snapshot_path(self.folder, files.snapshot).stat().st_size
        assert sealed <= snapshot


KilledJournal.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestKilledJournal = KilledJournal.TestCase


def write_log(folder: Path) -> None:
    """Write a snapshot, a complete file and a file with frames."""
    journal = opened(folder, segment_bytes=1 << 20)
    for number in range(3):
        journal.append([Record(b'["old"]', f"{number}".encode(), bytes(200))])
        journal.commit()
    journal._begin_segment()
    assert journal._merging is not None
    journal._merging.join(DEADLINE_SECONDS)
    journal._merge = fail_to_merge
    for _ in range(2):
        journal.append([Record(b'["new"]', b"1", bytes(200))])
        journal.commit()
    journal._begin_segment()
    journal._merging.join(DEADLINE_SECONDS)
    for number in range(2):
        journal.append([Record(b'["last"]', f"{number}".encode(), bytes(200))])
        journal.commit()
    journal.close()
    names = [path.name for path in sorted(folder.iterdir())]
    assert names == ["00000001.snapshot", "00000002.log", "00000003.log"]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    write_log(folder)
    return folder


@settings(max_examples=150)
@given(data=st.data())
def test_any_damaged_byte_before_the_last_frame_is_an_error_with_a_remedy(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_log(folder)
        path = data.draw(st.sampled_from(sorted(folder.iterdir())))
        content = bytearray(path.read_bytes())
        is_last = path.name == "00000003.log"
        end = content.rindex(b"FSJ1") if is_last else len(content)
        at = data.draw(st.integers(0, end - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(bytes(content))
        before = {each.name: each.read_bytes() for each in folder.iterdir()}
        with pytest.raises(CorruptedStateError, match="fleetsight state restore") as refused:
            opened(folder)
        assert str(path) in str(refused.value)
        assert {each.name: each.read_bytes() for each in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["00000001.snapshot", "00000002.log"])
@pytest.mark.parametrize("change", ["missing", "cut"])
def test_a_missing_or_cut_file_is_an_error(written: Path, name: str, change: str) -> None:
    path = written / name
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptedStateError, match=r"is missing|damaged frame|is incomplete"):
        opened(written)


def test_a_file_of_another_format_is_not_read(written: Path) -> None:
    (written / "00000003.log").write_bytes(frame_of(encoded(Record(b"start", b"2 log 3"))))
    with pytest.raises(CorruptedStateError, match="has format 2, and this version of Fleetsight reads format 1"):
        opened(written)


def test_calls_that_wait_for_the_disk_at_the_same_time_share_one_write(tmp_path: Path) -> None:
    syncs, is_syncing, may_sync = list[int](), threading.Event(), threading.Event()

    def sync(descriptor: int) -> None:
        syncs.append(descriptor)
        is_syncing.set()
        assert may_sync.wait(DEADLINE_SECONDS)

    journal = Journal(tmp_path, sync=sync)

    def call(number: int) -> bool:
        journal.append([Record(b'["a"]', b"%d" % number)])
        journal.commit()
        return journal._durable > number

    with ThreadPoolExecutor(6) as callers:
        first = callers.submit(call, 0)
        assert is_syncing.wait(DEADLINE_SECONDS)
        others = [callers.submit(call, number) for number in range(1, 6)]
        wait_until(lambda: journal._appended == 6, "all calls wait")
        assert not first.done()
        may_sync.set()
        assert all(each.result(DEADLINE_SECONDS) for each in (first, *others))
    assert len(syncs) == 2
    journal.close()


def test_a_process_that_cannot_write_ends_and_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EndedError(BaseException):
        pass

    def end(status: int) -> None:
        assert status == NOT_WRITTEN
        raise EndedError

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("localcloud.state.recorder.os._exit", end)
    recorder, journal = Recorder(), Journal(tmp_path, sync=fail)
    recorder.start(journal)
    journal.append([Record(b'["a"]', b"1")])
    with pytest.raises(EndedError):
        recorder.commit()
    assert journal.has_pending


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    """A state with one record and a key."""
    folder = StateFolder.create(tmp_path / "state")
    journal = Journal(folder.log)
    journal.append([Record(b'["a"]', b"1", b"body")])
    journal.commit()
    journal.close()
    (folder.path / KEY_FILE).write_text("secret")
    return folder


def test_a_snapshot_restores_everything_and_only_its_owner_can_read_it(state: StateFolder, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    assert state.snapshot(file) == file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600
    copy = restore(file, tmp_path / "copy")
    assert StateFolder.existing(copy.path) == copy
    assert (copy.path / KEY_FILE).read_text() == "secret"
    assert (copy.path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    journal = Journal(copy.log)
    assert journal.restored[b'["a"]'] == Record(b'["a"]', b"1", b"body")
    journal.append([Record(b'["b"]', b"2")])
    journal.commit()
    journal.close()
    assert set(load(copy.log)) >= {b'["a"]', b'["b"]'}


def test_a_cut_snapshot_is_not_restored(state: StateFolder, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    state.snapshot(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptedStateError):
        restore(file, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_snapshot_is_not_restored_over_other_files(state: StateFolder, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    state.snapshot(file)
    with pytest.raises(StateError, match="is not empty"):
        restore(file, state.path)


def test_a_reset_state_is_empty_and_can_be_used_again(state: StateFolder) -> None:
    state.remove()
    assert {entry.name for entry in state.path.iterdir()} == {"lock"}
    with pytest.raises(StateError, match="is not a state"):
        StateFolder.existing(state.path)
    assert load(StateFolder.create(state.path).log) == {}


ACTIONS: dict[str, Callable[[StateFolder, Path], Any]] = {
    "snapshot": lambda state, path: state.snapshot(path),
    "reset": lambda state, _: state.remove(),
    "run": lambda state, _: state.acquire(),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_state_in_use_is_neither_copied_nor_removed_nor_run_twice(
    state: StateFolder, tmp_path: Path, action: str
) -> None:
    with state.locked(), pytest.raises(StateInUseError, match="is in use: stop the system"):
        ACTIONS[action](state, tmp_path / "backup")
    assert b'["a"]' in load(state.log)


def test_a_folder_with_other_files_does_not_become_a_state(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StateError, match=f"{tmp_path} is not a state, since it has no {MARKER}"):
        StateFolder.create(tmp_path)
    with pytest.raises(StateError, match="is not a state"):
        StateFolder.existing(tmp_path).remove()
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("marker", ["", "[]", "{}", "null"])
def test_an_unreadable_marker_is_an_error(tmp_path: Path, marker: str) -> None:
    (tmp_path / MARKER).write_text(marker)
    with pytest.raises(StateError, match="cannot be read"):
        StateFolder.create(tmp_path)


def test_a_state_of_another_version_is_not_used(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text(json.dumps({"format": 2}))
    with pytest.raises(StateError, match="has format 2"):
        StateFolder.create(tmp_path)


def test_a_start_that_was_killed_halfway_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "lock").touch()
    (tmp_path / f"{MARKER}.partial").write_text("{")
    assert StateFolder.create(tmp_path).check() == 0


def test_the_records_of_a_snapshot_are_those_of_its_state(written: Path, tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    write_snapshot(written, file, more=[Record(b'["more"]', b"1")])
    assert {record.key: record for record in read_snapshot(file)} == {
        **load(written),
        b'["more"]': Record(b'["more"]', b"1"),
    }
