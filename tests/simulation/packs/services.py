"""S3, SQS and DynamoDB in memory, as far as packs need them: conditions, transactions, receive counts, ETags."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from tests.support.memory_aws.calls import Call, refusal

Key = tuple[str, str]
"""A job, and what of it: `JOB`, `KEY#key`, `PACK#id`, `RESULT#id`."""
Item = dict[str, Any]
"""Attributes of an item; an item that does not exist has none. Values are replaced, never changed in place."""

TOKEN_SECONDS: Final = 600.0
"""Time for which DynamoDB recognizes a transaction by its `ClientRequestToken`."""


class RefusedError(Exception):
    """Raised when a condition does not hold; `writes` are the positions of the writes that were refused."""

    def __init__(self, writes: Sequence[int] = ()) -> None:
        """Name the writes of a transaction that were refused."""
        super().__init__(f"conditions of {list(writes)} do not hold")
        self.writes = writes


@dataclass(frozen=True)
class Write:
    """A write of one item: what it becomes, None to delete it; and the condition on what it is."""

    key: Key
    change: Callable[[Item], Item | None]
    condition: Callable[[Item], bool] = lambda _: True


@dataclass
class Table:
    """A table; all reads are consistent."""

    call: Call
    clock: Callable[[], float]
    items: dict[Key, Item] = field(default_factory=dict)
    _tokens: dict[str, float] = field(default_factory=dict)

    def get(self, job: str, name: str) -> Item:
        """Return an item, or an empty one."""
        return dict(self.call("GetItem", lambda: self.items.get((job, name), {})))

    def query(self, job: str, prefix: str) -> dict[str, Item]:
        """Return the items of a job by the rest of their names, in order."""

        def found() -> list[tuple[str, Item]]:
            inside = [name for held, name in self.items if held == job and name.startswith(prefix)]
            return [(name.removeprefix(prefix), self.items[job, name]) for name in sorted(inside)]

        return dict(self.call("Query", found))

    def jobs(self) -> list[str]:
        """Return the jobs, from an index."""
        return list(self.call("Query", lambda: [job for job, name in self.items if name == "JOB"]))

    def write(self, write: Write) -> None:
        """Make one conditional write; a repeat of it by the client library may be refused by its own effect."""
        self.call("PutItem", lambda: self._apply([write]))

    def transact(self, writes: Sequence[Write], token: str) -> None:
        """Make all writes or none; a transaction with the same token is made once."""

        def apply() -> None:
            if self.clock() - self._tokens.get(token, -TOKEN_SECONDS) >= TOKEN_SECONDS:
                self._apply(writes)
                self._tokens[token] = self.clock()

        self.call("TransactWriteItems", apply)

    def expire(self) -> None:
        """Delete the items that have expired; it is the table that does so, without a call."""
        for key in [key for key, item in self.items.items() if item.get("expires_at", self.clock()) < self.clock()]:
            del self.items[key]

    def _apply(self, writes: Sequence[Write]) -> None:
        if refused := [at for at, write in enumerate(writes) if not write.condition(self.items.get(write.key, {}))]:
            raise RefusedError(refused)
        for write in writes:
            changed = write.change(self.items.pop(write.key, {}))
            if changed is not None:
                self.items[write.key] = changed


@dataclass(frozen=True)
class Stored:
    """An object: its content, its ETag, and when S3 stored it by its own clock."""

    body: Any
    etag: str
    modified_at: float


@dataclass
class Bucket:
    """A bucket. With a key of KMS, two puts of the same bytes have two ETags."""

    call: Call
    clock: Callable[[], float]
    has_kms: bool = True
    objects: dict[str, Stored] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    _puts: int = 0

    def get(self, key: str) -> Stored | None:
        """Return an object, or None if there is none."""

        def read() -> Stored | None:
            if key in self.denied:
                raise refusal("AccessDenied", "GetObject", 403)
            return self.objects.get(key)

        found: Stored | None = self.call("get", read)
        return found

    def put(
        self, key: str, body: Any, *, is_new: bool = False, etag: str | None = None, origin: str | None = None
    ) -> Stored:
        """Store an object, as a copy of `origin` if given.

        Args:
            is_new: whether it is a condition that there is none.
            etag: of the object that there still must be; of `origin` if given.
        """

        def write() -> Stored:
            held, same = self.objects.get(key), self.objects.get(origin or key)
            if (is_new and held) or (etag is not None and (same is None or same.etag != etag)):
                raise RefusedError
            self._puts += 1
            self.objects[key] = Stored(body, f"{self._puts if self.has_kms else body}", self.clock())
            return self.objects[key]

        stored: Stored = self.call("put", write)
        return stored

    def delete(self, key: str) -> None:
        """Delete an object, which need not exist."""
        self.call("delete", lambda: self.objects.pop(key, None))

    def list(self, prefix: str) -> tuple[dict[str, Stored], float]:
        """Return the objects below a prefix, and S3's own time of day."""
        found = self.call("list", lambda: {key: each for key, each in self.objects.items() if key.startswith(prefix)})
        return found, self.clock()


@dataclass
class Message:
    """A message of a queue; it is visible from `visible_at`."""

    id: int
    body: Any
    visible_at: float
    receives: int = 0


@dataclass
class Queue:
    """A standard queue: any order, at least once; a receive counts though its reply is lost.

    Attributes:
        twice: share of deliveries after which the message is visible at once.
        letters: takes what was received `max_receives` times.
        sent: what senders sent; the client library may send it twice, or the queue may never get it.
    """

    call: Call
    clock: Callable[[], float]
    random: Random
    letters: "Queue | None" = None
    max_receives: int = 0
    twice: float = 0.0
    messages: dict[int, Message] = field(default_factory=dict)
    sent: list[Any] = field(default_factory=list)
    _ids: int = 0

    def send(self, body: Any) -> None:
        """Send a message."""

        self.sent.append(body)
        self.call("send", lambda: self.add(body))

    def add(self, body: Any) -> None:
        """Add a message without a call."""
        self._ids += 1
        self.messages[self._ids] = Message(self._ids, body, self.clock())

    def receive(self, maximum: int, timeout: float) -> list[Message]:
        """Receive messages; no other receive returns them for `timeout` seconds."""

        def effect() -> list[Message]:
            visible = [each for each in self.messages.values() if each.visible_at <= self.clock()]
            if self.letters is not None:
                for letter in [each for each in visible if each.receives >= self.max_receives]:
                    visible.remove(letter)
                    self.letters.add(self.messages.pop(letter.id).body)
            found = self.random.sample(visible, min(maximum, len(visible)))
            for each in found:
                each.receives += 1
                is_repeated = self.twice and self.random.random() < self.twice
                each.visible_at = self.clock() + (0 if is_repeated else timeout)
            return [replace(each) for each in found]

        return list(self.call("receive", effect))

    def delete(self, message: int) -> None:
        """Delete a message; a standard queue accepts any of its receipts."""
        self.call("delete", lambda: self.messages.pop(message, None))

    def make_visible(self, message: int) -> None:
        """End the visibility timeout of a message, if there still is one."""

        def effect() -> None:
            if message in self.messages:
                self.messages[message].visible_at = self.clock()

        self.call("change", effect)

    def counts(self) -> tuple[int, int]:
        """Return how many messages are visible, and how many are in flight."""
        visible = sum(each.visible_at <= self.clock() for each in self.messages.values())
        return visible, len(self.messages) - visible
