"""Waiting, on a clock."""

import pytest

from scripts.aws.context import TimedOutError
from tests.support.aws_stage import Time


def test_what_is_there_at_once_is_not_waited_for() -> None:
    time = Time()
    assert time.waiter.until(lambda: "it", "it", seconds=10) == "it"
    assert time.now == 0


def test_it_is_looked_for_again_and_again_until_it_comes() -> None:
    time, answers = Time(), iter([None, False, 7])
    assert time.waiter.until(lambda: next(answers), "seven", seconds=10, every=2) == 7
    assert time.now == 4


def test_what_does_not_come_in_time_is_named() -> None:
    time = Time()
    with pytest.raises(TimedOutError, match="waited 10 s in vain for the moon"):
        time.waiter.until(lambda: None, "the moon", seconds=10, every=2)
    assert time.now == 10
