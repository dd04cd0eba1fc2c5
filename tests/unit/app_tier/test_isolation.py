"""Images that end what classifies them, in packs with others, with several models, loads, drains and kills.

The receiver, the models and the pipeline are the product's own. A test runs them in one thread: each step of a stage
and each load is an action, and a seed decides their order. A load is a greenlet, which may wait for room.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from random import Random
from typing import Any

import numpy as np
import pytest
from greenlet import getcurrent, greenlet
from numpy.typing import NDArray

from app_tier import visibility
from app_tier.bundle import Bundle
from app_tier.classify import Classifier
from app_tier.engines import Possible
from app_tier.lifecycle import Lifetime
from app_tier.models import LoadedModels
from app_tier.network_process import NetworkEndedError
from app_tier.pipeline import MAX_TRIES, STORE_SECONDS, UNRECORDED_RECEIVES, Pipeline, Services
from app_tier.receiver import Receiver
from app_tier.recovery import FailureBackoff, StepRecovery
from app_tier.sizing import HostResources, sized
from app_tier.task import Task
from app_tier.visibility import InFlightMessages, VisibilityExtender
from core.config import parse_config
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.packs import pack_object
from core.messages import CRASHED_ALONE, ClassificationResult, RequestMessage, Response, crashed_worker
from tests.conftest import shipped_values
from tests.support.clocks import ManualClock
from tests.support.memory_aws.s3 import MemorySource
from tests.support.memory_aws.sqs import VISIBILITY_SECONDS, MemorySQS
from tests.support.unsandboxed import central_crop
from tests.support.worker import (
    COLOURS,
    ColourEngine,
    ColourOpener,
    FakeBucket,
    PlayedNetworks,
    act_while_full,
    colour_bundle,
    colour_model,
    key_of,
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
MAX_LIVES = 200
DRAINED = "asked to drain"
MAX_ACTIONS = 100_000


class Crash(BaseException):
    """The worker's process is gone."""


class Violation(BaseException):
    """A rule was broken; the receiver and the stages, which go on after other errors, pass it on."""


class Network(ColourEngine):
    """Ends its process at a blue image, and the whole worker at a green one.

    Attributes:
        is_in_child: whether it has a process of its own.
    """

    def __init__(self, fleet: "Fleet", *, is_in_child: bool) -> None:
        super().__init__()
        self.fleet, self.is_in_child = fleet, is_in_child

    def infer(self, batch: NDArray[np.float32], possible: Possible | None = None) -> NDArray[np.float32]:
        found = {COLOURS[index] for index in self._brightest(batch) if index >= 0}
        if "green" in found or ("blue" in found and not self.is_in_child):
            self.fleet.deaths["green" if "green" in found else "blue"] += 1
            raise Crash
        if "blue" in found:
            raise NetworkEndedError("its process ended")
        self.fleet.classified += sum(self._brightest(batch) >= 0)
        return super().infer(batch, possible)


@dataclass
class Fleet:
    """Workers, one after the other.

    Args:
        seed: decides the order of actions.
        room: models that fit into a worker, which has two at most.
        load_share: probability that a load goes on before the pipeline does; 0: only if nothing else can go on.
        fifo: the kind of the queues.
        drains: after so many submissions the worker is asked to end.
        kills: after so many actions the worker is killed.

    Attributes:
        deaths: of workers, by cause.
        classified: images that a network has answered.
    """

    seed: int
    room: int = 2
    load_share: float = 0.1
    fifo: bool = False
    drains: Sequence[int] = ()
    kills: Sequence[int] = ()
    deaths: Counter[str] = field(default_factory=Counter)
    classified: int = 0

    def __post_init__(self) -> None:
        self.random, self.clock = Random(self.seed), ManualClock()
        self.requests = worker_queue(self.clock, fifo=self.fifo)
        self.requests.shuffle = self.random
        self.responses = worker_queue(self.clock, fifo=self.fifo)
        self.inputs, self.outputs = FakeBucket(), FakeBucket()
        self.actions = self.submissions = 0

    def submit(self, *models: str | None, colour: str = "red", count: int = 0) -> list[str]:
        """Ask for an image for each model, which `count` workers have received; return their ids."""
        return [self.submit_pack(model, [colour], count)[0] for model in models]

    def submit_pack(self, model: str | None, colours: Sequence[str], count: int = 0) -> list[str]:
        """Ask for the images of a pack, which `count` workers have received; return their ids."""
        images = [("png", picture(colour)) for colour in colours]
        own = {} if len(images) == 1 else {"extension": "tar", "sizes": tuple(len(data) for _, data in images)}
        wanted = None if model is None else requested(model, BUNDLES[model])
        request = new_request().model_copy(update={**own, "model": wanted})
        self.inputs.objects[key_of(request)] = bytes(pack_object(images, len(images)))
        send_requests(self.requests, [request])
        self.requests.messages[-1].receive_count = count
        return [ref.image_id for ref in request.refs]

    @property
    def results(self) -> dict[str, ClassificationResult]:
        found = [Response.from_json(body) for body in self.responses.bodies]
        return {result.image_id: result for response in found for result in response.results}

    @property
    def failed(self) -> set[str]:
        return {image for image, result in self.results.items() if result.status == "failed"}

    @property
    def messages(self) -> Counter[str]:
        """How many messages each pack had."""
        counts: Counter[str] = Counter()
        for body, count in self.requests.sent.items():
            counts[RequestMessage.from_json(body).pack_id] += count
        return counts

    def run(self) -> None:
        """Run one worker after the other until no request is left."""
        for _ in range(MAX_LIVES):
            worker = FleetWorker(self)
            try:
                worker.run()
            except Crash:
                self.clock.advance(self.random.choice([0.1, 12.0, 2 * VISIBILITY_SECONDS + 1]))
            if not self.requests.messages:
                assert not self.requests.dead_bodies
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
            requests,
            self.in_flight,
            VISIBILITY_SECONDS,
            900,
            self.lifetime.fail,
            clock,
            jitter=fleet.random.randint,
        )
        backoff = FailureBackoff(lambda *_: 0.0)
        recovery = StepRecovery(self.in_flight, self.extender, self.lifetime, backoff, clock, lambda _, most: most)
        opener = ColourOpener({**BUNDLES, "own": OWN}, bytes_each=1)
        opener.engines = {name: self._network() for name in [*BUNDLES, "own"]}
        opener.sizing = replace(SIZING, model_bytes=fleet.room)
        self.models = LoadedModels(
            colour_model(self._network(), OWN), opener, recovery, lambda load: self.loads.append(greenlet(load))
        )
        dead_letters = worker_queue(clock).queue()
        buckets = InputBucket(fleet.inputs), OutputBucket(fleet.outputs)
        services = Services(requests, dead_letters, fleet.responses.queue(), *buckets, MemorySource)
        self.pipeline = Pipeline(
            SIZING,
            services,
            Classifier("i-1", 3),
            self.models,
            CONFIG.web.image_limits,
            recovery,
            decoder=central_crop,
            isolated=PlayedNetworks(self._child),
        )
        act_while_full(self.pipeline._to_decode, lambda: self._step(is_after_fetch=True))
        self.receiver = Receiver(requests, dead_letters, recovery, self._submit, idle_seconds=5)
        self._wait_for_room = self.in_flight.wait_for_room
        self.in_flight.wait_for_room = self._act_until_room  # type: ignore[method-assign, assignment]
        self.in_flight.wait_until_unneeded = self._wait_for_turn  # type: ignore[method-assign, assignment]

    def _network(self) -> Network:
        return Network(self.fleet, is_in_child=False)

    def _child(self, _bundle: Bundle) -> Network:
        return Network(self.fleet, is_in_child=True)

    def run(self) -> None:
        receive = MemorySQS.receive_message

        def poll(**arguments: int) -> dict[str, Any]:
            self._count()
            self.extender.check()
            self._act_some()
            while not self.fleet.requests.visible and self._act():
                pass
            return receive(self.fleet.requests, **arguments)

        self.fleet.requests.receive_message = poll  # type: ignore[method-assign]
        self.receiver.run()
        assert self.lifetime.status == 0, self.lifetime.reason
        if self.lifetime.reason == DRAINED:
            self.extender.give_back(self.in_flight.everything())
        assert len(self.in_flight) == 0, "a worker that has ended has nothing in flight"

    def _submit(self, task: Task[None]) -> None:
        self.pipeline.submit(task)
        self.fleet.submissions += 1
        if self.fleet.submissions in self.fleet.drains:
            self.lifetime.end(DRAINED)
        self._check()
        self._act_some()

    # The waits of the receiver and of loads, in which everything else goes on

    def _act_until_room(self, most: int) -> int:
        while not (room := self._wait_for_room(most, 0)) and not self.lifetime.over:
            assert self._act(), "there is no room, and nothing goes on"
        return room

    def _wait_for_turn(self, *_: object) -> None:
        self.fleet.clock.advance(1)
        self.extender.check()  # which has a thread of its own
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

    def _step(self, *, is_after_fetch: bool = False) -> bool:
        waiting, batched = self.pipeline._to_decode, self.pipeline._to_classify
        # The others have room for all.
        full = {waiting} if len(batched) >= batched._bound else set[Any]()
        if is_after_fetch or len(waiting) >= waiting._bound:
            full |= {self.pipeline._to_fetch, self.pipeline._to_read}
        inboxes = ((stage, stage.stage.inbox) for stage in self.pipeline._stages)
        ready = [stage for stage, inbox in inboxes if len(inbox) and inbox not in full]
        if not ready:
            return False
        self._count()
        stage = self.fleet.random.choice(ready)
        stage.process(stage.next_batch())
        self._check()
        return True

    def _count(self) -> None:
        self.fleet.actions += 1
        if self.fleet.actions in self.fleet.kills:
            self.fleet.deaths["killed"] += 1
            raise Crash
        if self.fleet.actions > MAX_ACTIONS:
            raise Violation("images go round and round")

    def _check(self) -> None:
        inboxes = [each.stage.inbox for each in self.pipeline._stages]
        tasks = [task for inbox in inboxes for task in (*inbox._first, *inbox._items)]
        in_stages, loaded = [task.delivery for task in tasks], self.models.digests
        if len(loaded) > min(2, self.fleet.room):
            raise Violation("more models are loaded than there is room for")
        if not {task.assigned.bundle.digest for task in tasks if task.assigned is not None} <= set(loaded):
            raise Violation("a model was released that an image needs")
        started = [entry.delivery for entry in self.in_flight._entries.values() if entry.is_started]
        if not {each.receipt for each in in_stages} <= {each.receipt for each in started}:
            raise Violation("an image is in a stage and does not count as started")
        batched = self.pipeline._to_classify
        if any(task.delivery.is_suspect for task in (*batched._first, *batched._items)):
            raise Violation("a redelivered image is in a batch")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visibility, "MORE_ROOM_SECONDS", 0)
        patch.setattr("app_tier.pipeline.RESPONSE_WAIT_SECONDS", 0)
        yield


HISTORIES = 200


def play(seed: int) -> None:
    """Play a history of up to 15 poison images in packs, two models, drains and kills; check what must hold."""
    random = Random(seed)
    models = [None, "a"][: random.randint(1, 2)]
    poison, good = set[str](), set[str]()
    colours = ["blue"] * random.randint(0, 15) + ["red"] * random.randint(2, 40)
    if random.random() < 0.8:
        random.shuffle(colours)
    fleet = Fleet(
        random.randrange(10**6),
        room=random.randint(1, 2),
        load_share=random.choice([0.0, 0.1, 0.5]),
        fifo=random.random() < 0.3,
        drains=random.sample(range(1, 80), random.randint(0, 2)),
        kills=random.sample(range(1, 400), random.randint(0, 2)),
    )
    most = random.choice([1, 8])
    while colours:
        size = random.randint(1, most)
        some, colours = colours[:size], colours[size:]
        for image, colour in zip(fleet.submit_pack(random.choice(models), some), some, strict=True):
            (poison if colour == "blue" else good).add(image)
    fleet.run()
    assert fleet.results.keys() == poison | good
    assert fleet.failed == poison
    assert {fleet.results[image].error for image in poison} <= {CRASHED_ALONE}
    assert fleet.deaths["blue"] <= len(poison)
    assert max(fleet.messages.values()) <= 3
    if not fleet.deaths:
        assert {fleet.results[image].attempts for image in good} == {1}


@pytest.mark.parametrize("first", range(0, HISTORIES, 50))
def test_only_poison_images_fail_for_any_mix_of_models_loads_and_ends_of_workers(first: int) -> None:
    """`python -m tests.unit.app_tier.test_isolation 2000` plays more histories."""
    for seed in range(first, first + 50):
        play(seed)


GOOD = ["b", "a", "b", "a", "a", "b", None, "b", None, "a", "a", "a"]
BAD = ["a", "a", "a", None, None]


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("order", ["poison last", "poison first", "alternating", *range(20)])
def test_five_poison_images_take_no_innocent_one_along_in_any_order(order: str | int, count: int) -> None:
    images = [(model, "red") for model in GOOD] + [(model, "blue") for model in BAD]
    match order:
        case "poison first":
            images.reverse()
        case "alternating":
            pairs = zip(images[:5], images[12:], strict=True)
            images = [*chain.from_iterable(pairs), *images[5:12]]
        case int():
            Random(order).shuffle(images)
    fleet = Fleet(100_000 if isinstance(order, str) else order, load_share=0.0, drains=[1])
    if isinstance(order, str):
        fleet.requests.shuffle = None
    poison = {image for model, colour in images for image in fleet.submit(model, colour=colour, count=count)
              if colour == "blue"}  # fmt: skip
    fleet.run()
    assert (len(fleet.results), fleet.failed) == (len(images), poison)
    assert fleet.deaths["blue"] <= len(poison)


@pytest.mark.parametrize("count", [0, 1, 50])
@pytest.mark.parametrize("seed", range(10))
def test_an_image_that_ends_whole_workers_fails_alone_and_at_its_sixth_receive(seed: int, count: int) -> None:
    """Lost replies are receives, too: some images begin with 50 of them."""
    fleet = Fleet(seed)
    mates = [*fleet.submit(*[None] * 12, count=count), *fleet.submit(*[None] * 8)]
    first, poison_of_pack, *rest = fleet.submit_pack(None, ["red", "green", "red", "red"], count)
    mates += [first, *rest]
    poison = [poison_of_pack, *fleet.submit(None, None, colour="green")]
    fleet.run()
    assert fleet.results.keys() == {*mates, *poison}
    assert {fleet.results[image].error for image in poison} == {crashed_worker(MAX_TRIES)}
    assert {fleet.results[image].status for image in mates} == {"done"}
    assert fleet.deaths["green"] <= len(poison) * (UNRECORDED_RECEIVES + MAX_TRIES)


@pytest.mark.parametrize(("owner", "step"), [(InputBucket, "requested"), (FleetWorker, "_child")])
def test_a_worker_that_ends_before_it_tries_an_image_is_no_evidence_against_it(
    owner: type, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may end while it reads the image, or while a child starts."""
    fleet, do = Fleet(0), getattr(owner, step)

    def killed(*arguments: object) -> object:
        if fleet.deaths["killed"] == 2 * MAX_TRIES:
            return do(*arguments)
        fleet.deaths["killed"] += 1
        raise Crash

    monkeypatch.setattr(owner, step, killed)
    (image,) = fleet.submit(None, count=UNRECORDED_RECEIVES)
    fleet.run()
    assert (fleet.results[image].status, fleet.deaths["killed"]) == ("done", 2 * MAX_TRIES)


def test_the_answers_of_a_redelivered_pack_are_stored_each_second_and_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, infer = Fleet(0), Network.infer

    def killed(network: Network, *arguments: Any) -> NDArray[np.float32]:
        fleet.clock.advance(STORE_SECONDS)
        if fleet.classified == 5 and not fleet.deaths:
            fleet.deaths["killed"] += 1
            raise Crash
        return infer(network, *arguments)

    monkeypatch.setattr(Network, "infer", killed)
    images = fleet.submit_pack(None, ["red"] * 8, count=1)
    fleet.run()
    assert [fleet.results[image].label for image in images] == ["red"] * 8
    assert (fleet.classified, fleet.deaths["killed"]) == (8, 1)
    assert [fleet.results[image].repeated for image in images] == [True] * 5 + [False] * 3


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
def test_an_image_that_may_have_ended_a_worker_stays_alone_when_it_is_given_back(fifo: bool) -> None:
    fleet = Fleet(0, fifo=fifo, drains=[1, 5, 9])
    poison = fleet.submit(*[None] * 10, colour="blue", count=1)
    fleet.run()
    assert {fleet.results[image].error for image in poison} == {CRASHED_ALONE}
    assert max(fleet.messages.values()) > 1
    assert fleet.deaths == {}


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


if __name__ == "__main__":
    import sys

    visibility.MORE_ROOM_SECONDS = 0
    for number in range(int(sys.argv[1])):
        play(number)
