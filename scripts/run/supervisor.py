"""Keeps the processes of the system running on one machine, as systemd does on EC2.

The supervisor restarts a process that dies: it kills the rest of the process group, and waits for a pause that
doubles up to `MAX_PAUSE_SECONDS` at each further death. It prints how the process ended, with its last error, and
passes both to the next one. Without a state the local cloud holds its data in memory:
then it is essential, and its end ends the whole system.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from localcloud.machines.machine import Process
from scripts.home import ROOT
from services.backoff import Backoff
from services.clock import utc_now
from web_tier.controller.previous_end import PREVIOUS_END, SUPERVISOR, last_words, severe_line

FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 2.0
"""With the start of a controller this is less than the 5 seconds within which there must be a next one."""
MAX_LOG_BYTES = 262_144
"""Length of the end of a log in which the last error of a process is found."""
STEADY_SECONDS = 30.0
"""After a life of this length, the pause starts again at `FIRST_PAUSE_SECONDS`."""

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
prctl and prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""A program that asks Linux (PR_SET_PDEATHSIG) for a SIGTERM at the end of its parent, then executes the command."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ManagedProcess:
    """A process that the supervisor keeps running.

    Attributes:
        arguments: the command; its first part is an absolute path.
        log: file to which the output is appended.
        essential: whether the end of this process ends the whole system.
        inherited: file descriptors that it inherits.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    essential: bool = False
    inherited: tuple[int, ...] = ()


class Supervisor:
    """Starts, restarts and stops processes."""

    def __init__(self) -> None:
        self.name = uuid4().hex
        self._stopping = threading.Event()
        self._watchers: list[_ProcessWatcher] = []
        self.failed = threading.Event()
        """Set once an essential process has ended."""
        self.failure = ""

    def start(self, managed: ManagedProcess) -> None:
        """Start a process and keep it running."""
        watcher = _ProcessWatcher(self, managed, self._stopping)
        self._watchers.append(watcher)
        watcher.start()

    def spawn(self, managed: ManagedProcess) -> subprocess.Popen[bytes]:
        """Start the process once, as the leader of a session; it gets a SIGTERM when this thread ends."""
        with managed.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *managed.arguments],
                env=dict(managed.environment),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=managed.inherited,
                umask=0o077,
                start_new_session=True,  # Ctrl-C reaches only this command, which stops the others
            )

    def fail(self, reason: str) -> None:
        """Record that an essential process has ended."""
        self.failure = reason
        self.failed.set()

    def ends(self, name: str) -> tuple[int, str]:
        """Return how often the process `name` has ended by itself, and how it did last, with its last error."""
        return next(watcher.ends for watcher in self._watchers if watcher.managed.name == name)

    def pid(self, name: str) -> int | None:
        """Return the present process id of the process `name`, or None if it does not run."""
        return next((watcher.pid for watcher in self._watchers if watcher.managed.name == name), None)

    def stop(self, grace_seconds: float = 12.0) -> None:
        """Stop all processes by SIGTERM, then SIGKILL; essential ones last, since the others use them.

        Args:
            grace_seconds: from SIGTERM to SIGKILL, for each of the two groups; the web tier needs up to 10 seconds to
                complete uploads.
        """
        self._stopping.set()
        for essential in (False, True):
            watchers = [watcher for watcher in self._watchers if watcher.managed.essential is essential]
            for watcher in watchers:
                watcher.terminate()
            deadline = time.monotonic() + grace_seconds
            for watcher in watchers:
                watcher.join(max(0.0, deadline - time.monotonic()))
            for watcher in watchers:
                watcher.kill()


class _ProcessWatcher(threading.Thread):
    """Restarts one process. The thread outlives the process: PR_SET_PDEATHSIG acts at the end of the thread."""

    def __init__(self, supervisor: Supervisor, managed: ManagedProcess, stopping: threading.Event) -> None:
        super().__init__(name=f"watch-{managed.name}", daemon=True)
        self.managed = managed
        self._supervisor = supervisor
        self._stopping = stopping
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.ends = (0, "")

    @property
    def pid(self) -> int | None:
        """The process id, or None if the process does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def run(self) -> None:
        """Keep the process running until the supervisor stops."""
        backoff, previous_end, log = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS), "", self.managed.log
        while True:
            log.touch(mode=0o600)
            written = log.stat().st_size  # by earlier processes
            if (process := self._spawn(previous_end)) is None:
                return
            started, leader = time.monotonic(), Process.with_pid(process.pid)
            status = process.wait()
            if self._stopping.is_set():
                return
            line = severe_line(_lines(log, written), is_killed=status < 0)
            how, name = last_words(f"{_status_text(status)}: {line}"), self.managed.name
            self.ends = (self.ends[0] + 1, how)
            sentence = f"{name} ended at {utc_now():%H:%M:%S} UTC with {how}"
            if self.managed.essential:
                self._supervisor.fail(f"{sentence}; see {log}")
                return
            if time.monotonic() - started > STEADY_SECONDS:
                backoff.reset()
            if leader is not None:
                leader.signal_group(signal.SIGKILL)  # gunicorn's workers would keep the port for seconds
            _log.warning("%s; it starts again; see %s", sentence, log)
            previous_end = how if status else ""
            self._stopping.wait(backoff.after_failure())

    def _spawn(self, previous_end: str) -> subprocess.Popen[bytes] | None:
        environment = {**self.managed.environment, SUPERVISOR: self._supervisor.name, PREVIOUS_END: previous_end}
        with self._lock:
            if self._stopping.is_set():
                return None
            self._process = self._supervisor.spawn(replace(self.managed, environment=environment))
            return self._process

    def terminate(self) -> None:
        with self._lock:
            if self.pid is not None and self._process is not None:
                self._process.terminate()

    def kill(self) -> None:
        with self._lock:
            if self.pid is not None and self._process is not None:
                _log.warning("%s did not end in time; it is killed", self.managed.name)
                self._process.kill()
                self._process.wait()


def _status_text(status: int) -> str:
    return f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"status {status}"


def _lines(log: Path, start: int) -> list[str]:
    """Return the lines after `start` of a log, of which only the end is read."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start if start <= size else 0, size - MAX_LOG_BYTES))  # it may have been rotated
        return file.read().decode(errors="replace").splitlines()
