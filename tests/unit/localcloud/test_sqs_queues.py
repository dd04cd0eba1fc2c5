"""A queue in memory has SQS's rules, and its counts are as late and as wrong as the switches say."""

import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import FrameType
from typing import Any

import pytest

from localcloud.options import Switches
from localcloud.sqs.backend import approximate_counts
from localcloud.sqs.messages import (
    DeadLetter,
    MalformedReceiptError,
    MessageCounts,
    NotInFlightError,
    StaleReceiptError,
)
from localcloud.sqs.queues import SPARE_TIMERS, MessageQueue
from tests.support.clock import ManualClock
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, wait_until


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> MessageQueue[str]:
    return MessageQueue(clock=clock, wall=clock)


@pytest.fixture
def fifo(clock: ManualClock) -> MessageQueue[str]:
    return MessageQueue(fifo=True, clock=clock, wall=clock)


def payloads(queue: MessageQueue[str], limit: int = 10, visibility: float = 30) -> list[str]:
    return [d.payload for d in queue.receive(limit, visibility)]


def test_messages_arrive_in_order_up_to_the_limit(
    queue: MessageQueue[str],
) -> None:
    for n in range(5):
        queue.send(str(n), f"m{n}")
    assert payloads(queue, limit=3) == ["m0", "m1", "m2"]
    assert payloads(queue, limit=3) == ["m3", "m4"]
    assert payloads(queue) == []


def test_a_received_message_is_invisible_until_its_timeout_and_then_comes_with_a_higher_receive_count(
    queue: MessageQueue[str], clock: ManualClock
) -> None:
    queue.send("a", "m")
    (first,) = queue.receive(1, 30)
    clock.now += 29.9
    assert queue.receive(1, 30) == []
    clock.now += 0.2
    (second,) = queue.receive(1, 30)
    assert (first.receive_count, second.receive_count) == (1, 2)
    assert second.first_received_at == first.first_received_at
    assert first.receipt_handle != second.receipt_handle


def test_a_deleted_message_never_comes_back(queue: MessageQueue[str], clock: ManualClock) -> None:
    queue.send("a", "m")
    (delivery,) = queue.receive(1, 30)
    queue.delete(delivery.receipt_handle)
    queue.delete(delivery.receipt_handle)
    clock.now += 1000
    assert queue.receive(1, 30) == []
    assert queue.counts() == MessageCounts(0, 0, 0)


def test_latest_receipt_deletes_after_the_visibility_timeout(queue: MessageQueue[str], clock: ManualClock) -> None:
    queue.send("a", "m")
    (delivery,) = queue.receive(1, 30)
    clock.now += 31
    assert queue.counts().visible == 1
    queue.delete(delivery.receipt_handle)
    assert queue.receive(1, 30) == []


def test_a_delete_with_a_stale_receipt_is_harmless(queue: MessageQueue[str], clock: ManualClock) -> None:
    queue.send("a", "m")
    (stale,) = queue.receive(1, 30)
    clock.now += 31
    (latest,) = queue.receive(1, 30)
    queue.delete(stale.receipt_handle)
    clock.now += 31
    assert payloads(queue) == ["m"]
    assert latest.receive_count == 2


@pytest.mark.parametrize("is_received_again", [False, True])
def test_a_fifo_message_is_deleted_only_as_long_as_its_receipt_is_valid(
    fifo: MessageQueue[str], clock: ManualClock, is_received_again: bool
) -> None:
    fifo.send("a", "m", group="g")
    (expired,) = fifo.receive(1, 30)
    clock.now += 31
    if is_received_again:
        fifo.receive(1, 30)
    with pytest.raises(StaleReceiptError):
        fifo.delete(expired.receipt_handle)
    clock.now += 31
    (latest,) = fifo.receive(1, 30)
    fifo.delete(latest.receipt_handle)
    fifo.delete(expired.receipt_handle)  # of a deleted message
    assert fifo.counts() == MessageCounts(0, 0, 0)


def test_a_receipt_that_was_never_issued_is_refused(queue: MessageQueue[str]) -> None:
    with pytest.raises(MalformedReceiptError, match="nonsense"):
        queue.delete("nonsense")
    with pytest.raises(MalformedReceiptError):
        queue.change_visibility("bm8gcmVjZWlwdA==", 1)


def test_visibility_zero_gives_a_message_back_at_once(queue: MessageQueue[str]) -> None:
    queue.send("a", "m")
    (delivery,) = queue.receive(1, 30)
    queue.change_visibility(delivery.receipt_handle, 0)
    assert queue.counts() == MessageCounts(1, 0, 0)
    assert payloads(queue) == ["m"]


def test_a_client_that_extends_the_visibility_keeps_the_message(queue: MessageQueue[str], clock: ManualClock) -> None:
    queue.send("a", "m")
    (delivery,) = queue.receive(1, 30)
    for _ in range(5):
        clock.now += 20
        queue.change_visibility(delivery.receipt_handle, 30)
    assert queue.receive(1, 30) == []
    clock.now += 31
    assert payloads(queue) == ["m"]


def test_the_visibility_of_a_stale_receipt_cannot_be_changed(queue: MessageQueue[str], clock: ManualClock) -> None:
    queue.send("a", "m")
    (stale,) = queue.receive(1, 30)
    clock.now += 31
    queue.receive(1, 30)
    with pytest.raises(StaleReceiptError):
        queue.change_visibility(stale.receipt_handle, 0)
    assert queue.counts().in_flight == 1


def test_the_visibility_of_a_message_that_is_visible_again_cannot_be_changed(
    queue: MessageQueue[str], clock: ManualClock
) -> None:
    queue.send("a", "m")
    (delivery,) = queue.receive(1, 30)
    clock.now += 31
    with pytest.raises(NotInFlightError):
        queue.change_visibility(delivery.receipt_handle, 60)


def test_a_delayed_message_comes_after_its_delay(queue: MessageQueue[str], clock: ManualClock) -> None:
    queue.send("a", "m", delay_seconds=5)
    assert queue.receive(1, 30) == []
    assert queue.counts() == MessageCounts(0, 0, 1)
    clock.now += 5
    assert payloads(queue) == ["m"]


def test_counts_distinguish_visible_in_flight_and_delayed(queue: MessageQueue[str]) -> None:
    for n in range(6):
        queue.send(str(n), "m", delay_seconds=60 if n == 5 else 0)
    queue.receive(2, 30)
    assert queue.counts() == MessageCounts(visible=3, in_flight=2, delayed=1)


def test_a_message_received_too_often_is_buried_on_the_next_receive(
    queue: MessageQueue[str], clock: ManualClock
) -> None:
    buried: list[DeadLetter[str]] = []
    queue.send("a", "poison")
    for _ in range(3):
        assert len(queue.receive(1, 1, max_receive_count=3, on_dead_letter=buried.append)) == 1
        clock.now += 2
    assert buried == []
    assert queue.receive(1, 1, max_receive_count=3, on_dead_letter=buried.append) == []
    assert [(letter.message_id, letter.receive_count) for letter in buried] == [("a", 3)]
    assert queue.counts() == MessageCounts(0, 0, 0)


def test_a_buried_message_does_not_hide_the_good_ones_behind_it(queue: MessageQueue[str], clock: ManualClock) -> None:
    queue.send("a", "poison")
    queue.receive(1, 1)
    clock.now += 2
    queue.send("b", "good")
    deliveries = queue.receive(1, 30, max_receive_count=1, on_dead_letter=lambda _: None)
    assert [d.payload for d in deliveries] == ["good"]


def test_a_message_older_than_the_retention_period_is_dropped(queue: MessageQueue[str], clock: ManualClock) -> None:
    queue.send("a", "old")
    clock.now += 61
    queue.send("b", "new")
    assert [d.payload for d in queue.receive(10, 30, retention_seconds=60)] == ["new"]


def test_a_purge_forgets_messages_in_flight_too(queue: MessageQueue[str], clock: ManualClock) -> None:
    queue.send("a", "m")
    queue.send("b", "m")
    (delivery,) = queue.receive(1, 30)
    queue.purge()
    queue.delete(delivery.receipt_handle)
    clock.now += 31
    assert queue.receive(10, 30) == []
    assert queue.counts() == MessageCounts(0, 0, 0)


def test_a_fifo_group_with_a_message_in_flight_gives_no_more_and_others_do(fifo: MessageQueue[str]) -> None:
    for n, group in enumerate("aab"):
        fifo.send(str(n), f"{group}{n}", group=group)
    assert payloads(fifo, limit=1) == ["a0"]
    assert payloads(fifo) == ["b2"]
    assert payloads(fifo) == []


def test_a_fifo_group_goes_on_in_order_when_its_message_is_deleted(fifo: MessageQueue[str]) -> None:
    for n in range(3):
        fifo.send(str(n), f"m{n}", group="a")
    for expected in ("m0", "m1", "m2"):
        (delivery,) = fifo.receive(1, 30)
        assert delivery.payload == expected
        fifo.delete(delivery.receipt_handle)
    assert payloads(fifo) == []


def test_a_fifo_message_whose_timeout_passes_comes_again_before_those_behind_it(
    fifo: MessageQueue[str], clock: ManualClock
) -> None:
    for n in range(3):
        fifo.send(str(n), f"m{n}", group="a")
    assert payloads(fifo, limit=2) == ["m0", "m1"]
    assert payloads(fifo) == []
    clock.now += 31
    assert payloads(fifo) == ["m0", "m1", "m2"]


def test_a_fifo_group_is_receivable_after_a_visibility_of_zero(fifo: MessageQueue[str]) -> None:
    fifo.send("0", "m0", group="a")
    (delivery,) = fifo.receive(1, 30)
    fifo.change_visibility(delivery.receipt_handle, 0)
    assert payloads(fifo) == ["m0"]


def test_duplicate_is_dropped_within_five_minutes_and_new_after_them(
    fifo: MessageQueue[str], clock: ManualClock
) -> None:
    first = fifo.send("0", "m", group="a", deduplication_key="k")
    assert fifo.send("1", "m", group="a", deduplication_key="k") == first
    (delivery,) = fifo.receive(10, 30)
    fifo.delete(delivery.receipt_handle)
    clock.now += 299
    assert fifo.send("2", "m", group="a", deduplication_key="k") == first
    assert payloads(fifo) == []
    clock.now += 2
    fifo.send("3", "m", group="a", deduplication_key="k")
    assert payloads(fifo) == ["m"]


def test_sequence_numbers_grow(fifo: MessageQueue[str]) -> None:
    sequences = [fifo.send(str(n), "m", group="a").sequence for n in range(10)]
    assert sequences == sorted(set(sequences))


def test_a_long_poll_ends_at_once_when_a_message_is_sent() -> None:
    queue: MessageQueue[str] = MessageQueue()
    with ThreadPoolExecutor(1) as poller, closing(queue):
        poll = poller.submit(queue.receive, 1, 30, wait_seconds=NEVER_SECONDS)
        wait_until(lambda: queue._changed._waiters, "the long poll waits")  # type: ignore[attr-defined]
        queue.send("a", "m")
        assert len(poll.result(DEADLINE_SECONDS)) == 1


def test_a_long_poll_ends_when_a_message_of_another_consumer_becomes_visible_again() -> None:
    queue: MessageQueue[str] = MessageQueue()
    with ThreadPoolExecutor(1) as poller, closing(queue):
        poll = poller.submit(queue.receive, 1, 30, wait_seconds=NEVER_SECONDS)
        queue.send("a", "m", delay_seconds=0.1)  # it waits longer than this timer before the timer exists
        assert len(poll.result(DEADLINE_SECONDS)) == 1


def test_closed_queue_ends_long_polls() -> None:
    queue: MessageQueue[str] = MessageQueue()
    waits = {"wait_seconds": NEVER_SECONDS}
    pollers = [threading.Thread(target=queue.receive, args=(1, 30), kwargs=waits, daemon=True) for _ in "ab"]
    for poller in pollers:
        poller.start()
    queue.close()
    for poller in pollers:
        poller.join(DEADLINE_SECONDS)
        assert not poller.is_alive()
    assert queue.receive(1, 30, wait_seconds=NEVER_SECONDS) == []


def test_twenty_consumers_lose_and_repeat_no_message() -> None:
    queue: MessageQueue[str] = MessageQueue()
    seen: list[list[str]] = [[] for _ in range(20)]

    def consume(mine: list[str]) -> None:
        while deliveries := queue.receive(10, 60, wait_seconds=NEVER_SECONDS):
            for delivery in deliveries:
                mine.append(delivery.payload)
                queue.delete(delivery.receipt_handle)

    def produce(part: int) -> None:
        for n in range(part, 2000, 4):
            queue.send(str(n), str(n))

    workers = [threading.Thread(target=consume, args=(mine,), daemon=True) for mine in seen]
    workers += [threading.Thread(target=produce, args=(part,), daemon=True) for part in range(4)]
    for worker in workers:
        worker.start()
    wait_until(lambda: sum(map(len, seen)) >= 2000, "2000 messages are received")
    queue.close()
    for worker in workers:
        worker.join(DEADLINE_SECONDS)
    assert sorted((p for mine in seen for p in mine), key=int) == [str(n) for n in range(2000)]
    assert queue.counts() == MessageCounts(0, 0, 0)


def executed_instructions(call: Callable[[], object]) -> int:
    """Return how many bytecode instructions Python executes during `call`."""
    executed = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal executed
        frame.f_trace_opcodes = True
        executed += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return executed


def test_cost_of_a_receive_is_independent_of_the_backlog(clock: ManualClock) -> None:
    def instructions(waiting: int) -> int:
        # With a clock that stands still: what is remembered of the counts depends on the time that passes.
        queue: MessageQueue[int] = MessageQueue(clock=clock, wall=clock)
        for n in range(waiting):
            queue.send(str(n), n)
        return executed_instructions(lambda: queue.receive(10, 60))

    assert instructions(5000) == instructions(50) > 0


class Body:
    """A payload that can be watched."""


def test_deleted_message_is_freed_before_its_visibility_timeout(clock: ManualClock) -> None:
    queue: MessageQueue[Body] = MessageQueue(clock=clock, wall=clock)
    alive: weakref.WeakSet[Body] = weakref.WeakSet()
    for number in range(20 * SPARE_TIMERS):
        body = Body()
        alive.add(body)
        queue.send(str(number), body)
        del body
        for delivery in queue.receive(10, 3600):
            queue.change_visibility(delivery.receipt_handle, 7200)
            queue.delete(delivery.receipt_handle)
            del delivery
    assert len(alive) <= SPARE_TIMERS + 1


def test_forgetting_timers_forgets_none_that_counts(clock: ManualClock, queue: MessageQueue[str]) -> None:
    for number in range(10 * SPARE_TIMERS):
        queue.send(str(number), str(number))
    in_flight = queue.receive(1, 60)
    for delivery in queue.receive(10 * SPARE_TIMERS, 3600):
        queue.delete(delivery.receipt_handle)
    assert queue.counts() == MessageCounts(visible=0, in_flight=1, delayed=0)
    clock.now += 61
    assert [again.payload for again in queue.receive(10, 60)] == [in_flight[0].payload]


@pytest.fixture
def changing_queue(clock: ManualClock) -> MessageQueue[str]:
    """At 0 s nothing, at 10 s three messages of which one is delayed, at 20 s one of them in flight."""
    changing_queue: MessageQueue[str] = MessageQueue(clock=clock)
    clock.now += 10
    changing_queue.send("delayed", "payload", delay_seconds=900)
    for message_id in ("first", "second"):
        changing_queue.send(message_id, "payload")
    clock.now += 10
    changing_queue.receive(1, visibility_seconds=900)
    return changing_queue


@pytest.mark.parametrize(
    ("seconds", "counts"),
    [
        (0, MessageCounts(1, 1, 1)),
        (5, MessageCounts(2, 0, 1)),
        (15, MessageCounts(0, 0, 0)),
        (500, MessageCounts(0, 0, 0)),
    ],
)
def test_counts_are_as_old_as_the_switch_says(
    changing_queue: MessageQueue[str], clock: ManualClock, seconds: float, counts: MessageCounts
) -> None:
    clock.now += 1
    assert approximate_counts(changing_queue, Switches(stale_count_seconds=seconds)) == counts


def test_counts_that_lag_arrive_in_the_end(changing_queue: MessageQueue[str], clock: ManualClock) -> None:
    clock.now += 60
    assert (
        approximate_counts(changing_queue, Switches(stale_count_seconds=60))
        == changing_queue.counts()
        == MessageCounts(1, 1, 1)
    )


def test_history_has_messages_that_become_visible_by_timeout(
    changing_queue: MessageQueue[str], clock: ManualClock
) -> None:
    clock.now += 1000
    assert changing_queue.counts() == MessageCounts(3, 0, 0)
    clock.now += 1
    assert changing_queue.counts(seconds_ago=0.5) == MessageCounts(3, 0, 0)
    assert changing_queue.counts(seconds_ago=500) == MessageCounts(1, 1, 1)


def test_history_has_delayed_messages(clock: ManualClock) -> None:
    changing_queue: MessageQueue[str] = MessageQueue(clock=clock)
    clock.now += 1
    changing_queue.send("delayed", "payload", delay_seconds=900)
    clock.now += 1
    assert changing_queue.counts(seconds_ago=0.5) == MessageCounts(0, 0, 1)


def test_history_has_a_purge(changing_queue: MessageQueue[str], clock: ManualClock) -> None:
    clock.now += 1
    changing_queue.purge()
    clock.now += 1
    assert changing_queue.counts(seconds_ago=0.5) == MessageCounts(0, 0, 0)


@pytest.mark.parametrize(
    ("factor", "counts"),
    [
        (1, MessageCounts(1, 1, 1)),
        (3, MessageCounts(3, 3, 3)),
        (0.4, MessageCounts(0, 0, 0)),
        (0, MessageCounts(0, 0, 0)),
    ],
)
def test_counts_are_multiplied(changing_queue: MessageQueue[str], factor: float, counts: MessageCounts) -> None:
    assert approximate_counts(changing_queue, Switches(count_factor=factor)) == counts


def test_half_a_message_counts_as_one(changing_queue: MessageQueue[str], clock: ManualClock) -> None:
    switches = Switches(count_factor=0.5, stale_count_seconds=5)
    clock.now += 1
    assert approximate_counts(changing_queue, switches) == MessageCounts(1, 0, 1)


def test_counts_are_exact_while_the_switches_are_off(changing_queue: MessageQueue[str]) -> None:
    assert approximate_counts(changing_queue) == changing_queue.counts() == MessageCounts(1, 1, 1)
