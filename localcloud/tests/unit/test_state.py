"""The state on disk: what was acknowledged survives a kill at any byte, and damage is an error, never silence."""

import os
import shutil
import sqlite3
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from localcloud.access_keys import KEY_FILE, write_private
from localcloud.s3 import objects
from localcloud.state.folder import DATABASE, LOGS, StateFolder, StateInUseError, restore
from localcloud.state.recorder import NOT_WRITTEN, Recorder
from localcloud.state.store import (
    ACKNOWLEDGED,
    CorruptedStateError,
    Record,
    StateError,
    Store,
    connect,
    create,
    load,
)
from localcloud.tests.support.waiting import DEADLINE_SECONDS

PIECE = 25
"""So small that a body has several pieces."""

LOG_PAGES = 6
"""So few that a commit in three copies the log into the database."""

KEYS = st.sampled_from([b'["a"]', b'["b"]', b'["c"]', b'["d"]'])
RECORDS = st.lists(
    st.builds(Record, KEYS, st.one_of(st.none(), st.binary(max_size=40)), st.binary(max_size=60)), max_size=4
)
SUFFIXES = ("", "-wal", ACKNOWLEDGED)
"""Of the files of a database; SQLite makes its index of the log again."""


def created(folder: Path) -> Path:
    path = folder / DATABASE
    create(path)
    return path


def applied(model: dict[bytes, Record], groups: list[list[Record]]) -> dict[bytes, Record]:
    """Return the model after groups of records."""
    after = dict(model)
    for record in (record for group in groups for record in group):
        after.pop(record.key, None)
        if record.value is not None:
            after[record.key] = record
    return after


class Files(dict[str, bytes]):
    """The content of the files of a database, by suffix."""

    def __repr__(self) -> str:
        """Return what Hypothesis can print."""
        return f"{len(self)} files"


def files_of(path: Path) -> Files:
    """Return the content of the files of a database."""
    found = {suffix: path.with_name(path.name + suffix) for suffix in SUFFIXES}
    return Files({suffix: file.read_bytes() if file.exists() else b"" for suffix, file in found.items()})


def written(files: dict[str, bytes], folder: Path) -> Path:
    """Write the files of a database, as a kill leaves them, into a new folder; return the database."""
    path = Path(tempfile.mkdtemp(dir=folder)) / DATABASE
    for suffix, content in files.items():
        path.with_name(path.name + suffix).write_bytes(content)
    return path


def mixed(before: bytes, after: bytes, at: float) -> bytes:
    """Return a file in the middle of its change: the first part is new, and what follows is still the old."""
    cut = int(at * max(len(before), len(after)))
    return after[:cut] + before[cut:]


def restored(store: Store) -> dict[bytes, Record]:
    """Return what a store has, by key."""
    return {record.key: record for record in store.records()}


class KilledStore(RuleBasedStateMachine):
    """A database that is killed at any byte of what was never acknowledged has everything that was."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.open(created(self.folder))
        self.acknowledged: dict[bytes, Record] = {}
        self.pending: list[list[Record]] = []

    def open(self, path: Path) -> None:
        self.path, self.store = path, Store(path, piece_bytes=PIECE)
        self.store._connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def continue_with(self, files: dict[str, bytes]) -> None:
        """Go on with files that a kill left."""
        self.store.close()
        self.open(written(files, self.folder))

    @rule(records=RECORDS)
    def append(self, records: list[Record]) -> None:
        self.store.append(records)
        self.pending.append(records)

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.acknowledged, self.pending = applied(self.acknowledged, self.pending), []

    @rule()
    def kill(self) -> None:
        self.continue_with(files_of(self.path))
        assert restored(self.store) == self.acknowledged
        self.pending = []

    @rule(at=st.floats(0, 1), is_log=st.booleans())
    def kill_while_it_commits(self, at: float, is_log: bool) -> None:
        """Kill while SQLite writes its log; or, if it has written that, while it copies the log into the database."""
        before = files_of(self.path)
        self.store.commit()
        after = files_of(self.path)
        log = mixed(before["-wal"], after["-wal"], at) if is_log else after["-wal"]
        database = before[""] if is_log else mixed(before[""], after[""], at)
        self.continue_with({"": database, "-wal": log, ACKNOWLEDGED: before[ACKNOWLEDGED]})
        everything = applied(self.acknowledged, self.pending)
        allowed = (self.acknowledged, everything) if is_log and log != after["-wal"] else (everything,)
        assert restored(self.store) in allowed
        self.acknowledged, self.pending = restored(self.store), []

    @rule()
    def kill_before_a_commit_is_complete(self) -> None:
        copies = list[dict[str, bytes]]()
        self.store._connection.set_trace_callback(
            lambda statement: copies.append(files_of(self.path)) if statement == "COMMIT" else None
        )
        self.store.commit()
        if copies:
            self.continue_with(copies[0])
            assert restored(self.store) == self.acknowledged
            self.pending = []

    @rule()
    def restart(self) -> None:
        self.commit()
        self.store.close()
        self.open(self.path)
        assert restored(self.store) == self.acknowledged

    @invariant()
    def another_reader_sees_what_is_acknowledged(self) -> None:
        assert load(self.path) == self.acknowledged

    @invariant()
    def the_log_stays_as_short_as_a_few_commits(self) -> None:
        assert len(files_of(self.path)["-wal"]) < 40 * 4096


KilledStore.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestKilledStore = KilledStore.TestCase


@pytest.fixture(scope="module")
def killed_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A database of several pages, and a log with several commits, as a kill leaves them."""
    store = Store(created(tmp_path_factory.mktemp("killed")))
    store.append(Record(b'["old","%d"]' % number, b"{}", bytes([number]) * 900) for number in range(20))
    store.commit()
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for number in range(3):
        store.append([Record(b'["new"]', b"%d" % number, bytes(200))])
        store.commit()
    path = Path(store._connection.execute("PRAGMA database_list").fetchone()[2])
    files = files_of(path)
    store.close()
    return files


@settings(max_examples=200, deadline=None)
@given(suffix=st.sampled_from(["", "-wal"]), at=st.floats(0, 1, exclude_max=True), flipped=st.integers(1, 255))
def test_a_damaged_byte_is_an_error_or_changes_nothing(
    killed_files: dict[str, bytes], suffix: str, at: float, flipped: int
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        right = load(written(killed_files, Path(scratch)))
        content = bytearray(killed_files[suffix])
        content[int(at * len(content))] ^= flipped
        path = written({**killed_files, suffix: bytes(content)}, Path(scratch))
        before = files_of(path)
        try:
            store = Store(path)
        except StateError as error:
            assert str(path) in str(error)
            assert files_of(path) == before
        else:
            assert restored(store) == right
            store.close()


def test_a_damaged_key_is_an_error_in_the_table_and_in_its_index(tmp_path: Path) -> None:
    path, key = tmp_path / DATABASE, b'["key","7"]'
    create(path, [Record(b'["key","%d"]' % number, b"{}") for number in range(20)])
    database = path.read_bytes()
    places = [at for at in range(len(database)) if database.startswith(key, at)]
    assert len(places) == 2
    for at in places:
        path.write_bytes(database[:at] + b"x" + database[at + 1 :])
        with pytest.raises(CorruptedStateError, match=r"state\.sqlite cannot be read \(row .* missing from index"):
            load(path)


@pytest.mark.parametrize("log", [b"", b"cut"])
def test_a_log_that_is_missing_or_cut_is_an_error(killed_files: dict[str, bytes], tmp_path: Path, log: bytes) -> None:
    cut, lacking = (killed_files["-wal"][:-5_000], 1) if log else (b"", 3)
    with pytest.raises(
        CorruptedStateError, match=rf"{DATABASE} lacks its last {lacking} commits \(without {DATABASE}-ackn"
    ):
        load(written({**killed_files, "-wal": cut}, tmp_path))


def test_a_check_of_a_killed_state_changes_no_file(killed_files: dict[str, bytes], tmp_path: Path) -> None:
    path = written(killed_files, tmp_path)
    assert StateFolder(path.parent).check() == {"old": 20, "new": 1}
    assert files_of(path) == killed_files


def foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE photos (name TEXT)")


def newer_state(path: Path) -> None:
    create(path)
    with closing(connect(path)) as state:
        state.execute("PRAGMA user_version = 3")


def cut_state(path: Path) -> None:
    create(path, [Record(b'["a"]', b"{}", bytes(50_000))])
    path.write_bytes(path.read_bytes()[:-20_000])


UNUSABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda path: path.write_text("no database" * 100), r"is damaged: .* \(file is not a database\)\. Noth"),
    "empty": (lambda path: path.write_bytes(b""), "is not a state of Fleetsight: name another folder"),
    "of another program": (foreign_database, "is not a state of Fleetsight: name another folder"),
    "of a newer version": (
        newer_state,
        "has format 3, and this .* reads format 2: use the version that wrote it, or another folder$",
    ),
    "cut": (cut_state, r"is damaged: .* Nothing was changed\. Restore a snapshot"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_is_no_whole_state_is_refused_and_not_changed(tmp_path: Path, kind: str) -> None:
    make, message = UNUSABLE[kind]
    path = tmp_path / DATABASE
    make(path)
    before = path.read_bytes()
    with pytest.raises(StateError, match=message) as refused:
        Store(path)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == before


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder()
    recorder.start(Store(created(tmp_path)))
    yield recorder
    assert recorder.store is not None
    recorder.store._connection.close()


def test_each_commit_of_a_recorder_waits_for_the_disk(recorder: Recorder) -> None:
    assert recorder.store is not None
    read = recorder.store._connection.execute
    assert read("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert read("PRAGMA journal_mode").fetchone() == ("wal",)


class EndedError(BaseException):
    """Raised in place of the end of the process."""


def fill_disk(store: Store, _monkeypatch: pytest.MonkeyPatch) -> None:
    [pages] = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")


def break_the_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_records: object) -> None:
        raise struct.error("argument out of range")

    monkeypatch.setattr(store, "_write", fail)


@pytest.mark.parametrize("fault", [fill_disk, break_the_write])
def test_a_process_that_cannot_write_ends_and_acknowledges_nothing(
    recorder: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Store, pytest.MonkeyPatch], None],
) -> None:
    def end(status: int) -> None:
        assert status == NOT_WRITTEN
        raise EndedError

    monkeypatch.setattr("localcloud.state.recorder.os._exit", end)
    store = recorder.store
    assert store is not None
    store.append([Record(b'["a"]', b"1")])
    recorder.commit()
    fault(store, monkeypatch)
    store.append([Record(b'["b"]', b"1", bytes(100_000))])
    with pytest.raises(EndedError):
        recorder.commit()
    assert set(load(written(files_of(tmp_path / DATABASE), tmp_path))) == {b'["a"]'}


def test_an_answer_waits_for_the_record_of_an_object_that_another_call_changes(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Backend:
        account_id, region_name, buckets = "1", "aws", dict[str, Any]()

    monkeypatch.setattr(objects, "recorder", recorder)
    is_visible, may_end = threading.Event(), threading.Event()

    def put(*_arguments: Any) -> None:
        is_visible.set()
        assert may_end.wait(DEADLINE_SECONDS)

    def change() -> None:
        objects._record_change(put, Backend(), "bucket", "name")
        recorder.end_call()

    assert recorder.store is not None
    with ThreadPoolExecutor(2) as calls:
        changing = calls.submit(change)
        assert is_visible.wait(DEADLINE_SECONDS)
        recorder.store.append([Record(b'["depends on it"]', b"1")])
        answered = calls.submit(recorder.commit)
        is_early = bool(wait([answered], 0.2).done)
        may_end.set()
        changing.result(DEADLINE_SECONDS)
        answered.result(DEADLINE_SECONDS)
    assert not is_early
    assert recorder.store._durable == recorder.store._appended == 2
    assert not recorder._changing


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    """A state with one record and a key."""
    folder = StateFolder.usable(tmp_path / "state")
    folder.prepare()
    store = Store(folder.database)
    store.append([Record(b'["a"]', b"1", b"body")])
    store.commit()
    store.close()
    (folder.path / KEY_FILE).write_text("secret")
    return folder


def test_a_snapshot_restores_everything_and_only_its_owner_can_read_it(state: StateFolder, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    assert state.snapshot(file) == file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600
    copy = restore(file, tmp_path / "new" / "copy")
    assert StateFolder.existing(copy.path) == copy
    assert copy.path.stat().st_mode & 0o777 == 0o700
    for name, content in ((KEY_FILE, b"secret"), (DATABASE, copy.database.read_bytes())):
        assert (copy.path / name).read_bytes() == content
        assert (copy.path / name).stat().st_mode & 0o777 == 0o600
    store = Store(copy.database)
    assert restored(store) == {b'["a"]': Record(b'["a"]', b"1", b"body")}
    store.append([Record(b'["b"]', b"2")])
    store.commit()
    store.close()
    assert set(load(copy.database)) == {b'["a"]', b'["b"]'}


def test_only_the_owner_can_read_the_files_of_a_state(state: StateFolder) -> None:
    store = Store(state.database)
    store.append([Record(b'["b"]', b"1")])
    store.commit()
    with state.locked():
        assert {path.stat().st_mode & 0o077 for path in state.path.iterdir() if path.name != KEY_FILE} == {0}
    store.close()


def test_a_folder_of_a_state_is_created_for_its_owner_alone(tmp_path: Path) -> None:
    folder = StateFolder.usable(tmp_path / "new" / "state")
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_a_start_waits_for_an_earlier_process_that_ends(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = state.acquire()
    monkeypatch.setattr("localcloud.state.folder.time.sleep", lambda seconds: os.close(earlier + int(0 * seconds)))
    os.close(state.acquire(DEADLINE_SECONDS))


OPERATIONS: dict[str, tuple[Callable[[StateFolder, Path], Any], str]] = {
    "create": (lambda _, path: create(path / DATABASE), DATABASE),
    "snapshot": (lambda state, path: state.snapshot(path / "backup"), "backup"),
    "restore": (lambda _, path: restore(path.parent / "backup", path), DATABASE),
    "private": (lambda _, path: write_private(path / KEY_FILE, "key"), KEY_FILE),
}


@pytest.fixture
def disk_steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synchronized and renamed, in this order."""
    steps, replace, fsync = list[str](), Path.replace, os.fsync

    def recorded_sync(descriptor: int) -> None:
        fsync(descriptor)
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink()}")

    def recorded_replace(source: Path, target: Path) -> Path:
        steps.append(f"rename {source}")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    return steps


def test_a_reset_is_on_the_disk_before_it_is_reported(state: StateFolder, disk_steps: list[str]) -> None:
    state.remove()
    assert disk_steps[-1] == f"sync {state.path}"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_new_file_is_on_the_disk_before_it_gets_its_name_and_its_folder_after(
    state: StateFolder, tmp_path: Path, disk_steps: list[str], operation: str
) -> None:
    make, name = OPERATIONS[operation]
    (folder := tmp_path / "new").mkdir()
    state.snapshot(tmp_path / "backup")
    disk_steps.clear()
    make(state, folder)
    assert (folder / name).exists()
    renamed = [step for step in disk_steps if step.startswith("rename")]
    assert renamed
    assert all(disk_steps[disk_steps.index(step) - 1] == step.replace("rename", "sync") for step in renamed)
    assert disk_steps[-1] == (f"sync {folder}" if name != KEY_FILE else renamed[0])


def test_a_cut_snapshot_is_not_restored(state: StateFolder, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    state.snapshot(file)
    file.write_bytes(file.read_bytes()[:-4096])
    with pytest.raises(CorruptedStateError):
        restore(file, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_snapshot_is_not_restored_over_other_files(state: StateFolder, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    state.snapshot(file)
    with pytest.raises(StateError, match="is not empty"):
        restore(file, state.path)


def test_a_snapshot_that_does_not_fit_on_its_disk_leaves_no_file(state: StateFolder, tmp_path: Path) -> None:
    with pytest.raises(
        StateError,
        match=r"missing/backup cannot be used .*: free space on its disk, check its rights, or name another",
    ):
        state.snapshot(tmp_path / "missing" / "backup")
    assert state.check() == {"a": 1}


def test_a_reset_state_is_empty_and_can_be_used_again(state: StateFolder) -> None:
    for name in (f"{KEY_FILE}.partial", f"{DATABASE}.partial", f"{DATABASE}-wal", f"{DATABASE}-shm"):
        (state.path / name).touch()  # a kill leaves these
    (state.path / LOGS).mkdir()
    (state.path / LOGS / "web.log").touch()
    state.remove()
    assert {entry.name for entry in state.path.iterdir()} == {"lock"}
    with pytest.raises(StateError, match="is not a state"):
        StateFolder.existing(state.path)
    again = StateFolder.usable(state.path)
    again.prepare()
    assert again.check() == {}


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
    assert state.check() == {"a": 1}


def test_a_folder_with_other_files_does_not_become_a_state(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    for use in (StateFolder.usable, StateFolder.existing):
        with pytest.raises(StateError, match=f"{tmp_path} is not a state, since it has no {DATABASE}"):
            use(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_start_that_was_killed_halfway_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "lost+found").mkdir()  # of the root of a volume
    (tmp_path / f"{DATABASE}.partial").write_text("half a database")
    folder = StateFolder.usable(tmp_path)
    folder.prepare()
    assert folder.check() == {}
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "lost+found", DATABASE}


def file_for_folder(path: Path) -> None:
    path.touch()
    StateFolder.usable(path)


def folder_for_file(path: Path) -> None:
    (path / KEY_FILE).mkdir(parents=True)
    StateFolder(path).remove()


def missing_snapshot(path: Path) -> None:
    restore(path.parent / "missing", path)


@pytest.mark.parametrize("use", [missing_snapshot, file_for_folder, folder_for_file])
def test_an_error_of_the_disk_names_the_folder_and_the_remedy(tmp_path: Path, use: Callable[[Path], None]) -> None:
    with pytest.raises(StateError, match=rf"^{tmp_path}/\w+ cannot be used \(.*: free space on its disk"):
        use(tmp_path / "state")
