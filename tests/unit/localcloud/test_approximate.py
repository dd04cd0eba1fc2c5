"""Counts of a queue that are late, too low or too high."""

import pytest

from localcloud.approximate import approximate_counts
from localcloud.message import Counts
from localcloud.options import Switches
from localcloud.queues import MessageQueue
from tests.support.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> MessageQueue[str]:
    """At 0 s nothing, at 10 s three messages of which one is delayed, at 20 s one of them in flight."""
    queue: MessageQueue[str] = MessageQueue(clock=clock)
    clock.now += 10
    queue.send("delayed", "payload", delay_seconds=900)
    for message_id in ("first", "second"):
        queue.send(message_id, "payload")
    clock.now += 10
    queue.receive(1, visibility_seconds=900)
    return queue


@pytest.mark.parametrize(
    ("seconds", "counts"),
    [(0, Counts(1, 1, 1)), (5, Counts(2, 0, 1)), (15, Counts(0, 0, 0)), (500, Counts(0, 0, 0))],
)
def test_counts_are_those_of_so_long_ago(
    queue: MessageQueue[str], clock: ManualClock, seconds: float, counts: Counts
) -> None:
    clock.now += 1
    assert approximate_counts(queue, Switches(stale_count_seconds=seconds)) == counts


def test_counts_that_lag_arrive_in_the_end(queue: MessageQueue[str], clock: ManualClock) -> None:
    clock.now += 60
    assert approximate_counts(queue, Switches(stale_count_seconds=60)) == queue.counts() == Counts(1, 1, 1)


def test_a_message_that_becomes_visible_by_itself_is_noted(queue: MessageQueue[str], clock: ManualClock) -> None:
    clock.now += 1000
    assert queue.counts() == Counts(3, 0, 0)
    clock.now += 1
    assert queue.counts(seconds_ago=0.5) == Counts(3, 0, 0)
    assert queue.counts(seconds_ago=500) == Counts(1, 1, 1)


def test_a_message_that_is_sent_with_a_delay_is_noted(clock: ManualClock) -> None:
    queue: MessageQueue[str] = MessageQueue(clock=clock)
    clock.now += 1
    queue.send("delayed", "payload", delay_seconds=900)
    clock.now += 1
    assert queue.counts(seconds_ago=0.5) == Counts(0, 0, 1)


def test_a_purge_is_noted(queue: MessageQueue[str], clock: ManualClock) -> None:
    clock.now += 1
    queue.purge()
    clock.now += 1
    assert queue.counts(seconds_ago=0.5) == Counts(0, 0, 0)


@pytest.mark.parametrize(
    ("factor", "counts"), [(1, Counts(1, 1, 1)), (3, Counts(3, 3, 3)), (0.4, Counts(0, 0, 0)), (0, Counts(0, 0, 0))]
)
def test_counts_are_multiplied(queue: MessageQueue[str], factor: float, counts: Counts) -> None:
    assert approximate_counts(queue, Switches(count_factor=factor)) == counts


def test_half_a_message_counts_as_one(queue: MessageQueue[str], clock: ManualClock) -> None:
    switches = Switches(count_factor=0.5, stale_count_seconds=5)
    clock.now += 1
    assert approximate_counts(queue, switches) == Counts(1, 0, 1)


def test_counts_are_exact_while_the_switches_are_off(queue: MessageQueue[str]) -> None:
    assert approximate_counts(queue) == queue.counts() == Counts(1, 1, 1)
