"""One instance's process: started in a session of its own, found again by a hypervisor that comes after, ended.

An instance has a directory: ``user-data`` (the script), ``process`` (who runs it), ``port`` (its metadata service)
and ``console.log`` (what it wrote).
"""

import contextlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

# The process writes who it is before it becomes the script: a hypervisor killed in between still finds it.
_BOOT = 'read -r stat < /proc/$$/stat; printf "%s\\n" "$stat" > process; exec "$0"'
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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
        """Say whether it still runs."""
        return Process.of(self.pid) == self

    def signal_group(self, number: int) -> None:
        """Send a signal to every process of its group; none is left, or the number has passed on: nothing happens."""
        if Process.of(self.pid) in {None, self}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


@dataclass(frozen=True)
class Machine:
    """The directory of one instance and what runs from it.

    Args:
        directory: of this instance alone, mode 0700.
    """

    directory: Path

    @property
    def console(self) -> Path:
        """Where the process's output goes."""
        return self.directory / "console.log"

    def prepare(self, user_data: bytes) -> None:
        """Write the user data where it will be run from.

        Raises:
            BootFailedError: it is no script.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget("process")
        if not user_data.startswith(b"#!"):
            found = f"begins with {user_data[:20]!r}" if user_data else "is empty"
            self._fail(f"the user data {found}; a script that begins with #! is needed")
        script = self.directory / "user-data"
        script.unlink(missing_ok=True)
        script.write_bytes(user_data)
        script.chmod(0o700)

    def boot(self, metadata_endpoint: str) -> subprocess.Popen[bytes]:
        """Run the user data in a session of its own, with nothing of this process's environment.

        Args:
            metadata_endpoint: URL of the instance's metadata service.

        Raises:
            BootFailedError: the process could not be started.
        """
        environment = {
            "PATH": _PATH,
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata_endpoint,
        }
        try:
            with self.console.open("ab") as console:
                return subprocess.Popen(
                    ["/bin/sh", "-c", _BOOT, str(self.directory / "user-data")],
                    cwd=self.directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                )
        except OSError as error:
            self._fail(f"cannot start a process: {error}")
            raise  # never reached: _fail raises

    def process(self) -> Process | None:
        """Return the process that was started from here last, alive or not."""
        try:
            return Process.read((self.directory / "process").read_text())
        except (OSError, ValueError, IndexError):
            return None

    def _forget(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)

    def _fail(self, reason: str) -> None:
        with self.console.open("a") as console:
            console.write(f"boot failed: {reason}\n")
        raise BootFailedError(reason)


def machines_in(state_dir: Path) -> list[Machine]:
    """Return every machine that has a directory below `state_dir`."""
    return [Machine(path) for path in sorted((state_dir / "instances").glob("i-*"))]


def forget_all(state_dir: Path) -> None:
    """End what still runs below `state_dir` and remove it; for the start of a new cloud, which knows none of it."""
    end_all(state_dir)
    for machine in machines_in(state_dir):
        shutil.rmtree(machine.directory, ignore_errors=True)


def end_all(state_dir: Path, number: int = signal.SIGKILL) -> int:
    """Signal the process group of every machine; return how many still have a live process."""
    processes = [process for machine in machines_in(state_dir) if (process := machine.process())]
    for process in processes:
        process.signal_group(number)
    return sum(process.alive() for process in processes)
