"""Waiting for other processes and threads, for a condition with a deadline; and a clock that a test sets.

No test asserts how long something took. A promise about time is one of three: a condition that only the right
behaviour reaches before a deadline that a busy machine meets, too; a fake clock; or a ratio in `benchmarks/`."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_SECONDS = 600.0
"""Longest wait for another process or thread: far more than a busy machine with two cores needs, and not for ever."""

NEVER_SECONDS = 10 * DEADLINE_SECONDS
"""A time-out for the code under test where only something else, such as a signal or a message, may end its wait.

A time-out below `DEADLINE_SECONDS` would end the wait too. The test would pass even if the code ignored the event.
"""

FIRST_PAUSE_SECONDS = 0.01
MAX_PAUSE_SECONDS = 0.25
"""Pauses between two checks grow by half each time, since most checks call a service and take CPU from it."""


def wait_until(condition: Callable[[], T | None], what: str, *, details: Callable[[], str] = str) -> T:
    """Return the first true value of `condition`, checked again and again.

    Args:
        condition: what to wait for.
        what: the condition in words, for the message.
        details: called after the deadline; what it returns, such as a log, ends the message.

    Raises:
        AssertionError: `DEADLINE_SECONDS` have passed.
    """
    deadline, pause = time.monotonic() + DEADLINE_SECONDS, FIRST_PAUSE_SECONDS
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still not true after {DEADLINE_SECONDS:.0f} s: {what}\n{details()}")
        time.sleep(pause)
        pause = min(1.5 * pause, MAX_PAUSE_SECONDS)
    return value


class ManualClock:
    """Returns the seconds in `now`, which a test changes."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let so much time pass at once."""
        self.now += seconds
