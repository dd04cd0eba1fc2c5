"""A clock, SQS and S3 in memory, a network of three colours: what the worker's rules are tested with."""

import io
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app_tier.bundle import Bundle
from app_tier.engines import Engine, LoadedModel, Possible, of_possible
from app_tier.models import ModelOpener, ModelPlace
from app_tier.network_process import IsolatedNetworks
from app_tier.stages import Channel
from app_tier.task import Delivery, Task
from core.bundle_manifest import BundleMissingError, Manifest, Preprocess
from core.ids import ImageRef, new_id
from core.jobs.keys import pack_key
from core.messages import RequestedModel, RequestMessage
from services.sqs import OutgoingMessage, ReceivedMessage
from tests.support.clocks import ManualClock
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemorySQS

COLOURS = ("red", "green", "blue")


class WallClock(ManualClock):
    """Real time, for tests with real threads; an empty poll is over in a hundredth of a second."""

    def monotonic(self) -> float:
        return time.monotonic()

    def advance(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.01))


def worker_queue(clock: ManualClock, *, fifo: bool = False) -> MemorySQS:
    """Return a queue's client of which a long poll that finds nothing lets its wait pass on the clock."""
    return MemorySQS(clock, fifo, dead=MemorySQS(clock, fifo), wait=clock.advance)


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
        kind: of the errors that it raises by itself.
        errors: raised by the next calls.
        is_broken: whether every call raises.
        poison: a colour that no image of a batch may have; None for none.
    """

    def __init__(self, kind: type[Exception] = RuntimeError) -> None:
        self.kind = kind
        self.batches: list[int] = []
        self.errors: list[Exception] = []
        self.is_broken = False
        self.poison: str | None = None

    def infer(self, batch: NDArray[np.float32], possible: Possible | None = None) -> NDArray[np.float32]:
        self.batches.append(len(batch))
        if self.errors:
            raise self.errors.pop(0)
        if self.is_broken:
            raise self.kind("the engine is broken")
        if self.poison and (self._brightest(batch) == COLOURS.index(self.poison)).any():
            raise self.kind(f"cannot bear {self.poison}")
        means = batch.mean(axis=(2, 3))
        return of_possible(np.asarray(means / means.sum(axis=1, keepdims=True), np.float32), possible)

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

    def isolated(self) -> IsolatedNetworks:
        return PlayedNetworks(lambda bundle: ColourEngine())

    def memory_bytes(self, bundle: Bundle) -> int:
        return self.bytes_each


class PlayedNetworks(IsolatedNetworks):
    """Networks in this process instead of a child; `start_child` returns the engine of a new one."""

    def __init__(self, start_child: Callable[[Bundle], Engine]) -> None:
        super().__init__("openvino", 1)
        self._start_child = start_child

    def _start(self, bundle: Bundle) -> Engine:
        return self._start_child(bundle)


def act_while_full(channel: Channel[Any], act: Callable[[], object]) -> None:
    """Have a full channel call `act` before it accepts an item, as other threads would act: a test has one."""
    enqueue = channel.enqueue

    def enqueue_with_room(item: object) -> None:
        while len(channel) >= channel._bound:
            act()
        enqueue(item)

    channel.enqueue = enqueue_with_room  # type: ignore[method-assign]


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
    return RequestMessage(
        job_id=ref.job_id, pack_id=ref.image_id, extension="png", sizes=(100,), submitted_at=datetime.now(UTC)
    )


def key_of(request: RequestMessage) -> str:
    return pack_key(request.job_id, request.pack_id, request.extension)


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
    return Delivery(received, wanted, wanted.suspect or count > 1)


def deliveries(count: int) -> list[Delivery]:
    return [delivery(number) for number in range(count)]


def send_requests(sqs: MemorySQS, requests: Sequence[RequestMessage]) -> None:
    sqs.queue().send([OutgoingMessage(request.pack_id, request.to_json()) for request in requests])
    sqs.calls.clear()
