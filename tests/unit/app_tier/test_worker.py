"""The whole worker over queues and buckets in memory, its threads real."""

import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from app_tier.classify import Classifier
from app_tier.decode import Squares
from app_tier.pipeline import Services
from app_tier.sizing import Machine, sized
from app_tier.square import central_square
from app_tier.worker import Worker
from services.config import parse_config
from services.ids import output_key
from services.messages import Prediction, RequestMessage, Response
from tests.conftest import shipped_values
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from tests.unit.app_tier.fakes import (
    COLOURS,
    ColourEngine,
    FakeBucket,
    FakeSqs,
    WallClock,
    colour_bundle,
    new_request,
    picture,
    refusal,
    send_requests,
)


class Bench:
    """A worker with everything in memory; it idles out by itself unless a test ends it."""

    def __init__(self, squares: Squares = central_square, **settings: Any) -> None:
        values = shipped_values()
        values["worker"] |= {"idle_seconds": 0.05, "drain_seconds": 5, "batch_wait_seconds": 0.02, **settings}
        self.config = parse_config(values)
        self.clock = WallClock()
        self.requests, self.responses = FakeSqs(self.clock), FakeSqs(self.clock)
        self.inputs, self.outputs = FakeBucket(), FakeBucket()
        self.engine = ColourEngine()
        services = Services(
            self.requests.queue(), self.responses.queue(), self.inputs.bucket(), self.outputs.bucket()
        )
        self.sizing = sized(self.config.worker, Machine(cores=2, memory_bytes=4 * 2**30), input_size=32)
        classifier = Classifier(self.engine, colour_bundle(), "i-1", 3)
        self.heartbeats = FakeSqs(self.clock)
        self.worker = Worker(
            self.config, services, classifier, self.sizing, self.heartbeats.queue().send, squares=squares
        )

    def submit(self, *images: bytes | None) -> list[RequestMessage]:
        """Store each image (None: it is gone) and ask for it."""
        requests = [new_request() for _ in images]
        for request, data in zip(requests, images, strict=True):
            if data is not None:
                self.inputs.objects[request.key] = data
        send_requests(self.requests, requests)
        return requests

    def run(self) -> bool:
        ended: list[bool] = []
        thread = threading.Thread(target=lambda: ended.append(self.worker.run()), daemon=True)
        thread.start()
        thread.join(DEADLINE_SECONDS)
        assert ended, "the worker did not end"
        return ended[0]

    def result(self, request: RequestMessage) -> Response:
        (body,) = (body for body in self.responses.bodies if request.image_id in body)
        return Response.from_json(body)

    def stored(self, request: RequestMessage) -> Prediction:
        return Prediction.from_json(self.outputs.objects[output_key(request.ref)])


def before(call: Callable[..., Any], action: Callable[[], object]) -> Callable[..., Any]:
    def wrapped(*positional: Any, **arguments: Any) -> Any:
        action()
        return call(*positional, **arguments)

    return wrapped


def test_every_image_gets_its_own_answer_and_its_request_ends() -> None:
    bench = Bench()
    colours = [COLOURS[number % 3] for number in range(45)]
    requests = bench.submit(*map(picture, colours))
    assert bench.run()
    assert [bench.result(request).label for request in requests] == colours
    assert [bench.stored(request).label for request in requests] == colours
    assert bench.requests.messages == []
    assert (bench.worker.lifetime.reason, bench.worker.lifetime.status) == ("idle for 0.05 s", 0)
    assert max(bench.engine.batches) <= bench.sizing.batch_size


def test_bad_images_fail_alone_each_with_its_reason() -> None:
    bench = Bench()
    requests = bench.submit(picture("red"), b"", b"text", picture("red")[:60], None, picture("blue"))
    assert bench.run()
    results = [bench.result(request) for request in requests]
    assert [result.error and result.error.code for result in results] == [
        None, "empty", "not_an_image", "truncated", "gone", None,
    ]  # fmt: skip
    assert [results[0].label, results[5].label] == ["red", "blue"]
    assert bench.stored(requests[1]).status == "failed"
    assert bench.requests.messages == []


def test_a_result_names_the_object_that_was_classified_and_when_it_was_asked_for() -> None:
    bench, image = Bench(), picture("red")
    (request,) = bench.submit(image)
    assert bench.run()
    result = bench.result(request)
    assert (result.key, result.sha256) == (request.key, sha256(image).hexdigest())
    assert result.queued_at is not None


def test_a_second_delivery_whose_image_was_deleted_meanwhile_repeats_the_first_answer() -> None:
    bench = Bench()
    (request,) = bench.submit(picture("red"))
    assert bench.run()
    stored = bench.outputs.objects[output_key(request.ref)]
    del bench.inputs.objects[request.key]
    second = Bench()
    second.outputs.objects.update(bench.outputs.objects)
    send_requests(second.requests, [request])
    assert second.run()
    assert (second.result(request).status, second.result(request).label) == ("done", "red")
    assert second.outputs.objects[output_key(request.ref)] == stored
    assert second.requests.messages == []


def test_an_object_that_is_larger_than_an_image_may_be_fails_alone() -> None:
    bench = Bench()
    requests = bench.submit(picture("red"), bytes(bench.config.web.max_image_bytes + 1), picture("blue"))
    assert bench.run()
    results = [bench.result(request) for request in requests]
    assert [result.error and result.error.code for result in results] == [None, "too_large", None]
    assert bench.requests.messages == []


def test_output_then_response_then_delete() -> None:
    bench = Bench()
    (request,) = bench.submit(picture("red"))
    order: list[str] = []
    bench.outputs.put = before(bench.outputs.put, lambda: order.append("put"))  # type: ignore[method-assign]
    bench.responses.send_message_batch = before(bench.responses.send_message_batch, lambda: order.append("respond"))  # type: ignore[method-assign]
    bench.requests.delete_message_batch = before(bench.requests.delete_message_batch, lambda: order.append("delete"))  # type: ignore[method-assign]
    bench.run()
    assert order == ["put", "respond", "delete"]
    assert bench.result(request).timings.stored is not None


def test_what_cannot_be_stored_is_not_answered_and_comes_again_later() -> None:
    bench = Bench()
    (request,) = bench.submit(picture("red"))
    bench.outputs.errors["put"] = [refusal("SlowDown")]
    bench.run()
    assert bench.responses.messages == []
    (message,) = bench.requests.messages
    assert message.body == request.to_json()
    assert bench.clock() < message.visible_at <= bench.clock() + 10


def test_a_request_whose_response_was_not_taken_comes_again_and_the_others_end() -> None:
    bench = Bench()
    requests = bench.submit(*[picture("red")] * 5)
    bench.responses.refuse = {requests[2].image_id}
    bench.run()
    assert bench.requests.bodies == [requests[2].to_json()]
    assert len(bench.responses.messages) == 4


def test_when_the_response_queue_fails_every_image_of_the_batch_comes_again() -> None:
    bench = Bench()
    bench.submit(*[picture("red")] * 3)
    bench.responses.errors["send"] = [EndpointConnectionError(endpoint_url="http://sqs")] * 3
    bench.run()
    assert len(bench.responses.messages) + len(bench.requests.messages) == 3
    assert bench.worker.lifetime.status == 0


def test_a_delete_that_fails_leaves_an_answered_image_that_changes_nothing_when_it_comes_again() -> None:
    bench = Bench()
    bench.submit(picture("red"))
    bench.requests.errors["delete"] = [EndpointConnectionError(endpoint_url="http://sqs")]
    bench.run()
    assert len(bench.responses.messages) == 1
    assert len(bench.requests.messages) == 1
    assert bench.requests.called("visibility") == []


def test_a_message_delivered_twice_at_once_is_harmless() -> None:
    bench = Bench()
    (request,) = bench.submit(picture("green"))
    send_requests(bench.requests, [request])
    bench.run()
    labels = [Response.from_json(body).label for body in bench.responses.bodies]
    assert labels == ["green", "green"]
    assert bench.stored(request).label == "green"
    assert bench.requests.messages == []


def test_a_batch_that_the_network_fails_for_comes_again_image_by_image() -> None:
    bench = Bench()
    bench.submit(*[picture("red")] * 3)
    bench.engine.errors = [RuntimeError("a bug")] * 3
    bench.run()
    assert bench.responses.messages == []
    assert [message.count for message in bench.requests.messages] == [1, 1, 1]


def test_out_of_memory_gives_back_and_ends_the_worker_with_the_reason() -> None:
    bench = Bench()
    bench.submit(picture("red"))
    bench.engine.errors = [MemoryError()]
    bench.run()
    assert bench.worker.lifetime.status == 1
    assert "out of memory" in bench.worker.lifetime.reason
    assert len(bench.requests.visible) == 1


def test_denied_access_to_the_images_stops_the_worker_and_loses_nothing() -> None:
    bench = Bench()
    bench.submit(*[picture("red")] * 20)
    bench.inputs.errors["get"] = [refusal("AccessDenied", "GetObject")] * 20
    bench.run()
    assert bench.worker.lifetime.status == 1
    assert "access denied" in bench.worker.lifetime.reason
    assert len(bench.requests.visible) == 20


@pytest.mark.parametrize("reason", ["SIGTERM", "Spot notice: terminate"])
def test_at_the_end_what_has_started_finishes_and_the_rest_is_given_back(reason: str) -> None:
    bench = Bench(fetch_threads=1, decode_threads=1)
    requests = bench.submit(*[picture("red")] * 25)
    fetching, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        fetching.set()
        go_on.wait(DEADLINE_SECONDS)

    bench.inputs.get = before(bench.inputs.get, slow)  # type: ignore[method-assign]
    ended: list[bool] = []
    running = threading.Thread(target=lambda: ended.append(bench.worker.run()), daemon=True)
    running.start()
    assert fetching.wait(DEADLINE_SECONDS)
    bench.worker.lifetime.end(reason)
    wait_until(lambda: len(bench.requests.visible) == 24, "what has not started is given back")
    assert running.is_alive()
    received = len(bench.requests.called("receive"))
    go_on.set()
    running.join(DEADLINE_SECONDS)
    assert ended == [True]
    assert len(bench.requests.called("receive")) == received
    assert len(bench.responses.messages) == 1
    assert len(bench.requests.messages) == len(requests) - 1
    assert bench.worker.lifetime.status == 0


def test_a_drain_is_bounded_and_what_was_not_finished_is_given_back() -> None:
    bench = Bench(drain_seconds=0.05)
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
