"""A bucket and queues in memory, of the real classes, for tests that start no process.

`RecordingQueue` records what is sent, `ClockedQueue` has visibility timeouts, and `MemoryQueue` is the client of a
queue with the behaviour that AWS documents. `tests/integration/services/test_services.py` runs the same assertions
against `MemoryBucket`, `MemoryQueue` and the services' APIs.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any, cast

from botocore.exceptions import ClientError

from core.ids import new_id
from core.messages import RequestMessage
from localcloud.sqs.fair_order import StoredMessage
from localcloud.sqs.queues import MessageQueue, NotInFlightError, StaleReceiptError
from services.errors import NotFoundError, ObjectTooLargeError
from services.s3 import Bucket, ListedObject, SourceBuckets, StoredObject
from services.sqs import BATCH, OutgoingMessage, Queue, QueueCounts, ReceivedMessage


class RecordingQueue(Queue):
    """A queue that records the bodies of the messages; `fails` may raise, or return the messages that it refuses."""

    def __init__(
        self, fails: Callable[[Sequence[OutgoingMessage]], list[OutgoingMessage]] = lambda messages: []
    ) -> None:
        super().__init__(cast(Any, None), "memory")
        self.fails = fails
        self.bodies: list[str] = []
        self.groups: Counter[str | None] = Counter()

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        refused = self.fails(messages)
        self.groups.update(message.group for message in messages)
        self.bodies += [message.body for message in messages if message not in refused]
        return refused

    @property
    def image_ids(self) -> set[str]:
        return {RequestMessage.from_json(body).image_id for body in self.bodies}


@dataclass
class ClockedMessage:
    """A message of a `ClockedQueue`."""

    body: str
    receives: int = 0
    visible_at: float = 0.0
    receipt: str = ""


@dataclass(frozen=True)
class ClockedQueue(Queue):
    """A standard queue; `clock` is in seconds.

    Attributes:
        batch: most messages that a receive brings: SQS may bring fewer than there are.
        sent: how many messages were sent in all.
    """

    client: Any = None
    url: str = "memory"
    clock: Callable[[], float] = lambda: 0.0
    visibility_seconds: float = 30.0
    messages: list[ClockedMessage] = field(default_factory=list)
    sent: list[OutgoingMessage] = field(default_factory=list)
    batch: list[int] = field(default_factory=lambda: [BATCH])
    waits: list[int] = field(default_factory=list)

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        """Take messages."""
        self.sent.extend(messages)
        self.messages.extend(ClockedMessage(each.body) for each in messages)
        return []

    def receive(self, most: int = BATCH, wait_seconds: int = 20) -> list[ReceivedMessage]:
        """Return messages that are visible."""
        self.waits.append(wait_seconds)
        now = self.clock()
        found = [each for each in self.messages if each.visible_at <= now][: min(most, self.batch[0])]
        for each in found:
            each.receives, each.visible_at, each.receipt = each.receives + 1, now + self.visibility_seconds, new_id()
        return [ReceivedMessage(each.receipt, each.receipt, each.body, each.receives, 0.0, 0.0) for each in found]

    def delete(self, receipts: Sequence[str]) -> list[str]:
        """Delete messages."""
        self.messages[:] = [each for each in self.messages if each.receipt not in receipts]
        return []

    def change_visibility(self, receipts: Sequence[str], seconds: int) -> list[str]:
        """Hide messages for so long."""
        for each in self.messages:
            if each.receipt in receipts:
                each.visible_at = self.clock() + seconds
        return []

    def counts(self) -> QueueCounts:
        """Return how many there are."""
        visible = sum(each.visible_at <= self.clock() for each in self.messages)
        return QueueCounts(visible, len(self.messages) - visible, 0)

    def requests(self) -> list[tuple[str, int]]:
        """Return image and attempt of each request that was sent."""
        sent = [RequestMessage.from_json(each.body) for each in self.sent]
        return [(request.image_id, request.attempt) for request in sent]


Call = Callable[[str, Callable[[], Any]], Any]
"""Makes a call: is given the operation and its effect, and returns what the effect returned."""


class MemoryBucket(Bucket):
    """A bucket in memory.

    Attributes:
        objects: by key.
        types: the content types of the objects, by key.
        tags: the tags of the objects that `put` has stored, by key.
        call: makes every call of the service; a test may delay, repeat, lose or refuse it there.
        fails: returns the error with which `put` refuses a body, or None.
    """

    def __init__(
        self,
        call: Call = lambda _operation, effect: effect(),
        fails: Callable[[bytes], Exception | None] = lambda body: None,
    ) -> None:
        super().__init__(cast(Any, None), "memory")
        self.call, self.fails = call, fails
        self.objects: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.tags: dict[str, Mapping[str, str] | None] = {}

    def put(self, key: str, body: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
        """Store an object; replace an existing one."""
        error = self.fails(body)
        if error is not None:
            raise error
        self.call("put", lambda: self._store(key, body, content_type))
        self.tags[key] = tags

    def put_new(self, key: str, body: bytes, content_type: str) -> bool:
        """Store an object where there is none; return True if it was stored."""

        def effect() -> bool:
            if key in self.objects:
                return False
            self._store(key, body, content_type)
            return True

        return bool(self.call("put", effect))

    def put_over(self, key: str, body: bytes, content_type: str, etag: str) -> bool:
        """Store an object over one that still has this ETag; return True if it was stored."""

        def effect() -> bool:
            if key not in self.objects or etag_of(self.objects[key]) != etag:
                return False
            self._store(key, body, content_type)
            return True

        return bool(self.call("put", effect))

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Return an object and its ETag."""
        body = self.get(key)
        return body, etag_of(body)

    def put_parts(self, key: str, parts: Iterator[bytes], content_type: str) -> None:
        """Store an object that is made while it is sent."""
        body = b"".join(parts)
        self.put(key, body, content_type)

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """Return an object, up to a size."""
        body = self.call("get", lambda: self.objects.get(key))
        if body is None:
            raise NotFoundError(f"there is no object {key!r}")
        if max_bytes is not None and len(body) > max_bytes:
            raise ObjectTooLargeError(key, len(body), max_bytes)
        return bytes(body)

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object in one part."""
        yield self.get(key)

    def head(self, key: str) -> StoredObject | None:
        """Return size and type of an object, or None."""
        body = self.call("head", lambda: self.objects.get(key))
        return None if body is None else StoredObject(len(body), self.types[key])

    def exists(self, key: str) -> bool:
        """Return True if there is an object."""
        return bool(self.call("head", lambda: key in self.objects))

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        self.delete_all([key])

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete objects, those that are there."""
        if keys:
            self.call("delete", lambda: [self.objects.pop(key, None) for key in keys])

    def list_keys(self, folder: str, limit: int) -> list[str]:
        """Return up to `limit` keys in a folder, in order."""
        inside = f"{folder}/"
        found = self.call("list", lambda: sorted(key for key in self.objects if key.startswith(inside)))
        return list(found[:limit])

    def _store(self, key: str, body: bytes, content_type: str) -> None:
        self.objects[key], self.types[key] = body, content_type


class MemorySource(SourceBuckets):
    """Buckets of others in memory.

    Attributes:
        objects: by bucket and key.
        archived: those of the objects that must be restored first.
        unreadable: those of the objects that may not be read.
        gone: names of buckets that were deleted.
        refuses_copies: whether the bucket of the copies refuses them.
        unwritable: returns the error with which a copy into a bucket is refused, or None.
        fails: returns the error with which a page of a bucket is refused, or None.
        call: as of a `MemoryBucket`.
    """

    def __init__(self, call: Call = lambda _operation, effect: effect()) -> None:
        super().__init__(cast(Any, None))
        self.call = call
        self.objects: dict[tuple[str, str], bytes] = {}
        self.archived: set[tuple[str, str]] = set()
        self.unreadable: set[tuple[str, str]] = set()
        self.gone: set[str] = set()
        self.refuses_copies = False
        self.fails: Callable[[str], Exception | None] = lambda bucket: None
        self.unwritable: Callable[[str], Exception | None] = lambda bucket: None

    def page(self, bucket: str, prefix: str, after: str, limit: int) -> tuple[list[ListedObject], bool]:
        """Return objects in the order of their keys, and whether there are more."""
        if (error := self.fails(bucket)) is not None:
            raise error
        if bucket in self.gone:
            raise _no_such_bucket()

        def effect() -> list[ListedObject]:
            return [
                ListedObject(key, len(body), (bucket, key) in self.archived)
                for (place, key), body in sorted(self.objects.items(), key=lambda each: each[0][1].encode())
                if place == bucket and key.startswith(prefix) and key.encode() > after.encode()
            ]

        found = self.call("list", effect)
        return found[:limit], len(found) > limit

    def copy(
        self, bucket: str, key: str, to: Bucket, to_key: str, content_type: str, tags: Mapping[str, str] | None = None
    ) -> None:
        """Copy an object."""
        if self.refuses_copies or (bucket, key) in self.unreadable:
            raise ClientError(
                cast(Any, {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}), "Copy"
            )
        if bucket in self.gone:
            raise _no_such_bucket()
        body = self.call("get", lambda: self.objects.get((bucket, key)))
        if body is None:
            raise NotFoundError(f"there is no object {key!r}")
        to.put(to_key, body, content_type, tags)

    def is_readable(self, bucket: str, key: str) -> bool:
        """Return whether an object exists and may be read."""
        return bucket not in self.gone and (bucket, key) in self.objects.keys() - self.unreadable

    def copy_out(self, of: Bucket, key: str, bucket: str, to_key: str, content_type: str) -> None:
        """Copy an object to a bucket of another."""
        body = of.get(key)
        if (error := self.unwritable(bucket)) is not None:
            raise error
        self.call("put", lambda: self.objects.update({(bucket, to_key): body}))


def _no_such_bucket() -> ClientError:
    response: Any = {"Error": {"Code": "NoSuchBucket"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
    return ClientError(response, "Call")


def etag_of(body: bytes) -> str:
    """Return the ETag of an object."""
    return f'"{sha256(body).hexdigest()}"'


@dataclass
class Habits:
    """How a queue behaves, within what AWS documents.

    Attributes:
        short: share of receives that return fewer messages than there are.
        twice: share of messages that a standard queue delivers again at once.
        late: share of messages that a standard queue delivers up to `MAX_LATE_SECONDS` late.
        stale_seconds: how old counts may be.
    """

    short: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    stale_seconds: float = 0.0


MAX_LATE_SECONDS = 120
VISIBILITY_SECONDS = 30


@dataclass
class MemoryQueue:
    """The client of one queue; `queue()` returns the queue as the product uses it.

    Attributes:
        clock: seconds.
        call: makes every call.
        dead: where messages go that were received `max_receive_count` times.
        sent: how many messages were sent, by body.
    """

    fifo: bool
    clock: Callable[[], float]
    random: Random
    call: Call = lambda _operation, effect: effect()
    dead: "MemoryQueue | None" = None
    max_receive_count: int = 5
    habits: Habits = field(default_factory=Habits)
    sent: Counter[str] = field(default_factory=Counter)
    _numbers: int = 0

    def __post_init__(self) -> None:
        """Make the queue itself."""
        self.messages = MessageQueue[str](fifo=self.fifo, clock=self.clock, wall=self.clock)
        self._sent_at: dict[str, float] = {}

    def queue(self, sleep: Callable[[float], None]) -> Queue:
        """Return the queue over this client."""
        return Queue(cast(Any, self), "memory.fifo" if self.fifo else "memory", sleep)

    def send_message_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Send messages."""
        return dict(self.call("send", lambda: self._send(Entries)))

    def receive_message(self, *, MaxNumberOfMessages: int, **_: Any) -> dict[str, Any]:  # noqa: N803
        """Receive messages; a long poll does not wait."""
        return dict(self.call("receive", lambda: self._receive(MaxNumberOfMessages)))

    def delete_message_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Delete messages."""
        return dict(self.call("delete", lambda: self._delete(Entries)))

    def change_message_visibility_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Change the visibility timeouts of messages."""
        return dict(self.call("visibility", lambda: self._change_visibility(Entries)))

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        """Return the approximate counts."""
        return dict(self.call("counts", self._attributes))

    def purge(self) -> None:
        """Lose every message."""
        self.messages.purge()

    def _send(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        for entry in entries:
            self._put(entry["MessageBody"], entry.get("MessageDeduplicationId"), entry.get("MessageGroupId"))
        return {}

    def _put(self, body: str, deduplication_id: str | None, group: str | None, receive_count: int = 0) -> None:
        self._numbers += 1
        self.sent[body] += 1
        is_late = not self.fifo and self.random.random() < self.habits.late
        delay = self.random.randint(1, MAX_LATE_SECONDS) if is_late else 0
        message_id = f"m{self._numbers:06}"
        self._sent_at[message_id] = self.clock()
        self.messages.send(
            message_id,
            body,
            delay_seconds=delay,
            group=group,
            deduplication_key=deduplication_id,
            receive_count=receive_count,
        )

    def _receive(self, most: int) -> dict[str, Any]:
        if self.habits.short and self.random.random() < self.habits.short:
            most = self.random.randint(0, most - 1)
        if not most:
            return {}
        on_dead_letter = None if self.dead is None else self._add_dead_letter
        limit = None if self.dead is None else self.max_receive_count
        found = self.messages.receive(
            most, VISIBILITY_SECONDS, max_receive_count=limit, on_dead_letter=on_dead_letter
        )
        for each in found:
            if not self.fifo and self.random.random() < self.habits.twice:
                self.messages.change_visibility(each.receipt_handle, 0)
        return {
            "Messages": [
                {
                    "MessageId": each.message_id,
                    "ReceiptHandle": each.receipt_handle,
                    "Body": each.payload,
                    "Attributes": {
                        "ApproximateReceiveCount": str(each.receive_count),
                        "SentTimestamp": str(int(self._sent_at[each.message_id] * 1000)),
                        "ApproximateFirstReceiveTimestamp": str(int(each.first_received_at * 1000)),
                        **({} if each.group is None else {"MessageGroupId": each.group}),
                    },
                }
                for each in found
            ]
        }

    def _add_dead_letter(self, letter: StoredMessage[str]) -> None:
        if self.dead is not None:
            self.dead._put(letter.payload, None, letter.group)

    def _delete(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        failed = []
        for entry in entries:
            try:
                self.messages.delete(entry["ReceiptHandle"])
            except StaleReceiptError:
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": "ReceiptHandleIsInvalid"})
        return {"Failed": failed}

    def _change_visibility(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        failed = []
        for entry in entries:
            try:
                self.messages.change_visibility(entry["ReceiptHandle"], entry["VisibilityTimeout"])
            except (StaleReceiptError, NotInFlightError):
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": "InvalidParameterValue"})
        return {"Failed": failed}

    def _attributes(self) -> dict[str, Any]:
        counts = self.messages.counts(self.random.uniform(0, self.habits.stale_seconds))
        return {
            "Attributes": {
                "ApproximateNumberOfMessages": str(counts.visible),
                "ApproximateNumberOfMessagesNotVisible": str(counts.in_flight),
                "ApproximateNumberOfMessagesDelayed": str(counts.delayed),
            }
        }
