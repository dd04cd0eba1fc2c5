"""Several models in one worker: what is loaded, what waits, what is released, and what follows from a failed load."""

import errno
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from app_tier import models
from app_tier.bundle import DEMO_BUNDLE, EngineError, load_bundle
from app_tier.lifecycle import Lifetime
from app_tier.models import (
    FIRST_PAUSE_SECONDS,
    MAX_BREAKDOWNS,
    MAX_PAUSE_SECONDS,
    MAX_REFUSALS,
    LoadedModels,
    LoadFault,
    ModelOpener,
    ModelPlace,
    classify_load_error,
)
from app_tier.receiver import parse_messages
from app_tier.recovery import At, FailureBackoff, Fault, StepRecovery
from app_tier.sizing import HostResources, sized
from app_tier.task import Task, new_task
from app_tier.visibility import InFlightMessages, VisibilityExtender
from core.bundle_facts import MANIFEST_NAME
from core.bundle_manifest import BundleDigestError, BundleFormatError, BundleMissingError
from core.config import parse_config
from core.messages import MODEL_BROKEN, MODEL_GONE, MODEL_REFUSED, Failure, RequestedModel
from tests.conftest import shipped_values
from tests.support.clocks import ManualClock
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.sqs import VISIBILITY_SECONDS, MemorySQS
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, wait_until
from tests.support.worker import (
    ColourOpener,
    colour_bundle,
    colour_model,
    new_request,
    requested,
    send_requests,
    worker_queue,
)

OWN = colour_bundle("own")
BUNDLES = {name: colour_bundle(name) for name in "abcdefgh"}
CONFIG = parse_config(shipped_values())
MACHINE = HostResources(cores=2, memory_bytes=2**32)


@dataclass
class Bench:
    """The models of a worker over a request queue in memory. A load runs when the test says so, unless `in_threads`.

    Attributes:
        room: models that fit.
        resumed: images that have waited for their model.
        refused: images that failed.
    """

    room: int = 1
    fifo: bool = False
    in_threads: bool = False
    clock: ManualClock = field(default_factory=ManualClock)
    resumed: list[Task[None]] = field(default_factory=list)
    refused: list[tuple[Task[object], Failure]] = field(default_factory=list)
    loads: list[Callable[[], None]] = field(default_factory=list)
    queue: MemorySQS | None = None

    def __post_init__(self) -> None:
        self.sqs = self.queue or worker_queue(self.clock, fifo=self.fifo)
        self.in_flight = InFlightMessages(100, VISIBILITY_SECONDS, self.clock)
        self.lifetime = Lifetime(on_end=self.in_flight.close)
        self.extender = VisibilityExtender(
            self.sqs.queue(),
            self.in_flight,
            VISIBILITY_SECONDS,
            900,
            self.lifetime.fail,
            self.clock,
        )
        recovery = StepRecovery(
            self.in_flight, self.extender, self.lifetime, FailureBackoff(), self.clock, lambda _least, most: most
        )
        self.opener = ColourOpener({**BUNDLES, "own": OWN}, bytes_each=1)
        self.opener.sizing = replace(sized(CONFIG.worker, MACHINE, input_size=8), model_bytes=self.room)
        start = None if self.in_threads else self.loads.append
        self.models = LoadedModels(colour_model(bundle=OWN), self.opener, recovery, start_thread=start)
        self.models.resume = self.resumed.append
        self.models.refuse = lambda task, failure: self.refused.append((task, failure))

    def receive(self, *names: str | None) -> list[Task[None]]:
        """Return an image in flight for each model; None for the worker's own."""
        requests = [
            new_request().model_copy(update={"model": None if name is None else requested(name, BUNDLES[name])})
            for name in names
        ]
        send_requests(self.sqs, requests)
        return self.redeliver()

    def redeliver(self) -> list[Task[None]]:
        """Return the images of visible requests, in flight."""
        deliveries = self.in_flight.hold(parse_messages(self.sqs.queue().receive(10, 0))[0], self.clock())
        return [new_task(each) for each in deliveries]

    def admit(self, *names: str | None) -> list[Task[None] | None]:
        return [self.models.admit(task) for task in self.receive(*names)]

    def load(self) -> None:
        """Run the threads that were started."""
        while self.loads:
            self.loads.pop(0)()

    def finish(self) -> None:
        """End every image that is in flight."""
        self.in_flight.remove(self.in_flight.everything())
        self.sqs.messages.clear()

    @property
    def names(self) -> list[str]:
        """Names of the loaded models."""
        by_digest = {bundle.digest: name for name, bundle in [*BUNDLES.items(), ("own", OWN)]}
        return [by_digest[digest] for digest in self.models.digests]

    @property
    def receives(self) -> list[int]:
        """How often each visible message was received."""
        return [message.receive_count for message in self.sqs.visible]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def models_of(tasks: list[Task[None]]) -> list[str]:
    return [task.model.bundle.name for task in tasks]


def test_a_request_with_the_digest_of_the_own_bundle_is_admitted_for_any_place(bench: Bench) -> None:
    (task,) = bench.receive(None)
    model = RequestedModel(digest=OWN.digest, place="s3://elsewhere/own")
    request = task.delivery.request.model_copy(update={"model": model})
    sent = Task(type(task.delivery)(task.delivery.received, request), None, {})
    assert bench.models.admit(sent) is not None


def test_a_load_delays_no_image_of_a_loaded_model_and_others_follow_it() -> None:
    bench = Bench(room=3, in_threads=True)
    hangs, honest = threading.Event(), bench.opener.fetch

    def fetch(wanted: ModelPlace) -> object:
        hangs.wait(DEADLINE_SECONDS)
        return honest(wanted)

    bench.opener.fetch = fetch  # type: ignore[method-assign, assignment]
    assert bench.admit("a", "b") == [None, None]
    (own,) = bench.admit(None)
    assert own is not None
    hangs.set()
    wait_until(lambda: models_of(bench.resumed) == ["a"], "the first model is loaded")
    bench.in_flight.remove([bench.resumed[0].delivery])
    wait_until(lambda: models_of(bench.resumed) == ["a", "b"], "the second model replaces it")
    wait_until(lambda: not bench.models.is_loading, "the thread has ended")
    assert bench.names == ["own", "b"]


@pytest.mark.parametrize(
    ("megabytes", "loaded"), [((1, 1, 1), "own c"), ((1, 2, 1), "own c"), ((2, 2, 1), "own c"), ((3, 3, 3), "c")]
)
def test_two_models_at_most_are_loaded_and_no_more_than_fit(megabytes: tuple[int, ...], loaded: str) -> None:
    bench = Bench(room=3)
    sizes = dict(zip(("own", "b", "c"), megabytes, strict=True))
    bench.opener.memory_bytes = lambda bundle: sizes[bundle.name]  # type: ignore[method-assign]
    for name in ("b", None, "c", "b", None, "c"):
        bench.admit(name)
        bench.load()
        assert len(bench.names) <= 2
        assert len(bench.names) == 1 or sum(map(sizes.__getitem__, bench.names)) <= bench.room
        bench.finish()
    assert sorted(bench.names, reverse=True) == loaded.split()


def test_two_models_with_room_for_one_take_turns_though_each_is_needed_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "TURN_SECONDS", 0)
    bench = Bench(room=1, in_threads=True)
    needed: str | None = None
    for turn in range(4):
        (first,) = bench.admit(needed) if turn == 0 else [bench.resumed[-1]]
        assert first is not None
        other = "a" if needed is None else None
        assert bench.admit(other) == [None]
        # The first model gets no further images, although it is still loaded, since another one waits for its room.
        wait_until(lambda: bench.models._closing, "a load waits for room")
        before = len(bench.resumed)
        assert bench.admit(needed) == [None]
        bench.in_flight.remove([first.delivery])
        wait_until(lambda: len(bench.resumed) > before, "the other model has its turn")  # noqa: B023 (awaited here)
        assert bench.resumed[before].model.bundle.name == (other or "own")
        # The images of the first model have the next turn.
        wait_until(lambda: bench.models._closing, "they wait for room")
        bench.in_flight.remove([bench.resumed[before].delivery])
        wait_until(lambda: len(bench.resumed) > before + 1, "they have their turn")  # noqa: B023 (awaited here)
        assert bench.resumed[-1].model.bundle.name == (needed or "own")
    bench.finish()
    wait_until(lambda: not bench.models.is_loading, "every thread has ended")


def test_an_image_with_a_fetch_that_is_tried_again_holds_no_model_while_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "TURN_SECONDS", 0)
    bench = Bench(room=1, in_threads=True)
    (task,) = bench.receive(None)
    assert bench.models.admit(task) is not None  # and its fetch fails
    bench.admit("a")
    wait_until(lambda: bench.models._closing, "a load waits for room")
    assert bench.models.admit(task) is None
    wait_until(lambda: models_of(bench.resumed)[:1] == ["a"], "the other model is loaded")
    bench.in_flight.remove([bench.resumed[0].delivery])
    wait_until(lambda: models_of(bench.resumed) == ["a", "own"], "the image goes on")


# Loads that fail


def test_images_of_a_model_that_is_gone_fail_and_it_is_not_asked_for_by_each(bench: Bench) -> None:
    del bench.opener.bundles["a"]
    bench.admit("a", "a")
    bench.load()
    bench.admit("a")
    assert [failure for _, failure in bench.refused] == [MODEL_GONE] * 3
    assert bench.opener.fetches == ["a"]
    bench.opener.bundles["a"] = BUNDLES["a"]
    bench.clock.advance(FIRST_PAUSE_SECONDS + 1)
    bench.admit("a")
    bench.load()
    assert models_of(bench.resumed) == ["a"]


@pytest.mark.parametrize("fifo", [False, True])
@pytest.mark.parametrize(("code", "seconds"), [("KMS.DisabledException", 3_600), ("SlowDown", None)])
def test_images_fail_after_an_hour_of_refusals_by_any_worker_but_not_in_an_outage(
    fifo: bool, code: str, seconds: int | None
) -> None:
    bench = Bench(fifo=fifo)
    send_requests(bench.sqs, [new_request().model_copy(update={"model": requested("a", BUNDLES["a"])})])
    began = bench.clock()
    for _ in range(10 * MAX_REFUSALS):
        worker = Bench(clock=bench.clock, queue=bench.sqs)  # which has met no refusal yet
        worker.opener.errors["a"] = [refusal(code)]
        [task] = worker.redeliver()
        worker.models.admit(task)
        worker.load()
        if worker.refused:
            break
        while not bench.sqs.visible:
            bench.clock.advance(1)
            worker.extender.check()
    assert [failure for _, failure in worker.refused] == ([] if seconds is None else [MODEL_REFUSED])
    assert task.delivery.receives == 1
    if seconds is not None:
        assert task.delivery.request.refusals == MAX_REFUSALS - 1
        assert seconds < bench.clock() - began < 1.1 * seconds


def test_images_in_flight_during_a_pause_do_not_block_images_of_other_models() -> None:
    bench = Bench(fifo=True)
    bench.opener.errors["a"] = [refusal("SlowDown")]
    for _ in range(bench.in_flight.capacity // 10 + 5):
        bench.admit(*"a" * 10)
        bench.load()
    assert len(bench.in_flight) > bench.in_flight.capacity
    assert bench.in_flight.wait_for_room(10, NEVER_SECONDS) == 10
    assert bench.admit(None) != [None]


def test_images_fail_by_their_model_after_five_loads_that_no_engine_survives(bench: Bench) -> None:
    bench.opener.errors["a"] = [EngineError("it ends the process that loads it")]
    bench.admit("a")
    for breakdowns in range(1, MAX_BREAKDOWNS):
        bench.load()
        bench.clock.advance(MAX_PAUSE_SECONDS)
        assert (bench.refused, bench.receives) == ([], [0])
        [task] = bench.redeliver()
        assert task.delivery.request.refusals == breakdowns
        bench.models.admit(task)
    bench.load()
    assert [failure for _, failure in bench.refused] == [MODEL_BROKEN]
    assert not bench.lifetime.over


def test_a_worker_reports_the_model_that_it_cannot_load_until_it_can_or_nobody_wants_it(bench: Bench) -> None:
    def reported() -> str | None:
        return bench.models.failed_digest

    assert reported() is None
    for _ in range(2):
        bench.opener.errors["a"] = [EngineError("cannot run")]
        bench.admit("a")
        bench.load()
        assert reported() == BUNDLES["a"].digest
        bench.clock.advance(FIRST_PAUSE_SECONDS + MAX_PAUSE_SECONDS - 1)
    bench.opener.errors.clear()
    assert reported() == BUNDLES["a"].digest
    bench.clock.advance(MAX_PAUSE_SECONDS)
    assert reported() is None
    bench.opener.errors["a"] = [refusal("SlowDown")]
    bench.admit("a")
    bench.load()
    assert reported() is None, "S3 is slow for every model"


@pytest.mark.parametrize("fifo", [False, True])
def test_images_that_arrive_in_the_pause_after_a_failed_load_are_given_back(fifo: bool) -> None:
    bench = Bench(fifo=fifo)
    bench.opener.errors["a"] = [EngineError("cannot run")]
    for failures in range(1, 9):
        bench.admit("a")  # the one with which the load is tried
        bench.load()
        assert len(bench.opener.fetches) == failures
        bench.finish()
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), MAX_PAUSE_SECONDS)
        bench.admit("a", "a")
        for _ in range(int(pause)):
            assert bench.sqs.visible == [], "no worker receives them in the pause"
            bench.extender.check()
            bench.clock.advance(1)
        bench.extender.check()
        assert (bench.receives, len(bench.in_flight)) == ([0, 0], 0)
        bench.sqs.messages.clear()


def test_a_worker_that_ends_gives_back_at_once_what_waits_for_the_end_of_a_pause() -> None:
    bench = Bench(fifo=True)
    bench.opener.errors["a"] = [refusal("SlowDown")]
    bench.admit("a")
    bench.load()
    bench.lifetime.end("Spot notice: terminate")
    bench.extender.give_back(bench.in_flight.outside())
    assert (bench.receives, len(bench.in_flight)) == ([0], 0)
    bench.admit("a")
    assert (bench.receives, len(bench.in_flight)) == ([0, 0], 0), "what arrives in the pause as well"


def test_a_hanging_load_ends_the_worker_while_any_image_waits() -> None:
    bench = Bench()
    honest = bench.opener.fetch

    def hang(wanted: ModelPlace) -> object:
        for each in bench.in_flight.everything():
            bench.extender.give_back([each])
        bench.sqs.messages.clear()
        bench.clock.advance(901)
        bench.extender.check()
        assert not bench.lifetime.over, "no image waits for it"
        bench.admit("a", "b")  # an image of another model waits behind it, too
        bench.extender.check()
        assert "a thread hangs" in bench.lifetime.reason
        return honest(wanted)

    bench.opener.fetch = hang  # type: ignore[method-assign, assignment]
    bench.admit("a")
    bench.load()
    bench.extender.give_back(bench.in_flight.outside())
    bench.clock.advance(VISIBILITY_SECONDS)
    assert sorted(bench.receives) == [0, 1], "one of them may be the cause"


@pytest.mark.parametrize("fifo", [False, True])
def test_row_10_a_worker_without_room_for_a_model_gives_back_its_images_and_ends(fifo: bool) -> None:
    bench = Bench(fifo=fifo)
    full = OSError(errno.ENOSPC, "No space left on device")
    bench.opener.errors["a"] = [with_cause(BundleFormatError("cannot be kept"), full)]
    bench.admit("a", "a")
    bench.load()
    assert bench.lifetime.status == 1
    assert "no room left" in bench.lifetime.reason
    assert (bench.refused, bench.receives, len(bench.in_flight)) == ([], [0, 0], 0)


def test_a_worker_ends_when_its_own_bundle_has_been_replaced_and_fails_no_image(bench: Bench) -> None:
    bench.admit("a")
    bench.load()
    bench.finish()
    del bench.opener.bundles["own"]
    bench.admit(None)
    bench.load()
    assert bench.lifetime.status == 1
    assert "its own model is gone" in bench.lifetime.reason
    bench.clock.advance(VISIBILITY_SECONDS / 2)
    assert (bench.refused, bench.receives) == ([], [0])


def test_without_another_thread_the_images_are_given_back(bench: Bench) -> None:
    def no_thread(_load: object) -> None:
        raise RuntimeError("can't start new thread")

    bench.models._start_thread = no_thread
    bench.admit("a")
    bench.clock.advance(MAX_PAUSE_SECONDS)
    assert bench.receives == [0]
    assert not bench.models.is_loading


def test_a_load_that_waits_for_room_ends_with_the_worker() -> None:
    bench = Bench(room=1, in_threads=True)
    bench.admit(None)
    bench.admit("a")
    wait_until(lambda: bench.opener.fetches == ["a"], "the load has begun")
    bench.lifetime.end("SIGTERM")
    wait_until(lambda: not bench.models.is_loading, "the thread has ended")
    assert (bench.names, bench.resumed) == (["own"], [])


def test_a_model_with_a_failed_engine_is_loaded_anew_and_the_workers_own_is_not() -> None:
    bench = Bench(room=2)
    bench.admit("a")
    bench.load()
    assert bench.models.release_broken(bench.resumed[0].model)
    assert bench.names == ["own"]
    bench.admit("a")
    bench.load()
    assert bench.opener.loads == ["a", "a"]
    (own,) = bench.admit(None)
    assert own is not None
    assert not bench.models.release_broken(own.model)
    assert "own" in bench.names


def with_cause(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


HERE, IN_S3 = "/models/a", "s3://bucket/models/a"


@pytest.mark.parametrize(
    ("error", "place", "fault"),
    [
        (BundleMissingError("none"), IN_S3, LoadFault.GONE),
        (BundleDigestError("another"), IN_S3, LoadFault.GONE),
        (with_cause(BundleMissingError("none"), refusal("NoSuchKey")), IN_S3, LoadFault.GONE),
        (BundleMissingError("names no bundle"), "s3://", LoadFault.GONE),
        (with_cause(BundleDigestError("no file"), FileNotFoundError()), HERE, LoadFault.GONE),
        (with_cause(BundleMissingError("no folder"), NotADirectoryError()), HERE, LoadFault.GONE),
        (with_cause(BundleDigestError("no file in the cache"), FileNotFoundError()), IN_S3, LoadFault.SYSTEM),
        (with_cause(BundleFormatError("no cache"), NotADirectoryError()), IN_S3, LoadFault.SYSTEM),
        (with_cause(BundleDigestError("unreadable"), PermissionError()), HERE, LoadFault.SYSTEM),
        (refusal("SlowDown"), IN_S3, LoadFault.SYSTEM),
        (ReadTimeoutError(endpoint_url="http://s3"), IN_S3, LoadFault.SYSTEM),
        (with_cause(BundleFormatError("no more"), ReadTimeoutError(endpoint_url="")), IN_S3, LoadFault.SYSTEM),
        (refusal("AccessDenied"), IN_S3, LoadFault.REFUSED),
        (refusal("NoSuchBucket"), IN_S3, LoadFault.REFUSED),
        (refusal("KMS.DisabledException"), IN_S3, LoadFault.REFUSED),
        (EndpointConnectionError(endpoint_url="http://s3"), IN_S3, LoadFault.SYSTEM),
        (EngineError("cannot run"), IN_S3, LoadFault.BROKEN),
        (with_cause(EngineError("no room"), OSError(errno.ENOSPC, "No space left")), IN_S3, LoadFault.BROKEN),
        (RuntimeError("odd"), IN_S3, LoadFault.BROKEN),
    ],
)
def test_only_a_bundle_that_is_not_there_fails_images(error: Exception, place: str, fault: LoadFault) -> None:
    assert classify_load_error(error, place) is fault


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOSPC, "No space left"),
        with_cause(BundleFormatError("cannot be kept"), OSError(errno.ENOSPC, "No space left")),
        NoCredentialsError(),
        refusal("InvalidAccessKeyId"),
        refusal("RequestTimeTooSkewed"),
    ],
)
@pytest.mark.parametrize("place", [HERE, IN_S3])
def test_a_fault_of_the_machine_is_no_fault_of_the_place(error: Exception, place: str) -> None:
    fault = classify_load_error(error, place)
    assert isinstance(fault, Fault)
    assert fault.at is At.WORKER


# Bundles on this machine


@pytest.fixture
def opener() -> ModelOpener:
    return ModelOpener(CONFIG, sized(CONFIG.worker, MACHINE, input_size=32))


def copy_of_demo(folder: Path, **changes: object) -> Path:
    """Return a copy of the demo bundle with other statements in its manifest."""
    shutil.copytree(DEMO_BUNDLE, folder)
    manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    (folder / MANIFEST_NAME).write_text(json.dumps({**manifest, "digest": None, **changes}), encoding="utf-8")
    return folder


def test_a_bundle_with_another_digest_or_none_is_not_opened(opener: ModelOpener, tmp_path: Path) -> None:
    place = str(copy_of_demo(tmp_path / "copy", architecture="another"))
    digest = load_bundle(place).digest
    assert opener.fetch(ModelPlace(digest, place)).digest == digest
    with pytest.raises(BundleDigestError, match=f"{digest}, not {'0' * 64}"):
        opener.fetch(ModelPlace("0" * 64, place))
    with pytest.raises(BundleMissingError):
        opener.fetch(ModelPlace(digest, str(tmp_path / "nowhere")))


@pytest.mark.parametrize("place", ["{0.input_bucket}/models/a", "{0.output_bucket}/results/a", "{0.output_bucket}/a"])
def test_a_bundle_among_images_and_results_is_not_opened(opener: ModelOpener, place: str) -> None:
    with pytest.raises(BundleMissingError, match="is no place for a bundle"):
        opener.fetch(ModelPlace("0" * 64, f"s3://{place.format(CONFIG.names)}"))


def test_the_memory_of_a_model_grows_with_its_weights_and_its_input(opener: ModelOpener, tmp_path: Path) -> None:
    demo = load_bundle()
    assert opener.memory_bytes(demo) > demo.path("model.bin").stat().st_size
    larger = {"preprocess": {**demo.manifest.preprocess.model_dump(), "resize": 64, "crop": 64}}
    assert opener.memory_bytes(load_bundle(copy_of_demo(tmp_path / "large", **larger))) > opener.memory_bytes(demo)
    exact = load_bundle(copy_of_demo(tmp_path / "exact", precision="exact", margin=1.0))
    assert opener.memory_bytes(exact) > opener.memory_bytes(demo)


def test_only_waiting_images_fail_when_their_model_is_gone_and_count_as_started() -> None:
    bench = Bench(room=5)
    bench.opener.bundles.pop("a")
    bench.admit("a")
    bench.extender.give_back(bench.in_flight.outside())
    bench.load()
    assert (bench.refused, len(bench.in_flight), bench.receives) == ([], 0, [0])
    bench.sqs.messages.clear()
    bench.clock.advance(MAX_PAUSE_SECONDS)
    bench.admit("a")
    bench.load()
    assert len(bench.refused) == 1
    assert bench.in_flight.started == 1
