"""Processes of Fleetsight that start by a fork of one that has imported their modules.

Imports are most of the CPU time of a start: 0.6 of 0.8 s of a worker, 0.8 of 1.1 s of a controller, and 1.0 of 1.6 s
of a web tier. `multiprocessing`'s fork server makes them once. A process that starts this way has its own arguments,
environment, log, signals and memory. The kernel shows the command line and first environment of the fork server.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Not the modules that are run: `runpy` would import them a second time.
PRELOADED = [
    "app_tier.engine_imports",
    "app_tier.startup",
    "app_tier.worker",
    "gunicorn.app.wsgiapp",
    "tests.support.forked",
    "tests.support.forked_cloud",
    "tests.support.forked_system",
    "web_tier.app",
    "web_tier.controller.leader",
    "web_tier.controller.loops",
    "web_tier.controller.metrics_server",
    "web_tier.http.slow_clients",
]

_starts = multiprocessing.get_context("forkserver")
_starts.set_forkserver_preload(PRELOADED)


class ForkedPython:
    """A process that runs a Python command, with the methods of `subprocess.Popen` that tests use.

    Args:
        command: the arguments of `python`: `-m MODULE` or `-c PROGRAM`, and what follows.
        environment: all variables of the process.
        log: a file for its output and errors; what it has is replaced.
    """

    _lock = threading.Lock()
    """Held for each call that may read an exit status, which a process reports once: several threads may call."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        log.write_bytes(b"")
        self._start(become, list(command), dict(environment), str(log))

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._process = _starts.Process(target=target, args=arguments)
        with self._lock:
            self._process.start()
        self.pid = int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        """The exit status, negative if a signal ended the process, or None while it runs."""
        with self._lock:
            return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once the process has ended.

        Raises:
            subprocess.TimeoutExpired: if it runs longer than `timeout` seconds.
        """
        wait([self._process.sentinel], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ends meanwhile, as with `subprocess.Popen`
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def become(command: Sequence[str], environment: Mapping[str, str], log: str, folder: Path = ROOT) -> None:
    """Run the arguments of `python` in this process, which has been forked for it, in a folder."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    option, what, *arguments = command
    sys.argv = [option, *arguments]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as `python -c` does
