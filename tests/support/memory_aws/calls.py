"""The hook through which a stand-in makes its calls, and faults of single operations that a test injects there."""

import itertools
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from botocore.exceptions import ClientError, ConnectionClosedError

from tests.support.waiting import DEADLINE_SECONDS

_T = TypeVar("_T")

Call = Callable[[str, Callable[[], Any]], Any]
"""Makes a call: is given the operation and its effect, runs the effect and returns its result.

It may raise before the effect (the request is lost), raise after it (the reply is lost), or run it twice (the request
is repeated).
"""

Leave = Callable[[int], int]
"""Takes the number of entries of a batch call, and returns how many of them the service does not process."""

WRITES: Final = frozenset({"BatchWriteItem", "PutItem", "UpdateItem", "DeleteItem", "TransactWriteItems"})
"""Operations that change items of a table."""


def run_effect(_operation: str, effect: Callable[[], _T]) -> _T:
    """Run a call that meets no fault."""
    return effect()


def leave_none(_entries: int) -> int:
    """Process every entry of a batch."""
    return 0


def refusal(code: str, operation: str = "Call", status: int = 400, *, retries: int = 0) -> ClientError:
    """Return the error with which AWS refuses a call that botocore has made again `retries` times."""
    response: Any = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status, "RetryAttempts": retries},
    }
    return ClientError(response, operation)


def failing_writes(fail: Callable[[str], None]) -> Call:
    """Return a hook that calls `fail` with `before` and with `after` around each write, so that it can raise."""

    def call(operation: str, effect: Callable[[], _T]) -> _T:
        if operation not in WRITES:
            return effect()
        fail("before")
        result = effect()
        fail("after")
        return result

    return call


def meeting(operation: str, callers: int) -> Call:
    """Return a hook in which the first `callers` calls of an operation wait for each other after their effect."""
    all_here, calls = threading.Barrier(callers), itertools.count(1)

    def call(made: str, effect: Callable[[], _T]) -> _T:
        result = effect()
        if made == operation and next(calls) <= callers:
            all_here.wait(DEADLINE_SECONDS)
        return result

    return call


InjectedFault = Literal["throttled", "unavailable", "reset", "lost_reply", "repeated", "partial"]
"""The names are those of the local cloud's switch `faults`."""

ATTEMPTS: Final = 3
"""Attempts in total that a client makes of a call, as those of the local cloud for tests."""


def repeat_fault(fault: InjectedFault, times: int) -> list[InjectedFault]:
    """Return a fault that so many attempts meet."""
    return [fault] * times


_REFUSALS: Final = {"throttled": ("ThrottlingException", 400), "unavailable": ("ServiceUnavailable", 503)}


@dataclass
class InjectedFaults:
    """Faults of the next attempts, by operation, first one first; `call` and `leave` are hooks of a stand-in.

    As by botocore, an attempt without an answer, or with one that asks for a repeat, is made again.
    """

    waiting: defaultdict[str, deque[InjectedFault]] = field(default_factory=lambda: defaultdict(deque))
    _is_partial: bool = False

    def call(self, operation: str, effect: Callable[[], _T]) -> _T:
        """Make a call in up to `ATTEMPTS` attempts."""
        error: Exception | None = None
        for retries in range(ATTEMPTS):
            fault = self.waiting[operation].popleft() if self.waiting[operation] else None
            if fault in _REFUSALS:
                code, status = _REFUSALS[fault]
                error = refusal(code, operation, status, retries=retries)
                continue
            if fault != "reset":
                self._is_partial = fault == "partial"
                result = effect()
                if fault != "lost_reply":
                    return effect() if fault == "repeated" else result
            error = ConnectionClosedError(endpoint_url="memory")
        assert error is not None
        raise error

    def leave(self, entries: int) -> int:
        """Leave half of a batch, at least one entry, if its call is to be answered in part."""
        return (entries + 1) // 2 if self._is_partial else 0
