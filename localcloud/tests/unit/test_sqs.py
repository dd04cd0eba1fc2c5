"""Queues have SQS's rules, are as late and as wrong as the switches say, and are rows that outlive the process."""

import gc
import json
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from localcloud.dispatch import CallCounter, CountedCalls
from localcloud.eventual_consistency import ValueHistory
from localcloud.options import MAX_LAG_SECONDS, Switches
from localcloud.sqs import rows as sql
from localcloud.sqs.fair_order import NOISY_IN_FLIGHT, SILENT_SECONDS
from localcloud.sqs.parameters import SqsError
from localcloud.sqs.queue import (
    MessageCounts,
    OutgoingMessage,
    Queue,
    QueueName,
    Queues,
    SentMessage,
)
from localcloud.sqs.rows import StoredMessage
from localcloud.store import StorageError, Store, data
from localcloud.tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, ManualClock, wait_until
from localcloud.tests.support.wsgi_clients import ClientPair, Reply, WsgiClient

LONG = 36_000
"""A visibility timeout in seconds that does not end in a test."""


class OneQueue:
    """A queue of a store of its own; its errors are raised."""

    def __init__(self, clock: ManualClock | None = None, *, fifo: bool = False, **attributes: str) -> None:
        self.store, self.clock, self.name = Store(), clock, QueueName("1", "r", "q.fifo" if fifo else "q")
        self.restart()
        self.queues.create(self.name, {"MaximumMessageSize": "1024", **attributes})

    def restart(self) -> None:
        """Forget what is in memory."""
        switches = Switches(max_in_flight=sys.maxsize)
        self.queues = Queues(self.store, lambda: switches, self.clock)

    @property
    def queue(self) -> Queue:
        return self.queues.named(self.name)

    def send(self, body: str, **options: Any) -> SentMessage:
        with self.store.lock:
            return self.queue.send([OutgoingMessage(body, **options)])[0]

    def receive(self, limit: int, seconds: float = 0.0, **options: Any) -> list[StoredMessage]:
        with self.store.lock:
            return self.queue.receive(limit, seconds, **options)

    def bodies(self, limit: int, seconds: float = LONG) -> list[str]:
        return [each.body for each in self.receive(limit, seconds)]

    def delete(self, *receipts: str) -> None:
        with self.store.lock:
            raise_errors(self.queue.delete(receipts))

    def change_visibility(self, receipt: str, seconds: int) -> None:
        with self.store.lock:
            raise_errors(self.queue.change_visibility([(receipt, seconds)]))

    def counts(self) -> MessageCounts:
        with self.store.lock:
            return self.queue.counts()

    def close(self) -> None:
        self.queues.close()


def waiting(queue: OneQueue) -> int:
    """Return the number of long polls that wait."""
    return len(queue.queue.wake._waiters)  # type: ignore[attr-defined]


def raise_errors(results: Iterable[object]) -> None:
    for result in results:
        if isinstance(result, SqsError):
            raise result


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> OneQueue:
    return OneQueue(clock)


STALE = "InvalidParameterValue"
"""The error of a receipt handle that is not the latest one of an existing message."""


def error_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(SqsError) as raised:
        call(*arguments)
    return raised.value.name


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
        self.queue = OneQueue(self.clock, fifo=self.fifo)
        self.known: dict[str, Known] = {}
        self.receipts: list[tuple[str, str]] = []

    def teardown(self) -> None:
        self.queue.store.close()

    @rule()
    def restart(self) -> None:
        """The rows make a queue that behaves as the one before."""
        self.clock.now += 1
        self.queue.restart()

    def is_visible(self, name: str) -> bool:
        return self.known[name].invisible_until <= self.clock.now

    def in_flight(self, name: str) -> bool:
        return not self.is_visible(name) and self.known[name].receives > 0

    @rule(delay=st.sampled_from([0, 0, 5]), group=st.sampled_from("aab"))
    def send(self, delay: int, group: str) -> None:
        sent = self.queue.send(group, id=f"{self.sequence}", delay_seconds=delay, group=group)
        assert sent.sequence > self.sequence
        self.known[sent.id] = Known(group, self.clock.now + delay, delay > 0)
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
        self.check_received([delivery.id for delivery in deliveries], limit)
        for delivery in deliveries:
            known = self.known[delivery.id]
            known.receives += 1
            known.first_received_at = known.first_received_at or self.clock.now
            known.invisible_until, known.receipt = self.clock.now + visibility, delivery.handle
            assert (delivery.body, delivery.receives) == (known.group, known.receives)
            assert delivery.first_received == known.first_received_at
            assert known.receipt not in dict(self.receipts).values()
            self.receipts.append((delivery.id, known.receipt))

    def error_of_delete(self, name: str, receipt: str) -> str | None:
        return None

    @precondition(lambda self: self.receipts)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name, receipt = data.draw(st.sampled_from(self.receipts[-5:]))
        if name in self.known and (error := self.error_of_delete(name, receipt)):
            assert error_of(self.queue.delete, receipt) == error
            return
        self.queue.delete(receipt)
        if name in self.known and self.known[name].receipt == receipt:
            del self.known[name]

    @precondition(lambda self: self.receipts)
    @rule(data=st.data(), seconds=st.sampled_from([0, 60]))
    def change_visibility(self, data: st.DataObject, seconds: int) -> None:
        name, receipt = data.draw(st.sampled_from(self.receipts[-5:]))
        if name not in self.known or self.known[name].receipt != receipt:
            assert error_of(self.queue.change_visibility, receipt, seconds) == STALE
        elif not self.in_flight(name):
            assert error_of(self.queue.change_visibility, receipt, seconds) == "MessageNotInflight"
        else:
            self.queue.change_visibility(receipt, seconds)
            self.known[name].invisible_until = self.clock.now + seconds

    @rule(seconds=st.sampled_from([1, 4, 29, 31]))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @precondition(lambda self: len(self.known) > 5)
    @rule()
    def purge(self) -> None:
        with self.queue.store.lock:
            self.queue.queue.purge()
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

    def error_of_delete(self, name: str, receipt: str) -> str | None:
        is_valid = self.known[name].receipt == receipt and self.in_flight(name)
        return None if is_valid else STALE


class Tenants:
    """A standard queue with messages of tenants; each has its tenant's name as its body."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.queue = OneQueue(self.clock)

    def send(self, tenant: str, messages: int = 1) -> None:
        for _ in range(messages):
            self.queue.send(tenant, group=tenant)

    def receive(self, messages: int, seconds: float = 0) -> list[str]:
        """Receive messages and delete them after so many seconds; without seconds, leave them in flight."""
        deliveries = self.queue.receive(messages, LONG)
        if seconds:
            self.clock.now += seconds
            self.queue.delete(*(delivery.handle for delivery in deliveries))
        return [delivery.body for delivery in deliveries]


@pytest.fixture
def tenants() -> Tenants:
    return Tenants()


def test_a_quiet_tenant_overtakes_one_with_many_messages_in_flight(tenants: Tenants) -> None:
    tenants.send("noisy", 100)
    assert tenants.receive(NOISY_IN_FLIGHT) == ["noisy"] * NOISY_IN_FLIGHT
    tenants.send("quiet", 2)
    tenants.queue.send("without a group")
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
        tenants.queue.delete(delivery.handle)
    tenants.send("a")
    tenants.send("b")
    assert tenants.receive(2) == ["a", "b"]


def test_a_tenant_is_quiet_again_after_it_sends_nothing_for_five_minutes(tenants: Tenants) -> None:
    tenants.send("a", 100)
    deliveries = tenants.queue.receive(NOISY_IN_FLIGHT, LONG)
    tenants.send("b")
    assert tenants.receive(1) == ["b"]
    for delivery in deliveries:
        tenants.queue.delete(delivery.handle)
    tenants.send("c")
    tenants.clock.now += SILENT_SECONDS - 1
    tenants.send("b")
    assert tenants.receive(1) == ["c"]
    tenants.clock.now += 1
    assert tenants.receive(1) == ["a"]


for _machine in (StandardQueue, FifoQueue):
    _machine.TestCase.settings = settings(stateful_step_count=40)
TestStandardQueue, TestFifoQueue = StandardQueue.TestCase, FifoQueue.TestCase


def test_a_message_older_than_the_retention_period_is_dropped(clock: ManualClock) -> None:
    queue = OneQueue(clock, MessageRetentionPeriod="60")
    queue.send("old")
    clock.now += 61
    queue.send("new")
    assert queue.bodies(10) == ["new"]
    assert queue.counts() == MessageCounts(0, 1, 0)


def test_a_duplicate_is_dropped_after_a_restart_until_its_five_minutes_are_over(clock: ManualClock) -> None:
    queue = OneQueue(clock, fifo=True)
    first = queue.send("m", group="a", key="k")
    clock.now += 200
    queue.restart()
    clock.now += 99
    assert queue.send("m", group="a", key="k") == first
    clock.now += 2
    assert queue.send("m", group="a", key="k").sequence > first.sequence
    clock.now += 301
    queue.send("m", group="a", key="other")
    assert queue.store.read("SELECT key FROM duplicates") == [("other",)]


def test_a_long_poll_ends_at_once_when_a_message_is_sent() -> None:
    queue = OneQueue()
    with ThreadPoolExecutor(1) as poller, closing(queue):
        poll = poller.submit(queue.receive, 1, 30, wait_seconds=NEVER_SECONDS)
        wait_until(lambda: waiting(queue), "the long poll waits")
        queue.send("m")
        assert len(poll.result(DEADLINE_SECONDS)) == 1


@pytest.mark.parametrize(("limit", "received"), [(10, [3]), (2, [1, 2]), (1, [1, 1, 1])])
def test_a_batch_wakes_as_many_long_polls_as_it_needs(limit: int, received: list[int]) -> None:
    queue = OneQueue()
    queue.send("in flight")
    queue.receive(1, NEVER_SECONDS / 2)  # its timeout comes first, so no other one wakes a long poll
    with ThreadPoolExecutor(3) as pollers, closing(queue):
        polls = [pollers.submit(queue.receive, limit, NEVER_SECONDS, wait_seconds=NEVER_SECONDS) for _ in range(3)]
        wait_until(lambda: waiting(queue) == 3, "the long polls wait")
        with queue.store.lock:
            queue.queue.send([OutgoingMessage(name) for name in "abc"])

        def ended() -> list[int]:
            return sorted(len(poll.result()) for poll in polls if poll.done())

        wait_until(lambda: sum(ended()) == 3, "all are received")
        assert ended() == received


@pytest.mark.parametrize("hidden", ["delayed", "in flight", "shown"])
def test_a_long_poll_ends_when_a_hidden_message_becomes_visible(hidden: str) -> None:
    queue = OneQueue()
    with ThreadPoolExecutor(2) as pollers, closing(queue):
        if hidden != "delayed":
            queue.send("m")
            [delivery] = queue.receive(1, 0.1 if hidden == "in flight" else NEVER_SECONDS)
        poll = pollers.submit(queue.receive, 1, 30, wait_seconds=NEVER_SECONDS)
        if hidden != "in flight":
            wait_until(lambda: waiting(queue), "it waits longer than until the message is visible")
        if hidden == "delayed":
            queue.send("m", delay_seconds=0.1)
        elif hidden == "shown":
            queue.change_visibility(delivery.handle, 0)
        assert len(poll.result(DEADLINE_SECONDS)) == 1


def test_every_long_poll_knows_of_a_timeout_that_comes_first() -> None:
    """A message that another consumer received is visible again before the long poll that waited for it ends."""
    queue = OneQueue()
    with ThreadPoolExecutor(1) as poller, closing(queue):
        poll = poller.submit(queue.receive, 1, 30, wait_seconds=NEVER_SECONDS)
        wait_until(lambda: waiting(queue), "the long poll waits")
        with queue.store.lock:  # the long poll that the send wakes finds nothing
            queue.queue.send([OutgoingMessage("m")])
            queue.queue.receive(1, 0.1)
        assert len(poll.result(DEADLINE_SECONDS)) == 1


def test_twenty_consumers_lose_and_repeat_no_message() -> None:
    queue = OneQueue()
    seen: list[list[str]] = [[] for _ in range(20)]

    def consume(mine: list[str]) -> None:
        while deliveries := queue.receive(10, 60, wait_seconds=NEVER_SECONDS):
            mine += [delivery.body for delivery in deliveries]
            queue.delete(*(delivery.handle for delivery in deliveries))

    def produce(part: int) -> None:
        for n in range(part, 2000, 4):
            queue.send(str(n))

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


@pytest.mark.parametrize("years", [0, 1])
def test_a_message_in_flight_is_visible_in_time_after_a_restart_with_an_earlier_clock(years: int) -> None:
    clock = ManualClock(1_790_000_000.0)
    queue = OneQueue(clock, fifo=False)
    queue.send("in flight")
    queue.receive(1, 30)
    queue.send("visible")
    queue.send("delayed", delay_seconds=900)
    clock.now -= years * 365 * 86_400
    queue.restart()
    assert queue.counts() == MessageCounts(1, 1, 1)
    assert queue.bodies(10) == ["visible"]
    clock.now += 31
    assert queue.bodies(10) == ["in flight"]
    clock.now += 900
    assert queue.bodies(10) == ["delayed"]


class Backlogs:
    """A queue with the backlog of a noisy tenant or of a large group, and its dead-letter queue."""

    def __init__(self, messages: int, *, fifo: bool) -> None:
        self.clock = ManualClock()
        self.one = OneQueue(self.clock, fifo=fifo)
        letters = self.one.queues.create(QueueName("1", "r", "d.fifo" if fifo else "d"), {})
        policy = {"deadLetterTargetArn": letters.name.arn, "maxReceiveCount": 2}
        self.one.queue.update({"RedrivePolicy": json.dumps(policy)})
        for number in range(messages):
            self.one.send("m", group="quiet" if number in range(5, 100, 20) else "noisy")
        self.one.receive(10, 30)
        self.received = self.one.receive(60, 60)
        self.clock.now += 31

    def steps(self, action: str) -> int:
        """Return the number of steps that SQLite makes for an action."""
        made = count()
        self.one.store._connection.set_progress_handler(lambda: next(made) and None, 1)
        getattr(self, f"do_{action}")()
        self.one.store._connection.set_progress_handler(None, 1)
        return next(made)

    def do_receive(self) -> None:
        for _ in range(4):
            assert self.one.receive(10, 0)
            self.clock.now += 1

    def do_send(self) -> None:
        self.one.send("m", group="quiet")
        self.one.send("m", group="new")

    def do_delete(self) -> None:
        self.one.change_visibility(self.received[0].handle, 9)
        self.one.delete(self.received[0].handle, self.received[-1].handle)


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
@pytest.mark.parametrize("action", ["receive", "send", "delete"])
def test_no_call_reads_a_backlog(action: str, fifo: bool) -> None:
    few, many = (Backlogs(messages, fifo=fifo).steps(action) for messages in (500, 2_000))
    assert many < 1.1 * few


def test_memory_does_not_grow_with_a_backlog() -> None:
    queue = OneQueue()
    queue.send("first")
    gc.collect()
    before = len(gc.get_objects())
    for number in range(2_000):
        queue.send(str(number), group=str(number % 50))
    gc.collect()
    assert len(gc.get_objects()) - before < 500


def test_a_deleted_queue_leaves_no_rows() -> None:
    queue = OneQueue(fifo=True)
    queue.send("m", group="g", key="k")
    with queue.store.lock:
        queue.queues.delete(queue.queue)
    tables = ("messages", "duplicates", "resources")
    rows = [queue.store.read(f"SELECT * FROM {table}") for table in tables]  # noqa: S608 - names of tables
    assert rows == [[], [], []]


def test_a_call_that_the_disk_has_no_room_for_changes_nothing(clock: ManualClock, monkeypatch: Any) -> None:
    queue = OneQueue(clock)
    letters = queue.queues.create(QueueName("1", "r", "letters"), {})
    policy = json.dumps({"deadLetterTargetArn": letters.name.arn, "maxReceiveCount": 1})
    queue.queue.update({"RedrivePolicy": policy})
    queue.send("poison")
    queue.receive(1)
    write = queue.store.write

    calls: dict[str, Callable[[], object]] = {
        sql.INSERT: lambda: queue.send("refused"),
        sql.DELETE: lambda: queue.receive(1, LONG),
    }
    for last, call in calls.items():

        def fail(statement: str, *values: Any, last: str = last) -> Any:
            cursor = write(statement, *values)
            if statement == last:
                raise StorageError("the disk is full")
            return cursor

        with monkeypatch.context() as patched, pytest.raises(StorageError):
            patched.setattr(queue.store, "write", fail)
            call()
        assert queue.counts() == MessageCounts(1, 0, 0)
    assert queue.receive(1, LONG) == []
    assert queue.counts() == MessageCounts(0, 0, 0)
    with queue.store.lock:
        [delivery] = letters.receive(1, LONG)
    assert (delivery.body, delivery.receives) == ("poison", 2)


def test_a_damaged_message_is_not_delivered() -> None:
    queue = OneQueue()
    queue.send("right")
    queue.store.write("UPDATE messages SET body = 'wrong'")
    with pytest.raises(StorageError, match="is damaged"):
        queue.receive(1)


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


class Api:
    """Calls of SQS by their names, on a new queue unless another is named."""

    def __init__(self, moto: ClientPair, *, fifo: bool = False, **attributes: str) -> None:
        self._client, name = moto.direct, f"queue-{next(_names)}{'.fifo' if fifo else ''}"
        attributes |= {"FifoQueue": "true"} if fifo else {}
        self.url = self.result("CreateQueue", QueueName=name, Attributes=attributes)["QueueUrl"]
        self.arn = self.attributes("QueueArn")["QueueArn"]

    def reply(self, operation: str, **parameters: Any) -> Reply:
        url = {} if operation in {"CreateQueue", "GetQueueUrl", "ListQueues"} else {"QueueUrl": self.url}
        return self._client.call("sqs", operation, **(url | parameters))

    def result(self, operation: str, **parameters: Any) -> Any:
        reply = self.reply(operation, **parameters)
        assert reply.status == 200, reply.body
        return reply.json

    def error(self, operation: str, **parameters: Any) -> str:
        """Return the name of the error of a call."""
        reply = self.reply(operation, **parameters)
        assert (reply.status, bool(reply.json["message"])) == (400, True)
        assert reply.headers["x-amzn-query-error"].endswith(";Sender")
        return str(reply.json["__type"]).removeprefix("com.amazonaws.sqs#")

    def attributes(self, *names: str) -> dict[str, str]:
        return dict(self.result("GetQueueAttributes", AttributeNames=list(names))["Attributes"])

    def received(self, **options: Any) -> list[dict[str, Any]]:
        return list(self.result("ReceiveMessage", MaxNumberOfMessages=10, **options).get("Messages", []))


@pytest.fixture
def api(moto: ClientPair) -> Api:
    return Api(moto)


def test_a_message_arrives_with_its_digest_and_its_attributes(api: Api) -> None:
    sent = api.result("SendMessage", MessageBody="b")
    [found] = api.received(AttributeNames=["All"], VisibilityTimeout=0)
    assert (found["MD5OfBody"], found["MessageId"]) == (sent["MD5OfMessageBody"], sent["MessageId"])
    assert found["MD5OfBody"] == "92eb5ffee6ae2fec3ad71c777531578f"
    assert found["Attributes"].pop("ApproximateReceiveCount") == "1"
    assert set(found["Attributes"]) == {"SentTimestamp", "ApproximateFirstReceiveTimestamp"}
    [found] = api.received(MessageSystemAttributeNames=["ApproximateReceiveCount"])
    assert found["Attributes"] == {"ApproximateReceiveCount": "2"}


def test_a_message_of_a_fifo_queue_needs_a_group_and_a_deduplication_id(moto: ClientPair) -> None:
    api, message = Api(moto, fifo=True), {"MessageBody": "m", "MessageGroupId": "a", "MessageDeduplicationId": "1"}
    sent = [api.result("SendMessage", **message) for _ in range(2)]
    assert sent[0] == sent[1]
    assert (
        sent[0]["SequenceNumber"]
        < api.result("SendMessage", **message | {"MessageDeduplicationId": "2"})["SequenceNumber"]
    )
    assert len(api.received()) == 2
    for name in ("MessageGroupId", "MessageDeduplicationId"):
        assert (
            api.error("SendMessage", **{key: value for key, value in message.items() if key != name})
            == "MissingParameter"
        )
    assert api.error("SendMessage", **message, DelaySeconds=1) == STALE


def test_attributes_of_a_queue_are_those_that_were_set(moto: ClientPair) -> None:
    letters, api = Api(moto), Api(moto, VisibilityTimeout="7")
    every = api.attributes("All")
    assert (every["VisibilityTimeout"], every["MaximumMessageSize"], "FifoQueue" in every) == ("7", "1048576", False)
    policy = {"deadLetterTargetArn": letters.arn, "maxReceiveCount": "3"}
    own = json.dumps(policy | {"deadLetterTargetArn": api.arn})
    assert api.error("SetQueueAttributes", Attributes={"RedrivePolicy": own}) == "InvalidParameterValue"
    api.result("SetQueueAttributes", Attributes={"RedrivePolicy": json.dumps(policy), "DelaySeconds": "1"})
    assert json.loads(api.attributes("RedrivePolicy")["RedrivePolicy"]) == policy | {"maxReceiveCount": 3}
    api.result("SetQueueAttributes", Attributes={"RedrivePolicy": ""})
    assert set(api.attributes("RedrivePolicy", "DelaySeconds")) == {"DelaySeconds"}
    name = api.url.rpartition("/")[2]
    assert api.result("CreateQueue", QueueName=name, Attributes={"VisibilityTimeout": "7"}) == {"QueueUrl": api.url}
    assert api.error("CreateQueue", QueueName=name, Attributes={"VisibilityTimeout": "8"}) == "QueueNameExists"
    assert {letters.url, api.url} <= {*api.result("ListQueues", QueueNamePrefix="queue-")["QueueUrls"]}
    assert api.error("SetQueueAttributes", Attributes={"KmsMasterKeyId": "key"}) == "InvalidAttributeName"
    api.result("DeleteQueue")
    assert api.error("ReceiveMessage") == "QueueDoesNotExist"


VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 11, 10**30, 1.5, "", "x", "\ud800", [], [1], {}, {"a": 1}, [{}], [{"Id": "1"}]]
)
OPERATIONS = {
    "SendMessage": ("MessageBody", "DelaySeconds", "MessageAttributes", "MessageGroupId", "QueueUrl"),
    "SendMessageBatch": ("Entries",),
    "ReceiveMessage": ("MaxNumberOfMessages", "VisibilityTimeout", "AttributeNames"),
    "DeleteMessage": ("ReceiptHandle",),
    "ChangeMessageVisibilityBatch": ("Entries",),
    "ChangeMessageVisibility": ("ReceiptHandle", "VisibilityTimeout"),
    "SetQueueAttributes": ("Attributes",),
    "GetQueueAttributes": ("AttributeNames",),
    "CreateQueue": ("QueueName", "Attributes", "tags"),
    "ListQueues": ("QueueNamePrefix", "NextToken", "MaxResults"),
}
MALFORMED = st.sampled_from(list(OPERATIONS)).flatmap(
    lambda name: st.tuples(st.just(name), st.dictionaries(st.sampled_from(OPERATIONS[name]), VALUES))
)


@given(
    call=MALFORMED,
    entry=st.dictionaries(st.sampled_from(["MessageBody", "ReceiptHandle", "VisibilityTimeout"]), VALUES),
)
def test_no_parameter_of_any_type_is_an_error_of_the_server(moto: ClientPair, call: Any, entry: Any) -> None:
    operation, parameters = call
    if operation.endswith("Batch") and entry:
        parameters = {"Entries": [{"Id": "1", **entry}]}
    assert Api(moto).reply(operation, **parameters).status in {200, 400}


@pytest.mark.parametrize(
    "handle", ["nonsense", "", "1-0123", "1-0123456789abcde\u0664", f"{10**18}-0123456789abcdef"]
)
def test_a_receipt_handle_that_was_never_issued_is_refused(api: Api, handle: str) -> None:
    for operation in ("DeleteMessage", "ChangeMessageVisibility"):
        assert api.error(operation, ReceiptHandle=handle, VisibilityTimeout=1) == "ReceiptHandleIsInvalid"


def test_an_entry_that_fails_in_a_batch_fails_alone(api: Api) -> None:
    entries = [{"Id": "a", "MessageBody": "m"}, {"Id": "b", "MessageBody": "m", "DelaySeconds": 901}, {"Id": "c"}]
    answer = api.result("SendMessageBatch", Entries=entries)
    assert ([each["Id"] for each in answer["Successful"]], [each["Id"] for each in answer["Failed"]]) == (
        ["a"],
        ["b", "c"],
    )
    [message] = api.received(VisibilityTimeout=LONG)
    hidden = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": n} for n in (50_000, 9)]
    answer = api.result("ChangeMessageVisibilityBatch", Entries=hidden)
    assert ([each["Id"] for each in answer["Successful"]], [each["Id"] for each in answer["Failed"]]) == (
        ["9"],
        ["50000"],
    )
    many = [{"Id": str(number), "MessageBody": "m"} for number in range(11)]
    assert api.error("SendMessageBatch", Entries=many) == "TooManyEntriesInBatchRequest"
    assert api.error("SendMessageBatch", Entries=[]) == "EmptyBatchRequest"
    assert api.error("SendMessageBatch", Entries=[many[0], many[0]]) == "BatchEntryIdsNotDistinct"
    assert api.error("SendMessageBatch", Entries=[{"Id": "!", "MessageBody": "m"}]) == "InvalidBatchEntryId"
    large = [{"Id": each, "MessageBody": "m" * 600_000} for each in "ab"]
    assert api.error("SendMessageBatch", Entries=large) == "BatchRequestTooLong"


def test_what_the_local_cloud_lacks_is_an_error_that_names_it(api: Api, moto: ClientPair) -> None:
    attributes = {"text": {"DataType": "String", "StringValue": "x"}}
    assert api.error("SendMessage", MessageBody="m", MessageAttributes=attributes) == STALE
    before = moto.stock_application.times
    replies = [
        api.reply("TagQueue", Tags={"a": "1"}),
        moto.direct.request(
            "sqs", "POST", "/", b"Action=ListQueues", CONTENT_TYPE="application/x-www-form-urlencoded"
        ),
        moto.direct.request("sqs", "GET", "/?Action=ListQueues"),
    ]
    assert moto.stock_application.times == before
    assert {(reply.status, b"is not available in the local cloud" in reply.body) for reply in replies} == {
        (501, True)
    }


def test_a_full_disk_is_answered_with_the_remedy(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise data()._failure(OSError("No space left on device"))

    monkeypatch.setattr(data(), "write", fail)
    client = WsgiClient(CountedCalls(api._client._application, CallCounter()))
    answer = client.call("sqs", "SendMessage", QueueUrl=api.url, MessageBody="m")
    assert (answer.status, b"free space there" in answer.body) == (503, True)
    monkeypatch.undo()
    assert api.received() == []
