"""The zygote as its parent sees it: started on first use, and restarted after it has ended."""

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from core.sandbox.child import load, run
from core.sandbox.limits import close_all_but, scrub_environment
from core.sandbox.process import CONTROL_REPLY, CONTROL_REQUEST, FORK, KILL, PoolUnavailableError
from services.backoff import Jitter, pause_seconds
from services.clock import CLOCK, Clock

ROOT: Final = Path(__file__).resolve().parents[2]
_PROGRAM: Final = "from core.sandbox.child import main; main()"
"""Same as `python -m core.sandbox.child`, without importing `runpy`: 2 ms of a start."""

_THREADS: Final = Path("/proc/self/task")

REPLY_SECONDS: Final = 30.0
"""Seconds that the zygote may take to load its function, or to fork."""

FIRST_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 5.0

_CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

_log = logging.getLogger(__name__)


class Zygote:
    """Forks and kills children that run ``module:function`` of the project's folder; threads may share it.

    Children of a zygote that `has_threads` may open files and start threads (`core.sandbox.limits.confine`).
    """

    def __init__(
        self,
        function: str,
        jitter: Jitter = random.uniform,
        clock: Clock = CLOCK,
        *,
        has_threads: bool = False,
    ) -> None:
        self._function, self._jitter, self._clock = function, jitter, clock
        self._options = ["threads"] if has_threads else []
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._close: Callable[[], object] = lambda: None
        self._failures, self._not_before = 0, 0.0

    def fork(self) -> None:
        """Start the zygote as a fork of this process, which is much faster than a new process on first use.

        Only for a process that has just started: except for its environment and open files, which the fork scrubs, it
        must hold nothing that a child must not have. Does nothing if this process has other threads.
        """
        try:  # the kernel's list, since it includes threads of libraries
            has_one_thread = len(list(_THREADS.iterdir())) == 1
        except OSError:
            has_one_thread = False
        with self._lock:
            if self._control is None and has_one_thread:
                parent_end, zygote_end = socket.socketpair()
                process = os.fork()
                if process == 0:
                    try:
                        scrub_environment()
                        close_all_but(zygote_end.fileno())
                        run(zygote_end, load(self._function))
                    except Exception:  # noqa: BLE001 (the edge of the process)
                        _log.warning(
                            "a sandbox zygote could not start", extra={"function": self._function}, exc_info=True
                        )
                    finally:
                        os._exit(0)
                zygote_end.close()
                self._connect(process, parent_end)

    def fork_child(self, memory_bytes: int) -> tuple[int, socket.socket]:
        """Return the process id of a new child, which may use that much memory, and the socket to it.

        Raises:
            PoolUnavailableError: the child could not be started, or it is too early to retry.
        """
        with self._lock:
            try:
                control = self._running()
                control.sendall(CONTROL_REQUEST.pack(FORK, memory_bytes))
                reply, descriptors, _, _ = socket.recv_fds(control, CONTROL_REPLY.size, 1, _CLOSE_ON_EXEC)
                if len(reply) < CONTROL_REPLY.size:
                    raise ConnectionResetError
            except OSError as error:
                self._restart_later()
                raise PoolUnavailableError(f"no process for {self._function}: {error or 'it ended'}") from error
            (child,) = CONTROL_REPLY.unpack(reply)
            if child < 0:  # the zygote could not fork, but it runs, and so do its children
                self._back_off()
                raise PoolUnavailableError(f"no process for {self._function}: {os.strerror(-child)}")
            return child, socket.socket(fileno=descriptors[0])

    def kill_child(self, child: int) -> int | None:
        """Kill a child unless it has ended; return its wait status, or None if that is unknown."""
        with self._lock:
            if self._control is None:
                return None
            try:
                self._control.sendall(CONTROL_REQUEST.pack(KILL, child))
                reply = self._control.recv(CONTROL_REPLY.size, socket.MSG_WAITALL)
                if len(reply) < CONTROL_REPLY.size:
                    raise ConnectionResetError
            except OSError:
                self._restart_later()
                return None
            status = int(CONTROL_REPLY.unpack(reply)[0])
            return status if status >= 0 else None

    def on_success(self) -> None:
        """Reset the count of failures: a child is ready."""
        self._failures = 0

    def on_failure(self) -> None:
        """Count a failure and back off: a child ended before it was ready."""
        with self._lock:
            self._back_off()

    def close(self) -> None:
        """End the zygote, and its children with it."""
        with self._lock:
            self._close()
            self._control = None

    def _running(self) -> socket.socket:
        """Return the socket to the zygote, which is started if it is not running."""
        if self._control is not None:
            return self._control
        if (wait := self._not_before - self._clock.monotonic()) > 0:
            raise PoolUnavailableError(f"no process for {self._function}: tried again in {wait:.1f} s")
        parent_end, zygote_end = socket.socketpair()
        with zygote_end:
            # Without this environment, which may hold keys.
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(zygote_end.fileno()), self._function, *self._options],
                cwd=ROOT,
                env={},
                stdin=subprocess.DEVNULL,
                pass_fds=(zygote_end.fileno(),),
            )
        process.returncode = 0  # `_end` waits for it, by its process id
        return self._connect(process.pid, parent_end)

    def _connect(self, process: int, parent_end: socket.socket) -> socket.socket:
        parent_end.settimeout(REPLY_SECONDS)
        self._close = weakref.finalize(self, _end, process, parent_end)
        self._control = parent_end
        return parent_end

    def _restart_later(self) -> None:
        """End a zygote that does not reply; the next one starts after a pause."""
        self._close()
        self._control = None
        self._back_off()
        _log.warning("a sandbox zygote ended", extra={"function": self._function, "failures": self._failures})

    def _back_off(self) -> None:
        self._failures += 1
        pause = pause_seconds(self._failures, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, self._jitter)
        self._not_before = self._clock.monotonic() + pause


def _end(process: int, control: socket.socket) -> None:
    control.close()
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
