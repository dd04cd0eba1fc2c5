"""The folder of a state: the database of a local cloud, its owner's key and other private files, logs, and a lock.

A folder is a state if it has the file `DATABASE`. Every command holds the lock while it uses the folder, so that two
systems never write one state, and a state in use is neither copied nor removed. The kernel releases the lock at the
end of the last process that has inherited it: of a command that is killed, the local cloud that it started.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import BadZipFile, ZipFile

from localcloud.access_keys import HEADER_FILE, KEY_FILE
from localcloud.store import (
    ACKNOWLEDGED,
    CONTENTS,
    DATABASE,
    PARTIAL,
    CorruptedStateError,
    StateError,
    check,
    check_head,
    connect,
    create,
    named_errors,
    new_file,
    synchronize,
)

SESSION_KEYS_FILE: Final = "session-keys"
"""File with the keys of the web tier's sessions."""

PRIVATE_FILES: Final = (KEY_FILE, HEADER_FILE, SESSION_KEYS_FILE)
"""Small files that belong to the state and that only its owner may read."""

LOGS: Final = "logs"
"""Folder with the logs of the systems that have used the state; no snapshot has them."""

_LOCK: Final = "lock"
_PAUSE_SECONDS: Final = 0.1


class StateInUseError(StateError):
    """Raised when another process uses a state."""


@dataclass(frozen=True)
class StateFolder:
    """A state on disk, or an empty folder that `prepare` makes one."""

    path: Path

    @property
    def database(self) -> Path:
        """The file of the database."""
        return self.path / DATABASE

    @classmethod
    def existing(cls, path: Path) -> "StateFolder":
        """Return the state in a folder.

        Raises:
            StateError: the folder is not a state.
        """
        if not (path / DATABASE).exists():
            raise StateError(f"{path} is not a state, since it has no {DATABASE}: name the folder that --state named")
        return cls(path)

    @classmethod
    def usable(cls, path: Path) -> "StateFolder":
        """Return the folder, which is created unless it exists, if it is a state or empty.

        Raises:
            StateError: the folder has other files, or cannot be used.
        """
        with named_errors(path):
            _create_folder(path)
            names = {entry.name for entry in path.iterdir()}
        # A start that was killed leaves these; the root of a volume has lost+found.
        return cls(path) if names <= {_LOCK, PARTIAL, "lost+found"} else cls.existing(path)

    def prepare(self) -> None:
        """Create an empty database unless there is one; the caller has the lock.

        Raises:
            StateError: the disk is full or fails.
        """
        with named_errors(self.path):
            if not self.database.exists():
                create(self.path)

    def acquire(self, seconds: float = 0.0) -> int:
        """Return a file descriptor with the lock; wait up to `seconds` for a process that ends.

        Raises:
            StateInUseError: another process has the lock.
        """
        descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    raise StateInUseError(
                        f"the state {self.path} is in use: stop the system that runs with it"
                    ) from None
                time.sleep(_PAUSE_SECONDS)
            else:
                return descriptor

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock while the block runs.

        Raises:
            StateInUseError: another process has the lock.
        """
        descriptor = self.acquire()
        try:
            yield
        finally:
            os.close(descriptor)

    def snapshot(self, file: Path) -> int:
        """Check everything, and write it into one file in the place of an existing one; return its size in bytes.

        The file is a zip archive without compression.

        Raises:
            StateInUseError: another process uses the state.
            StateError: the file cannot be written.
            CorruptedStateError: the state is damaged.
        """
        partial = file.with_name(f"{file.name}.partial")
        with self.locked():
            self.prepare()
            check(self.path)
            with named_errors(self.database), closing(connect(self.database)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the database has everything then
            with named_errors(file):
                partial.unlink(missing_ok=True)
                try:
                    with (
                        new_file(partial) as target,
                        ZipFile(target, "w", strict_timestamps=False) as archive,
                    ):
                        for name in self._names():
                            archive.write(self.path / name, name)
                    synchronize(partial)
                    partial.replace(file)
                finally:
                    partial.unlink(missing_ok=True)
                synchronize(file.absolute().parent)
        return file.stat().st_size

    def _names(self) -> Iterator[str]:
        """Yield the names of the files of a snapshot; a content without a row is in none."""
        yield DATABASE
        yield from (name for name in PRIVATE_FILES if (self.path / name).exists())
        with closing(connect(self.database, mode="ro")) as connection:
            for (number,) in connection.execute("SELECT number FROM contents WHERE content IS NULL"):
                yield f"{CONTENTS}/{number}"

    def remove(self) -> None:
        """Remove the state; the folder stays, and is empty except for its lock.

        Raises:
            StateInUseError: another process uses the state.
            StateError: a file cannot be removed.
        """
        with self.locked(), named_errors(self.path):
            self.clear()

    def clear(self) -> None:
        """Remove all files but the lock, which the caller holds; the last is the database, which makes it a state."""
        shutil.rmtree(self.path / LOGS, ignore_errors=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path / CONTENTS)
        for name in (*PRIVATE_FILES, DATABASE):
            for end in (".partial", ACKNOWLEDGED.removeprefix(DATABASE), "-wal", "-shm", ""):
                (self.path / f"{name}{end}").unlink(missing_ok=True)
        synchronize(self.path)


def restore(file: Path, path: Path) -> StateFolder:
    """Create a state from a snapshot, in a folder that is empty or does not exist.

    Raises:
        StateError: the folder has files, or the file is no snapshot.
        CorruptedStateError: the file is not a whole snapshot.
    """
    folder, is_new = StateFolder(path), not path.exists()
    with named_errors(path):
        if not is_new and {entry.name for entry in path.iterdir()} - {_LOCK, PARTIAL}:
            raise StateError(f"{path} is not empty: name a folder that does not exist")
        try:
            with ZipFile(file) as archive:
                targets = {name: _target(file, path, name) for name in (DATABASE, *archive.namelist())}
                _create_folder(path)
                try:
                    _extract(archive, targets, path)
                except BaseException:
                    folder.clear()
                    if is_new:
                        path.rmdir()
                    raise
        except (BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
            raise CorruptedStateError(file, f"cannot be read ({error})") from error
    return folder


def _target(file: Path, path: Path, name: str) -> Path:
    """Return where a file of a snapshot belongs; the path is never that in the snapshot."""
    if name == DATABASE:
        return path / PARTIAL
    if name in PRIVATE_FILES:
        return path / name
    folder, _, number = name.partition("/")
    if folder == CONTENTS and number.isascii() and number.isdigit():
        return path / CONTENTS / str(int(number))
    raise StateError(f"{file} is no snapshot, since it has {name!r}: name one that `state snapshot` wrote")


def _extract(archive: ZipFile, targets: dict[str, Path], path: Path) -> None:
    """Write the files of a snapshot; zipfile checks each against its checksum at its end."""
    (path / PARTIAL).unlink(missing_ok=True)
    (path / CONTENTS).mkdir(mode=0o700)
    for name, target in targets.items():
        with archive.open(name) as source, new_file(target) as copy:
            shutil.copyfileobj(source, copy)
        synchronize(target)
    with closing(connect(path / PARTIAL)) as connection:
        check_head(connection, path / PARTIAL)
    synchronize(path / CONTENTS)
    synchronize(path)
    (path / PARTIAL).replace(path / DATABASE)  # it is a state only now
    synchronize(path)


def _create_folder(path: Path) -> None:
    """Create a folder that a power failure does not remove again."""
    missing = [each for each in (path.absolute(), *path.absolute().parents) if not each.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        synchronize(each.parent)
