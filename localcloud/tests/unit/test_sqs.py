"""Queues have SQS's rules and are as late and as wrong as the switches say; a plain call gets stock moto's answer."""

import re
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from localcloud.eventual_consistency import ValueHistory
from localcloud.options import MAX_LAG_SECONDS
from localcloud.sqs import backend, backlog, fair_order
from localcloud.sqs.backlog import MAX_BLOCK_MESSAGES
from localcloud.sqs.fair_order import NOISY_IN_FLIGHT, SILENT_SECONDS
from localcloud.sqs.queue_record import RestoredMessage
from localcloud.sqs.queues import (
    MalformedReceiptError,
    MessageCounts,
    MessageQueue,
    NotInFlightError,
    StaleReceiptError,
)
from localcloud.sqs.timers import SPARE_TIMERS
from localcloud.temporary import StoredContent, TemporaryStorageError
from localcloud.tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, ManualClock, wait_until
from localcloud.tests.support.wsgi_clients import ClientPair, WsgiClient


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> MessageQueue[str]:
    return MessageQueue(clock=clock, wall=clock)


@dataclass
class Known:
    """What the model knows of a message: its group, and until when it is invisible."""

    group: str
    invisible_until: float
    is_delayed: bool
    receives: int = 0
    first_received_at: float = 0.0
    receipt: str = ""


class StandardQueue(RuleBasedStateMachine):
    """Any calls on a queue have the effect that they have on a model, which visits every message for each call."""

    fifo = False

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.sequence = ManualClock(), 0
        self.recorded: dict[tuple[str, str], dict[str, Any]] = {}
        self.queue = self.new_queue()
        self.known: dict[str, Known] = {}
        self.receipts: list[tuple[str, str]] = []

    def new_queue(self) -> MessageQueue[str]:
        return MessageQueue(fifo=self.fifo, clock=self.clock, wall=self.clock, record=self.record)

    def record(self, kind: str, name: str, value: dict[str, Any] | None) -> None:
        if value is None:
            del self.recorded[kind, name]
        else:
            self.recorded[kind, name] = value

    @rule()
    def restart(self) -> None:
        """What was recorded makes a queue that behaves as the one before."""
        self.clock.now += 1
        messages = [
            RestoredMessage(name, **{**value, **self.recorded.get(("delivery", name), {})})
            for (kind, name), value in self.recorded.items()
            if kind == "message"
        ]
        self.queue = self.new_queue()
        self.queue.restore(messages, {})

    def is_visible(self, name: str) -> bool:
        return self.known[name].invisible_until <= self.clock.now

    def in_flight(self, name: str) -> bool:
        return not self.is_visible(name) and self.known[name].receives > 0

    @rule(delay=st.sampled_from([0, 0, 5]), group=st.sampled_from("aab"))
    def send(self, delay: int, group: str) -> None:
        sent = self.queue.send(f"{self.sequence}", group, delay_seconds=delay, group=group)
        assert sent.sequence > self.sequence
        self.known[sent.message_id] = Known(group, self.clock.now + delay, delay > 0)
        self.sequence = sent.sequence

    def check_received(self, names: list[str], limit: int) -> None:
        visible = [name for name in self.known if self.is_visible(name)]
        assert set(names) <= set(visible)
        assert len(set(names)) == len(names) == min(limit, len(visible))
        fresh = [n for n in names if not self.known[n].receives and not self.known[n].is_delayed]
        for group in "ab":
            of_group = [name for name in fresh if self.known[name].group == group]
            assert of_group == sorted(of_group, key=int)

    @rule(limit=st.integers(1, 4), visibility=st.sampled_from([0, 30, 30]))
    def receive(self, limit: int, visibility: int) -> None:
        deliveries = self.queue.receive(limit, visibility)
        self.check_received([delivery.message_id for delivery in deliveries], limit)
        for delivery in deliveries:
            known = self.known[delivery.message_id]
            known.receives += 1
            known.first_received_at = known.first_received_at or self.clock.now
            known.invisible_until, known.receipt = self.clock.now + visibility, delivery.receipt_handle
            assert (delivery.payload, delivery.receive_count) == (known.group, known.receives)
            assert delivery.first_received_at == known.first_received_at
            assert known.receipt not in dict(self.receipts).values()
            self.receipts.append((delivery.message_id, known.receipt))

    def error_of_delete(self, name: str, receipt: str) -> type[Exception] | None:
        return None

    @precondition(lambda self: self.receipts)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name, receipt = data.draw(st.sampled_from(self.receipts[-5:]))
        if name in self.known and (error := self.error_of_delete(name, receipt)):
            with pytest.raises(error):
                self.queue.delete(receipt)
            return
        self.queue.delete(receipt)
        if name in self.known and self.known[name].receipt == receipt:
            del self.known[name]

    @precondition(lambda self: self.receipts)
    @rule(data=st.data(), seconds=st.sampled_from([0, 60]))
    def change_visibility(self, data: st.DataObject, seconds: int) -> None:
        name, receipt = data.draw(st.sampled_from(self.receipts[-5:]))
        if name not in self.known or self.known[name].receipt != receipt:
            with pytest.raises(StaleReceiptError):
                self.queue.change_visibility(receipt, seconds)
        elif not self.in_flight(name):
            with pytest.raises(NotInFlightError):
                self.queue.change_visibility(receipt, seconds)
        else:
            self.queue.change_visibility(receipt, seconds)
            self.known[name].invisible_until = self.clock.now + seconds

    @rule(seconds=st.sampled_from([1, 4, 29, 31]))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @precondition(lambda self: len(self.known) > 5)
    @rule()
    def purge(self) -> None:
        self.queue.purge()
        self.known.clear()

    @invariant()
    def counts_are_exact(self) -> None:
        visible, in_flight = sum(map(self.is_visible, self.known)), sum(map(self.in_flight, self.known))
        assert self.queue.counts() == MessageCounts(visible, in_flight, len(self.known) - visible - in_flight)


class FifoQueue(StandardQueue):
    """The same on a FIFO queue: a group is in order, and gives nothing while one of its messages is in flight."""

    fifo = True

    def check_received(self, names: list[str], limit: int) -> None:
        available = []
        for group in "ab":
            members = [name for name in self.known if self.known[name].group == group]
            ready = [] if any(map(self.in_flight, members)) else list(takewhile(self.is_visible, members))
            received = [name for name in names if self.known[name].group == group]
            assert received == ready[: len(received)]
            available += ready
        assert len(names) == min(limit, len(available))

    def error_of_delete(self, name: str, receipt: str) -> type[Exception] | None:
        is_valid = self.known[name].receipt == receipt and self.in_flight(name)
        return None if is_valid else StaleReceiptError


class Tenants:
    """A standard queue with messages of tenants, whose payload is their tenant's name."""

    def __init__(self) -> None:
        self.clock, self._numbers = ManualClock(), count()
        self.queue: MessageQueue[str] = MessageQueue(clock=self.clock, wall=self.clock)

    def send(self, tenant: str, messages: int = 1) -> None:
        for _ in range(messages):
            self.queue.send(str(next(self._numbers)), tenant, group=tenant)

    def receive(self, messages: int, seconds: float = 0) -> list[str]:
        """Receive messages and delete them after so many seconds; without seconds, leave them in flight."""
        deliveries = self.queue.receive(messages, LONG)
        if seconds:
            self.clock.now += seconds
            for delivery in deliveries:
                self.queue.delete(delivery.receipt_handle)
        return [delivery.payload for delivery in deliveries]


@pytest.fixture
def tenants() -> Tenants:
    return Tenants()


def test_a_quiet_tenant_overtakes_one_with_many_messages_in_flight(tenants: Tenants) -> None:
    tenants.send("noisy", 100)
    assert tenants.receive(NOISY_IN_FLIGHT) == ["noisy"] * NOISY_IN_FLIGHT
    tenants.send("quiet", 2)
    tenants.queue.send("own tenant", "without a group")
    assert tenants.receive(5) == ["quiet", "quiet", "without a group", "noisy", "noisy"]
    assert len(tenants.receive(100)) == 100 - NOISY_IN_FLIGHT - 2


def test_tenants_with_few_messages_in_flight_are_delivered_in_the_order_of_sends(tenants: Tenants) -> None:
    tenants.send("a", NOISY_IN_FLIGHT)
    tenants.receive(NOISY_IN_FLIGHT - 9)
    tenants.send("b")
    assert tenants.receive(10) == ["a"] * 9 + ["b"]


def test_a_quiet_tenant_overtakes_one_that_took_most_of_the_processing_time(tenants: Tenants) -> None:
    tenants.send("slow", 5)
    tenants.send("quick", 20)
    assert tenants.receive(1, seconds=50) == ["slow"]
    assert tenants.receive(1, seconds=1) == ["quick"]


def test_of_noisy_tenants_the_one_with_the_fewest_messages_in_flight_is_next(tenants: Tenants) -> None:
    tenants.send("a", 100)
    tenants.receive(40)
    tenants.send("b", 100)
    assert tenants.receive(30) == ["b"] * 30  # quiet until it has 30 in flight, too
    assert tenants.receive(30) == ["b"] * 10 + ["a", "b"] * 10


def test_a_tenant_without_a_backlog_is_quiet_again(tenants: Tenants) -> None:
    tenants.send("a", NOISY_IN_FLIGHT + 1)
    deliveries = tenants.queue.receive(NOISY_IN_FLIGHT, LONG)
    tenants.send("b")
    assert tenants.receive(2) == ["b", "a"]
    for delivery in deliveries[:2]:
        tenants.queue.delete(delivery.receipt_handle)
    tenants.send("a")
    tenants.send("b")
    assert tenants.receive(2) == ["a", "b"]


def test_a_tenant_is_quiet_again_after_it_sends_nothing_for_five_minutes(tenants: Tenants) -> None:
    tenants.send("a", 100)
    deliveries = tenants.queue.receive(NOISY_IN_FLIGHT, LONG)
    tenants.send("b")
    assert tenants.receive(1) == ["b"]
    for delivery in deliveries:
        tenants.queue.delete(delivery.receipt_handle)
    tenants.send("c")
    tenants.clock.now += SILENT_SECONDS - 1
    tenants.send("b")
    assert tenants.receive(1) == ["c"]
    tenants.clock.now += 1
    assert tenants.receive(1) == ["a"]


for _machine in (StandardQueue, FifoQueue):
    _machine.TestCase.settings = settings(stateful_step_count=40)
TestStandardQueue, TestFifoQueue = StandardQueue.TestCase, FifoQueue.TestCase


def test_a_receipt_that_was_never_issued_is_refused(queue: MessageQueue[str]) -> None:
    with pytest.raises(MalformedReceiptError, match="nonsense"):
        queue.delete("nonsense")
    with pytest.raises(MalformedReceiptError):
        queue.change_visibility("bm8gcmVjZWlwdA==", 1)


def test_a_message_older_than_the_retention_period_is_dropped(queue: MessageQueue[str], clock: ManualClock) -> None:
    queue.send("a", "old")
    clock.now += 61
    queue.send("b", "new")
    assert [d.payload for d in queue.receive(10, 30, retention_seconds=60)] == ["new"]


def test_a_duplicate_is_dropped_after_a_restart_until_its_five_minutes_are_over(clock: ManualClock) -> None:
    recorded: dict[str, Any] = {}

    def record(kind: str, name: str, value: dict[str, Any] | None) -> None:
        if kind == "duplicate":
            recorded[name] = value

    before: MessageQueue[str] = MessageQueue(fifo=True, clock=clock, wall=clock, record=record)
    first = before.send("0", "m", group="a", deduplication_key="k")
    clock.now += 200
    after: MessageQueue[str] = MessageQueue(fifo=True, clock=clock, wall=clock, record=record)
    after.restore([], recorded)
    clock.now += 99
    assert after.send("1", "m", group="a", deduplication_key="k") == first
    clock.now += 2
    sent = after.send("2", "m", group="a", deduplication_key="k")
    assert sent.message_id == "2"
    assert sent.sequence > first.sequence
    clock.now += 301
    after.send("3", "m", group="a", deduplication_key="other")
    assert recorded["k"] is None


def test_a_long_poll_ends_at_once_when_a_message_is_sent() -> None:
    queue: MessageQueue[str] = MessageQueue()
    with ThreadPoolExecutor(1) as poller, closing(queue):
        poll = poller.submit(queue.receive, 1, 30, wait_seconds=NEVER_SECONDS)
        wait_until(lambda: queue._changed._waiters, "the long poll waits")  # type: ignore[attr-defined]
        queue.send("a", "m")
        assert len(poll.result(DEADLINE_SECONDS)) == 1


@pytest.mark.parametrize(("limit", "received"), [(10, [3]), (2, [1, 2]), (1, [1, 1, 1])])
def test_a_batch_wakes_as_many_long_polls_as_it_needs(limit: int, received: list[int]) -> None:
    queue: MessageQueue[str] = MessageQueue()
    queue.send("in flight", "m")
    queue.receive(1, NEVER_SECONDS / 2)  # its timer comes first, so no other one wakes a long poll
    with ThreadPoolExecutor(3) as pollers, closing(queue):
        polls = [pollers.submit(queue.receive, limit, NEVER_SECONDS, wait_seconds=NEVER_SECONDS) for _ in range(3)]
        wait_until(lambda: len(queue._changed._waiters) == 3, "the long polls wait")  # type: ignore[attr-defined]
        with queue.sending_batch():
            for name in ("a", "b", "c"):
                queue.send(name, "m")

        def ended() -> list[int]:
            return sorted(len(poll.result()) for poll in polls if poll.done())

        wait_until(lambda: sum(ended()) == 3, "all are received")
        assert ended() == received


def test_a_long_poll_ends_when_a_message_of_another_consumer_becomes_visible_again() -> None:
    queue: MessageQueue[str] = MessageQueue()
    with ThreadPoolExecutor(1) as poller, closing(queue):
        poll = poller.submit(queue.receive, 1, 30, wait_seconds=NEVER_SECONDS)
        queue.send("a", "m", delay_seconds=0.1)  # it waits longer than this timer before the timer exists
        assert len(poll.result(DEADLINE_SECONDS)) == 1


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


BACKLOG_OPERATIONS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from([None, "a", "b", "c"]), st.integers(1, 7), st.sampled_from([0, 0, 5])),
    st.tuples(st.just("receive"), st.integers(1, 10), st.sampled_from([0, 30, 30])),
    st.tuples(st.just("delete"), st.integers(1, 10)),
    st.tuples(st.just("show"), st.integers(1, 10)),
    st.tuples(st.just("wait"), st.sampled_from([1, 31, SILENT_SECONDS])),
    st.tuples(st.sampled_from(["restart", "purge"])),
)


class PlayedQueue:
    """A queue, what it records, and what it answers to operations."""

    def __init__(self) -> None:
        self.clock, self.names = ManualClock(), count()
        self.recorded: dict[tuple[str, str], dict[str, Any]] = {}
        self.receipts, self.answers = list[str](), list[Any]()
        self.restart()

    def record(self, kind: str, name: str, value: dict[str, Any] | None) -> None:
        self.recorded.pop((kind, name), None)
        if value is not None:
            self.recorded[kind, name] = value

    def send(self, group: str | None, messages: int, delay: float) -> None:
        for _ in range(messages):
            self.queue.send(str(next(self.names)), "payload", group=group, delay_seconds=delay)

    def receive(self, limit: int, visibility: float) -> None:
        deliveries = self.queue.receive(limit, visibility)
        self.receipts = [*(each.receipt_handle for each in deliveries), *self.receipts]
        self.answers += [(each.message_id, each.payload, each.receive_count, each.group) for each in deliveries]

    def delete(self, latest: int) -> None:
        for receipt in self.receipts[:latest]:
            self.queue.delete(receipt)

    def show(self, latest: int) -> None:
        for receipt in self.receipts[:latest]:
            with suppress(StaleReceiptError, NotInFlightError):
                self.queue.change_visibility(receipt, 0)

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    def purge(self) -> None:
        self.queue.purge()
        assert self.recorded == {}

    def restart(self) -> None:
        messages = [
            RestoredMessage(name, **{**value, **self.recorded.get(("delivery", name), {})})
            for (kind, name), value in self.recorded.items()
            if kind == "message"
        ]
        self.queue: MessageQueue[str] = MessageQueue(clock=self.clock, wall=self.clock, record=self.record)
        self.queue.restore(messages, {})


def play_backlog(operations: list[Any], block_messages: int) -> list[Any]:
    """Return what a queue with blocks of so many messages answers and has recorded in the end."""
    played = PlayedQueue()
    with ExitStack() as stack:
        for module, name in (
            (backlog, "MIN_BLOCK_MESSAGES"),
            (backlog, "MAX_BLOCK_MESSAGES"),
            (fair_order, "MEMORY_MESSAGES"),
        ):
            stack.enter_context(patch.object(module, name, block_messages))
        stack.enter_context(patch.object(fair_order, "NOISY_IN_FLIGHT", 3))
        stack.enter_context(patch.object(fair_order, "NOISY_SHARE", 0.4))
        for operation, *arguments in operations:
            getattr(played, operation)(*arguments)
            played.answers.append(played.queue.counts())
    return [*played.answers, sorted(played.recorded)]


@given(operations=st.lists(BACKLOG_OPERATIONS, max_size=40))
def test_a_queue_with_small_blocks_answers_as_one_without_blocks(operations: list[Any]) -> None:
    assert play_backlog(operations, 2) == play_backlog(operations, sys.maxsize)


def fail_storage(*_arguments: object) -> Any:
    raise TemporaryStorageError("the disk is full")


def test_a_send_fails_while_its_backlog_cannot_be_written_and_loses_nothing(
    queue: MessageQueue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(MAX_BLOCK_MESSAGES):
        queue.send(str(number), number)
    with monkeypatch.context() as patched:
        patched.setattr(StoredContent, "create", fail_storage)
        with pytest.raises(TemporaryStorageError):
            queue.send("refused", -1)
    queue.send("last", MAX_BLOCK_MESSAGES)
    assert queue.counts() == MessageCounts(MAX_BLOCK_MESSAGES + 1, 0, 0)
    received = [delivery.payload for delivery in queue.receive(2 * MAX_BLOCK_MESSAGES, LONG)]
    assert received == list(range(MAX_BLOCK_MESSAGES + 1))


def test_a_dead_letter_that_cannot_be_stored_stays_in_its_queue(queue: MessageQueue[str]) -> None:
    letters = list[str]()
    queue.send("0", "m")
    queue.receive(1, 0)
    assert queue.receive(1, LONG, max_receive_count=1, on_dead_letter=fail_storage) == []
    assert queue.counts() == MessageCounts(1, 0, 0)
    queue.receive(1, LONG, max_receive_count=1, on_dead_letter=lambda letter: letters.append(letter.payload))
    assert (letters, queue.counts()) == (["m"], MessageCounts(0, 0, 0))


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


def test_history_is_bounded_and_covers_the_largest_lag(clock: ManualClock) -> None:
    history: ValueHistory[float] = ValueHistory(resolution_seconds=0.9, clock=clock)
    for _ in range(10 * int(MAX_LAG_SECONDS)):
        history.record(0.0)
        clock.now += 0.5
        history.record(clock.now)  # within the resolution: it replaces the earlier value
        clock.now += 0.5
    assert len(history) <= 2 * MAX_LAG_SECONDS + 2
    assert history.value_ago(MAX_LAG_SECONDS) == clock.now - MAX_LAG_SECONDS + 0.5


_names = count()
COUNTS = [f"ApproximateNumberOfMessages{state}" for state in ("", "NotVisible", "Delayed")]
SYSTEM = ["ApproximateReceiveCount", "SentTimestamp", "SenderId", "MessageGroupId", "SequenceNumber"]
BODIES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
LONG = 36_000
"""A visibility timeout in seconds. Both clouds go by the real clock, so none may end during a test."""

OPERATIONS = st.one_of(
    st.tuples(st.just("send"), st.lists(BODIES, min_size=1, max_size=10)),
    st.tuples(st.just("receive"), st.integers(1, 10), st.sampled_from([0, LONG]), st.lists(st.sampled_from(SYSTEM))),
    st.tuples(st.just("receive"), st.integers(1, 10), st.just(LONG), st.just(["All"])),
    st.tuples(st.just("delete"), st.integers(1, 3)),
    st.tuples(st.just("hide"), st.integers(1, 3), st.sampled_from([0, LONG, 50_000])),
    st.tuples(st.just("count")),
)


def new_queue(moto: ClientPair, *, fifo: bool = False, **attributes: str) -> str:
    name = f"queue-{next(_names)}{'.fifo' if fifo else ''}"
    all_attributes = {**({"FifoQueue": "true"} if fifo else {}), **attributes}
    reply = moto.stock.call("sqs", "CreateQueue", QueueName=name, Attributes=all_attributes)
    return str(reply.json["QueueUrl"])


def entries(bodies: list[str], fifo: bool = False) -> list[dict[str, str]]:
    group = {"MessageGroupId": "g", "MessageDeduplicationId": "d"} if fifo else {"MessageGroupId": "g"}
    return [
        {"Id": str(n), "MessageBody": body, **({k: f"{v}{n}" for k, v in group.items()} if fifo or n % 2 else {})}
        for n, body in enumerate(bodies)
    ]


def comparable(value: Any, name: str = "") -> Any:
    """An answer without what no two sends or receives have in common."""
    if isinstance(value, dict):
        return {key: comparable(member, key) for key, member in value.items()}
    if isinstance(value, list):
        return [comparable(member) for member in value]
    if name in {"MessageId", "ReceiptHandle"}:
        return name
    if name == "Message":
        return re.sub(r"(Value|handle) (\S+)", r"\1", value)
    return re.sub(r"\d", "9", value) if name.endswith("Timestamp") else value


def play(door: WsgiClient, url: str, operations: list[Any], fifo: bool) -> list[Any]:
    receipts = ["no receipt"]
    answers = []
    for operation, *arguments in operations:
        if operation == "send":
            reply = door.call("sqs", "SendMessageBatch", QueueUrl=url, Entries=entries(arguments[0], fifo))
        elif operation == "receive":
            options = {"MaxNumberOfMessages": arguments[0], "VisibilityTimeout": arguments[1]}
            options["MessageSystemAttributeNames"] = arguments[2]
            reply = door.call("sqs", "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=0, **options)
            receipts += [message["ReceiptHandle"] for message in reply.json.get("Messages", [])]
        elif operation == "count":
            reply = door.call("sqs", "GetQueueAttributes", QueueUrl=url, AttributeNames=COUNTS)
        else:
            some = [{"Id": str(n), "ReceiptHandle": r} for n, r in enumerate(receipts[-arguments[0] :])]
            if operation == "hide":
                some = [{**entry, "VisibilityTimeout": arguments[1]} for entry in some]
            name = "DeleteMessageBatch" if operation == "delete" else "ChangeMessageVisibilityBatch"
            reply = door.call("sqs", name, QueueUrl=url, Entries=some)
        answers.append((reply.status, comparable(reply.json), reply.headers["content-type"]))
    return answers


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
@given(operations=st.lists(OPERATIONS, max_size=12))
def test_any_calls_are_answered_as_by_stock_moto(moto: ClientPair, operations: list[Any], fifo: bool) -> None:
    # Time stands still: which tenant is noisy depends on how long messages are in flight, here on the speed of calls.
    with patch.object(backend, "MessageQueue", partial(MessageQueue, clock=ManualClock())):
        direct, stock = new_queue(moto, fifo=fifo), new_queue(moto, fifo=fifo)
    before = moto.stock_application.times
    answers = play(moto.direct, direct, operations, fifo)
    assert moto.stock_application.times == before
    assert answers == play(moto.stock, stock, operations, fifo)


ATTRIBUTES = {"a": {"DataType": "String", "StringValue": "v"}}
UNUSUAL: list[tuple[str, dict[str, Any]]] = [
    ("SendMessageBatch", {"Entries": []}),
    ("SendMessageBatch", {"Entries": entries(["m" * 600_000] * 2)}),
    ("SendMessageBatch", {"Entries": [{"Id": "0", "MessageBody": "m", "DelaySeconds": 1}]}),
    ("SendMessageBatch", {"Entries": [{"Id": "0", "MessageBody": "m", "MessageAttributes": ATTRIBUTES}]}),
    ("ReceiveMessage", {"MaxNumberOfMessages": 11}),
    ("ReceiveMessage", {"MessageSystemAttributeNames": ["NoSuchAttribute"]}),
    ("ReceiveMessage", {"MessageAttributeNames": ["All"]}),
    ("DeleteMessageBatch", {"Entries": [{"Id": "0", "ReceiptHandle": "r"}, {"Id": "1", "ReceiptHandle": "r"}]}),
    ("GetQueueAttributes", {"AttributeNames": ["All"]}),
    ("ListQueueTags", {}),
]


@pytest.mark.parametrize(("operation", "parameters"), UNUSUAL)
def test_an_unusual_call_is_answered_by_stock_moto(
    moto: ClientPair, operation: str, parameters: dict[str, Any]
) -> None:
    replies = moto.stock_replies(lambda client: client.call("sqs", operation, QueueUrl=new_queue(moto), **parameters))
    bodies = [re.sub(r"[\d.]+|queue-\d+", "9", str(comparable(reply.json))) for reply in replies]
    assert replies[0].status == replies[1].status
    assert bodies[0] == bodies[1]


def test_a_fifo_queue_that_deduplicates_by_content_is_stock_moto_s(moto: ClientPair) -> None:
    url = new_queue(moto, fifo=True, ContentBasedDeduplication="true")
    sent = [{"Id": str(n), "MessageBody": "same", "MessageGroupId": "g"} for n in range(2)]
    assert moto.direct.call("sqs", "SendMessageBatch", QueueUrl=url, Entries=sent).status == 200
    assert len(moto.direct.call("sqs", "ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=10).json["Messages"]) == 1
