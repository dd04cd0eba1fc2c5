"""Redelivered images, several models and loads of any length: what is alone, what is delayed, and what loses a try.

The receiver, the models and the pipeline are the product's own. A test runs them in one thread: each step of a stage
and each load is an action, and a seed decides their order. A load is a greenlet, which may wait for room.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from greenlet import getcurrent, greenlet
from hypothesis import given
from hypothesis import strategies as st

from app_tier import visibility
from app_tier.classify import Classifier
from app_tier.lifecycle import Lifetime
from app_tier.models import LoadedModels
from app_tier.pipeline import Pipeline, Services
from app_tier.receiver import Receiver
from app_tier.recovery import FailureBackoff, StepRecovery
from app_tier.sizing import HostResources, sized
from app_tier.stages import Channel
from app_tier.task import Task
from app_tier.visibility import InFlightMessages, VisibilityExtender
from core.config import parse_config
from core.jobs.buckets import InputBucket, OutputBucket
from core.messages import ClassificationResult, RequestMessage
from tests.conftest import shipped_values
from tests.support.clocks import ManualClock
from tests.support.memory_aws.sqs import VISIBILITY_SECONDS, MemorySQS
from tests.support.unsandboxed import central_crop
from tests.support.worker import (
    ColourOpener,
    FakeBucket,
    colour_bundle,
    colour_model,
    new_request,
    picture,
    requested,
    send_requests,
    worker_queue,
)

OWN = colour_bundle("own")
BUNDLES = {name: colour_bundle(name) for name in "abc"}
CONFIG = parse_config(shipped_values())
SIZING = replace(sized(CONFIG.worker, HostResources(cores=1, memory_bytes=2**32), input_size=8), batch_wait_seconds=0)
MAX_TRIES = CONFIG.queues.max_receive_count
MAX_LIVES = 200
DRAINED = "asked to drain"
MAX_ACTIONS = 100_000


class Crash(BaseException):
    """The worker's process is gone."""


class Violation(BaseException):
    """A rule was broken; the receiver and the stages, which go on after other errors, pass it on."""


@dataclass
class Fleet:
    """Workers, one after the other, each of which dies when it decodes a poison image.

    Args:
        seed: decides the order of actions.
        room: models that fit into a worker, which has two at most.
        load_share: probability that a load goes on before the pipeline does; 0: only if nothing else can go on.
        fifo: the kind of the queues.
        drains: tells after each submission whether the worker is asked to end.

    Attributes:
        poison: the images with this content kill.
    """

    seed: int
    room: int = 2
    load_share: float = 0.1
    fifo: bool = False
    drains: Iterator[bool] = field(default_factory=lambda: iter(()))
    poison: bytes = field(default_factory=lambda: picture("blue"))

    def __post_init__(self) -> None:
        self.random, self.clock = Random(self.seed), ManualClock()
        self.requests = worker_queue(self.clock, fifo=self.fifo, max_receive_count=MAX_TRIES)
        self.requests.shuffle = self.random
        self.responses = worker_queue(self.clock, fifo=self.fifo)
        self.inputs, self.outputs = FakeBucket(), FakeBucket()
        self.actions = 0

    def submit(self, *models: str | None, colour: str = "red", count: int = 0) -> list[str]:
        """Ask for an image for each model, which `count` workers have not answered; return their ids."""
        wanted = [None if name is None else requested(name, BUNDLES[name]) for name in models]
        requests = [new_request().model_copy(update={"model": model}) for model in wanted]
        for request in requests:
            self.inputs.objects[request.key] = picture(colour)
        send_requests(self.requests, requests)
        for message in self.requests.messages[len(self.requests.messages) - len(requests) :]:
            message.receive_count = count
        return [request.image_id for request in requests]

    @property
    def results(self) -> dict[str, ClassificationResult]:
        found = [ClassificationResult.from_json(body) for body in self.responses.bodies]
        return {result.image_id: result for result in found}

    @property
    def failed(self) -> set[str]:
        """The images that failed, or became dead letters, which the controller fails."""
        dead = {RequestMessage.from_json(body).image_id for body in self.requests.dead_bodies}
        return dead | {image for image, result in self.results.items() if result.status == "failed"}

    def run(self) -> None:
        """Run one worker after the other until no request is left."""
        for _ in range(MAX_LIVES):
            worker = FleetWorker(self)
            try:
                worker.run()
            except Crash:
                self.clock.advance(self.random.choice([0.1, 12.0, VISIBILITY_SECONDS + 1]))
            if not self.requests.messages:
                return
        raise AssertionError("the fleet never comes to an end")


class FleetWorker:
    """One worker of a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, clock = fleet, fleet.clock
        self.loads: list[greenlet] = []
        self.in_flight = InFlightMessages(SIZING.in_flight, VISIBILITY_SECONDS, clock)
        self.lifetime = Lifetime(on_end=self.in_flight.close)
        requests = fleet.requests.queue()
        self.extender = VisibilityExtender(
            requests, self.in_flight, VISIBILITY_SECONDS, 900, self.lifetime.fail, clock
        )
        backoff = FailureBackoff(lambda *_: 0.0)
        recovery = StepRecovery(self.in_flight, self.extender, self.lifetime, backoff, clock, lambda _, most: most)
        opener = ColourOpener({**BUNDLES, "own": OWN}, bytes_each=1)
        opener.sizing = replace(SIZING, model_bytes=fleet.room)
        self.models = LoadedModels(
            colour_model(bundle=OWN), opener, recovery, lambda load: self.loads.append(greenlet(load))
        )
        buckets = InputBucket(fleet.inputs), OutputBucket(fleet.outputs)
        services = Services(requests, fleet.responses.queue(), *buckets)
        self.pipeline = Pipeline(
            SIZING,
            services,
            Classifier("i-1", 3),
            self.models,
            CONFIG.web.image_limits,
            recovery,
            decoder=self._decode,
            max_tries=MAX_TRIES,
        )
        self.receiver = Receiver(
            requests,
            self.in_flight,
            self.extender,
            self.lifetime,
            backoff,
            self._submit,
            idle_seconds=5,
            clock=clock,
        )
        self._waits = self.in_flight.wait_for_room, self.in_flight.wait_until_none_started
        self.in_flight.wait_for_room = self._wait_for_room  # type: ignore[method-assign, assignment]
        self.in_flight.wait_until_none_started = self._none_started  # type: ignore[method-assign, assignment]
        self.in_flight.wait_until_unneeded = self._wait_for_turn  # type: ignore[method-assign, assignment]

    def run(self) -> None:
        receive = MemorySQS.receive_message

        def poll(**arguments: int) -> dict[str, Any]:
            self._count()
            self.extender.check()
            self._act_some()
            while not (self.fleet.requests.visible or self.in_flight.held()) and self._act():
                pass
            return receive(self.fleet.requests, **arguments)

        self.fleet.requests.receive_message = poll  # type: ignore[method-assign]
        self.receiver.run()
        assert self.lifetime.status == 0, self.lifetime.reason
        if self.lifetime.reason == DRAINED:
            self.extender.give_back(self.in_flight.everything())
        assert len(self.in_flight) == 0, "a worker that has ended has nothing in flight"

    def _decode(self, data: bytes, owner: str, **settings: Any) -> bytes:
        if data == self.fleet.poison:
            raise Crash
        return central_crop(data, owner, **settings)

    def _submit(self, task: Task[None]) -> None:
        self.pipeline.submit(task)
        if next(self.fleet.drains, False):
            self.lifetime.end(DRAINED)
        self._check()
        self._act_some()

    # The waits of the receiver and of loads, in which everything else goes on

    def _wait_for_room(self, most: int, _seconds: float) -> int:
        while not (room := self._waits[0](most, 0)) and not (self.in_flight.held() or self.lifetime.over):
            assert self._act(), "there is no room, and nothing goes on"
        return room

    def _none_started(self, _seconds: float) -> bool:
        while self.in_flight.started and not self.lifetime.over:
            if self.fleet.random.random() < self.fleet.load_share:
                self._load()
            assert self._step(), "the receiver waits for images that are in no stage"
        return self._waits[1](0)

    def _wait_for_turn(self, *_: object) -> None:
        self.fleet.clock.advance(1)
        getcurrent().parent.switch()

    # Actions

    def _act_some(self) -> None:
        for _ in range(self.fleet.random.randrange(6)):
            self._act()

    def _act(self) -> bool:
        """Let a load or a stage go on; False if there is neither."""
        if self.fleet.random.random() < self.fleet.load_share and self._load():
            return True
        return self._step() or self._load()

    def _load(self) -> bool:
        if not self.loads:
            return False
        load = self.fleet.random.choice(self.loads)
        self._count()
        load.switch()
        if load.dead:
            self.loads.remove(load)
        self._check()
        return True

    def _step(self) -> bool:
        stages = self.pipeline._stages
        inboxes: list[Channel[Any]] = [each.stage.inbox for each in stages]
        ready = [
            stage
            for stage, inbox, after in zip(stages, inboxes, [*inboxes[1:], None], strict=True)
            if len(inbox) and (after is None or len(after) < after._bound)
        ]
        if not ready:
            return False
        self._count()
        stage = self.fleet.random.choice(ready)
        stage.process(stage.next_batch())
        self._check()
        return True

    def _count(self) -> None:
        self.fleet.actions += 1
        if self.fleet.actions > MAX_ACTIONS:
            raise Violation("images go round and round")

    def _check(self) -> None:
        """A redelivered image is alone: in the stages, and by what the receiver knows."""
        inboxes: list[Channel[Task[object]]] = [each.stage.inbox for each in self.pipeline._stages]
        tasks = [task for inbox in inboxes for task in (*inbox._first, *inbox._items)]
        in_stages, loaded = [task.delivery for task in tasks], self.models.digests
        if len(loaded) > min(2, self.fleet.room):
            raise Violation("more models are loaded than there is room for")
        if not {task.assigned.bundle.digest for task in tasks if task.assigned is not None} <= set(loaded):
            raise Violation("a model was released that an image needs")
        started = [entry.delivery for entry in self.in_flight._in(visibility._State.STARTED)]
        if not {each.receipt for each in in_stages} <= {each.receipt for each in started}:
            raise Violation("an image is in a stage and does not count as started")
        if len(started) > 1 and any(each.redelivered for each in started):
            raise Violation("a redelivered image is not alone")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visibility, "MORE_ROOM_SECONDS", 0)
        patch.setattr("app_tier.pipeline.RESPONSE_WAIT_SECONDS", 0)
        yield


IMAGES = st.sampled_from([(None,), (None, "a", "b", "c")]).flatmap(
    lambda models: st.lists(st.tuples(st.sampled_from(models), st.integers(0, 1)), min_size=2, max_size=40)
)


@given(
    images=IMAGES,
    poison=st.lists(st.sampled_from([None, "a", "b"]), max_size=5),
    seed=st.integers(0, 100_000),
    room=st.integers(1, 2),
    load_share=st.sampled_from([0.0, 0.1, 0.5]),
    fifo=st.booleans(),
    drains=st.lists(st.booleans(), max_size=40),
)
def test_only_poison_images_fail_for_any_mix_of_models_loads_and_ends_of_workers(
    images: list[tuple[str | None, int]],
    poison: list[str | None],
    seed: int,
    room: int,
    load_share: float,
    fifo: bool,
    drains: list[bool],
) -> None:
    fleet = Fleet(seed, room, load_share, fifo, iter(drains))
    # Several poison images may take fresh ones along that a worker holds beside them.
    first = 1 if len(poison) > 1 else 0
    good = {
        image: max(count, first) for model, count in images for image in fleet.submit(model, count=max(count, first))
    }
    bad = {image for model in poison for image in fleet.submit(model, colour="blue", count=first)}
    fleet.run()
    assert fleet.failed == bad
    tries = {image: fleet.results[image].attempts for image in good}
    assert max(tries.values()) <= MAX_TRIES
    if not bad and {model for model, _ in images} == {None}:
        assert tries == {image: count + 1 for image, count in good.items()}, "a drain costs no try"


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
def test_loads_do_not_delay_images_of_a_loaded_model_when_redelivered_ones_wait(fifo: bool) -> None:
    fleet = Fleet(0, load_share=0.0, fifo=fifo)
    waiting = [*fleet.submit("a", "b", "c", count=1), *fleet.submit("a", "b")]
    others = [*fleet.submit(None, None, count=2), *fleet.submit(*[None] * 20)]
    worker = FleetWorker(fleet)

    def load() -> bool:
        return set(others) <= fleet.results.keys() and FleetWorker._load(worker)

    worker._load = load  # type: ignore[method-assign]
    worker.run()
    assert fleet.results.keys() == {*waiting, *others}
    assert {fleet.results[image].attempts for image in others} == {1, 3}


def test_a_redelivered_image_that_waits_for_its_model_loses_no_try_to_another_one() -> None:
    fleet = Fleet(0)
    fleet.requests.shuffle = None
    [waits] = fleet.submit("a", count=3)
    [kills] = fleet.submit(None, colour="blue", count=3)
    worker = FleetWorker(fleet)
    worker._load = lambda: False  # type: ignore[method-assign]
    with pytest.raises(Crash):
        worker.run()
    messages = [(RequestMessage.from_json(each.body), each.receive_count) for each in fleet.requests.messages]
    assert {each.image_id: each.crashes + count for each, count in messages} == {waits: 3, kills: 4}
