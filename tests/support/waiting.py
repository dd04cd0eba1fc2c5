"""Waiting for other processes and threads, and a clock that a test sets: those of the local cloud's own tests."""

from localcloud.tests.support.waiting import (
    DEADLINE_SECONDS,
    NEVER_SECONDS,
    ManualClock,
    wait_until,
)

__all__ = ["DEADLINE_SECONDS", "NEVER_SECONDS", "ManualClock", "wait_until"]
