"""Waiting for other processes and threads, as in the local cloud's own tests."""

from localcloud.tests.support.waiting import (
    DEADLINE_SECONDS,
    NEVER_SECONDS,
    wait_until,
)

__all__ = ["DEADLINE_SECONDS", "NEVER_SECONDS", "wait_until"]
