"""The zygote, seen by the process that wants children of it: started on demand, and again when it has ended."""

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from core.confined.child import Function, load, run
from core.confined.errors import PoolUnavailableError
from core.confined.forget import close_all_but, forget_environment
from core.confined.wire import ASK, END, NEW, TOLD
from services.backoff import Jitter, pause_seconds

ROOT: Final = Path(__file__).resolve().parents[2]
_PROGRAM: Final = "from core.confined.child import main; main()"
"""As `python -m core.confined.child`, without the module that finds modules to run: 2 ms of a start."""

_THREADS: Final = Path("/proc/self/task")
ANSWER_SECONDS: Final = 30.0
"""How long it may take to load its function, or to fork."""

FIRST_PAUSE_SECONDS: Final = 0.1
MAX_PAUSE_SECONDS: Final = 5.0

_CLOSE_ON_EXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

_log = logging.getLogger(__name__)


class Zygote:
    """Makes and ends children that run one function; any number of threads may ask.

    Args:
        function: ``module:function``, from the project's folder.
        jitter: returns a random number between its arguments.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        function: str,
        jitter: Jitter = random.uniform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._function, self._jitter, self._clock = function, jitter, clock
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._close: Callable[[], object] = lambda: None
        self._failures, self._not_before = 0, 0.0

    def fork(self) -> None:
        """Make the process a fork of this one, which costs next to nothing, instead of a new one when it is needed.

        For a process that has only begun: it must hold nothing that a child must not have but its environment and
        open files, which the fork forgets. Where it has other threads already, nothing is done. The function's module
        is loaded here, too.
        """
        with self._lock:
            if self._control is None and _has_one_thread():
                self._control = self._forked_off(load(self._function))

    def child(self, memory_bytes: int) -> tuple[int, socket.socket]:
        """Return the process id of a new child, which may take so much memory, and the socket to it.

        Raises:
            PoolUnavailableError: there is none, or it is too early to try again.
        """
        with self._lock:
            try:
                made = self._forked(self._started(), memory_bytes)
            except OSError as error:
                self._failed()
                raise PoolUnavailableError(f"no process for {self._function}: {error or 'it ended'}") from error
            return made

    def end(self, child: int) -> int | None:
        """End a child, unless it has ended; return how it did, as waitpid tells it, or None if it is not known."""
        with self._lock:
            if self._control is None:
                return None
            try:
                self._control.sendall(ASK.pack(END, child))
                status = _told(self._control)
            except OSError:
                self._failed()
                return None
            return status if status >= 0 else None

    def went_well(self) -> None:
        """Forget earlier failures: a child has begun to serve."""
        self._failures = 0

    def went_wrong(self) -> None:
        """Count a child that ended before it could serve as a failure."""
        with self._lock:
            self._pause()

    def close(self) -> None:
        """End the process, and its children with it."""
        with self._lock:
            self._close()
            self._control = None

    def _started(self) -> socket.socket:
        if self._control is None:
            if (wait := self._not_before - self._clock()) > 0:
                raise PoolUnavailableError(f"no process for {self._function}: tried again in {wait:.1f} s")
            self._control = self._launched()
        return self._control

    def _launched(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(ANSWER_SECONDS)
        with theirs:
            # Nothing of our environment: what is in there, such as keys, is none of its business.
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), self._function],
                cwd=ROOT,
                env={},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        process.returncode = 0  # it is waited for below, by its process id
        self._close = weakref.finalize(self, _end, process.pid, ours)
        return ours

    def _forked_off(self, function: Function) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(ANSWER_SECONDS)
        process = os.fork()
        if process == 0:
            try:
                forget_environment()
                close_all_but(theirs.fileno())
                run(theirs, function)
            finally:
                os._exit(0)
        theirs.close()
        self._close = weakref.finalize(self, _end, process, ours)
        return ours

    def _forked(self, control: socket.socket, memory_bytes: int) -> tuple[int, socket.socket]:
        control.sendall(ASK.pack(NEW, memory_bytes))
        said, descriptors, _, _ = socket.recv_fds(control, TOLD.size, 1, _CLOSE_ON_EXEC)
        if len(said) < TOLD.size:
            raise ConnectionResetError
        (child,) = TOLD.unpack(said)
        if child < 0:  # it lives, and so do its children
            self._pause()
            raise PoolUnavailableError(f"no process for {self._function}: {os.strerror(-child)}")
        return child, socket.socket(fileno=descriptors[0])

    def _failed(self) -> None:
        """Let go of a process that does not answer; the next one is not started at once."""
        self._close()
        self._control = None
        self._pause()
        _log.warning("a confined process ended", extra={"function": self._function, "failures": self._failures})

    def _pause(self) -> None:
        self._failures += 1
        pause = pause_seconds(self._failures, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, self._jitter)
        self._not_before = self._clock() + pause


def _has_one_thread() -> bool:
    """Return whether this process may be forked, by what the system knows, which sees threads of libraries too."""
    try:
        return len(list(_THREADS.iterdir())) == 1
    except OSError:
        return False


def _told(control: socket.socket) -> int:
    said = control.recv(TOLD.size, socket.MSG_WAITALL)
    if len(said) < TOLD.size:
        raise ConnectionResetError
    return int(TOLD.unpack(said)[0])


def _end(process: int, control: socket.socket) -> None:
    control.close()
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
