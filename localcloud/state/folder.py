"""The folder of a state: the database of a local cloud, its owner's key and other private files, logs, and a lock.

A folder is a state if it has the file `DATABASE`. Every command holds the lock while it uses the folder, so that two
systems never write one state, and a state in use is neither copied nor removed. The kernel releases the lock at the
end of the last process that has inherited it: of a command that is killed, the local cloud that it started.
"""

import fcntl
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from localcloud.access_keys import HEADER_FILE, KEY_FILE, write_private
from localcloud.state.store import (
    ACKNOWLEDGED,
    Record,
    StateError,
    create,
    load,
    named_errors,
    synchronize,
    tally,
    whole_records,
)

DATABASE: Final = "state.sqlite"
"""File that makes a folder a state."""

SESSION_KEYS_FILE: Final = "session-keys"
"""File with the keys of the web tier's sessions."""

PRIVATE_FILES: Final = (KEY_FILE, HEADER_FILE, SESSION_KEYS_FILE)
"""Small files that belong to the state and that only its owner may read; a snapshot has each as a record."""

LOGS: Final = "logs"
"""Folder with the logs of the systems that have used the state; no snapshot has them."""

_PRIVATE: Final = "file"  # kind of the records of private files in a snapshot
_LOCK: Final = "lock"
_PARTIAL: Final = f"{DATABASE}.partial"
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
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()}
        # A start that was killed leaves these; the root of a volume has lost+found.
        return cls(path) if names <= {_LOCK, _PARTIAL, "lost+found"} else cls.existing(path)

    def prepare(self) -> None:
        """Create an empty database unless there is one; the caller has the lock.

        Raises:
            StateError: the disk is full or fails.
        """
        with named_errors(self.path):
            if not self.database.exists():
                create(self.database)

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
        """Write everything into one file, in the place of an existing one; return its size in bytes.

        Raises:
            StateInUseError: another process uses the state.
            StateError: the file cannot be written.
            CorruptedStateError: the state is damaged.
        """
        with self.locked():
            self.prepare()
            private = [
                Record(json.dumps([_PRIVATE, name]).encode(), path.read_bytes())
                for name in PRIVATE_FILES
                if (path := self.path / name).exists()
            ]
            create(file, chain(whole_records(self.database), private))
        return file.stat().st_size

    def remove(self) -> None:
        """Remove the state; the folder stays, and is empty except for its lock.

        Raises:
            StateInUseError: another process uses the state.
            StateError: a file cannot be removed.
        """
        with self.locked(), named_errors(self.path):
            shutil.rmtree(self.path / LOGS, ignore_errors=True)
            # The database last: until then the folder is a state.
            for name in (*PRIVATE_FILES, DATABASE):
                for end in (".partial", ACKNOWLEDGED, "-wal", "-shm", ""):
                    (self.path / f"{name}{end}").unlink(missing_ok=True)
            synchronize(self.path)

    def check(self) -> Counter[str]:
        """Read the whole database and return the number of its records by kind.

        Raises:
            StateError: the database is of something else, or of another version.
            CorruptedStateError: the database is damaged.
        """
        return tally(self.database)


def restore(file: Path, path: Path) -> StateFolder:
    """Create a state from a snapshot, in a folder that is empty or does not exist.

    Raises:
        StateError: the folder has files, or the file is no snapshot.
        CorruptedStateError: the file is not a whole snapshot.
    """
    folder = StateFolder(path)
    with named_errors(path):
        if path.exists() and {entry.name for entry in path.iterdir()} - {_LOCK, _PARTIAL}:
            raise StateError(f"{path} is not empty: name a folder that does not exist")
        records = load(file)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for key in [key for key in records if json.loads(key)[0] == _PRIVATE]:
            private, name = records.pop(key), json.loads(key)[1]
            if name in PRIVATE_FILES:
                write_private(path / name, (private.value or b"").decode())
        create(folder.database, records.values())
    return folder
