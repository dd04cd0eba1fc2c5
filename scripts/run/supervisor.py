"""Keeps the processes of the system running on one machine, as systemd does on EC2.

A process that dies is started again, once the rest of its process group has been killed, after a pause that doubles
up to `MAX_PAUSE_SECONDS` while it keeps dying. One that holds what cannot be had again (the local cloud's
memory) is essential: its end ends everything.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localcloud.machines.machine import Process

FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 30.0
"""A process that lived this long starts again without the pauses of earlier deaths."""

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
prctl and prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks Linux (PR_SET_PDEATHSIG) to end the process when this one dies, by kill -9 too, then becomes the command."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """A process to keep running.

    Attributes:
        arguments: the command; the first is an absolute path.
        log: file that its output is appended to.
        essential: whether everything must end when it does.
        inherited: file descriptors it gets.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    essential: bool = False
    inherited: tuple[int, ...] = ()


class Supervisor:
    """Starts services, starts them again, and stops them."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._watchers: list[_Watcher] = []
        self.failed = threading.Event()
        """Set once an essential service has ended."""
        self.failure = ""

    def start(self, service: Service) -> None:
        """Start `service` and keep it running."""
        watcher = _Watcher(self, service, self._stopping)
        self._watchers.append(watcher)
        watcher.start()

    def fail(self, reason: str) -> None:
        """Record that an essential service has ended."""
        self.failure = reason
        self.failed.set()

    def pid(self, name: str) -> int | None:
        """Return the process id that the service `name` has now, or None while it has none."""
        return next((watcher.pid for watcher in self._watchers if watcher.service.name == name), None)

    def stop(self, grace_seconds: float = 12.0) -> None:
        """End every service, the essential ones last since the others use them: SIGTERM, then SIGKILL.

        Args:
            grace_seconds: from SIGTERM to SIGKILL, for each of the two groups; the web tier takes up to 10 of them to
                finish the uploads it has begun.
        """
        self._stopping.set()
        for essential in (False, True):
            watchers = [watcher for watcher in self._watchers if watcher.service.essential is essential]
            for watcher in watchers:
                watcher.terminate()
            deadline = time.monotonic() + grace_seconds
            for watcher in watchers:
                watcher.join(max(0.0, deadline - time.monotonic()))
            for watcher in watchers:
                watcher.kill()


class _Watcher(threading.Thread):
    """Runs one service again and again. The thread outlives the process, on which PR_SET_PDEATHSIG depends."""

    def __init__(self, supervisor: Supervisor, service: Service, stopping: threading.Event) -> None:
        super().__init__(name=f"watch-{service.name}", daemon=True)
        self.service = service
        self._supervisor = supervisor
        self._stopping = stopping
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, while there is a process."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def run(self) -> None:
        """Keep the service running until told to stop."""
        pause = FIRST_PAUSE_SECONDS
        while (process := self._spawn()) is not None:
            started, leader = time.monotonic(), Process.of(process.pid)
            status = process.wait()
            if self._stopping.is_set():
                return
            if self.service.essential:
                self._supervisor.fail(f"{self.service.name} ended with {_told(status)}; see {self.service.log}")
                return
            if time.monotonic() - started > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            if leader is not None:
                leader.signal_group(signal.SIGKILL)  # gunicorn's workers, for one, would keep the port for seconds
            _log.warning("%s ended with %s; it starts again", self.service.name, _told(status))
            self._stopping.wait(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        with self._lock, self.service.log.open("ab") as log:
            if self._stopping.is_set():
                return None
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *self.service.arguments],
                env=dict(self.service.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self.service.inherited,
                start_new_session=True,  # a terminal's Ctrl-C reaches this command alone, which ends the others
            )
            return self._process

    def terminate(self) -> None:
        """Ask the process to end."""
        with self._lock:
            if self.pid is not None and self._process is not None:
                self._process.terminate()

    def kill(self) -> None:
        """End the process, if it has not by now."""
        with self._lock:
            if self.pid is not None and self._process is not None:
                _log.warning("%s did not end in time; it is killed", self.service.name)
                self._process.kill()
                self._process.wait()


def _told(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
