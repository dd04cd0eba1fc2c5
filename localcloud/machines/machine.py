"""One instance's machine: what runs of it is found again by a hypervisor that comes after, and ended.

Of each kind (`processes`, `nspawn`), it has a directory: ``process`` (who runs it), ``console.log`` (its
output) and ``disk`` (its disk, if it has one). The process leads a session, and when it is killed all of it ends.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from localcloud.machines import cgroups

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The process writes who it is before it becomes the command: a hypervisor killed in between still finds it.
_RECORD = 'read -r stat < /proc/$$/stat; printf "%s\\n" "$stat" > process; exec "$@"'
_START_TIME_FIELD = 19  # of those after the command's name, in /proc/PID/stat (man 5 proc)


class BootFailedError(Exception):
    """Raised when an instance's user data cannot be run; the message says why."""


@dataclass(frozen=True)
class Process:
    """A process as the kernel tells it from a later one with the same number.

    Attributes:
        pid: also its process group and session.
        started: clock ticks after boot of the host.
    """

    pid: int
    started: int

    @classmethod
    def read(cls, stat: str) -> "Process":
        """Read a line of ``/proc/PID/stat``."""
        return cls(int(stat.split(" ", 1)[0]), int(stat.rpartition(")")[2].split()[_START_TIME_FIELD]))

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """Return the process that has this number now, or None; one that only waits to be reaped counts as none."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        return None if stat.rpartition(")")[2].split()[0] == "Z" else cls.read(stat)

    def alive(self) -> bool:
        """Return True if it still runs."""
        return Process.of(self.pid) == self

    def signal_group(self, number: int) -> None:
        """Send a signal to every process of its group; none is left, or the number has passed on: nothing happens."""
        if Process.of(self.pid) in {None, self}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def children_of(pid: int) -> list[int]:
    """Return the children of the process `pid`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue  # it has just ended
        if int(stat.rpartition(")")[2].split()[1]) == pid:
            found.append(int(entry.name))
    return found


@dataclass(frozen=True)
class Machine:
    """The directory of one instance and what runs from it.

    Args:
        directory: of this instance alone, mode 0700.
    """

    directory: Path

    @property
    def console(self) -> Path:
        """Where the output goes."""
        return self.directory / "console.log"

    @property
    def disk(self) -> Path:
        """Where a machine with a disk of its own keeps what it writes; removed by `discard`."""
        return self.directory / "disk"

    def prepare(self) -> None:
        """Make the directory, and forget what ran from it before."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.directory / "process").unlink(missing_ok=True)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Run a command in a session of its own, with nothing of this process's environment.

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
        """Write on the console why there is no boot.

        Raises:
            BootFailedError: always, with that reason.
        """
        with self.console.open("a") as console:
            console.write(f"boot failed: {reason}\n")
        raise BootFailedError(reason)

    def process(self) -> Process | None:
        """Return the process that was started from here last, alive or not."""
        try:
            return Process.read((self.directory / "process").read_text())
        except (OSError, ValueError, IndexError):
            return None

    def discard(self) -> None:
        """Remove what a machine that is never started again leaves: its disk and its control groups."""
        shutil.rmtree(self.disk, ignore_errors=True)
        cgroups.remove(self.directory.name)


class GuestServices(Protocol):
    """What serves a machine while it runs: its metadata, its way to the cloud."""

    def close(self) -> None:
        """Stop serving."""


@dataclass(frozen=True)
class RunningMachine:
    """A machine that was started: the process that leads it, and what serves it."""

    child: subprocess.Popen[bytes]
    surroundings: GuestServices


class Kind(Protocol):
    """How an instance becomes something that runs. The hypervisor knows no more of it.

    Attributes:
        grace_seconds: that a machine which was asked to end usually needs.
        ask_again_seconds: after which one that has not ended is asked once more; infinite where once is enough.
    """

    grace_seconds: float
    ask_again_seconds: float

    def boot(self, machine: Machine, identity: Mapping[str, Any]) -> RunningMachine:
        """Start a machine.

        Args:
            machine: its directory, prepared.
            identity: what the cloud says of the instance, see `identity.describe`.

        Raises:
            BootFailedError: it cannot be started, for the reason that its console says too.
            OSError: its surroundings cannot be served.
        """

    def surround(self, machine: Machine, process: Process) -> GuestServices:
        """Serve a running machine again after the death of its hypervisor.

        Raises:
            OSError: its surroundings cannot be served.
        """

    def ask_to_end(self, process: Process) -> None:
        """Ask a machine to end in its own way; it may not hear it yet."""


def machines_in(state_dir: Path) -> list[Machine]:
    """Return every machine that has a directory below `state_dir`."""
    return [Machine(path) for path in sorted((state_dir / "instances").glob("i-*"))]


def forget_all(state_dir: Path) -> None:
    """End what still runs below `state_dir` and remove it; for the start of a new cloud, which knows none of it."""
    end_all(state_dir)
    discard_all(state_dir)
    for machine in machines_in(state_dir):
        shutil.rmtree(machine.directory, ignore_errors=True)


def end_all(state_dir: Path, number: int = signal.SIGKILL) -> int:
    """Signal the process group of every machine; return how many still have a live process."""
    processes = [process for machine in machines_in(state_dir) if (process := machine.process())]
    for process in processes:
        process.signal_group(number)
    return sum(process.alive() for process in processes)


def discard_all(state_dir: Path) -> None:
    """Remove what machines that have all ended leave on disk and in the kernel; their consoles stay."""
    for machine in machines_in(state_dir):
        machine.discard()
