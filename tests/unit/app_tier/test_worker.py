"""The whole worker over queues and buckets in memory, its threads real, its pauses over at once."""

import errno
import itertools
import logging
import tarfile
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, HTTPClientError

from app_tier.bundle import Bundle, EngineError
from app_tier.classify import Classifier
from app_tier.decode import Decoder
from app_tier.models import ModelPlace
from app_tier.network_process import NetworkEndedError
from app_tier.pipeline import MAX_TRIES, Services, by_model
from app_tier.recovery import SOURCE_SECONDS
from app_tier.sizing import HostResources, sized
from app_tier.task import new_task
from app_tier.worker import Worker
from core.config import WorkerSettings, parse_config
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.keys import cancelled_key, output_key, outputs_key
from core.jobs.pack_objects import TAR_BLOCK, member_start
from core.jobs.packs import pack_object
from core.messages import (
    CANCELLED,
    CRASHED_ALONE,
    GONE,
    MODEL_GONE,
    SOURCE_UNREADABLE,
    ClassificationResult,
    Heartbeat,
    Prediction,
    RequestedModel,
    RequestMessage,
    Response,
    SourceObjects,
    crashed_worker,
    source_unreadable,
)
from core.sandbox.process import PoolUnavailableError
from core.tracing import new_traceparent, trace_id
from services.errors import SourceUnavailableError
from services.s3 import CHANGED
from tests.conftest import shipped_values
from tests.support.jobs import client_error
from tests.support.memory_aws.calls import refusal, run_effect
from tests.support.memory_aws.s3 import MemorySource, etag_of
from tests.support.memory_aws.sqs import MemorySQS
from tests.support.tars import tar_of
from tests.support.unsandboxed import central_crop
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, wait_until
from tests.support.worker import (
    COLOURS,
    ColourEngine,
    ColourOpener,
    FakeBucket,
    PlayedNetworks,
    WallClock,
    colour_bundle,
    colour_model,
    delivery,
    fetched,
    key_of,
    new_request,
    picture,
    requested,
    send_requests,
    worker_queue,
)

KINDS = pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])


class Bench:
    """A worker with everything in memory; it idles out by itself unless a test ends it.

    Its pauses take no time, but are noted.

    Args:
        decoder: decodes.
        after: an earlier worker; this one uses its queues and buckets.
        fifo: the kind of the queues.
        model: name of the worker's own bundle.
        opener: loads other bundles.
        room: bytes that the models may take.
        settings: of the worker's section of the configuration.
    """

    def __init__(
        self,
        decoder: Decoder = central_crop,
        *,
        after: "Bench | None" = None,
        fifo: bool = False,
        model: str = "colours",
        opener: ColourOpener | None = None,
        room: int = 0,
        **settings: Any,
    ) -> None:
        values = shipped_values()
        values["worker"] |= {"idle_seconds": 0.05, **settings}
        self.config = parse_config(values)
        self.clock = WallClock()
        self.requests: MemorySQS = after.requests if after else worker_queue(self.clock, fifo=fifo)
        self.responses: MemorySQS = after.responses if after else worker_queue(self.clock, fifo=fifo)
        self.inputs: FakeBucket = after.inputs if after else FakeBucket()
        self.outputs: FakeBucket = after.outputs if after else FakeBucket()
        self.engine = ColourEngine()
        self.dead_letters = worker_queue(self.clock, fifo=fifo)
        queues = self.requests.queue(), self.dead_letters.queue(), self.responses.queue()
        self.sources: MemorySource = after.sources if after else MemorySource()
        buckets = InputBucket(self.inputs), OutputBucket(self.outputs)
        services = Services(*queues, *buckets, lambda: self.sources)
        self.sizing = sized(self.config.worker, HostResources(cores=2, memory_bytes=4 * 2**30), input_size=32)
        self.sizing = replace(self.sizing, model_bytes=room)
        self.heartbeats = worker_queue(self.clock)
        self.child_poison: str | None = None
        self.children_until_broken = 1_000
        self.opener = opener or ColourOpener()
        self.opener.isolated = lambda: PlayedNetworks(self._child)  # type: ignore[method-assign]
        self.opener.sizing = self.sizing
        self.opener.bundles["own"] = colour_bundle(model)
        self.worker = Worker(
            self.config,
            services,
            Classifier("i-1", 3),
            colour_model(self.engine, colour_bundle(model)),
            self.opener,
            self.heartbeats.queue().send,
            decoder=decoder,
        )
        self.paused: dict[str, float] = defaultdict(float)
        self._wait = self.worker.lifetime.wait
        self.worker.lifetime.wait = self._pause  # type: ignore[method-assign]

    def _child(self, _bundle: Bundle) -> ColourEngine:
        engine = ColourEngine(NetworkEndedError)
        engine.poison, engine.is_broken = self.child_poison, self.children_until_broken <= 0
        self.children_until_broken -= 1
        return engine

    def _pause(self, seconds: float | None = None) -> bool:
        if seconds is None:
            return self._wait()
        self.paused[threading.current_thread().name] += seconds
        return self._wait(0)

    @property
    def longest_pause(self) -> float:
        """Seconds that one thread of the pipeline would have waited in all."""
        return max((seconds for name, seconds in self.paused.items() if name != "receive"), default=0)

    @property
    def receives(self) -> list[int]:
        """How often each message was received that still is in its queue."""
        return [each.receive_count for each in self.requests.messages]

    def submit(self, *images: bytes | None, models: Sequence[RequestedModel | None] = ()) -> list[RequestMessage]:
        """Store each image (None: it is gone) and ask for it, with the next of `models` if there are some."""
        wanted = models or [None] * len(images)
        requests = [new_request().model_copy(update={"model": model}) for model in wanted]
        for request, data in zip(requests, images, strict=True):
            if data is not None:
                self.inputs.objects[key_of(request)] = data
        send_requests(self.requests, requests)
        return requests

    def submit_pack(
        self, *images: bytes, like: RequestMessage | None = None, model: RequestedModel | None = None
    ) -> RequestMessage:
        """Store images as a pack and ask for it, or replace the object of a request without asking."""
        sizes = tuple(map(len, images))
        request = (like or new_request()).model_copy(update={"extension": "tar", "sizes": sizes, "model": model})
        self.inputs.objects[key_of(request)] = bytes(pack_object([("png", data) for data in images], len(images)))
        if like is None:
            send_requests(self.requests, [request])
        return request

    def submit_in_place(self, *images: bytes, suspect: bool = False) -> RequestMessage:
        """Store images in a bucket of their user, and ask for them as a pack."""
        new = new_request()
        objects = [(f"{new.pack_id}-{place}.png", data) for place, data in enumerate(images)]
        for name, data in objects:
            self.sources.objects["photos", f"day1/{name}"] = data
        listed = tuple((name, etag_of(data).strip('"')) for name, data in objects)
        source = SourceObjects(bucket="photos", prefix="day1/", objects=listed)
        sizes = tuple(map(len, images))
        request = new.model_copy(update={"sizes": sizes, "source": source, "suspect": suspect})
        send_requests(self.requests, [request])
        return request

    def run(self) -> bool:
        ended: list[bool] = []
        thread = threading.Thread(target=lambda: ended.append(self.worker.run()), daemon=True)
        thread.start()
        thread.join(DEADLINE_SECONDS)
        assert ended, "the worker did not end"
        return ended[0]

    def response(self, request: RequestMessage) -> Response:
        (body,) = (body for body in self.responses.bodies if request.pack_id[:15] in body and request.job_id in body)
        return Response.from_json(body)

    def result(self, request: RequestMessage) -> ClassificationResult:
        [result] = self.response(request).results
        return result

    def stored(self, request: RequestMessage) -> Prediction:
        return Prediction.from_json(self.outputs.objects[output_key(request.refs[0])])

    def stored_pack(self, request: RequestMessage) -> list[Prediction]:
        """Return the stored predictions of a pack of many, by place."""
        lines = self.outputs.objects[outputs_key(request.job_id, request.pack_id)].splitlines()
        return [Prediction.from_json(line) for line in lines]


def before(call: Callable[..., Any], action: Callable[[], object]) -> Callable[..., Any]:
    def wrapped(*positional: Any, **arguments: Any) -> Any:
        action()
        return call(*positional, **arguments)

    return wrapped


def test_images_of_a_cancelled_job_fail_without_a_fetch_and_others_are_classified() -> None:
    bench = Bench()
    cancelled, gone, other = bench.submit(picture("red"), None, picture("blue"))
    for request in (cancelled, gone):
        bench.inputs.objects[cancelled_key(request.job_id)] = b""
    assert bench.run()
    for request in (cancelled, gone):
        assert bench.result(request).error == bench.stored(request).error == CANCELLED
        assert bench.result(request).timings.fetched is None
    assert bench.result(other).label == "blue"
    assert bench.requests.messages == []


def test_a_label_that_is_stored_stands_although_the_job_was_cancelled() -> None:
    first = Bench()
    [request] = first.submit(picture("red"))
    assert first.run()
    second = Bench(after=first)
    send_requests(second.requests, [request])
    second.inputs.objects[cancelled_key(request.job_id)] = b""
    second.responses.messages.clear()
    assert second.run()
    assert second.result(request).label == "red"


def test_bad_images_fail_alone_each_with_its_reason() -> None:
    bench = Bench()
    huge = bytes(bench.config.web.max_image_bytes + 1)
    requests = bench.submit(picture("red"), b"", b"text", picture("red")[:60], None, huge, picture("blue"))
    assert bench.run()
    results = [bench.result(request) for request in requests]
    assert [result.error and result.error.code for result in results] == [
        None, "empty", "not_an_image", "truncated", "gone", "too_large", None,
    ]  # fmt: skip
    assert [results[0].label, results[6].label] == ["red", "blue"]
    assert bench.stored(requests[1]).status == "failed"
    assert bench.requests.messages == []


def test_images_of_a_source_are_read_where_they_are_and_each_fails_alone() -> None:
    bench = Bench()
    pack = bench.submit_in_place(*[picture("red")] * 4, b"text", *[picture("blue")] * 20)
    lone, gone = (bench.submit_in_place(picture("green")) for _ in range(2))
    names = [f"{pack.pack_id}-{place}.png" for place in range(25)]
    bench.sources.objects["photos", f"day1/{names[1]}"] = picture("blue")
    bench.sources.unreadable.add(("photos", f"day1/{names[2]}"))
    for name in (names[3], f"{gone.pack_id}-0.png"):
        del bench.sources.objects["photos", f"day1/{name}"]
    objects = dict(bench.sources.objects)
    assert bench.run()
    results = bench.response(pack).results
    codes = [each.error and each.error.code for each in results]
    assert codes == [None, *[SOURCE_UNREADABLE] * 3, "not_an_image", *[None] * 20]
    for result, code in zip(results[1:], (CHANGED, "AccessDenied", "NoSuchKey"), strict=False):
        assert result.error == source_unreadable(code)
    assert [results[place].label for place in (0, 5, 24)] == ["red", "blue", "blue"]
    assert {each.key for each in results} == {None}
    assert (bench.result(lone).label, bench.result(gone).error) == ("green", source_unreadable("NoSuchKey"))
    assert bench.requests.messages == []
    assert (bench.sources.objects, bench.inputs.objects) == (objects, {})


@pytest.mark.parametrize("suspect", [False, True])
def test_images_of_a_shard_are_read_together(suspect: bool) -> None:
    bench, new = Bench(), new_request()
    images = [picture("red"), b"text", picture("blue")]
    shard = tar_of([(f"{number}.png", data) for number, data in enumerate(images)])
    bench.sources.objects["photos", "a.tar"], reads = shard, itertools.count()
    bench.sources.call = lambda _, effect: (next(reads), effect())[1]
    starts = tuple(shard.index(data) for data in images)
    source = SourceObjects(bucket="photos", objects=(("a.tar", etag_of(shard).strip('"')),), starts=starts)
    request = new.model_copy(update={"sizes": tuple(map(len, images)), "source": source, "suspect": suspect})
    gone = source.model_copy(update={"objects": (("none.tar", "e"),)})
    other = new_request().model_copy(update={"sizes": request.sizes, "source": gone})
    send_requests(bench.requests, [request, other])
    assert bench.run()
    assert [each.label for each in bench.response(request).results] == ["red", None, "blue"]
    assert [each.error for each in bench.response(other).results] == [source_unreadable("NoSuchKey")] * 3
    assert next(reads) == 2


def test_a_redelivered_request_reads_its_images_where_they_are_one_by_one() -> None:
    bench = Bench()
    request = bench.submit_in_place(*[picture("red")] * 3, suspect=True)
    bench.sources.unreadable.add(("photos", f"day1/{request.pack_id}-1.png"))
    assert bench.run()
    assert [each.label for each in bench.response(request).results] == ["red", None, "red"]
    assert bench.response(request).results[1].error == source_unreadable("AccessDenied")


@pytest.mark.parametrize("suspect", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        client_error(503, "SlowDown"),
        client_error(400, "KMS.ThrottlingException"),
        client_error(403, "InvalidAccessKeyId"),
        HTTPClientError(error="reset"),
    ],
)
def test_an_outage_of_a_bucket_delays_its_images_and_no_others(error: Exception, suspect: bool) -> None:
    first = Bench()

    def call(_operation: str, _effect: Callable[[], Any]) -> Any:
        raise error

    first.sources.call = call
    pack, lone = (first.submit_in_place(*[picture("red")] * count, suspect=suspect) for count in (5, 1))
    [other] = first.submit(picture("blue"))
    assert first.run()
    assert (first.result(other).label, first.longest_pause) == ("blue", 0)
    assert (len(first.responses.bodies), len(first.requests.visible), first.receives) == (1, 0, [0, 0])
    second = Bench(after=first)
    second.sources.call = run_effect
    for message in first.requests.messages:
        message.visible_at -= SOURCE_SECONDS
    assert second.run()
    assert [each.label for request in (pack, lone) for each in second.response(request).results] == ["red"] * 6


@pytest.mark.parametrize("suspect", [False, True])
def test_an_object_that_a_bucket_does_not_return_is_asked_for_alone_each_minute(suspect: bool) -> None:
    bench, read = Bench(), list[str]()
    request = bench.submit_in_place(*[picture("red")] * 12, suspect=suspect)
    source, broken = bench.sources.read, f"day1/{request.pack_id}-5.png"

    def read_others(bucket: str, key: str, *rest: Any) -> bytes:
        read.append(key)
        if key == broken:
            raise SourceUnavailableError(f"{bucket}: ServiceUnavailable")
        return source(bucket, key, *rest)

    def next_bench() -> Bench:
        for message in bench.requests.messages:
            message.visible_at -= SOURCE_SECONDS
        return Bench(after=bench)

    bench.sources.read = read_others  # type: ignore[assignment,method-assign]
    for _ in range(50):  # the others are read in random order, until the bucket fails
        assert bench.run()
        [left] = bench.requests.bodies
        if (places := RequestMessage.from_json(left).places) == (5,):
            break
        bench = next_bench()
    assert places == (5,)
    found = [each for body in bench.responses.bodies for each in Response.from_json(body).results]
    assert {each.ref: each.label for each in found} == {
        ref: "red" for ref in request.refs if ref != request.ref_at(5)
    }
    assert len(found) == 11
    assert {key for key in read if read.count(key) > 1} <= {broken}
    read.clear()
    bench = next_bench()
    assert bench.run()
    assert (read, bench.receives) == ([broken], [0])
    bench = next_bench()
    bench.sources.read = source  # type: ignore[method-assign]
    assert bench.run()
    last = Response.from_json(bench.responses.bodies[-1])
    assert [(each.ref, each.label) for each in last.results] == [(request.ref_at(5), "red")]
    assert bench.requests.messages == []


def test_images_of_a_pack_are_answered_together_each_for_itself_and_a_retry_only_for_its_own() -> None:
    bench = Bench()
    images = [picture("red"), b"", b"text", picture("red")[:60], picture("blue"), *[picture("green")] * 25]
    request = bench.submit_pack(*images)
    gone, other = bench.submit(None, picture("red"))
    assert bench.run()
    response = bench.response(request)
    errors = [None, "empty", "not_an_image", "truncated", *[None] * 26]
    assert (response.images, [each.error and each.error.code for each in response.results]) == (30, errors)
    assert [each.ref for each in response.results] == request.refs
    assert [response.results[place].label for place in (0, 4, 29)] == ["red", "blue", "green"]
    assert (bench.result(gone).error, bench.result(other).label) == (GONE, "red")
    before = bench.stored_pack(request)
    assert [each.response().model_copy(update={"timings": None}) for each in before] == [
        each.model_copy(update={"timings": None}) for each in response.results
    ]
    assert Heartbeat.from_json(bench.heartbeats.bodies[-1]).images == 32
    bench.responses.messages.clear()
    mended = bench.submit_pack(images[0], images[4], *images[2:], like=request)
    send_requests(bench.requests, [mended.asking_for([1, 2]).model_copy(update={"attempt": 1})])
    second = Bench(after=bench, model="another")
    assert second.run()
    response, after = second.response(request), second.stored_pack(request)
    assert (response.images, [each.ref for each in response.results]) == (30, request.refs[1:3])
    assert [(each.label, each.attempt) for each in response.results] == [("blue", 1), (None, 1)]
    assert (after[0], after[3:], [each.attempt for each in after[1:3]]) == (before[0], before[3:], [1, 1])


@pytest.mark.parametrize("count", [0, 1])
def test_a_pack_of_which_some_images_are_stored_is_answered_with_them(count: int) -> None:
    first = Bench()
    request = first.submit_pack(*[picture("red")] * 4)
    first.requests.messages.clear()
    send_requests(first.requests, [request.asking_for([0, 2])])
    assert first.run()
    first.requests.add(request.to_json(), count)
    first.responses.messages.clear()
    second = Bench(after=first, model="another")
    assert second.run()
    results = second.response(request).results
    assert [each.repeated for each in results] == [True, False, True, False]
    assert len({each.model and each.model.digest for each in results}) == 2
    assert sum(second.engine.batches) == (0 if count else 4)


def test_a_request_for_some_images_of_a_pack_reads_those_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, read = Bench(), list[int]()
    request = bench.submit_pack(picture("red"), b"", picture("blue"), *[picture("green")] * 9)
    bench.requests.messages.clear()
    send_requests(bench.requests, [request.asking_for([1, 2])])
    get_ranges = bench.inputs.get_ranges

    def record(key: str, starts: Sequence[int], sizes: Sequence[int]) -> Iterator[bytes]:
        read.extend(sizes)
        return get_ranges(key, starts, sizes)

    monkeypatch.setattr(bench.inputs, "get_ranges", record)
    assert bench.run()
    assert [(each.ref, each.label) for each in bench.response(request).results] == [
        (request.ref_at(1), None),
        (request.ref_at(2), "blue"),
    ]
    assert sum(read) == request.sizes[2] + 2 * TAR_BLOCK


def test_a_pack_of_which_one_batch_fails_is_left_whole_and_answered_once_later() -> None:
    bench = Bench(opener=several(), call_threads=1)
    bench.opener.engines["a"] = engine = ColourEngine()
    engine.errors = [EngineError("no memory")]
    request = bench.submit_pack(*[picture("red")] * 20, model=requested("a", A))
    assert bench.run()
    assert (bench.responses.messages, bench.receives, bench.outputs.objects) == ([], [1], {})
    bench.requests.messages[0].visible_at = 0
    following = Bench(after=bench, opener=several())
    assert following.run()
    assert [(each.label, each.attempts) for each in following.response(request).results] == [("red", 2)] * 20


@pytest.mark.parametrize("is_suspect", [False, True])
def test_an_image_that_is_not_at_its_place_in_the_tar_of_a_client_fails_alone(is_suspect: bool) -> None:
    bench, images = Bench(), [picture("red"), picture("blue"), picture("red")]
    request = bench.submit_pack(*images, like=new_request())
    other = tarfile.TarInfo("../01.png")
    other.size = len(images[1])
    data, at = bench.inputs.objects[key_of(request)], member_start(request.sizes, 1)
    bench.inputs.objects[key_of(request)] = data[: at - 512] + other.tobuf(tarfile.USTAR_FORMAT) + data[at:]
    send_requests(bench.requests, [request.model_copy(update={"suspect": is_suspect})])
    assert bench.run()
    results = bench.response(request).results
    assert [(each.label, each.error and each.error.code) for each in results] == [
        ("red", None), (None, "undecodable"), ("red", None),
    ]  # fmt: skip
    assert [each.status for each in bench.stored_pack(request)] == ["done", "failed", "done"]
    assert bench.requests.messages == []


def test_images_of_a_pack_fail_together_when_its_object_is_gone_or_its_job_is_cancelled() -> None:
    bench = Bench()
    gone, cancelled = (bench.submit_pack(*[picture("red")] * 3) for _ in range(2))
    del bench.inputs.objects[key_of(gone)]
    bench.inputs.objects[cancelled_key(cancelled.job_id)] = b""
    assert bench.run()
    assert [each.error for each in bench.response(gone).results] == [GONE] * 3
    assert [each.error for each in bench.response(cancelled).results] == [CANCELLED] * 3


def test_a_request_whose_response_was_not_taken_comes_again_and_the_others_end() -> None:
    bench = Bench()
    requests = bench.submit(*[picture("red")] * 5)
    bench.responses.refuse = {requests[2].pack_id}
    bench.run()
    assert bench.requests.bodies == [requests[2].to_json()]
    assert len(bench.responses.messages) == 4


def test_an_image_whose_delete_fails_is_answered_once_and_left_in_the_queue() -> None:
    bench = Bench()
    bench.submit(picture("red"))
    bench.requests.errors["delete"] = [EndpointConnectionError(endpoint_url="http://sqs")]
    bench.run()
    assert len(bench.responses.messages) == 1
    assert len(bench.requests.messages) == 1
    assert bench.requests.called("visibility") == []


# Faults of the system: FAULTS rows 10 and 48. None is counted against an image.


def unreachable() -> EndpointConnectionError:
    return EndpointConnectionError(endpoint_url="http://cloud")


@KINDS
def test_row_48_s3_is_away_for_ten_minutes_and_each_image_stays_in_hand(fifo: bool) -> None:
    bench = Bench(fifo=fifo)
    requests = bench.submit(*[picture("red")] * 60)

    def away() -> None:
        if bench.longest_pause < 600:
            raise unreachable()

    for bucket, method in [(bench.inputs, "get"), (bench.outputs, "put_new")]:
        setattr(bucket, method, before(getattr(bucket, method), away))
    assert bench.run()
    assert [bench.result(request).status for request in requests] == ["done"] * 60
    assert {bench.result(request).attempts for request in requests} == {1}
    assert bench.requests.called("send") == [], "no request was sent again"
    assert bench.worker.lifetime.status == 0


@KINDS
def test_row_48_a_worker_with_a_broken_engine_ends_and_another_takes_its_images(fifo: bool) -> None:
    broken = Bench(fifo=fifo)
    requests = broken.submit(*[picture("blue")] * 30)
    broken.engine.is_broken = True
    assert broken.run()
    assert (broken.worker.lifetime.status, broken.responses.messages) == (1, [])
    assert "classify does not work: 5 tries" in broken.worker.lifetime.reason
    assert "the engine is broken" in broken.worker.lifetime.reason
    assert broken.receives == [0] * 30
    healthy = Bench(after=broken)
    assert healthy.run()
    assert [(healthy.result(each).label, healthy.result(each).attempts) for each in requests] == [("blue", 1)] * 30


def test_row_48_a_worker_that_cannot_decode_ends_and_another_takes_its_images() -> None:
    def no_child(*_: Any, **__: Any) -> bytes:
        raise PoolUnavailableError("no process for square: it ended")

    broken = Bench(no_child)
    requests = broken.submit(*[picture("blue")] * 30)
    assert broken.run()
    assert "decode does not work: 5 tries" in broken.worker.lifetime.reason
    assert (broken.worker.lifetime.status, broken.receives) == (1, [0] * 30)
    healthy = Bench(after=broken)
    assert healthy.run()
    assert {healthy.result(request).label for request in requests} == {"blue"}


@KINDS
@pytest.mark.parametrize("where", ["read an image", "store a prediction", "send a response"])
def test_row_48_refused_credentials_cost_no_image_a_receive(where: str, fifo: bool) -> None:
    bench = Bench(fifo=fifo)
    requests = bench.submit(*[picture("red")] * 20)
    refused = {
        "read an image": (bench.inputs.errors, "get"),
        "store a prediction": (bench.outputs.errors, "put"),
        "send a response": (bench.responses.errors, "send"),
    }
    errors, operation = refused[where]
    for _ in range(10):
        errors[operation] = [refusal("AccessDenied", operation)] * 100
        assert bench.run()
        assert bench.worker.lifetime.status == 1
        assert "access denied" in bench.worker.lifetime.reason
        assert (len(bench.requests.visible), bench.receives) == (20, [0] * 20)
        bench = Bench(after=bench)
    errors[operation].clear()
    assert bench.run()
    assert {(bench.result(each).status, bench.result(each).attempts) for each in requests} == {("done", 1)}


@KINDS
def test_row_48_credentials_that_nothing_accepts_for_a_while_fail_no_image(
    fifo: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even what the worker holds can be given back, so each image is received again."""
    bench = Bench(fifo=fifo)
    requests = bench.submit(*[picture("red")] * 20)

    def refuse_everything() -> None:
        denied = [refusal("AccessDenied", "any")] * 1_000
        for service in (bench.inputs, bench.outputs, bench.requests, bench.responses):
            for operation in ("get", "put", "receive", "send", "delete", "visibility"):
                service.errors[operation] = list(denied)

    with monkeypatch.context() as patch:
        patch.setattr(bench.inputs, "get", before(bench.inputs.get, refuse_everything))
        assert bench.run()
    assert bench.worker.lifetime.status == 1
    assert "access denied" in bench.worker.lifetime.reason
    for service in (bench.inputs, bench.outputs, bench.requests, bench.responses):
        service.errors.clear()
    for message in bench.requests.messages:
        message.visible_at = 0  # as when its timeout has ended
    healthy = Bench(after=bench)
    assert healthy.run()
    assert {healthy.result(each).status for each in requests} == {"done"}
    assert {healthy.result(each).attempts for each in requests} <= {1, 2}


@KINDS
@pytest.mark.parametrize(
    ("error", "reason"),
    [(MemoryError(), "out of memory"), (OSError(errno.ENOSPC, "No space left on device"), "no room left")],
)
def test_row_10_a_machine_without_room_gives_back_its_images_and_says_why(
    error: Exception, reason: str, fifo: bool
) -> None:
    bench = Bench(fifo=fifo)
    requests = bench.submit(*[picture("red")] * 20)
    bench.engine.errors = [error] * 20
    assert bench.run()
    assert bench.worker.lifetime.status == 1
    assert reason in bench.worker.lifetime.reason
    left = len(requests) - len(bench.responses.messages)
    assert left > 0
    assert (len(bench.requests.visible), bench.receives) == (left, [0] * left)
    following = Bench(after=bench)
    assert following.run()
    assert {(following.result(each).status, following.result(each).attempts) for each in requests} == {("done", 1)}


# Images that no worker can classify


def test_an_image_that_the_engine_cannot_bear_is_left_and_its_mates_are_not() -> None:
    bench = Bench()
    requests = bench.submit(*map(picture, ["red", "blue", "red", "red"]))
    bench.engine.poison = "blue"
    assert bench.run()
    answered = [bench.result(each).label for each in requests if each is not requests[1]]
    assert answered == ["red"] * 3
    assert (bench.worker.lifetime.status, bench.receives) == (0, [1])
    (left,) = bench.requests.messages
    assert left.body == requests[1].to_json()
    assert left.visible_at > bench.clock(), "it is received again after its timeout"


def test_an_image_that_ends_three_children_fails_and_its_mates_have_labels() -> None:
    bench = Bench()
    requests = bench.submit(*map(picture, ["red", "blue", "red"]))
    for message in bench.requests.messages:
        message.receive_count = 1
    bench.child_poison = "blue"
    assert bench.run()
    assert bench.result(requests[1]).error == bench.stored(requests[1]).error == CRASHED_ALONE
    assert [bench.result(requests[number]).label for number in (0, 2)] == ["red"] * 2
    assert {bench.result(each).attempts for each in requests} == {2}
    assert (bench.engine.batches, bench.requests.messages) == ([], [])


@pytest.mark.parametrize("broken_from", [0, 1])
def test_a_child_that_cannot_answer_a_grey_picture_is_no_evidence_against_an_image(broken_from: int) -> None:
    """Neither at first, nor after the image has ended others: the machine, or the model, is at fault."""
    bench = Bench()
    bench.submit(picture("blue"))
    bench.requests.messages[0].receive_count = 1
    bench.child_poison, bench.children_until_broken = "blue", broken_from
    assert bench.run()
    assert (bench.worker.lifetime.status, bench.responses.messages) == (0, [])
    assert bench.receives == [0], "it is given back"
    assert not RequestMessage.from_json(bench.requests.bodies[0]).suspect, (
        "a batch may have room where a child has none"
    )
    assert bench.requests.messages[0].visible_at > bench.clock(), "not at once"


@KINDS
def test_row_9_an_image_of_too_many_tries_fails_and_one_of_many_receives_does_not(fifo: bool) -> None:
    bench = Bench(fifo=fifo)
    (request, mate) = bench.submit(picture("blue"), picture("red"))
    tries = OutputBucket(bench.outputs)
    for message, each in zip(bench.requests.messages, (request, mate), strict=True):
        message.receive_count = 60
        tried = [(message.id, number) for number in range(10, 10 + MAX_TRIES)]
        for id_, number in [*tried[each is mate :], tried[-1], ("another message", 3)]:
            tries.add_try(each.refs[0], id_, number)
    assert bench.run()
    result = bench.result(request)
    assert result.error == bench.stored(request).error == crashed_worker(MAX_TRIES)
    assert (bench.result(mate).label, bench.result(mate).attempts) == ("red", 61)
    assert bench.requests.messages == []


def test_a_label_that_is_stored_stands_at_the_sixth_receive() -> None:
    first = Bench()
    [request] = first.submit(picture("red"))
    assert first.run()
    first.responses.messages.clear()
    first.requests.add(request.to_json(), 5)
    second = Bench(after=first)
    assert second.run()
    assert second.result(request).label == "red"


# What is stored and what is answered agree: FAULTS row 47


@KINDS
@pytest.mark.parametrize("count", [0, 1], ids=["sent again", "received again"])
@pytest.mark.parametrize("image", ["red", None, "truncated"])
def test_row_47_a_second_delivery_is_answered_with_the_stored_prediction(
    image: str | None, count: int, fifo: bool
) -> None:
    bench = Bench(fifo=fifo)
    (request,) = bench.submit(picture("red"))
    assert bench.run()
    first = bench.result(request)
    stored = bench.outputs.objects[output_key(request.refs[0])]
    bench.responses.messages.clear()
    if image != "red":
        bench.inputs.objects[key_of(request)] = picture("red")[:60]
    if image is None:
        del bench.inputs.objects[key_of(request)]
    bench.requests.add(request.to_json(), count)
    second = Bench(after=bench, model="another")
    assert second.run()
    again = second.result(request)
    assert (again.label, again.score, again.model) == ("red", first.score, first.model)
    assert bench.outputs.objects[output_key(request.refs[0])] == stored
    assert second.requests.messages == []
    if count:
        assert second.engine.batches == [], "it was not classified once more"


def test_a_prediction_that_cannot_be_read_is_replaced() -> None:
    bench = Bench()
    (request,) = bench.submit(picture("red"))
    bench.outputs.objects[output_key(request.refs[0])] = b"{}"
    bench.requests.messages[0].receive_count = 1
    assert bench.run()
    assert bench.result(request).label == bench.stored(request).label == "red"


# The end


@KINDS
@pytest.mark.parametrize("reason", ["SIGTERM", "Spot notice: terminate"])
def test_row_6_at_the_end_what_has_started_finishes_and_the_rest_is_given_back(
    reason: str, fifo: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, also while a long poll is out, which may bring messages that were just given back."""
    bench = Bench(fifo=fifo, call_threads=1, threads=1)
    requests = bench.submit(*[picture("red")] * 10)
    fetching, go_on = threading.Event(), threading.Event()
    polls, polling, poll_ends = list[None](), threading.Event(), threading.Event()

    def slow() -> None:
        fetching.set()
        go_on.wait(DEADLINE_SECONDS)

    def poll() -> None:
        polls.append(None)
        if not bench.requests.visible:
            polling.set()
            poll_ends.wait(DEADLINE_SECONDS)

    monkeypatch.setattr("app_tier.worker.POLL_SECONDS", NEVER_SECONDS)
    bench.inputs.get = before(bench.inputs.get, slow)  # type: ignore[method-assign]
    bench.requests.receive_message = before(bench.requests.receive_message, poll)  # type: ignore[method-assign]
    ended: list[bool] = []
    running = threading.Thread(target=lambda: ended.append(bench.worker.run()), daemon=True)
    running.start()
    assert fetching.wait(DEADLINE_SECONDS)
    assert polling.wait(DEADLINE_SECONDS)
    begun = len(polls)
    bench.worker.lifetime.end(reason)
    wait_until(lambda: len(bench.requests.visible) == 9, "what has not started is given back")
    assert running.is_alive()
    poll_ends.set()
    go_on.set()
    running.join(DEADLINE_SECONDS)
    assert ended == [True]
    assert len(polls) == begun
    assert len(bench.responses.messages) == 1
    assert len(bench.requests.messages) == len(requests) - 1
    assert bench.receives == [0] * 9, "a worker that ends in good order costs no receive"
    assert bench.worker.lifetime.status == 0


def test_at_the_end_packs_that_are_not_read_yet_are_given_back_and_the_others_are_answered() -> None:
    bench = Bench(threads=1, idle_seconds=NEVER_SECONDS)
    readers, go_on = bench.sizing.decode_threads + 1, threading.Event()
    requests = [bench.submit_pack(*[picture("red")] * 2) for _ in range(8)]
    bench.inputs.get = before(bench.inputs.get, lambda: go_on.wait(DEADLINE_SECONDS))  # type: ignore[method-assign]
    running = threading.Thread(target=bench.worker.run, daemon=True)
    running.start()
    to_read = bench.worker._pipeline._to_read
    wait_until(lambda: len(to_read) == len(requests) - readers, "each reader has a pack")
    bench.worker.lifetime.end("SIGTERM")
    wait_until(lambda: len(bench.requests.visible) == len(requests) - readers, "the others are given back")
    go_on.set()
    running.join(DEADLINE_SECONDS)
    assert (bench.receives, len(bench.responses.messages)) == ([0] * (len(requests) - readers), readers)


def test_a_drain_is_bounded_and_what_was_not_finished_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerSettings, "drain_seconds", 0.05)
    bench = Bench()
    bench.submit(picture("red"))
    fetching, never = threading.Event(), threading.Event()

    def hang() -> None:
        fetching.set()
        never.wait(10)

    bench.inputs.get = before(bench.inputs.get, hang)  # type: ignore[method-assign]

    def end() -> None:
        fetching.wait(DEADLINE_SECONDS)
        bench.worker.lifetime.end("SIGTERM")

    threading.Thread(target=end, daemon=True).start()
    assert not bench.run(), "a thread hangs, and the worker says so"
    assert len(bench.requests.visible) == 1
    assert bench.responses.messages == []
    never.set()


# Several models in one worker

A, B = colour_bundle("a"), colour_bundle("b")


def several(bytes_each: int = 0) -> ColourOpener:
    return ColourOpener({"a": A, "b": B}, bytes_each)


def digest_of(result: ClassificationResult) -> str | None:
    return None if result.model is None else result.model.digest


@KINDS
@pytest.mark.parametrize("room", [1, 3], ids=["room for one", "room for more than two"])
def test_each_image_is_classified_by_the_model_that_its_request_names(room: int, fifo: bool) -> None:
    bench = Bench(fifo=fifo, opener=several(bytes_each=1), room=room)
    models = [None, requested("a", A), requested("b", B)] * 20
    requests = bench.submit(*[picture(COLOURS[number % 2]) for number in range(60)], models=models)
    assert bench.run()
    results = [bench.result(request) for request in requests]
    own = colour_bundle().digest
    assert [digest_of(result) for result in results] == [own, A.digest, B.digest] * 20
    assert [result.label for result in results] == [COLOURS[number % 2] for number in range(60)]
    assert {result.attempts for result in results} == {1}
    assert bench.requests.messages == []
    last = Heartbeat.from_json(bench.heartbeats.bodies[-1])
    assert len(last.models) == min(2, room)


def test_a_batch_has_images_of_one_model_and_no_more_than_fit_it() -> None:
    first, second = colour_model(), colour_model()
    tasks = [fetched(new_task(delivery()), model) for model in [first, second] * 9]
    assert [[task.model for task in batch] for batch in by_model(tasks)] == [
        [first] * 8, [first], [second] * 8, [second],
    ]  # fmt: skip
    assert by_model(tasks[:1]) == [tasks[:1]]


def test_images_of_a_model_that_is_gone_fail_alone_with_a_code() -> None:
    bench = Bench(opener=several())
    gone = RequestedModel(digest="0" * 64, place="nowhere")
    requests = bench.submit(*[picture("red")] * 6, models=[gone, None] * 3)
    assert bench.run()
    assert [bench.result(request).error for request in requests] == [MODEL_GONE, None] * 3
    assert bench.stored(requests[0]).error == MODEL_GONE
    assert bench.requests.messages == []


def test_images_of_a_cancelled_job_fail_although_their_model_cannot_be_loaded() -> None:
    bench = Bench(opener=several())
    bench.opener.errors["a"] = [unreachable()]
    [request] = bench.submit(picture("red"), models=[requested("a", A)])
    bench.inputs.objects[cancelled_key(request.job_id)] = b""
    assert bench.run()
    assert bench.result(request).error == CANCELLED


def test_row_60_an_unreachable_model_gives_back_its_images_and_delays_no_other_model() -> None:
    bench = Bench(opener=several())
    bench.opener.errors["a"] = [unreachable()]
    requests = bench.submit(*[picture("red")] * 20, models=[requested("a", A), None] * 10)
    assert bench.run()
    assert len(bench.responses.messages) == 10
    assert (bench.worker.lifetime.status, bench.receives) == (0, [0] * 10)
    for message in bench.requests.messages:
        assert message.visible_at > message.sent_at, "no worker receives it at once"
        message.visible_at = 0
    following = Bench(after=bench, opener=several())
    assert following.run()
    assert {(following.result(each).status, following.result(each).attempts) for each in requests} == {("done", 1)}


def test_a_failing_engine_leaves_its_images_and_the_worker_continues() -> None:
    bench = Bench(opener=several(), call_threads=1)
    bench.opener.engines["a"] = engine = ColourEngine()
    engine.errors = [EngineError("no memory")]
    requests = bench.submit(*[picture("red")] * 4, models=[requested("a", A), None] * 2)
    assert bench.run()
    assert bench.worker.lifetime.status == 0
    assert [bench.result(requests[number]).label for number in (1, 3)] == ["red"] * 2
    assert set(bench.receives) <= {1}
    for message in bench.requests.messages:
        message.visible_at = 0
    following = Bench(after=bench, opener=several())
    assert following.run()
    assert [following.result(request).label for request in requests] == ["red"] * 4


@KINDS
@pytest.mark.parametrize("reason", ["SIGTERM", "asked to drain", "Spot notice: terminate"])
def test_a_stopped_worker_gives_back_the_images_that_wait_for_a_model(reason: str, fifo: bool) -> None:
    bench = Bench(opener=several(), idle_seconds=NEVER_SECONDS, fifo=fifo)
    fetch, is_fetching = bench.opener.fetch, threading.Event()

    def stopped(wanted: ModelPlace) -> Bundle:
        bench.worker.lifetime.end(reason)
        is_fetching.set()
        wait_until(lambda: len(bench.requests.visible) == 3, "the images are given back")
        return fetch(wanted)

    bench.opener.fetch = stopped  # type: ignore[method-assign]
    bench.submit(*[picture("red")] * 3, models=[requested("a", A)] * 3)
    bench.run()
    assert is_fetching.is_set()
    assert (bench.worker.lifetime.status, bench.receives) == (0, [0] * 3)
    assert bench.responses.messages == []


def test_a_released_model_leaves_the_memory_also_while_nothing_comes() -> None:
    bench = Bench(opener=several(bytes_each=1), room=1, idle_seconds=NEVER_SECONDS)
    own = weakref.ref(bench.worker._pipeline._models._loaded[colour_bundle().digest])
    thread = threading.Thread(target=bench.worker.run, daemon=True)
    thread.start()
    for count, model in enumerate([None, requested("a", A)], 1):
        bench.submit(picture("red"), models=[model])
        wait_until(lambda: len(bench.responses.messages) == count, "it is answered")  # noqa: B023 (awaited here)
    wait_until(lambda: own() is None, "the first model is gone")
    bench.worker.lifetime.end("the test is over")
    thread.join(DEADLINE_SECONDS)


def test_response_prediction_and_line_of_an_image_belong_to_the_trace_of_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench, parents = Bench(), [new_traceparent(), new_traceparent(), None]
    requests = [new_request().model_copy(update={"traceparent": each}) for each in parents]
    for request, data in zip(requests, (picture("red"), b"no image", picture("red")), strict=True):
        bench.inputs.objects[key_of(request)] = data
    send_requests(bench.requests, requests)
    with caplog.at_level(logging.INFO):
        assert bench.run()
    assert [bench.result(request).traceparent for request in requests] == parents
    assert [bench.stored(request).traceparent for request in requests] == parents
    lines = [image for each in caplog.records if each.message == "answered" for image in vars(each)["images"]]
    found = {line["image"]: (line["trace"], line["status"], line["label"]) for line in lines}
    red, broken, without = [request.pack_id for request in requests]
    assert found == {
        red: (trace_id(parents[0] or ""), "done", "red"),
        broken: (trace_id(parents[1] or ""), "failed", "not_an_image"),
        without: (None, "done", "red"),
    }
    assert all(each["milliseconds"].keys() >= {"queued", "fetched", "stored"} for each in lines)
