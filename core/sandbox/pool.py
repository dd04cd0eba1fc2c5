"""The pool of child processes: sends each item to a child and returns the reply, one item per child at a time."""

import json
import logging
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from core.images import ImageRejectedError
from core.sandbox.process import (
    CrashedError,
    MissingLimitsError,
    PoolUnavailableError,
    ProcessGoneError,
    ProtocolError,
    SandboxError,
    SandboxOutcome,
    SandboxProcess,
    StarvedError,
    TooCostlyError,
)
from core.sandbox.zygote import Zygote

HANG_FACTOR: Final = 3
"""An item may take this many times its CPU time on the wall clock, since processes share the cores."""

TRIES: Final = 2
"""Tries of an item that ended its child: first beside other items, then alone."""

MAX_ITEMS_PER_PROCESS: Final = 1_000
"""Items after which a child is replaced: this bounds leaks, and how long an item that took the child over stays."""

IDLE_FACTOR: Final = 8
"""This many times `max_processes` idle children are kept, so that owners that take turns keep theirs."""

SandboxLimits = Literal["required", "best_effort"]
"""Whether a child needs all limits, or those that the system can set: `sandbox.limits`."""

_log = logging.getLogger(__name__)


class _ChildDiedError(Exception):
    """Raised when a child died of an item, had no memory or did not reply: other items may be the cause."""

    def __init__(self, reason: SandboxError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True)
class Allowance:
    """What one item may use.

    Attributes:
        seconds: CPU time; on the wall clock it is `HANG_FACTOR` times as much.
        memory_bytes: memory beyond what the process has before the item.
        answer_bytes: size of the reply.
    """

    seconds: float
    memory_bytes: int
    answer_bytes: int


class SandboxPool:
    """One function over bytes, run in sandboxed processes; threads may share it.

    Children are started on demand and kept for the next items of their owner. If `max_processes` are busy, callers
    wait in order.
    """

    def __init__(
        self, zygote: Zygote, allowance: Allowance, max_processes: int, limits: SandboxLimits = "required"
    ) -> None:
        self._zygote, self.allowance, self._max_processes = zygote, allowance, max_processes
        self._limits = limits
        self._slots, self._gate = threading.BoundedSemaphore(max_processes), threading.Lock()
        self._idle: list[SandboxProcess] = []  # the one that was used last is the last one
        self._idle_lock = threading.Lock()
        self._has_warned = False
        weakref.finalize(self, _close_all, self._idle)

    def __call__(self, data: bytes, owner: str, **arguments: Any) -> bytes | bytearray:
        """Return the function's result for `data` and the keyword arguments, which must be valid JSON.

        Args:
            data: the item.
            owner: items of two owners are never in the same child.
            arguments: keyword arguments of the function.

        Raises:
            ImageRejectedError: as the function raised it.
            TooCostlyError: the item took more than its allowance; `StarvedError` if others may be the cause.
            CrashedError: the child died twice, or sent an invalid reply.
            PoolUnavailableError: no child can be started at the moment.
        """
        encoded = json.dumps(arguments).encode()
        try:
            with self._acquired(1):
                return self._process(data, owner, encoded, in_new_child=False)
        except _ChildDiedError as died:
            _log.warning("retrying an item alone", extra={"reason": str(died.reason)})
        try:
            with self._acquired(self._max_processes):
                return self._process(data, owner, encoded, in_new_child=True)
        except _ChildDiedError as died:
            raise died.reason from died

    def prepare(self) -> None:
        """Start a child for the first owner.

        Raises:
            PoolUnavailableError: it could not be started; `MissingLimitsError` if this system will never start one.
        """
        with self._acquired(1):
            self._release_child(self._start_child())

    def close(self) -> None:
        """End all processes; the next item would start new ones."""
        with self._idle_lock:
            while self._idle:
                self._idle.pop().close()
        self._zygote.close()

    @contextmanager
    def _acquired(self, slots: int) -> Iterator[None]:
        """Hold that many slots; with all of them, no other item is in a child. Threads get slots in their order."""
        with self._gate:
            for _ in range(slots):
                self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release(slots)

    def _process(self, data: bytes, owner: str, arguments: bytes, *, in_new_child: bool) -> bytes | bytearray:
        """Return a child's result for an item; raises the errors of `__call__`, or `_ChildDiedError`."""
        while True:
            child = self._acquire_child(owner, new=in_new_child)
            try:
                outcome, reply = self._request(child, data, arguments)
                break
            except ProcessGoneError as gone:  # it ended since its last item: another one gets this item
                self._kill(child)
                if child.items == 1:
                    raise PoolUnavailableError("a process ended before it had its first item") from gone
        if outcome is SandboxOutcome.DONE:
            self._release_child(child)
            return reply
        error = self._error(outcome, reply)
        if isinstance(error, ImageRejectedError):
            self._release_child(child)
        else:
            self._kill(child)
        raise error

    def _request(
        self, child: SandboxProcess, data: bytes, arguments: bytes
    ) -> tuple[SandboxOutcome, bytes | bytearray]:
        allowed = self.allowance
        timeout = HANG_FACTOR * allowed.seconds
        try:
            return child.request(data, arguments, allowed.seconds, timeout, allowed.answer_bytes)
        except TimeoutError as error:
            self._kill(child)
            raise _ChildDiedError(StarvedError(f"no reply within {timeout:g} s")) from error
        except ProtocolError as error:
            self._kill(child)
            raise CrashedError("its process sent an invalid reply") from error
        except OSError as error:
            raise _cause_of_death(self._kill(child), allowed) from error

    def _acquire_child(self, owner: str, *, new: bool) -> SandboxProcess:
        """Return an owner's child that no other thread uses; with `new`, a new one in place of an idle one."""
        with self._idle_lock:
            usable = (each for each in reversed(self._idle) if new or each.owner in {owner, None})
            if idle := next(usable, None):
                self._idle.remove(idle)
        if idle and new:
            self._kill(idle)
        child = self._start_child() if new or not idle else idle
        child.owner = owner
        return child

    def _start_child(self) -> SandboxProcess:
        child = SandboxProcess(*self._zygote.fork_child(self.allowance.memory_bytes))
        try:
            missing = child.wait_until_ready(HANG_FACTOR * self.allowance.seconds)
        except (OSError, ProtocolError) as error:
            self._kill(child)
            self._zygote.on_failure()
            raise PoolUnavailableError(f"a process ended before it was ready: {error}") from error
        self._zygote.on_success()
        if missing and self._limits == "required":
            self._kill(child)
            raise MissingLimitsError(missing)
        if missing and not self._has_warned:
            self._has_warned = True
            _log.warning("this platform cannot limit all that a process may do", extra={"missing": missing})
        return child

    def _release_child(self, child: SandboxProcess) -> None:
        if child.items >= MAX_ITEMS_PER_PROCESS:
            self._kill(child)
            return
        with self._idle_lock:
            self._idle.append(child)
            surplus = self._idle.pop(0) if len(self._idle) > IDLE_FACTOR * self._max_processes else None
        if surplus:
            self._kill(surplus)

    def _kill(self, child: SandboxProcess) -> int | None:
        child.close()
        return self._zygote.kill_child(child.pid)

    def _error(self, outcome: SandboxOutcome, message: bytes | bytearray) -> Exception:
        """Return the error that a reply reports."""
        match outcome:
            case SandboxOutcome.REJECTED:
                try:
                    code, text = json.loads(message)
                except (ValueError, TypeError):
                    return CrashedError("its process sent an invalid reply")
                return ImageRejectedError(str(code), str(text))
            case SandboxOutcome.NO_MEMORY:
                # The machine may have had no memory; then a retry helps.
                megabytes = self.allowance.memory_bytes / 2**20
                return _ChildDiedError(StarvedError(f"more than {megabytes:.0f} MB of memory"))
            case _:
                return CrashedError(f"it failed: {bytes(message).decode('ascii', 'replace')!r}")


def require_limits(limits: SandboxLimits) -> None:
    """Check that this system can set the limits of a child, by starting one.

    Raises:
        MissingLimitsError: it cannot, and all are required.
    """
    zygote = Zygote("builtins:len")
    try:
        SandboxPool(zygote, Allowance(1, 2**26, 0), 1, limits).prepare()
    finally:
        zygote.close()


def _cause_of_death(status: int | None, allowed: Allowance) -> SandboxError | _ChildDiedError:
    """Return the error for a child's wait status; None is an unknown one."""
    if status is None:
        return PoolUnavailableError("all sandbox processes ended")
    if not os.WIFSIGNALED(status):
        return _ChildDiedError(CrashedError(f"its process ended with status {os.waitstatus_to_exitcode(status)}"))
    match os.WTERMSIG(status):
        case signal.SIGXCPU:
            return TooCostlyError(f"more than {allowed.seconds:g} s of processor time")
        case signal.SIGKILL:
            return _ChildDiedError(StarvedError("its process was killed, as the system does where memory is short"))
        case number:
            return _ChildDiedError(CrashedError(f"its process was ended by {signal.strsignal(number)}"))


def _close_all(children: list[SandboxProcess]) -> None:
    for child in children:
        child.close()
