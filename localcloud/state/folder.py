"""The folder of a state: the log of a local cloud, its owner's key and other private files, and the lock of its user.

A folder is a state if it has the file `MARKER`. Every command holds the lock while it uses the folder, so that two
systems never write one state, and a state in use is neither copied nor removed. The kernel releases the lock at the
end of the last process that has inherited it: of a command that is killed, the local cloud that it started.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from localcloud.access_keys import HEADER_FILE, KEY_FILE
from localcloud.state.journal import (
    FORMAT,
    REMEDY,
    Record,
    check,
    read_snapshot,
    snapshot_path,
    synchronize,
    write_snapshot,
)

MARKER: Final = "fleetsight-state.json"
"""File that makes a folder a state."""

SESSION_KEYS_FILE: Final = "session-keys"
"""File with the keys of the web tier's sessions."""

PRIVATE_FILES: Final = (KEY_FILE, HEADER_FILE, SESSION_KEYS_FILE)
"""Small files that belong to the state and that only its owner may read."""

_LOCK: Final = "lock"
_LOG: Final = "log"
_PAUSE_SECONDS: Final = 0.1


class StateError(Exception):
    """Raised when a folder or a file cannot be used as asked; the message names it and says what to do."""


class StateInUseError(StateError):
    """Raised when another process uses a state."""


@dataclass(frozen=True)
class StateFolder:
    """A state on disk."""

    path: Path

    @property
    def log(self) -> Path:
        """The folder of the log."""
        return self.path / _LOG

    @classmethod
    def existing(cls, path: Path) -> "StateFolder":
        """Return the state in a folder.

        Raises:
            StateError: the folder is not a state, or one of another version.
        """
        try:
            marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
            found = marker["format"]
        except FileNotFoundError:
            raise StateError(
                f"{path} is not a state, since it has no {MARKER}: name the folder that --state named"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{path / MARKER} cannot be read ({error}). {REMEDY}") from error
        if found != FORMAT:
            raise StateError(
                f"{path} has format {found}, and this version of Fleetsight reads format {FORMAT}: use the version "
                "that wrote it, or another folder"
            )
        return cls(path)

    @classmethod
    def create(cls, path: Path) -> "StateFolder":
        """Return the state in a folder, which is created unless it exists; an empty folder becomes a state.

        Raises:
            StateError: the folder has other files, or cannot be used.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()}
            # A start that was killed leaves these; the root of a volume has lost+found.
            has_others = names - {_LOCK, _LOG, f"{MARKER}.partial", "lost+found"}
            if has_others or (_LOG in names and any((path / _LOG).iterdir())):
                return cls.existing(path)
            (path / _LOG).mkdir(mode=0o700, exist_ok=True)
            _mark(path)
        except OSError as error:
            raise StateError(
                f"{path} cannot be used as a state: {error.strerror}; name a folder that you may write"
            ) from error
        return cls(path)

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
        partial = file.with_name(f".{file.name}.partial")
        with self.locked():
            private = [
                Record(_private_key(name), (self.path / name).read_bytes())
                for name in PRIVATE_FILES
                if (self.path / name).exists()
            ]
            try:
                write_snapshot(self.log, partial, more=private)
                partial.replace(file)
                synchronize(file.absolute().parent)
            except OSError as error:
                raise StateError(f"cannot write {file}: {error.strerror}; choose another place") from error
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
        return file.stat().st_size

    def remove(self) -> None:
        """Remove the state; the folder stays, and is empty except for its lock.

        Raises:
            StateInUseError: another process uses the state.
            StateError: a file cannot be removed.
        """
        with self.locked():
            try:
                shutil.rmtree(self.log, ignore_errors=False)
                for name in PRIVATE_FILES:
                    (self.path / name).unlink(missing_ok=True)
                (self.path / MARKER).unlink()  # last: until then the folder is a state
                synchronize(self.path)
            except OSError as error:
                raise StateError(f"cannot remove {error.filename}: {error.strerror}") from error

    def check(self) -> int:
        """Read the whole log and return the number of its records.

        Raises:
            CorruptedStateError: the state is damaged.
        """
        return check(self.log)


def restore(file: Path, path: Path) -> StateFolder:
    """Create a state from a snapshot, in a folder that is empty or does not exist.

    Raises:
        StateError: the folder has files, or the file cannot be read.
        CorruptedStateError: the file is not a whole snapshot.
    """
    try:
        if path.exists() and {entry.name for entry in path.iterdir()} - {_LOCK}:
            raise StateError(f"{path} is not empty: name a folder that does not exist")
        private = {name: record.value for record in read_snapshot(file) if (name := _private_name(record.key))}
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / _LOG).mkdir(mode=0o700)
        target = snapshot_path(path / _LOG, 0)
        shutil.copyfile(file, target)
        target.chmod(0o600)
        synchronize(target)
        synchronize(path / _LOG)
        for name, value in private.items():
            write_private(path / name, (value or b"").decode())
        _mark(path)
    except OSError as error:
        raise StateError(f"{error.filename or file}: {error.strerror}; name other files") from error
    return StateFolder(path)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, and wait until the disk has it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _mark(path: Path) -> None:
    """Make a folder with its log a state."""
    partial = path / f"{MARKER}.partial"
    write_private(partial, json.dumps({"format": FORMAT}) + "\n")
    partial.replace(path / MARKER)
    synchronize(path)


def _private_key(name: str) -> bytes:
    return json.dumps(["file", name]).encode()


def _private_name(key: bytes) -> str | None:
    kind, *name = json.loads(key)
    return name[0] if kind == "file" and name[0] in PRIVATE_FILES else None
