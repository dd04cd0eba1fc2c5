"""DynamoDB, SQS and S3 in virtual time: latencies, quotas and partial receives as AWS documents them.

The services hold what a job of a million images needs in a few bytes an image: records and results of a job's images
are made when they are read (`ModelJob`); of a result only its existence is stored. Cache entries are counted, and not
stored: only the web tier reads them.

What AWS documents and the model has:

- A partition of a table serves 1,000 write units and 3,000 read units a second
  (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html). Unused capacity of
  up to 300 seconds can be used in bursts
  (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/burst-adaptive-capacity.html).
- A new on-demand table serves 4,000 write units and 12,000 read units a second, later twice its former peak
  (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/on-demand-capacity-mode.html), up to
  40,000 of each by the default quota
  (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html).
- An item costs a write unit for each KB; a consistent read a read unit for each 4 KB, for a query of all items of a
  page together, up to 1 MB
  (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html).
- A short poll of SQS asks a subset of the servers; with fewer than 1,000 messages in the queue it most likely returns
  fewer than were asked for, perhaps none. A long poll asks all
  (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html).
- A prefix of a bucket serves 3,500 writes and 5,500 reads a second
  (https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html).

A call that is throttled is repeated as botocore's standard mode repeats it
(https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html). What no page documents is a parameter:
the latencies, and the share of the messages that a short poll sees.
"""

import re
from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heappop, heappush, merge
from itertools import islice
from random import Random
from typing import Any, Final, TypeVar, cast

from botocore.exceptions import ClientError

from benchmarks.virtual_time import EPOCH, VirtualTime
from core.ids import ImageRef, input_key, output_key
from core.jobs.items import IMAGE, RESULT, image_item, result_item
from core.jobs.models import ImageRecord
from core.messages import ClassificationResult, LabelScore, Model, Prediction, Timings
from services.errors import NotFoundError
from services.s3 import Bucket, StoredObject
from services.sqs import Queue
from services.table import Table
from web_tier.controller.services import MAX_ATTEMPTS

_T = TypeVar("_T")

PAGE_BYTES: Final = 1_048_576
"""Most that one Query reads (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Query.Pagination.html)."""

WRITE_UNIT_BYTES, READ_UNIT_BYTES = 1_024, 4_096
MAX_RETRY_SECONDS: Final = 20.0
FULL_RECEIVES_FROM: Final = 1_000
"""Messages that wait in a queue, from which on a short poll returns as many as were asked for."""


@dataclass(frozen=True)
class Latencies:
    """Seconds from request to reply; of each call they vary by up to `jitter`, evenly.

    Attributes:
        table: of a call of DynamoDB.
        page: more for each MB that it reads.
        queue: of a call of SQS.
        delete: of a DeleteObjects, up to 1,000 keys.
        object: of any other call of S3.
    """

    table: float = 0.007
    page: float = 0.025
    queue: float = 0.008
    delete: float = 0.060
    object: float = 0.020
    jitter: float = 0.3


@dataclass(frozen=True)
class CallCosts:
    """CPU seconds of a call in the controller, under the interpreter's lock; and for each entry.

    `benchmarks.call_costs` measures calls of SQS and DynamoDB. obstore releases the lock, so an S3 call has a
    constant.
    """

    calls: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    object: float = 0.0002

    def scaled(self, factor: float) -> "CallCosts":
        """Return the costs on a core that needs so many times as long."""
        calls = {name: (base * factor, each * factor) for name, (base, each) in self.calls.items()}
        return CallCosts(calls, self.object * factor)

    def of(self, operation: str, entries: int) -> float:
        """Return the cost of a call with so many items, messages or keys."""
        base, each = self.calls.get(operation, (0.0, 0.0))
        return base + each * entries


@dataclass(frozen=True)
class Quotas:
    """Units a second; infinity switches a limit off.

    Attributes:
        burst_seconds: of a partition's unused capacity that can be used later; it is there at the start.
        table_writes, table_reads: of the whole table.
    """

    partition_writes: float = 1_000.0
    partition_reads: float = 3_000.0
    burst_seconds: float = 300.0
    table_writes: float = 40_000.0
    table_reads: float = 40_000.0
    prefix_writes: float = 3_500.0
    prefix_reads: float = 5_500.0


class TokenBucket:
    """A rate with a burst: it fills with `rate` a second up to `capacity`, and is full at first."""

    def __init__(self, rate: float, capacity: float) -> None:
        self._rate, self._capacity, self._level, self._at = rate, capacity, capacity, 0.0

    def take(self, amount: float, now: float) -> bool:
        """Take so many tokens; return False, and take none, if the bucket has none left.

        One request may exceed what is left: DynamoDB and S3 throttle the next one.
        """
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level <= 0:
            return False
        self._level -= amount
        return True


class ModelJob:
    """A job: the ids of its images, and which of these have a record, a result and objects; a few bytes an image."""

    def __init__(self, job_id: str, owner: str, image_ids: Sequence[str], answered: int = 0) -> None:
        self.job_id, self.owner = job_id, owner
        self.image_ids = list(image_ids)
        count = len(self.image_ids)
        self.recorded = bytearray(b"\1") * count
        self.answered = bytearray(b"\1") * answered + bytearray(count - answered)
        self.has_input = bytearray(answered) + bytearray(b"\1") * (count - answered)
        self.has_output = bytearray(self.answered)

    def add(self, image_ids: Sequence[str]) -> None:
        """Add accepted images."""
        self.image_ids += image_ids
        ones, zeros = b"\1" * len(image_ids), bytes(len(image_ids))
        self.recorded += ones
        self.has_input += ones
        self.answered += zeros
        self.has_output += zeros

    def index(self, image_id: str) -> int:
        """Return the position of an image, or -1."""
        at = bisect_left(self.image_ids, image_id)
        return at if at < len(self.image_ids) and self.image_ids[at] == image_id else -1

    def record(self, at: int) -> Mapping[str, str | int]:
        """Return the item of an image."""
        image_id = self.image_ids[at]
        ref = ImageRef(self.job_id, image_id)
        owner = self.owner
        return image_item(ImageRecord(ref, f"photo-{at:07d}.jpg", input_key(ref, "jpg"), 104_857, EPOCH, owner=owner))

    def result(self, at: int) -> Mapping[str, str | int]:
        """Return the item of an image's result."""
        response = answer(ImageRef(self.job_id, self.image_ids[at]))
        return result_item(response.model_copy(update={"recorded_at": EPOCH, "sha256": None}))


WORKER: Final = "i-0123456789abcdef0"
"""Name of the worker that answers."""

_TOP: Final = tuple(
    LabelScore(label=label, score=score)
    for label, score in (
        ("Egyptian cat", 0.8312546014785767),
        ("tabby, tabby cat", 0.10481623560190201),
        ("tiger cat", 0.05124562606215477),
        ("lynx, catamount", 0.007251234259456396),
        ("Persian cat", 0.0021548341028392315),
    )
)


def answer(ref: ImageRef) -> ClassificationResult:
    """Return the response of a worker for an image: five labels of ImageNet, and a digest of its own."""
    return ClassificationResult(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="done",
        key=input_key(ref, "jpg"),
        sha256=ref.image_id.encode().hex().ljust(64, "0"),
        queued_at=EPOCH,
        label=_TOP[0].label,
        score=_TOP[0].score,
        top=_TOP,
        model=Model(name="resnet18-imagenet", digest="0123456789abcdef" * 4),
        worker=WORKER,
        attempts=1,
        timings=Timings(queued=812.3, fetched=21.4, decoded=7.8, inferred=11.2, stored=24.9),
    )


_SAMPLE: Final = ImageRef("0" * 26, "1" * 26)
_ANSWER: Final = answer(_SAMPLE).to_json()
_SHA: Final = _SAMPLE.image_id.encode().hex()


def answer_body(ref: ImageRef) -> str:
    """Return the body of the message with that response."""
    body = _ANSWER.replace(_SAMPLE.job_id, ref.job_id).replace(_SAMPLE.image_id, ref.image_id)
    return body.replace(_SHA, ref.image_id.encode().hex())


class VirtualCloud:
    """What the services have in common: time, latencies, quotas, and what is counted.

    Attributes:
        calls: calls by operation.
        write_units, read_units: of the table.
        throttled: requests that a quota has refused, by quota.
        on_item: called with the time, `pk` and `sk` and the item of each put.
    """

    def __init__(
        self,
        virtual: VirtualTime,
        latencies: Latencies = Latencies(),
        costs: CallCosts = CallCosts(),
        quotas: Quotas = Quotas(),
        seed: int = 0,
    ) -> None:
        self.virtual, self.latencies, self.costs, self.quotas = virtual, latencies, costs, quotas
        self.random = Random(seed)  # nosec B311 # faults that can be played again
        self.calls: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self.write_units = self.read_units = 0.0
        self.jobs: dict[str, ModelJob] = {}
        self.on_item: Callable[[str, str, Mapping[str, Any]], None] = lambda _pk, _sk, _item: None
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    def make(
        self, operation: str, seconds: float, entries: int, effect: Callable[[], _T], cpu_seconds: float | None = None
    ) -> _T:
        """Make a call: charge its CPU time, and let its latency pass around its effect.

        `effect` raises `ThrottledError` if a quota refuses the call; it is repeated then.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self.calls[operation] += 1
            cpu = self.costs.of(operation, entries) if cpu_seconds is None else cpu_seconds
            self.virtual.use_core(cpu)
            half = seconds * self.random.uniform(1 - self.latencies.jitter, 1 + self.latencies.jitter) / 2
            self.virtual.wait_seconds(half)
            try:
                result = effect()
            except _ThrottledError as error:
                self.throttled[error.quota] += 1
                if attempt == MAX_ATTEMPTS:
                    raise _client_error("ThrottlingException", operation) from None
                self.virtual.wait_seconds(half + self.random.random() * min(2.0 ** (attempt - 1), MAX_RETRY_SECONDS))
            else:
                self.virtual.wait_seconds(half)
                self.virtual.skip_charge()
                return result
        raise AssertionError

    def take(self, quota: str, name: str, amount: float, rate: float, burst_seconds: float = 1.0) -> bool:
        """Take so much of a quota; return False if it is used up."""
        bucket = self._buckets.get((quota, name))
        if bucket is None:
            bucket = self._buckets[quota, name] = TokenBucket(rate, rate * burst_seconds)
        return rate == float("inf") or bucket.take(amount, self.virtual.now)


class _ThrottledError(Exception):
    """Raised when a quota refuses a whole call."""

    def __init__(self, quota: str) -> None:
        super().__init__(quota)
        self.quota = quota


class VirtualTable:
    """The client of the job table, as far as `services.table.Table` uses it.

    Attributes:
        items: the items by `pk` and `sk`, encoded, but for those that a `ModelJob` stands for.
    """

    def __init__(self, cloud: VirtualCloud) -> None:
        self.cloud = cloud
        self.items: dict[str, dict[str, Any]] = {}
        self._sorted: dict[str, list[str]] = {}

    def table(self) -> Table:
        """Return the table as the product uses it."""
        return Table(cast(Any, self), "virtual", self.cloud.virtual.sleep)

    def put(self, item: dict[str, Any]) -> None:
        """Put an item without a call."""
        self._store(*_key_of(item), item)

    def batch_write_item(self, *, RequestItems: dict[str, list[Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Put and delete items; those of partitions without capacity are left unprocessed."""
        ((name, requests),) = RequestItems.items()

        def effect() -> dict[str, Any]:
            left = []
            for request in requests:
                item, key = request.get("PutRequest", {}).get("Item"), request.get("DeleteRequest", {}).get("Key")
                pk, sk = _key_of(item or key)
                try:
                    self._take_writes(pk, _bytes(item) if item else self._bytes_at(pk, sk))
                except _ThrottledError as error:
                    self.cloud.throttled[error.quota] += 1
                    left.append(request)
                    continue
                self._store(pk, sk, item) if item else self.delete(pk, sk)
            if len(left) == len(requests):
                raise _ThrottledError("a whole batch")
            return {"UnprocessedItems": {name: left} if left else {}}

        return self._call("BatchWriteItem", len(requests), effect)

    def put_item(self, *, Item: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: N803
        """Put an item if a condition holds."""
        return self._write("PutItem", _key_of(Item), lambda _: Item, more)

    def delete_item(self, *, Key: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: N803
        """Delete an item if a condition holds."""
        return self._write("DeleteItem", _key_of(Key), lambda _: None, more)

    def update_item(
        self,
        *,
        Key: dict[str, Any],  # noqa: N803
        UpdateExpression: str,  # noqa: N803
        **more: Any,
    ) -> dict[str, Any]:
        """Set and add to attributes of an item."""
        values, changed = more.get("ExpressionAttributeValues", {}), dict[str, Any]()

        def change(found: dict[str, Any]) -> dict[str, Any]:
            changed.update({**Key, **found})
            for name, value in re.findall(r"#(\w+) = :(\w+)", UpdateExpression):
                changed[name] = values[f":{value}"]
            for name, value in re.findall(r"#(\w+) :(\w+)", UpdateExpression):
                before = int(changed.get(name, {"N": "0"})["N"])
                changed[name] = {"N": str(before + int(values[f":{value}"]["N"]))}
            return changed

        return {"Attributes": changed} | self._write("UpdateItem", _key_of(Key), change, more)

    def get_item(self, *, Key: dict[str, Any], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Return an item."""
        pk, sk = _key_of(Key)

        def effect() -> dict[str, Any]:
            item = self._item(pk, sk)
            self._take_reads(pk, _bytes(item) if item else 1)
            return {"Item": item} if item else {}

        return self._call("GetItem", 1, effect)

    def batch_get_item(self, *, RequestItems: dict[str, Any], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Return items."""
        ((name, wanted),) = RequestItems.items()

        def effect() -> dict[str, Any]:
            found = []
            for pk, sk in map(_key_of, wanted["Keys"]):
                item = self._item(pk, sk)
                self._take_reads(pk, _bytes(item) if item else 1)
                if item:
                    found.append(item)
            return {"Responses": {name: found}}

        return self._call("BatchGetItem", len(wanted["Keys"]), effect)

    def query(
        self,
        *,
        ExpressionAttributeValues: dict[str, Any],  # noqa: N803
        ConsistentRead: bool = False,  # noqa: N803
        ScanIndexForward: bool = True,  # noqa: N803
        Select: str = "",  # noqa: N803
        Limit: int | None = None,  # noqa: N803
        ExclusiveStartKey: dict[str, Any] | None = None,  # noqa: N803
        **_: Any,
    ) -> dict[str, Any]:
        """Return a page of the items of a partition in the order of their sort keys."""
        self.cloud.virtual.use_core()
        values = {name: value["S"] for name, value in ExpressionAttributeValues.items()}
        pk = values[":pk"]
        low, high = values.get(":low"), values.get(":high")
        if low is None or high is None:
            low, high = values[":prefix"], values[":prefix"] + "\U0010ffff"
        start = None if ExclusiveStartKey is None else ExclusiveStartKey["sk"]["S"]
        is_count = Select == "COUNT"
        keys = self._keys(pk, low, high, start, forward=ScanIndexForward)
        found: list[Any] = []
        size, read, last = 0, 0, ""
        for sk in islice(keys, Limit):
            item = None if is_count else self._item(pk, sk)
            size += self._bytes_at(pk, sk) if item is None else _bytes(item)
            read, last = read + 1, sk
            if item is not None:
                found.append(item)
            if size >= PAGE_BYTES:
                break
        has_more = size >= PAGE_BYTES or (Limit is not None and read == Limit)

        def effect() -> dict[str, Any]:
            self._take_reads(pk, size or 1, share=1.0 if ConsistentRead else 0.5)
            more = {"LastEvaluatedKey": {"pk": {"S": pk}, "sk": {"S": last}}} if has_more else {}
            return {"Items": found, "Count": read, **more}

        latency = self.cloud.latencies.table + self.cloud.latencies.page * size / PAGE_BYTES
        self.cloud.virtual.skip_charge()
        return self.cloud.make("Query", latency, len(found), effect)

    def _call(self, operation: str, entries: int, effect: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return self.cloud.make(operation, self.cloud.latencies.table, entries, effect)

    def _write(
        self,
        operation: str,
        key: tuple[str, str],
        change: Callable[[dict[str, Any]], dict[str, Any] | None],
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        pk, sk = key

        def effect() -> dict[str, Any]:
            found = self._item(pk, sk) or {}
            condition = more.get("ConditionExpression")
            if condition and not holds(condition, found, more.get("ExpressionAttributeValues", {})):
                self._take_writes(pk, _bytes(found) if found else 1)
                raise _client_error("ConditionalCheckFailedException", operation)
            changed = change(found)
            self._take_writes(pk, max(_bytes(each) for each in (found, changed) if each) if found or changed else 1)
            self._store(pk, sk, changed) if changed else self.delete(pk, sk)
            return {}

        return self._call(operation, 1, effect)

    def _take_writes(self, pk: str, size: int) -> None:
        units, quotas = -(-size // WRITE_UNIT_BYTES), self.cloud.quotas
        if not self.cloud.take("partition writes", pk, units, quotas.partition_writes, quotas.burst_seconds):
            raise _ThrottledError("partition writes")
        if not self.cloud.take("table writes", "", units, quotas.table_writes):
            raise _ThrottledError("table writes")
        self.cloud.write_units += units

    def _take_reads(self, pk: str, size: int, share: float = 1.0) -> None:
        units, quotas = share * -(-size // READ_UNIT_BYTES), self.cloud.quotas
        if not self.cloud.take("partition reads", pk, units, quotas.partition_reads, quotas.burst_seconds):
            raise _ThrottledError("partition reads")
        if not self.cloud.take("table reads", "", units, quotas.table_reads):
            raise _ThrottledError("table reads")
        self.cloud.read_units += units

    def _job(self, pk: str) -> ModelJob | None:
        kind, _, job_id = pk.partition("#")
        return self.cloud.jobs.get(job_id) if kind == "JOB" else None

    def _flags(self, pk: str, sk: str) -> tuple[ModelJob, bytearray, int] | None:
        """Return where it is stored whether an image has a record, or a result; None if that is no item of a job."""
        job, kind = self._job(pk), sk[: sk.find("#") + 1]
        if job is None or kind not in {IMAGE, RESULT} or (at := job.index(sk[len(kind) :])) < 0:
            return None
        return job, job.recorded if kind == IMAGE else job.answered, at

    def _item(self, pk: str, sk: str) -> dict[str, Any] | None:
        if (item := self.items.get(pk, {}).get(sk)) is not None:
            return dict(item)
        if (found := self._flags(pk, sk)) is None or not found[1][found[2]]:
            return None
        job, _, at = found
        return encoded(job.record(at) if sk.startswith(IMAGE) else job.result(at))

    def _bytes_at(self, pk: str, sk: str) -> int:
        """Return the size of an item, without making that of an image."""
        if (item := self.items.get(pk, {}).get(sk)) is not None:
            return _bytes(item)
        found = self._flags(pk, sk)
        return 1 if found is None or not found[1][found[2]] else _size_of(sk.startswith(IMAGE), bool(found[0].owner))

    def _store(self, pk: str, sk: str, item: dict[str, Any]) -> None:
        self.cloud.on_item(pk, sk, item)
        if pk.startswith("CACHE#"):
            return
        if (found := self._flags(pk, sk)) is not None and item.get("status", {"S": "done"})["S"] == "done":
            found[1][found[2]] = 1
            return
        items = self.items.setdefault(pk, {})
        if sk not in items and pk in self._sorted:
            insort(self._sorted[pk], sk)
        items[sk] = dict(item)

    def delete(self, pk: str, sk: str) -> None:
        """Delete an item without a call."""
        if (found := self._flags(pk, sk)) is not None:
            found[1][found[2]] = 0
        if self.items.get(pk, {}).pop(sk, None) is not None and pk in self._sorted:
            keys = self._sorted[pk]
            del keys[bisect_left(keys, sk)]

    def _keys(self, pk: str, low: str, high: str, start: str | None, *, forward: bool) -> Iterator[str]:
        """Yield the sort keys of a partition from `low` to `high`, beyond `start`."""
        if start is not None:
            low, high = (
                (start + "\0", high) if forward else (low, start[:-1] + chr(ord(start[-1]) - 1) + "\U0010ffff")
            )
        if pk not in self._sorted:
            self._sorted[pk] = sorted(self.items.get(pk, {}))
        keys = self._sorted[pk]
        stored = keys[bisect_left(keys, low) : bisect_right(keys, high)]
        job = self._job(pk)
        if job is None:
            return iter(stored if forward else stored[::-1])
        ranges = [iter(stored if forward else stored[::-1])]
        for kind, flags in ((IMAGE, job.recorded), (RESULT, job.answered)):
            first = bisect_left(job.image_ids, low[len(kind) :]) if low.startswith(kind) else 0
            last = bisect_right(job.image_ids, high[len(kind) :]) if high.startswith(kind) else len(job.image_ids)
            if low <= f"{kind}\U0010ffff" and high >= kind:
                ranges.append(_flagged(kind, job.image_ids, flags, first, last, forward=forward))
        return merge(*ranges, reverse=not forward)


def _flagged(
    kind: str, image_ids: Sequence[str], flags: bytearray, first: int, last: int, *, forward: bool
) -> Iterator[str]:
    """Yield the sort keys of the images from `first` to before `last` that have a flag."""
    if forward:
        while (first := flags.find(1, first, last)) >= 0:
            yield kind + image_ids[first]
            first += 1
    else:
        while (last := flags.rfind(1, first, last)) >= 0:
            yield kind + image_ids[last]


@dataclass
class _Message:
    body: str | ImageRef
    sent_at: float
    receives: int = 0
    visible_at: float = 0.0


class VirtualQueue:
    """The client of one queue, as far as `services.sqs.Queue` uses it.

    Attributes:
        more: messages that are counted as waiting, and that no receive returns: those of workers.
    """

    def __init__(
        self, cloud: VirtualCloud, visibility_seconds: float = 30.0, full_from: int = FULL_RECEIVES_FROM
    ) -> None:
        self.cloud, self._visibility_seconds, self._full_from = cloud, visibility_seconds, full_from
        self.more = 0
        self._waiting: deque[_Message] = deque()
        self._in_flight: dict[str, _Message] = {}
        self._timeouts: list[tuple[float, str]] = []
        self._pollers: deque[Any] = deque()
        self._receipts = 0

    def queue(self) -> Queue:
        """Return the queue as the product uses it."""
        return Queue(cast(Any, self), "virtual", self.cloud.virtual.sleep)

    def add(self, bodies: Sequence[str | ImageRef], sent_at: float | None = None) -> None:
        """Add messages without a call; that of an image is its answer, made when it is received."""
        at = self.cloud.virtual.now if sent_at is None else sent_at
        self._waiting.extend(_Message(body, at) for body in bodies)
        self.cloud.virtual.wake(self._pollers, 1)

    def waiting(self) -> int:
        """Return how many messages wait."""
        return len(self._waiting)

    def in_flight(self) -> int:
        """Return how many messages are in flight."""
        return len(self._in_flight)

    def receive_message(self, *, MaxNumberOfMessages: int, WaitTimeSeconds: int = 0, **_: Any) -> dict[str, Any]:  # noqa: N803
        """Receive messages: by a short poll from some servers, by a long poll as soon as there are any."""
        cloud, received = self.cloud, list[Any]()
        cloud.calls["ReceiveMessage"] += 1
        cloud.virtual.use_core(cloud.costs.of("ReceiveMessage", 0))
        half = self._latency() / 2
        cloud.virtual.wait_seconds(half)
        self._expire()
        until = cloud.virtual.now + WaitTimeSeconds
        while WaitTimeSeconds and not self._waiting and (left := until - cloud.virtual.now) > 0:
            cloud.virtual.skip_charge()
            next_timeout = self._timeouts[0][0] - cloud.virtual.now if self._timeouts else left
            cloud.virtual.park(self._pollers, max(0.0, min(left, next_timeout)))
            self._expire()
        for _each in range(min(len(self._waiting), self._seen(MaxNumberOfMessages, is_long=bool(WaitTimeSeconds)))):
            received.append(self._receive())
        if self._waiting:
            cloud.virtual.wake(self._pollers, 1)
        cloud.virtual.wait_seconds(half)
        cloud.virtual.skip_charge()
        cloud.virtual.use_core(cloud.costs.of("ReceiveMessage", len(received)) - cloud.costs.of("ReceiveMessage", 0))
        return {"Messages": received} if received else {}

    def delete_message_batch(self, *, Entries: list[Any], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Delete messages."""

        def effect() -> dict[str, Any]:
            for entry in Entries:
                self._in_flight.pop(entry["ReceiptHandle"], None)
            return {}

        return self._call("DeleteMessageBatch", len(Entries), effect)

    def change_message_visibility_batch(self, *, Entries: list[Any], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Change the visibility timeouts of messages."""

        def effect() -> dict[str, Any]:
            for entry in Entries:
                if entry["ReceiptHandle"] in self._in_flight:
                    self._hide(entry["ReceiptHandle"], entry["VisibilityTimeout"])
            return {}

        return self._call("ChangeMessageVisibilityBatch", len(Entries), effect)

    def send_message_batch(self, *, Entries: list[Any], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Send messages."""

        def effect() -> dict[str, Any]:
            self.add([entry["MessageBody"] for entry in Entries])
            return {}

        return self._call("SendMessageBatch", len(Entries), effect)

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        """Return the counts."""

        def effect() -> dict[str, Any]:
            self._expire()
            counts = {"": len(self._waiting) + self.more, "NotVisible": len(self._in_flight), "Delayed": 0}
            return {"Attributes": {f"ApproximateNumberOfMessages{kind}": str(n) for kind, n in counts.items()}}

        return self._call("GetQueueAttributes", 1, effect)

    def _call(self, operation: str, entries: int, effect: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return self.cloud.make(operation, self.cloud.latencies.queue, entries, effect)

    def _latency(self) -> float:
        jitter = self.cloud.latencies.jitter
        return self.cloud.latencies.queue * self.cloud.random.uniform(1 - jitter, 1 + jitter)

    def _seen(self, wanted: int, *, is_long: bool) -> int:
        """Return how many messages a poll returns at most."""
        if is_long or len(self._waiting) >= self._full_from:
            return wanted
        return self.cloud.random.randint(1, wanted)

    def _receive(self) -> dict[str, Any]:
        message = self._waiting.popleft()
        message.receives += 1
        self._receipts += 1
        receipt = f"receipt-{self._receipts:012d}"
        self._in_flight[receipt] = message
        self._hide(receipt, self._visibility_seconds)
        body = message.body if isinstance(message.body, str) else answer_body(message.body)
        sent = str(int(message.sent_at * 1_000))
        return {
            "MessageId": f"message-{self._receipts:012d}",
            "ReceiptHandle": receipt,
            "Body": body,
            "Attributes": {
                "ApproximateReceiveCount": str(message.receives),
                "SentTimestamp": sent,
                "ApproximateFirstReceiveTimestamp": sent,
            },
        }

    def _hide(self, receipt: str, seconds: float) -> None:
        message = self._in_flight[receipt]
        message.visible_at = self.cloud.virtual.now + seconds
        heappush(self._timeouts, (message.visible_at, receipt))

    def _expire(self) -> None:
        """Make messages visible again once their visibility timeout is over."""
        now = self.cloud.virtual.now
        while self._timeouts:
            at, receipt = self._timeouts[0]
            message = self._in_flight.get(receipt)
            if message is not None and at > now:
                return
            heappop(self._timeouts)
            if message is not None and message.visible_at <= now:
                self._waiting.append(self._in_flight.pop(receipt))


class VirtualBucket(Bucket):
    """A bucket: the input bucket has the images of the jobs, the output bucket their predictions.

    Attributes:
        objects: other objects.
    """

    def __init__(self, cloud: VirtualCloud, *, has_inputs: bool) -> None:
        super().__init__(cast(Any, None), "inputs" if has_inputs else "outputs")
        object.__setattr__(self, "cloud", cloud)
        object.__setattr__(self, "has_inputs", has_inputs)
        object.__setattr__(self, "objects", {})

    cloud: VirtualCloud
    has_inputs: bool
    objects: dict[str, bytes]

    def put(self, key: str, body: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:  # noqa: ARG002 (as the real one)
        """Store an object."""
        self._call("PutObject", lambda: self.objects.update({key: body}))

    def put_new(self, key: str, body: bytes, content_type: str) -> bool:
        """Store an object where there is none."""
        if self.exists(key):
            return False
        self.put(key, body, content_type)
        return True

    def put_parts(self, key: str, parts: Iterator[bytes], content_type: str) -> None:
        """Store an object of parts; the model drops its content."""
        size = sum(len(part) for part in parts)
        for _ in range(max(1, -(-size // 5_000_000))):
            self.put(key, b"", content_type)

    def get(self, key: str, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 (as the real one)
        """Return an object of `objects`, or the prediction of an image."""
        body = self._call("GetObject", lambda: self.objects.get(key) or self._prediction(key))
        if body is None:
            raise NotFoundError(f"there is no object {key!r}")
        return body

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Return an object and an ETag, which nothing checks."""
        return self.get(key), "etag"

    def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return self._call("GetObject", lambda: self._has(key))

    def head(self, key: str) -> StoredObject | None:
        """Return the metadata of an object, or None."""
        return StoredObject(1, "image/jpeg") if self.exists(key) else None

    def delete(self, key: str) -> None:
        """Delete an object."""
        self._call("DeleteObject", lambda: self._remove([key]))

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete objects; a key counts as a write of its prefix."""
        if keys:
            latencies = self.cloud.latencies
            self._call("DeleteObjects", lambda: self._remove(keys), latencies.delete, writes=len(keys))

    def list_keys(self, folder: str, limit: int) -> list[str]:
        """Return the first keys of a folder."""

        def effect() -> list[str]:
            job = self.cloud.jobs.get(folder)
            if job is None:
                return []
            flags = job.has_input if self.has_inputs else job.has_output
            refs = (ImageRef(folder, sk) for sk in _flagged("", job.image_ids, flags, 0, len(flags), forward=True))
            return [self._key(ref) for ref in islice(refs, limit)]

        return self._call("ListObjectsV2", effect)

    def _key(self, ref: ImageRef) -> str:
        return input_key(ref, "jpg") if self.has_inputs else output_key(ref)

    def _flag(self, key: str) -> tuple[bytearray, int] | None:
        job = self.cloud.jobs.get(key[:26])
        if job is None or (at := job.index(key[27:53])) < 0:
            return None
        return (job.has_input if self.has_inputs else job.has_output), at

    def _prediction(self, key: str) -> bytes | None:
        found = None if self.has_inputs else self._flag(key)
        if found is None or not found[0][found[1]]:
            return None
        response = answer(ImageRef(key[:26], key[27:53]))
        return Prediction.model_validate(response.model_dump()).to_json().encode()

    def _has(self, key: str) -> bool:
        found = self._flag(key)
        return key in self.objects or (found is not None and bool(found[0][found[1]]))

    def _remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)
            if (found := self._flag(key)) is not None:
                found[0][found[1]] = 0

    def _call(
        self, operation: str, effect: Callable[[], _T], seconds: float | None = None, writes: int | None = None
    ) -> _T:
        cloud = self.cloud
        writes = int(operation == "PutObject") if writes is None else writes

        def within_quota() -> _T:
            kind, rate = ("writes", cloud.quotas.prefix_writes) if writes else ("reads", cloud.quotas.prefix_reads)
            if not cloud.take(f"prefix {kind}", self.name, writes or 1, rate):
                raise _ThrottledError(f"prefix {kind}")
            return effect()

        latency = cloud.latencies.object if seconds is None else seconds
        return cloud.make(operation, latency, 1, within_quota, cloud.costs.object)


def holds(condition: str, item: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Return whether a condition expression holds for an item, in the grammar that this project uses."""
    tokens = deque(_tokens(condition))

    def operand(token: str) -> Any:
        typed = item.get(token[1:]) if token.startswith("#") else values[token]
        return None if typed is None else int(typed["N"]) if "N" in typed else typed["S"]

    def term() -> bool:
        first = tokens.popleft()
        if first == "(":
            result = either()
        elif first in {"attribute_exists", "attribute_not_exists"}:
            tokens.popleft()
            result = (operand(tokens.popleft()) is not None) is (first == "attribute_exists")
        else:
            left, compare, right = operand(first), tokens.popleft(), operand(tokens.popleft())
            is_less, is_same = left is not None and left < right, left == right
            return (is_less and "<" in compare) or (is_same and "=" in compare)
        tokens.popleft()  # the closing parenthesis
        return result

    def both() -> bool:
        result = term()
        while tokens and tokens[0] == "AND":
            tokens.popleft()
            result = term() and result
        return result

    def either() -> bool:
        result = both()
        while tokens and tokens[0] == "OR":
            tokens.popleft()
            result = both() or result
        return result

    return either()


@lru_cache
def _tokens(condition: str) -> list[str]:
    return re.findall(r"[<>]=|[#:]?\w+|\S", condition)


@lru_cache
def _size_of(is_record: bool, has_owner: bool) -> int:
    """Return the bytes of the item of an image, or of its result."""
    job = ModelJob("0" * 26, "u" * 36 if has_owner else "", ["1" * 26])
    return _bytes(encoded(job.record(0) if is_record else job.result(0)))


def _key_of(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


def encoded(item: Mapping[str, str | int]) -> dict[str, Any]:
    """Return an item as the client has it."""
    return {name: {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in item.items()}


def _bytes(item: Mapping[str, Any]) -> int:
    """Return the size of an item: of its names and values in UTF-8.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    return sum(
        len(name) + (len(typed["S"].encode()) if "S" in typed else len(typed["N"]) // 2 + 2)
        for name, typed in item.items()
    )


def _client_error(code: str, operation: str) -> ClientError:
    refusal: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    return ClientError(refusal, operation)
