"""The machine of one instance: its directory, and its process.

A later hypervisor finds a machine by its directory, which holds ``process`` (the process that leads it) and
``console.log`` (its output). The process leads a session, and all of the machine ends when this process is killed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The process writes its identity before it becomes the command, so that a later hypervisor finds it in any case.
_RECORD = 'read -r stat < /proc/$$/stat; printf "%s\\n" "$stat" > process; exec "$@"'

_START_TIME_FIELD = 19  # among the fields after the command's name in /proc/PID/stat (man 5 proc)


class BootFailedError(Exception):
    """Raised when a machine cannot be started; the message says why."""


@dataclass(frozen=True)
class Process:
    """A process, distinguished from later processes with the same number.

    Attributes:
        pid: also the number of its process group and session.
        started: clock ticks between the boot of the host and the start of the process.
    """

    pid: int
    started: int

    @classmethod
    def read(cls, stat: str) -> "Process":
        """Return the process of a line of ``/proc/PID/stat``."""
        return cls(int(stat.split(" ", 1)[0]), int(stat.rpartition(")")[2].split()[_START_TIME_FIELD]))

    @classmethod
    def with_pid(cls, pid: int) -> "Process | None":
        """Return the process that has this number now, or None if there is none or only a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        return None if stat.rpartition(")")[2].split()[0] == "Z" else cls.read(stat)

    def alive(self) -> bool:
        """Return True if the process still runs."""
        return Process.with_pid(self.pid) == self

    def signal_group(self, number: int) -> None:
        """Send a signal to every process of the group; without effect if the process has ended."""
        if Process.with_pid(self.pid) in {None, self}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


@dataclass(frozen=True)
class Machine:
    """The machine of one instance, which has a directory of its own with mode 0700."""

    directory: Path

    @property
    def console(self) -> Path:
        """The file of its output."""
        return self.directory / "console.log"

    def prepare(self) -> None:
        """Create the directory, without the record of an earlier process."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.directory / "process").unlink(missing_ok=True)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Run a command in a new session, without the environment of this process.

        Raises:
            BootFailedError: the process could not be started.
        """
        try:
            with self.console.open("ab") as console:
                return subprocess.Popen(
                    ["/bin/sh", "-c", _RECORD, "sh", *command],
                    cwd=self.directory,
                    env={"PATH": PATH, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                )
        except OSError as error:
            self.fail(f"cannot start a process: {error}")

    def fail(self, reason: str) -> NoReturn:
        """Write the reason of a failed boot to the console and raise it.

        Raises:
            BootFailedError: always, with this reason.
        """
        with self.console.open("a") as console:
            console.write(f"boot failed: {reason}\n")
        raise BootFailedError(reason)

    def process(self) -> Process | None:
        """Return the process that was started last, alive or not, or None."""
        try:
            return Process.read((self.directory / "process").read_text())
        except (OSError, ValueError, IndexError):
            return None


def machines_in(state_dir: Path) -> list[Machine]:
    """Return every machine that has a directory below `state_dir`."""
    return [Machine(path) for path in sorted((state_dir / "instances").glob("i-*"))]


def remove_all(state_dir: Path) -> None:
    """End and remove all machines below `state_dir`; a new cloud does not know them."""
    end_all(state_dir)
    for machine in machines_in(state_dir):
        shutil.rmtree(machine.directory, ignore_errors=True)


def end_all(state_dir: Path, number: int = signal.SIGKILL) -> int:
    """Signal the process group of every machine; return the number of machines that still run."""
    processes = [process for machine in machines_in(state_dir) if (process := machine.process())]
    for process in processes:
        process.signal_group(number)
    return sum(process.alive() for process in processes)
