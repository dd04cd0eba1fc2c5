"""Calls that are repeated while the server does not answer, is busy or asks for a pause."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from fleetsight_client.api import ApiError, FleetsightClientError, RejectedError, UnreachableError

FIRST_PAUSE_SECONDS: Final = 0.5
MAX_PAUSE_SECONDS: Final = 30.0
"""The longest pause between two tries, unless the server asks for a longer one."""

MAX_RETRY_AFTER_SECONDS: Final = 300.0
"""The longest pause that the server may ask for; the quota of a day is not waited for."""

PATIENCE_SECONDS: Final = 600.0
"""After this time of failed tries, a call is given up."""

RETRYABLE: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed."""

_Result = TypeVar("_Result")


class StoppedError(FleetsightClientError):
    """Raised when the user has stopped the command while a call was waiting for its next try."""


class GaveUpError(FleetsightClientError):
    """Raised when a call failed for too long, or the server asks for too long a pause; the message says why."""


@dataclass(frozen=True)
class PatientCalls:
    """Repeats calls that may be repeated; threads may share it.

    Attributes:
        stop: ends the tries when it is set.
        waiting: receives the reason of each pause, for the user.
        wait: pauses for seconds; returns whether `stop` is set.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    waiting: Callable[[str], None] = lambda _reason: None
    patience_seconds: float = PATIENCE_SECONDS
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], bool] | None = None
    uniform: Callable[[float, float], float] = random.uniform

    def call(self, action: Callable[[], _Result]) -> _Result:
        """Return the result of `action`, which is called until it succeeds.

        Raises:
            StoppedError: `stop` is set.
            GaveUpError: the call failed for `patience_seconds`, or the server asks for too long a pause.
            ApiError: the server rejects the call for good.
        """
        failures, since = 0, self.clock()
        while True:
            try:
                return action()
            except (UnreachableError, RejectedError) as error:
                failures += 1
                self._pause(error, failures, self.clock() - since)

    def _pause(self, error: ApiError, failures: int, seconds_so_far: float) -> None:
        """Wait until the next try.

        Raises:
            ApiError: `error`, if a repeat would not help.
        """
        # Half of the pause is random, so that many clients do not return at the same moment.
        longest = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 20))
        pause, reason = self.uniform(longest / 2, longest), str(error)
        if isinstance(error, RejectedError):
            if error.status not in RETRYABLE:
                raise error
            reason = error.detail
            wanted = error.retry_after_seconds or 0.0
            if wanted > MAX_RETRY_AFTER_SECONDS:
                raise GaveUpError(f"{reason} (possible again in {_duration(wanted)})") from error
            if wanted:
                pause = wanted + self.uniform(0.0, 0.2 * wanted + 1.0)
        if seconds_so_far > self.patience_seconds:
            since = f"no success in {_duration(seconds_so_far)}: " if failures > 1 else ""
            raise GaveUpError(f"{since}{reason}") from error
        if failures > 1:
            self.waiting(reason)
        if (self.wait or self.stop.wait)(pause):
            raise StoppedError("stopped") from error


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"
