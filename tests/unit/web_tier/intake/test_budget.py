"""Bytes in memory on their way to the bucket."""

import threading

import pytest

from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS
from web_tier.intake.budget import BusyError, MemoryLimiter


def test_no_more_is_given_than_there_is() -> None:
    budget = MemoryLimiter(100)
    budget.take(60)
    with pytest.raises(BusyError):
        budget.take(41, wait_seconds=0)
    budget.take(40)


def test_who_waits_goes_on_when_enough_is_given_back() -> None:
    budget = MemoryLimiter(100)
    budget.take(100)
    waiting = threading.Thread(target=budget.take, args=(50, NEVER_SECONDS), daemon=True)
    waiting.start()
    budget.give_back(50)
    waiting.join(DEADLINE_SECONDS)
    assert not waiting.is_alive()
    with pytest.raises(BusyError):
        budget.take(1, wait_seconds=0)


def test_more_than_there_is_in_all_is_taken_alone() -> None:
    budget = MemoryLimiter(100)
    budget.take(500)
    with pytest.raises(BusyError):
        budget.take(1, wait_seconds=0)
    budget.give_back(500)
    budget.take(100)


def test_what_is_held_is_given_back_whatever_happens() -> None:
    budget = MemoryLimiter(100)
    with pytest.raises(ZeroDivisionError), budget.held(100):
        with pytest.raises(BusyError):
            budget.take(1, wait_seconds=0)
        raise ZeroDivisionError
    budget.take(100, wait_seconds=0)
