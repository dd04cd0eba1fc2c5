"""The folder of a state: the database of a local cloud, its owner's key and other private files, logs, and a lock.

A folder is a state if it has the file `DATABASE`. Every command holds the lock while it uses the folder, so that two
systems never write one state. The kernel releases the lock at the end of the last process that has inherited it: of a
command that is killed, the local cloud that it started.
"""

import fcntl
import os
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from localcloud.store import DATABASE, PARTIAL, StateError, check_head, connect, create, named_errors, synchronize

SESSION_KEYS_FILE: Final = "session-keys"
"""File with the keys of the web tier's sessions."""

LOGS: Final = "logs"
"""Folder with the logs of the systems that have used the state."""

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
    def usable(cls, path: Path) -> "StateFolder":
        """Return the folder, which is created unless it exists, if it is a state or empty.

        Raises:
            StateError: the folder has other files, or cannot be used.
        """
        with named_errors(path):
            _create_folder(path)
            names = {entry.name for entry in path.iterdir()}
        # A start that was killed leaves these; the root of a volume has lost+found.
        if DATABASE not in names and names - {_LOCK, PARTIAL, "lost+found"}:
            raise StateError(f"{path} is not a state, since it has no {DATABASE}: name an empty or missing folder")
        return cls(path)

    def prepare(self) -> None:
        """Create an empty database unless there is one, which is checked; the caller has the lock.

        Raises:
            StateError: the disk is full or fails, or as `check_head`.
        """
        with named_errors(self.database):
            if not self.database.exists():
                create(self.path)
            with closing(connect(self.database, mode="ro")) as connection:
                check_head(connection, self.database)

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


def _create_folder(path: Path) -> None:
    """Create a folder that a power failure does not remove again."""
    missing = [each for each in (path.absolute(), *path.absolute().parents) if not each.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        synchronize(each.parent)
