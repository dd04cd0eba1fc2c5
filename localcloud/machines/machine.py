"""The machine of one instance: its directory, its process and its control groups.

A later hypervisor finds a machine by its directory, which holds ``process`` (the process that leads it),
``console.log`` (its output) and ``disk`` (its disk, if it has one). The process leads a session, and all of the
machine ends when this process is killed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
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


CGROUP_ROOT = Path("/sys/fs/cgroup")

CGROUP_EXIT_SECONDS = 2.0
"""Longest wait in seconds for the last processes of a killed machine to leave their control groups."""


def cgroup_folders(machine_id: str, root: Path = CGROUP_ROOT) -> list[Path]:
    """Return the machine's control group in each hierarchy of systemd's services, whether it exists or not.

    Each machine has its own group, so that its systemd does not meet the services of another machine: systemd-nspawn
    creates a machine's groups in the group in which it is started, always under the same name. The hierarchies are
    version 2, or with version 1 ``systemd`` and, on most hosts, ``unified`` (systemd's CGROUP_DELEGATION.md).
    """
    hierarchies = [root] if (root / "cgroup.controllers").exists() else [root / "systemd", root / "unified"]
    return [path / f"fleetsight-{machine_id}" for path in hierarchies if (path / "cgroup.procs").exists()]


def remove_cgroups(machine_id: str, root: Path = CGROUP_ROOT, wait_seconds: float = CGROUP_EXIT_SECONDS) -> None:
    """Remove the control groups of a machine that has ended, innermost first."""
    deadline = time.monotonic() + wait_seconds
    for top in cgroup_folders(machine_id, root):
        while top.exists() and not _remove_tree(top) and time.monotonic() < deadline:
            time.sleep(0.01)


def _remove_tree(top: Path) -> bool:
    """Remove the groups of a tree that have no processes; return True if all were removed."""
    try:
        for path in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            path.rmdir()
        top.rmdir()
    except FileNotFoundError:
        return not top.exists()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Machine:
    """The machine of one instance, which has a directory of its own with mode 0700."""

    directory: Path

    @property
    def console(self) -> Path:
        """The file of its output."""
        return self.directory / "console.log"

    @property
    def disk(self) -> Path:
        """The folder of its disk, if it has one; removed by `discard`."""
        return self.directory / "disk"

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

    def discard(self, wait_seconds: float = CGROUP_EXIT_SECONDS) -> None:
        """Remove the control groups and the disk of a machine that will not start again."""
        # The disk last: processes that are ending write to it until they have left their groups.
        remove_cgroups(self.directory.name, wait_seconds=wait_seconds)
        shutil.rmtree(self.disk, ignore_errors=True)


def machines_in(state_dir: Path) -> list[Machine]:
    """Return every machine that has a directory below `state_dir`."""
    return [Machine(path) for path in sorted((state_dir / "instances").glob("i-*"))]


def remove_all(state_dir: Path) -> None:
    """End and remove all machines below `state_dir`; a new cloud does not know them."""
    end_all(state_dir)
    discard_all(state_dir)
    for machine in machines_in(state_dir):
        shutil.rmtree(machine.directory, ignore_errors=True)


def end_all(state_dir: Path, number: int = signal.SIGKILL) -> int:
    """Signal the process group of every machine; return the number of machines that still run."""
    processes = [process for machine in machines_in(state_dir) if (process := machine.process())]
    for process in processes:
        process.signal_group(number)
    return sum(process.alive() for process in processes)


def discard_all(state_dir: Path, wait_seconds: float = CGROUP_EXIT_SECONDS) -> None:
    """Remove disks and control groups of machines that have all ended; their consoles stay."""
    for machine in machines_in(state_dir):
        machine.discard(wait_seconds)
