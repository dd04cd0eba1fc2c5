"""The state on disk: what was acknowledged survives a kill at any byte, and damage is an error, never silence."""

import gc
import os
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from moto.s3.models import FakeKey

from localcloud.patches import apply_patches
from localcloud.s3.stored_keys import StoredKeys
from localcloud.state.folder import StateFolder, StateInUseError
from localcloud.store import (
    CONTENTS,
    DATABASE,
    FORMAT,
    CorruptedStateError,
    StateError,
    StorageError,
    Store,
    checksum,
    connect,
    create,
    data,
    use,
)
from localcloud.tests.support.power_cuts import OF_SQLITE, Disk, Files, files_of, write_files
from localcloud.tests.support.waiting import DEADLINE_SECONDS
from localcloud.tests.support.whole_states import check

LARGE = 40
"""Size from which a content is a file in these tests, so that they write little."""

LOG_PAGES = 6
"""So few that a commit in three copies the log into the database."""

BUCKET = ("123456789012", "aws", "bucket")
NAMES = st.sampled_from(["a", "b", "c"])
BYTES = st.one_of(st.binary(max_size=20), st.binary(min_size=LARGE, max_size=60))


class EndedError(BaseException):
    """Raised in place of the end of this process."""


def end(error: Exception) -> None:
    raise EndedError from error


@pytest.fixture(autouse=True, scope="module")
def _own_store() -> Iterator[None]:
    apply_patches("core")
    apply_patches("s3")
    before = data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("localcloud.store.LARGE_BYTES", LARGE)
        patch.setattr("localcloud.store.end_process", end)
        yield
    use(before)


def opened(folder: Path) -> StoredKeys:
    """Open the state in a folder as that of this process; return the objects of its bucket."""
    use(Store(folder))
    keys = StoredKeys(*BUCKET)
    data().write("UPDATE resources SET value = '{}'")
    data().commit()
    return keys


def put(keys: StoredKeys, name: str, content: bytes) -> None:
    stored = FakeKey(name, content, account_id=BUCKET[0], region_name=BUCKET[1], bucket_name=BUCKET[2])
    keys.setlist(name, [stored])


def put_item(name: str, value: bytes) -> None:
    row = (name.encode(), b"-", value.hex())
    data().write("INSERT OR REPLACE INTO items VALUES (7, ?, ?, 0, ?, ?)", *row, checksum(*row))


Rows = dict[tuple[str, str], bytes]


def rows_of(keys: StoredKeys) -> Rows:
    """Return the objects and items of the present store."""
    objects: Rows = {("object", each.name): each.value for each in keys.page("", b"", 1_000)}
    for *row, right in data().read("SELECT hash_key, range_key, item, checksum FROM items"):
        if checksum(*row) != right:
            end(ValueError(f"the row {row} is damaged"))
        objects["item", row[0].decode()] = bytes.fromhex(row[2])
    return objects


def mixed(before: bytes, after: bytes, at: float) -> bytes:
    """Return a file in the middle of its change: the first part is new, and what follows is still the old."""
    cut = int(at * max(len(before), len(after)))
    return after[:cut] + before[cut:]


class KilledStore(RuleBasedStateMachine):
    """A state that ends at any byte of what was never acknowledged has everything that was."""

    def __init__(self) -> None:
        super().__init__()
        self.disk, self._patch = Disk(), pytest.MonkeyPatch()
        self._patch.setattr(os, "fsync", self.disk.fsync)
        self.scratch = Path(tempfile.mkdtemp())
        self.folder = self.scratch / "state"
        self.folder.mkdir()
        create(self.folder)
        self.acknowledged: Rows = {}
        self.readers: list[tuple[Any, bytes]] = []
        self.open()
        self.synchronized = self.files_of_sqlite()

    def open(self) -> None:
        self.keys, self.store = opened(self.folder), data()
        self.store._connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        self.present = dict(self.acknowledged)

    def teardown(self) -> None:
        self.readers = []
        self.store.close()
        self._patch.undo()
        shutil.rmtree(self.scratch)

    def files_of_sqlite(self) -> Files:
        return {name: content for name, content in files_of(self.folder).items() if name in OF_SQLITE}

    def continue_with(self, files: Files, *allowed: Rows) -> None:
        """Go on with files that are left, which must have one of these rows, and no other content."""
        self.readers = []
        self.store._connection.close()
        os.close(self.store._acknowledged)
        self.folder = write_files(files, Path(tempfile.mkdtemp(dir=self.scratch)) / "state")
        self.disk.synchronize_all(self.folder)
        self.open()
        self.acknowledged, self.synchronized = rows_of(self.keys), self.files_of_sqlite()
        self.present = dict(self.acknowledged)
        assert self.acknowledged in allowed
        self.no_file_is_left_over()

    def no_file_is_left_over(self) -> None:
        gc.collect(1)  # of all generations would take a hundred times as long among all tests
        files = sum(len(content) >= LARGE for (kind, _), content in self.acknowledged.items() if kind == "object")
        assert len(list((self.folder / CONTENTS).iterdir())) == files

    @rule(name=NAMES, content=BYTES)
    def put(self, name: str, content: bytes) -> None:
        put(self.keys, name, content)
        self.present["object", name] = content

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        with suppress(KeyError):
            self.keys.pop(name)
        self.present.pop(("object", name), None)

    @rule(name=NAMES, value=BYTES)
    def put_item(self, name: str, value: bytes) -> None:
        put_item(name, value)
        self.present["item", name] = value

    @rule(name=NAMES, content=BYTES)
    def fail_in_the_middle_of_a_change(self, name: str, content: bytes) -> None:
        with suppress(KeyError), self.store.change():
            put(self.keys, name, content)
            put_item(name, content)
            self.keys.pop("missing")

    @rule(name=NAMES, content=st.one_of(st.none(), BYTES))
    def replace_or_delete_while_it_is_read(self, name: str, content: bytes | None) -> None:
        if found := self.keys.get(name):
            self.readers.append((found, self.present["object", name]))
        if content is None:
            self.delete(name)
        else:
            self.put(name, content)

    @rule()
    def end_reading(self) -> None:
        self.readers = self.readers[1:]

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.acknowledged, self.synchronized = dict(self.present), self.files_of_sqlite()
        if not self.readers:
            self.store.write("UPDATE commits SET number = number")
            self.store.commit()  # removes what was read until now
            self.synchronized = self.files_of_sqlite()
            self.no_file_is_left_over()

    @rule(name=NAMES, content=BYTES)
    def put_while_a_commit_waits_for_the_disk(self, name: str, content: bytes) -> None:
        later = [(name, content)]

        def fsync(descriptor: int) -> None:
            while later:
                self.put(*later.pop())  # as another thread does
            self.disk.fsync(descriptor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            self.store.commit()
        self.acknowledged, self.synchronized = dict(self.present), self.files_of_sqlite()
        self.cut_the_power()

    @rule()
    def commit_while_rows_are_read(self) -> None:
        names = self.store.rows("SELECT hash_key FROM items ORDER BY hash_key")
        first = next(names, None)
        self.commit()
        found = [name.decode() for (name,) in ([first] if first else []) + list(names)]
        assert found == sorted(name for kind, name in self.present if kind == "item")

    @rule(content=st.binary(min_size=LARGE, max_size=60), at=st.floats(0, 1))
    def kill_while_it_writes_a_content(self, content: bytes, at: float) -> None:
        number, files = self.store.new_content(content).number, files_of(self.folder)
        files[f"{CONTENTS}/{number}"] = content[: int(at * len(content))]
        self.continue_with(files, self.acknowledged)

    @rule(at=st.floats(0, 1), is_log=st.booleans())
    def kill_while_it_commits(self, at: float, is_log: bool) -> None:
        """Kill while SQLite writes its log; or, if it has written that, while it copies the log into the database."""
        before, (database, log) = files_of(self.folder), OF_SQLITE
        self.store.commit()
        after = files_of(self.folder)
        left = {**before, log: mixed(before[log], after[log], at) if is_log else after[log]}
        left[database] = before[database] if is_log else mixed(before[database], after[database], at)
        is_cut = is_log and left[log] != after[log]
        self.continue_with(left, self.present, *([self.acknowledged] if is_cut else []))

    @rule(is_power=st.booleans())
    def end_before_a_commit_is_complete(self, is_power: bool) -> None:
        left, allowed = list[Files](), self.acknowledged

        def trace(statement: str) -> None:
            if statement == "COMMIT":
                left.append(self.left(self.synchronized) if is_power else files_of(self.folder))

        self.store._connection.set_trace_callback(trace)
        self.store.commit()
        if left:
            self.continue_with(left[0], allowed)

    @rule(is_power=st.booleans())
    def end_between_a_commit_and_its_answer(self, is_power: bool) -> None:
        left, write = list[Files](), os.pwrite

        def copy_and_write(*arguments: Any) -> int:
            left.append(self.left(self.files_of_sqlite()) if is_power else files_of(self.folder))
            return write(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pwrite", copy_and_write)
            self.store.commit()
        if left:
            self.continue_with(left[0], self.present)

    @rule()
    def cut_the_power(self) -> None:
        self.continue_with(self.left(self.synchronized), self.acknowledged)

    def left(self, of_sqlite: Files) -> Files:
        return self.disk.files_after_power_cut(self.folder, of_sqlite)

    @rule(name=NAMES, content=BYTES)
    def fill_the_disk(self, name: str, content: bytes) -> None:
        self.store._connection.execute("PRAGMA max_page_count = 1")
        try:
            self.put(name, content)
            self.put_item(name, content * 300)
            self.commit()
        except EndedError:
            self.continue_with(files_of(self.folder), self.acknowledged)
        self.store._connection.execute("PRAGMA max_page_count = 1000000")

    @rule()
    def restart(self) -> None:
        self.commit()
        self.readers = []
        self.store.close()
        self.open()
        assert rows_of(self.keys) == self.acknowledged
        self.synchronized = self.files_of_sqlite()
        self.no_file_is_left_over()

    @invariant()
    def calls_see_what_was_changed(self) -> None:
        assert rows_of(self.keys) == self.present

    @invariant()
    def who_reads_an_object_gets_its_content_until_the_end(self) -> None:
        assert [found.value for found, _ in self.readers] == [content for _, content in self.readers]

    @invariant()
    def another_reader_sees_what_is_acknowledged(self) -> None:
        found = check(self.folder)
        assert {kind: found[f"{kind}s"] for kind in ("object", "item")} == {
            kind: sum(each == kind for each, _ in self.acknowledged) for kind in ("object", "item")
        }

    @invariant()
    def the_log_stays_as_short_as_a_few_commits(self) -> None:
        assert len(files_of(self.folder)[f"{DATABASE}-wal"]) < 60 * 4096


KilledStore.TestCase.settings = settings(stateful_step_count=30)
TestKilledStore = KilledStore.TestCase


def test_threads_that_change_undo_and_commit_at_once_lose_nothing(tmp_path: Path) -> None:
    create(tmp_path)
    keys, threads, turns = opened(tmp_path), 8, 40

    def work(number: int) -> None:
        for turn in range(turns):
            with suppress(KeyError), data().change():
                put(keys, f"undone {number}", bytes(LARGE))
                keys.pop("missing")
            put(keys, f"{number} {turn}", bytes([number]) * (LARGE if turn % 2 else 1))
            data().commit()
            if turn > 1:
                keys.pop(f"{number} {turn - 2}")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    data().commit()
    folder = write_files(files_of(tmp_path), tmp_path / "copy")
    data().close()
    assert set(rows_of(opened(folder))) == {
        ("object", f"{n} {turns - back}") for n in range(threads) for back in (1, 2)
    }
    assert check(folder)["objects"] == 2 * threads
    data().close()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Rows]:
    """A database of several pages, contents and a log with several commits, as a kill leaves them; and the rows."""
    folder = tmp_path_factory.mktemp("killed")
    create(folder)
    keys = opened(folder)
    for number in range(20):
        put_item(f"old {number}", bytes([number]) * 450)
    put(keys, "large", bytes(range(200)))
    data().commit()
    data()._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for number in range(3):
        put(keys, f"small {number}", bytes([number]) * 20)
        data().commit()
    files, rows = files_of(folder), rows_of(keys)
    data().close()
    return files, rows


@given(
    name=st.sampled_from([*OF_SQLITE, f"{CONTENTS}/1"]),
    at=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
)
def test_a_damaged_byte_is_an_error_of_who_reads_it_or_changes_nothing(
    killed: tuple[Files, Rows], name: str, at: float, flip: int
) -> None:
    files, rows = killed
    with tempfile.TemporaryDirectory() as scratch:
        content = bytearray(files[name])
        content[int(at * len(content))] ^= flip
        folder = write_files({**files, name: bytes(content)}, Path(scratch) / "state")
        try:
            found = rows_of(opened(folder))
        except StateError as error:
            assert str(folder) in str(error)
        except EndedError:
            data().close()
        else:
            assert found.items() <= rows.items()
            data().close()


@pytest.mark.parametrize("log", [b"", b"cut"])
def test_a_log_that_is_missing_or_cut_is_an_error(killed: tuple[Files, Rows], tmp_path: Path, log: bytes) -> None:
    files, name = killed[0], f"{DATABASE}-wal"
    cut, lacking = (files[name][:-5_000], 1) if log else (b"", 3)
    folder = write_files({**files, name: cut}, tmp_path / "state")
    with pytest.raises(
        CorruptedStateError, match=rf"{DATABASE} lacks its last {lacking} commits \(without {DATABASE}-ackn"
    ):
        Store(folder)


def test_a_bucket_that_was_never_acknowledged_ends_with_what_is_in_it(tmp_path: Path) -> None:
    create(tmp_path)
    kept = opened(tmp_path)
    put(kept, "kept", bytes(LARGE))
    put(StoredKeys(*BUCKET[:2], "new"), "lost", bytes(LARGE))
    data().commit()
    data().close()
    kept = opened(tmp_path)
    assert check(tmp_path) == {"objects": 1}
    assert rows_of(kept) == {("object", "kept"): bytes(LARGE)}
    assert len(list((tmp_path / CONTENTS).iterdir())) == 1
    data().close()


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file and no database grow while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    data()._connection.execute("PRAGMA max_page_count = 1")
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE // 2, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        data()._connection.execute("PRAGMA max_page_count = 1000000")


STEPS = st.lists(st.tuples(st.booleans(), NAMES, st.one_of(BYTES, st.just(bytes(30_000)))), max_size=15)


@given(steps=STEPS)
def test_a_full_disk_fails_a_change_as_a_whole_and_later_ones_succeed(steps: list[tuple[bool, str, bytes]]) -> None:
    use(Store())
    keys, rows = StoredKeys(*BUCKET), Rows()
    for is_full, name, content in steps:
        try:
            with full_disk() if is_full else nullcontext(), data().change():
                put_item(name, content)
                put(keys, name, content)
        except StorageError as error:
            assert is_full
            assert f"the temporary files in {data().folder.parent} cannot be written" in str(error)
        else:
            rows["item", name] = rows["object", name] = content
        assert rows_of(keys) == rows
    gc.collect()
    files = sum(len(content) >= LARGE for (kind, _), content in rows.items() if kind == "object")
    assert len(list((data().folder / CONTENTS).iterdir())) == files
    data().close()
    assert not data().folder.exists()


def test_a_temporary_folder_ends_with_its_process_or_at_a_later_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SQLITE_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    used = Store()
    assert used.folder.parent == tmp_path
    killed, new = (Path(tempfile.mkdtemp(prefix="localcloud-data-", dir=tmp_path)) for _ in range(2))
    (killed / CONTENTS).mkdir()
    for folder in (used.folder, killed):
        os.utime(folder, (0, 0))
    later = Store()
    assert set(tmp_path.iterdir()) == {used.folder, new, later.folder}
    used.close()
    later.close()
    assert list(tmp_path.iterdir()) == [new]


def foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE photos (name TEXT)")


def newer_state(path: Path) -> None:
    create(path.parent)
    with closing(connect(path)) as state:
        state.execute(f"PRAGMA user_version = {FORMAT + 1}")


def cut_state(path: Path) -> None:
    create(path.parent)
    path.write_bytes(path.read_bytes()[:-20_000])


UNUSABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda path: path.write_text("no database" * 100), r"is damaged: .* \(file is not a database\)\. Noth"),
    "empty": (lambda path: path.write_bytes(b""), "is not a state of Fleetsight: name another folder"),
    "of another program": (foreign_database, "is not a state of Fleetsight: name another folder"),
    "of a newer version": (
        newer_state,
        f"has format {FORMAT + 1}, .* reads format {FORMAT}: use the version that wrote it, or another folder$",
    ),
    "cut": (cut_state, r"is damaged: .* Nothing was changed\. Use a copy of the folder from before"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_is_no_whole_state_is_refused_and_not_changed(tmp_path: Path, kind: str) -> None:
    make, message = UNUSABLE[kind]
    path = tmp_path / DATABASE
    make(path)
    before = path.read_bytes()
    with pytest.raises(StateError, match=message) as refused:
        Store(tmp_path)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == before


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    """A state with a large object and a small one."""
    folder = StateFolder.usable(tmp_path / "state")
    folder.prepare()
    keys = opened(folder.path)
    put(keys, "large", bytes(LARGE))
    put(keys, "small", b"small")
    data().close()
    return folder


def test_only_the_owner_can_read_the_files_of_a_state(state: StateFolder) -> None:
    put(opened(state.path), "new", bytes(LARGE))
    data().commit()
    assert state.path.stat().st_mode & 0o777 == 0o700
    lock = state.acquire()
    assert {path.stat().st_mode & 0o077 for path in state.path.rglob("*")} == {0}
    os.close(lock)
    data().close()


def test_a_state_in_use_is_not_used_twice(state: StateFolder) -> None:
    lock = state.acquire()
    with pytest.raises(StateInUseError, match="is in use: stop the system"):
        state.acquire()
    os.close(lock)
    os.close(state.acquire())


def test_a_start_waits_for_an_earlier_process_that_ends(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = state.acquire()
    monkeypatch.setattr("localcloud.state.folder.time.sleep", lambda seconds: os.close(earlier + int(0 * seconds)))
    os.close(state.acquire(DEADLINE_SECONDS))


DAMAGE = {f"{CONTENTS}/1": (bytes(10), b"x" * 10), DATABASE: (b'"last_modified":"2', b'"last_modified":"3')}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_content_or_row_ends_the_process_that_reads_it(state: StateFolder, name: str) -> None:
    path = state.path / name
    path.write_bytes(path.read_bytes().replace(*DAMAGE[name]))
    keys = opened(state.path)
    with pytest.raises(EndedError):
        keys["large"].value  # noqa: B018 (it reads)
    data().close()


def test_a_folder_with_other_files_does_not_become_a_state(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StateError, match=f"{tmp_path} is not a state, since it has no {DATABASE}: name an empty"):
        StateFolder.usable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_start_that_was_killed_halfway_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "lost+found").mkdir()  # of the root of a volume
    (tmp_path / f"{DATABASE}.partial").write_text("half a database")
    folder = StateFolder.usable(tmp_path)
    folder.prepare()
    assert not check(folder.path)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "lost+found", DATABASE}


def test_an_error_of_the_disk_names_the_folder_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(StateError, match=rf"^{tmp_path}/state cannot be used \(.*: free space on its disk"):
        StateFolder.usable(tmp_path / "state")
