"""The state on disk: what was acknowledged survives a kill at any byte, and damage is an error, never silence."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from localcloud.access_keys import KEY_FILE
from localcloud.state.folder import DATABASE, LOGS, StateFolder, StateInUseError, restore
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


KilledStore.TestCase.settings = settings(stateful_step_count=30)
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
    assert state.path.stat().st_mode & 0o777 == 0o700
    with state.locked():
        assert {path.stat().st_mode & 0o077 for path in state.path.iterdir() if path.name != KEY_FILE} == {0}
    store.close()


def test_a_start_waits_for_an_earlier_process_that_ends(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = state.acquire()
    monkeypatch.setattr("localcloud.state.folder.time.sleep", lambda seconds: os.close(earlier + int(0 * seconds)))
    os.close(state.acquire(DEADLINE_SECONDS))


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
