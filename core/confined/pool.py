"""Hands items to children and takes their answers: one item a child at a time, never more children than agreed."""

import json
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from core.confined.channel import ProcessGoneError, ProtocolError, SandboxProcess
from core.confined.errors import ConfinedError, CrashedError, PoolUnavailableError, TooCostlyError
from core.confined.wire import Outcome
from core.confined.zygote import Zygote
from core.image_errors import ImageRejectedError

HANG_FACTOR: Final = 3
"""An item may take this many times its processor time by the clock on the wall: the processors are shared."""

TRIES: Final = 2
"""How often an item is tried that its child did not survive: among others first, then alone."""

ITEMS_OF_A_CHILD: Final = 10_000
"""Then another takes its place, so that nothing that items leave behind adds up."""

_log = logging.getLogger(__name__)


class _DiedError(Exception):
    """Raised when a child died of an item, had no memory or did not answer: other items may be the reason."""

    def __init__(self, reason: ConfinedError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True)
class Allowance:
    """What one item may take.

    Attributes:
        seconds: of a processor; by the clock on the wall it is `HANG_FACTOR` times as much.
        memory_bytes: beyond what the process has when it begins.
        answer_bytes: of its answer.
    """

    seconds: float
    memory_bytes: int
    answer_bytes: int


class SandboxPool:
    """One function over bytes, in processes that have nothing; any number of threads may call it.

    Children are made when they are needed, and stay for the next items.

    Args:
        zygote: makes them.
        allowance: as below.
        most: children at a time; who comes when all are at work waits.

    Attributes:
        allowance: of each item.
    """

    def __init__(self, zygote: Zygote, allowance: Allowance, most: int) -> None:
        self._zygote, self.allowance = zygote, allowance
        self._most, self._turns, self._gate = most, threading.BoundedSemaphore(most), threading.Lock()
        self._idle: list[SandboxProcess] = []
        self._has_told = False
        weakref.finalize(self, _close_all, self._idle)

    def __call__(self, data: bytes, **arguments: Any) -> bytes | bytearray:
        """Return what the function makes of `data` and of `arguments`, which JSON must be able to say.

        Raises:
            ImageRejectedError: as the function raised it.
            TooCostlyError: it took more than it may.
            CrashedError: its child died twice, or answered rubbish.
            PoolUnavailableError: there is no child just now.
        """
        said = json.dumps(arguments).encode()
        try:
            with self._taking(1):
                return self._result(data, said, self._taken)
        except _DiedError as died:
            _log.warning("an item is tried again, alone", extra={"reason": str(died.reason)})
        try:
            with self._taking(self._most):
                return self._result(data, said, self._fresh)
        except _DiedError as died:
            raise died.reason from died

    def prepare(self) -> None:
        """Have a child ready.

        Raises:
            PoolUnavailableError: there is none to be had.
        """
        with self._taking(1):
            self._keep(self._taken())

    def close(self) -> None:
        """End all processes; the next item would start others."""
        while self._idle:
            self._idle.pop().close()
        self._zygote.close()

    @contextmanager
    def _taking(self, turns: int) -> Iterator[None]:
        """Wait for so many turns; with all of them, no other item is in a child. Who comes first has them first."""
        with self._gate:
            for _ in range(turns):
                self._turns.acquire()
        try:
            yield
        finally:
            self._turns.release(turns)

    def _result(self, data: bytes, arguments: bytes, take: Callable[[], SandboxProcess]) -> bytes | bytearray:
        """Return what a child makes of an item; raises what `__call__` does, or `_DiedError`."""
        child, outcome, answer = self._answered(data, arguments, take)
        if outcome is Outcome.DONE:
            self._keep(child)
            return answer
        refusal = self._meant(outcome, answer)
        if isinstance(refusal, ImageRejectedError):
            self._keep(child)
        else:
            self._end(child)
        raise refusal

    def _answered(
        self, data: bytes, arguments: bytes, take: Callable[[], SandboxProcess]
    ) -> tuple[SandboxProcess, Outcome, bytes | bytearray]:
        """Return what a child says of an item, and the child; one that has ended since its last item is no matter."""
        while True:
            child = take()
            try:
                return child, *self._asked(child, data, arguments)
            except ProcessGoneError as error:
                self._end(child)
                if child.items == 1:
                    raise PoolUnavailableError("a process ended before it had its first item") from error

    def _asked(self, child: SandboxProcess, data: bytes, arguments: bytes) -> tuple[Outcome, bytes | bytearray]:
        allowed = self.allowance
        patience = HANG_FACTOR * allowed.seconds
        try:
            return child.ask(data, arguments, allowed.seconds, patience, allowed.answer_bytes)
        except TimeoutError as error:
            self._end(child)
            raise _DiedError(TooCostlyError(f"no answer within {patience:g} s")) from error
        except ProtocolError as error:
            self._end(child)
            raise CrashedError("its process answered rubbish") from error
        except OSError as error:
            raise _reason(self._end(child), allowed) from error

    def _fresh(self) -> SandboxProcess:
        """Return a child that has had no item; an idle one makes room for it."""
        with suppress(IndexError):
            self._end(self._idle.pop())
        return self._new()

    def _taken(self) -> SandboxProcess:
        """Return a child that no other thread uses."""
        with suppress(IndexError):
            return self._idle.pop()
        return self._new()

    def _new(self) -> SandboxProcess:
        child = SandboxProcess(*self._zygote.child(self.allowance.memory_bytes))
        try:
            missing = child.begun(HANG_FACTOR * self.allowance.seconds)
        except (OSError, ProtocolError) as error:
            self._end(child)
            self._zygote.went_wrong()
            raise PoolUnavailableError(f"a process ended before it began: {error}") from error
        self._zygote.went_well()
        if missing and not self._has_told:
            self._has_told = True
            _log.warning("this platform cannot limit all that a process may do", extra={"missing": missing})
        return child

    def _meant(self, outcome: Outcome, words: bytes | bytearray) -> Exception:
        match outcome:
            case Outcome.REJECTED:
                return _rejection(words)
            case Outcome.NO_MEMORY:
                # Or the machine had no more for it; then another try helps.
                return _DiedError(TooCostlyError(f"more than {self.allowance.memory_bytes / 2**20:.0f} MB of memory"))
            case _:
                return CrashedError(f"it failed: {bytes(words).decode('ascii', 'replace')!r}")

    def _keep(self, child: SandboxProcess) -> None:
        if child.items < ITEMS_OF_A_CHILD:
            self._idle.append(child)
        else:
            self._end(child)

    def _end(self, child: SandboxProcess) -> int | None:
        child.close()
        return self._zygote.end(child.pid)


def _rejection(answer: bytes | bytearray) -> Exception:
    try:
        code, message = json.loads(answer)
    except (ValueError, TypeError):
        return CrashedError("its process answered rubbish")
    return ImageRejectedError(str(code), str(message))


def _reason(status: int | None, allowed: Allowance) -> ConfinedError | _DiedError:
    """Return what it means that a child has ended so, as waitpid tells it."""
    if status is None:
        return PoolUnavailableError("all such processes were ended")
    if not os.WIFSIGNALED(status):
        return _DiedError(CrashedError(f"its process ended with status {os.waitstatus_to_exitcode(status)}"))
    match os.WTERMSIG(status):
        case signal.SIGXCPU:
            return TooCostlyError(f"more than {allowed.seconds:g} s of processor time")
        case signal.SIGKILL:
            return _DiedError(TooCostlyError("its process was killed, as the system does where memory is short"))
        case number:
            return _DiedError(CrashedError(f"its process was ended by {signal.strsignal(number)}"))


def _close_all(children: list[SandboxProcess]) -> None:
    for child in children:
        child.close()
