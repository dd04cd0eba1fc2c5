"""A clock, SQS and S3 in memory, a network of three colours: what the worker's rules are tested with."""

import io
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
from botocore.exceptions import ClientError
from numpy.typing import NDArray
from PIL import Image

from app_tier.bundle import Bundle, BundleMissingError, Manifest, Preprocess
from app_tier.engines import Engine, LoadedModel
from app_tier.models import ModelOpener, ModelPlace
from app_tier.task import Delivery, Task
from core.ids import ImageRef, input_key, new_id
from core.messages import RequestedModel, RequestMessage
from services.sqs import MAX_IN_FLIGHT, OutgoingMessage, Queue, ReceivedMessage
from tests.support.memory_aws.s3 import MemoryBucket

VISIBILITY = 30
COLOURS = ("red", "green", "blue")


@dataclass
class FakeClock:
    """Seconds that pass only when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class WallClock(FakeClock):
    """Real time, for tests with real threads; an empty poll is over in a hundredth of a second."""

    def __call__(self) -> float:
        return time.monotonic()

    def advance(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.01))


def refusal(code: str, operation: str = "Call") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": f"the {code} message"}}, operation)


@dataclass
class FakeMessage:
    id: str
    body: str
    sent_at: float
    visible_at: float
    count: int = 0
    first_received_at: float = 0.0
    group: str | None = None


@dataclass
class FakeSqs:
    """One queue's client. A receive that finds nothing lets its wait pass on the clock.

    Attributes:
        errors: raised by the next calls of an operation, first one first.
        refuse: bodies or receipts that batch calls do not take, as the sender's fault.
        arriving: sent while a receive waits, one for each receive.
        fifo: whether it is a FIFO queue, which drops what has a deduplication id that it knows.
        others_in_flight: messages that other workers hold, which are only counted.
    """

    clock: FakeClock
    visibility: int = VISIBILITY
    max_receive_count: int = 5
    shuffle: Random | None = None
    messages: list[FakeMessage] = field(default_factory=list)
    dead: list[FakeMessage] = field(default_factory=list)
    errors: dict[str, list[Exception]] = field(default_factory=lambda: defaultdict(list))
    refuse: set[str] = field(default_factory=set)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    arriving: list[str] = field(default_factory=list)
    fifo: bool = False
    others_in_flight: int = 0
    deduplicated: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def queue(self) -> Queue:
        return Queue(cast("Any", self), f"http://sqs/queue{'.fifo' * self.fifo}", sleep=self.clock.advance)

    def add(self, body: str, count: int = 0, group: str | None = None) -> FakeMessage:
        message = FakeMessage(f"m{next(self.numbers):03}", body, self.clock(), self.clock(), count, group=group)
        self.messages.append(message)
        return message

    @property
    def bodies(self) -> list[str]:
        return [message.body for message in self.messages]

    @property
    def visible(self) -> list[FakeMessage]:
        return [message for message in list(self.messages) if message.visible_at <= self.clock()]

    def called(self, operation: str) -> list[Any]:
        return [arguments for name, arguments in self.calls if name == operation]

    def _call(self, operation: str, arguments: Any) -> None:
        self.calls.append((operation, arguments))
        if self.errors[operation]:
            raise self.errors[operation].pop(0)

    # The client's own methods

    def receive_message(self, **arguments: Any) -> dict[str, Any]:
        self._call("receive", arguments)
        if self.others_in_flight >= MAX_IN_FLIGHT:
            if not (self.fifo or arguments["WaitTimeSeconds"]):
                raise refusal("OverLimit", "ReceiveMessage")
            self.clock.advance(arguments["WaitTimeSeconds"])
            return {}
        with self.lock:
            found = self._take(arguments["MaxNumberOfMessages"])
        if not found and arguments["WaitTimeSeconds"]:
            self.clock.advance(arguments["WaitTimeSeconds"])
            if self.arriving:
                self.add(self.arriving.pop(0))
            with self.lock:
                found = self._take(arguments["MaxNumberOfMessages"])
        return {"Messages": [self._delivered(message) for message in found]}

    def get_queue_attributes(self, **arguments: Any) -> dict[str, Any]:
        self._call("counts", arguments)
        visible = len(self.visible)
        return {
            "Attributes": {
                "ApproximateNumberOfMessages": str(visible),
                "ApproximateNumberOfMessagesNotVisible": str(len(self.messages) - visible + self.others_in_flight),
                "ApproximateNumberOfMessagesDelayed": "0",
            }
        }

    def _take(self, most: int) -> list[FakeMessage]:
        for message in [each for each in self.visible if each.count >= self.max_receive_count]:
            self.messages.remove(message)
            self.dead.append(message)
        visible = self.visible
        if self.shuffle:
            self.shuffle.shuffle(visible)
        for message in visible[:most]:
            message.count += 1
            message.first_received_at = message.first_received_at or self.clock()
            message.visible_at = self.clock() + self.visibility
        return visible[:most]

    def _delivered(self, message: FakeMessage) -> dict[str, Any]:
        return {
            "MessageId": message.id,
            "ReceiptHandle": f"{message.id}#{message.count}",
            "Body": message.body,
            "Attributes": {
                "ApproximateReceiveCount": str(message.count),
                "SentTimestamp": str(int(message.sent_at * 1000)),
                "ApproximateFirstReceiveTimestamp": str(int(message.first_received_at * 1000)),
                **({} if message.group is None else {"MessageGroupId": message.group}),
            },
        }

    def send_message_batch(self, **arguments: Any) -> dict[str, Any]:
        bodies = [entry["MessageBody"] for entry in arguments["Entries"]]
        self._call("send", bodies)
        with self.lock:
            for entry in arguments["Entries"]:
                body, unique = entry["MessageBody"], entry.get("MessageDeduplicationId", "")
                assert bool(unique) == self.fifo
                assert not (self.fifo and "DelaySeconds" in entry)
                if not self._refused(body) and unique not in self.deduplicated:
                    added = self.add(body, group=entry.get("MessageGroupId"))
                    added.visible_at += entry.get("DelaySeconds", 0)
                    self.deduplicated |= {unique} - {""}
        return self._answer(arguments, "MessageBody")

    def delete_message_batch(self, **arguments: Any) -> dict[str, Any]:
        receipts = [entry["ReceiptHandle"] for entry in arguments["Entries"]]
        self._call("delete", receipts)
        with self.lock:
            self.messages = [each for each in self.messages if f"{each.id}#{each.count}" not in receipts]
        return self._answer(arguments, "ReceiptHandle")

    def change_message_visibility_batch(self, **arguments: Any) -> dict[str, Any]:
        changes = {entry["ReceiptHandle"]: entry["VisibilityTimeout"] for entry in arguments["Entries"]}
        self._call("visibility", changes)
        for message in list(self.messages):
            if (receipt := f"{message.id}#{message.count}") in changes and not self._refused(receipt):
                message.visible_at = self.clock() + changes[receipt]
        return self._answer(arguments, "ReceiptHandle")

    def _refused(self, text: str) -> bool:
        return any(refused in text for refused in self.refuse)

    def _answer(self, arguments: Any, name: str) -> dict[str, Any]:
        return {
            "Failed": [
                {"Id": entry["Id"], "SenderFault": True, "Code": "Refused"}
                for entry in arguments["Entries"]
                if self._refused(entry[name])
            ]
        }


class FakeBucket(MemoryBucket):
    """A bucket in memory for several threads; `errors` are raised one by one, by operation."""

    def __init__(self) -> None:
        self.errors: dict[str, list[Exception]] = defaultdict(list)
        self.lock = threading.Lock()
        super().__init__(self._make)

    def _make(self, operation: str, effect: Callable[[], Any]) -> Any:
        if self.errors[operation]:
            raise self.errors[operation].pop(0)
        with self.lock:
            return effect()


class ColourEngine:
    """Answers which of red, green and blue an image has most of.

    Attributes:
        errors: raised by the next calls.
        is_broken: whether every call raises.
        poison: a colour that no image of a batch may have; None for none.
    """

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.errors: list[Exception] = []
        self.is_broken = False
        self.poison: str | None = None

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(len(batch))
        if self.errors:
            raise self.errors.pop(0)
        if self.is_broken:
            raise RuntimeError("the engine is broken")
        if self.poison and (self._brightest(batch) == COLOURS.index(self.poison)).any():
            raise RuntimeError(f"cannot bear {self.poison}")
        means = batch.mean(axis=(2, 3))
        return np.asarray(means / means.sum(axis=1, keepdims=True), np.float32)

    @staticmethod
    def _brightest(batch: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return the index of each image's colour, -1 for an even grey one."""
        means = batch.mean(axis=(2, 3))
        return np.where(np.ptp(means, axis=1) < 0.1, -1, means.argmax(axis=1))


def colour_bundle(name: str = "colours") -> Bundle:
    """Return a bundle of the colours; those of different names have different digests."""
    manifest = Manifest(
        name=name,
        architecture=f"mean of {name}",
        files={"model.xml": "0" * 64, "model.bin": "0" * 64},
        preprocess=Preprocess(resize=8, crop=8, mean=(0, 0, 0), std=(1, 1, 1)),
        labels=COLOURS,
    )
    return Bundle(Path("nowhere"), manifest, manifest.digest)


class ColourOpener(ModelOpener):
    """Opens bundles of colours by their place, each as large as the others.

    Attributes:
        bundles: by place.
        errors: raised by the next fetches of a place; the last one for ever.
        engines: those that were opened, by the name of the bundle.
        loads: names of the bundles that were opened, in order.
    """

    def __init__(self, bundles: Mapping[str, Bundle] | None = None, bytes_each: int = 0) -> None:
        self.bundles, self.bytes_each = dict(bundles or {}), bytes_each
        self.errors: dict[str, list[Exception]] = {}
        self.engines: dict[str, ColourEngine] = {}
        self.fetches: list[str] = []
        self.loads: list[str] = []

    def own(self, digest: str) -> ModelPlace:
        return ModelPlace(digest, "own", is_own=True)

    def fetch(self, wanted: ModelPlace) -> Bundle:
        self.fetches.append(wanted.place)
        if errors := self.errors.get(wanted.place):
            raise errors[0] if len(errors) == 1 else errors.pop(0)
        if wanted.place not in self.bundles:
            raise BundleMissingError(wanted.place)
        return self.bundles[wanted.place]

    def open(self, bundle: Bundle) -> LoadedModel:
        self.loads.append(bundle.name)
        return colour_model(self.engines.setdefault(bundle.name, ColourEngine()), bundle)

    def memory_bytes(self, bundle: Bundle) -> int:
        return self.bytes_each


def requested(place: str, bundle: Bundle) -> RequestedModel:
    return RequestedModel(digest=bundle.digest, place=place)


def colour_model(engine: Engine | None = None, bundle: Bundle | None = None) -> LoadedModel:
    return LoadedModel(bundle or colour_bundle(), engine or ColourEngine(), batch_size=8)


def fetched(task: Task[Any], model: LoadedModel | None = None) -> Task[Any]:
    """Return the task with a model, as after its fetch."""
    return replace(task, assigned=model or colour_model())


def picture(colour: str) -> bytes:
    """A PNG that is mostly of one colour."""
    pixel = tuple(200 if colour == name else 25 for name in COLOURS)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), pixel).save(buffer, "PNG")
    return buffer.getvalue()


def request_for(ref: ImageRef) -> RequestMessage:
    return RequestMessage.about(ref, input_key(ref, "png"), datetime.now(UTC))


def new_request() -> RequestMessage:
    return request_for(ImageRef(new_id(), new_id()))


def delivery(
    number: int = 0,
    *,
    count: int = 1,
    request: RequestMessage | None = None,
    sent: float = 10.0,
    first: float = 10.5,
    group: str | None = None,
) -> Delivery:
    wanted = request or new_request()
    received = ReceivedMessage(f"m{number:03}", f"m{number:03}#{count}", wanted.to_json(), count, sent, first, group)
    return Delivery(received, wanted)


def deliveries(count: int) -> list[Delivery]:
    return [delivery(number) for number in range(count)]


def send_requests(sqs: FakeSqs, requests: Sequence[RequestMessage]) -> None:
    sqs.queue().send([OutgoingMessage(request.image_id, request.to_json()) for request in requests])
    sqs.calls.clear()
