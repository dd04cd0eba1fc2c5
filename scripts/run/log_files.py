"""The log files of a local system: private, kept over restarts, and bounded in size.

A process appends to its log by a descriptor that it inherits. So a log that is full is copied and emptied.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Final

from localcloud.machines.machine import machines_in

MAX_LOG_BYTES: Final = 10 * 2**20
"""Size in bytes at which a log is rotated."""

KEPT_FILES: Final = 3
"""Older files of each log, `NAME.1` the newest."""

KEPT_CONSOLES: Final = 100
"""Consoles of instances that have ended, the newest."""

CHECK_SECONDS: Final = 5.0
"""Pause in seconds between two looks at the sizes."""

STATE_LOGS: Final = "state-logs"
"""Link in the folder of a system to the logs in its state."""


def prepare(folder: Path, logs: Path) -> None:
    """Empty the folder of a system that starts, but for the logs and consoles of earlier runs.

    Raises:
        OSError: a folder cannot be made.
    """
    for each in (folder, logs):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
        each.chmod(0o700)  # an earlier version let other users read them
    for machine in machines_in(folder):
        with suppress(FileNotFoundError):
            shutil.move(machine.console, logs / f"{machine.directory.name}.log")
    for log in logs.iterdir():
        log.chmod(0o600)
    for entry in folder.iterdir():
        if entry.is_symlink() or entry.is_file():
            entry.unlink()
        elif entry.name != "logs":
            shutil.rmtree(entry, ignore_errors=True)
    if logs.parent != folder:
        (folder / STATE_LOGS).symlink_to(logs.absolute())


def older_files(log: Path) -> list[Path]:
    """Return the rotated files of a log, oldest first."""
    paths = (log.with_name(f"{log.name}.{number}") for number in range(KEPT_FILES, 0, -1))
    return [path for path in paths if path.exists()]


def keep_bounded(folder: Path, logs: Path, stop: Event) -> None:
    """Rotate the logs and consoles of a system until `stop` is set."""
    while not stop.wait(CHECK_SECONDS):
        with suppress(OSError):  # a file that has just vanished; the next look follows
            bound(folder, logs)


def bound(folder: Path, logs: Path) -> None:
    """Rotate each log and console that is full, and remove the oldest consoles of instances that have ended."""
    machines = machines_in(folder)
    for log in (*logs.glob("*.log"), *(each.console for each in machines)):
        with suppress(OSError):  # the instance is new, or the disk is full: then the log is not emptied
            if log.stat().st_size > MAX_LOG_BYTES:
                _rotate(log)
    running = {each.console for each in machines if (process := each.process()) and process.alive()}
    consoles = {*logs.glob("i-*.log"), *(each.console for each in machines if each.console.exists())} - running
    for console in sorted(consoles, key=lambda path: path.stat().st_mtime)[:-KEPT_CONSOLES]:
        for path in (*older_files(console), console):
            path.unlink()


def _rotate(log: Path) -> None:
    """Copy a log and empty it; a line that is written at this moment may be lost."""
    numbered = [log.with_name(f"{log.name}.{number}") for number in range(1, KEPT_FILES + 1)]
    partial = log.with_name(f"{log.name}.partial")
    try:
        partial.touch(mode=0o600)
        shutil.copyfile(log, partial)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    for older, newer in zip(reversed(numbered), [*reversed(numbered[:-1]), partial], strict=True):
        if newer.exists():
            newer.replace(older)
    os.truncate(log, 0)
