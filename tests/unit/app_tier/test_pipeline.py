"""The pipeline: channels, stages, batches, and the steps that fetch images and publish results."""

import _thread
import threading
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app_tier.lifecycle import Lifetime
from app_tier.recovery import FailureBackoff, StepRecovery
from app_tier.stages import Channel, ChannelClosedError, Stage, StageThreads
from app_tier.storage import PackReader, answered_before, store
from app_tier.task import Task, new_task, refuse
from app_tier.visibility import InFlightMessages, VisibilityExtender
from core.images import ImageLimits, ImageRejectedError
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.keys import output_key
from core.messages import (
    ClassificationResult,
    Failure,
    Prediction,
    RequestMessage,
    Response,
    StoredResults,
    response_within,
)
from tests.support.clocks import ManualClock
from tests.support.memory_aws.s3 import MemorySource
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS
from tests.support.worker import FakeBucket, deliveries, delivery, key_of, new_request, worker_queue


@given(st.lists(st.sampled_from(["put", "put first", "get", "drain", "close"]), max_size=30))
@example(["put", "put first", "put first", "get", "get", "get"])
def test_a_channel_is_a_bounded_queue_that_accepts_nothing_once_it_is_closed(calls: list[str]) -> None:
    with_priority = {number for number, call in enumerate(calls) if call == "put first"}
    channel: Channel[int] = Channel(3, with_priority.__contains__)
    first, waiting, is_closed, has_overtaken = list[int](), list[int](), False, False
    for number, call in enumerate(calls):
        match call:
            case "put" | "put first" if is_closed:
                with pytest.raises(ChannelClosedError):
                    channel.enqueue(number)
            case "put" if len(waiting) < 3:  # otherwise it would wait
                channel.enqueue(number)
                waiting.append(number)
            case "put first":
                channel.enqueue(number)
                first.append(number)
            case "get":
                lane = waiting if has_overtaken and waiting else first or waiting
                if lane:
                    has_overtaken = lane is first
                assert channel.dequeue(0) == (lane.pop(0) if lane else None)
            case "drain":
                assert channel.drain() == first + waiting
                first, waiting = [], []
            case "close":
                channel.close()
                is_closed = True
        assert len(channel) == len(first + waiting)


def stage_threads(tasks: Sequence[Task[None]], work: Callable[[Sequence[Task[None]]], None]) -> StageThreads[None]:
    """Return up to three threads that do `work` for `tasks`."""
    in_flight = InFlightMessages(100, 30)
    extender = VisibilityExtender(worker_queue(ManualClock()).queue(), in_flight, 30, 900, pytest.fail)
    inbox: Channel[Task[None]] = Channel(len(tasks))
    for task in tasks:
        inbox.enqueue(task)
    recovery = StepRecovery(in_flight, extender, Lifetime(), FailureBackoff())
    return StageThreads(Stage("test", 3, inbox, work), lambda *_: None, lambda _: None, recovery)


@pytest.mark.parametrize(("items", "at_once"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_a_stage_works_on_as_many_items_at_once_as_it_has_threads(items: int, at_once: int) -> None:
    tasks, done = [new_task(each) for each in deliveries(items)], list[Task[None]]()
    working, let_go = threading.Semaphore(0), threading.Event()

    def work(some: Sequence[Task[None]]) -> None:
        working.release()
        let_go.wait(DEADLINE_SECONDS)
        done.extend(some)

    stage = stage_threads(tasks, work)
    stage.start()
    assert all(working.acquire(timeout=DEADLINE_SECONDS) for _ in range(at_once))
    assert not working.acquire(blocking=False)
    let_go.set()
    assert stage.stop(DEADLINE_SECONDS)
    assert sorted(done, key=tasks.index) == tasks


def no_thread_left(_call: object, _args: object) -> NoReturn:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("start_next", [no_thread_left, lambda _call, _args: 0], ids=["none left", "it never begins"])
def test_a_stage_goes_on_with_fewer_threads_if_the_next_does_not_start(
    start_next: Callable[[object, object], int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tasks, done = [new_task(each) for each in deliveries(3)], list[Task[None]]()
    stage, start, starts = stage_threads(tasks, done.extend), _thread.start_new_thread, count()

    def start_first(call: Callable[[], object], args: tuple[()]) -> int:
        if next(starts) == 0:
            return start(call, args)
        monkeypatch.setattr("services.threads.BEGIN_SECONDS", 0.0)
        return start_next(call, args)

    monkeypatch.setattr("_thread.start_new_thread", start_first)
    stage.start()
    assert stage.stop(DEADLINE_SECONDS)
    assert done == tasks
    assert "a stage has fewer threads" in caplog.text


def test_a_stage_that_hangs_is_reported_and_not_waited_for() -> None:
    let_go = threading.Event()

    def work(_: object) -> None:
        let_go.wait(DEADLINE_SECONDS)

    stage = stage_threads([new_task(delivery())], work)
    stage.start()
    assert not stage.stop(0.01)
    let_go.set()
    assert stage.stop(DEADLINE_SECONDS)


class TimedChannel(Channel[int]):
    """Each wait takes its time on a clock; items arrive at given moments."""

    def __init__(self, clock: ManualClock, arrivals: dict[int, float]) -> None:
        super().__init__(100)
        self._clock, self._arrivals = clock, arrivals
        self.waits: list[float | None] = []

    def dequeue(self, wait_seconds: float | None = None) -> int | None:
        self.waits.append(wait_seconds)
        for number, at in self._arrivals.items():
            if wait_seconds is None or at <= self._clock() + wait_seconds:
                self._clock.now = max(self._clock.now, at)
                del self._arrivals[number]
                return number
        self._clock.advance(wait_seconds or 0)
        return None


def always(_: int) -> bool:
    return True


def test_a_full_batch_does_not_wait() -> None:
    clock = ManualClock(0)
    channel = TimedChannel(clock, {1: 0, 2: 0, 3: 0})
    assert channel.dequeue_batch(2, 5.0, always, clock) == [1, 2]
    assert clock.now == 0


def test_the_deadline_is_that_of_the_first_item_however_many_follow() -> None:
    clock = ManualClock(0)
    channel = TimedChannel(clock, {1: 0, 2: 3, 3: 4.5, 4: 5.1})
    assert channel.dequeue_batch(10, 5.0, always, clock) == [1, 2, 3]
    assert clock.now == 5.0


def test_an_item_with_priority_is_a_batch_of_its_own() -> None:
    channel: Channel[int] = Channel(3, lambda item: item > 2)
    for item in (1, 2, 3):
        channel.enqueue(item)
    assert [channel.dequeue_batch(10, NEVER_SECONDS, lambda taken: taken < 2) for _ in range(2)] == [[3], [1, 2]]


def test_no_caller_waits_for_what_cannot_come() -> None:
    clock = ManualClock(0)
    channel = TimedChannel(clock, {1: 0, 2: 0, 3: 1})
    assert channel.dequeue_batch(10, 5.0, lambda taken: taken < 2, clock) == [1, 2]
    assert clock.now == 0


def test_the_time_in_the_queue_is_what_sqs_own_clock_says() -> None:
    assert new_task(delivery(sent=10.0, first=12.5)).timings.queued == pytest.approx(2500)


def test_the_time_in_the_queue_is_never_negative() -> None:
    assert new_task(delivery(sent=10.001, first=10.0)).timings.queued == 0


def refused(number: int = 0) -> Task[Prediction]:
    task = new_task(delivery(number)).with_payload(b"", fetched=7.0).image(0, b"")
    return refuse(task, Failure(code="empty", message="it is empty"), "i-1")


def test_a_prediction_is_stored_under_its_image_and_the_response_has_the_store_time() -> None:
    s3, task = FakeBucket(), refused()
    (responded,) = store([task], OutputBucket(s3))
    stored = Prediction.from_json(s3.objects[output_key(task.payload.ref)])
    assert stored == task.payload
    assert stored.timings.stored is None
    assert responded.payload.timings.stored is not None
    assert responded.payload.timings.fetched == 7.0


def test_an_image_that_is_gone_has_the_label_of_an_earlier_delivery_if_one_is_stored() -> None:
    s3, task = FakeBucket(), new_task(delivery())
    ref = task.ref
    assert answered_before(task, OutputBucket(s3)) == []
    s3.objects[output_key(ref)] = refuse(task, Failure(code="gone", message="gone"), "i-1").payload.to_json().encode()
    assert answered_before(task, OutputBucket(s3)) == []
    earlier = Prediction(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="done",
        label="cat",
        score=0.9,
        worker="i-0",
        attempts=1,
        probabilities=(0.9, 0.1),
    )
    s3.objects[output_key(ref)] = earlier.to_json().encode()
    (again,) = answered_before(task, OutputBucket(s3))
    assert again.delivery == task.delivery
    assert again.payload == earlier.response().model_copy(update={"repeated": True})
    stored = response_within(Response(results=(again.payload,)), 100)
    assert isinstance(stored, StoredResults)
    assert stored.result(0, earlier).repeated


# Two workers with the same image at once: FAULTS rows 4 and 47


class SharedBucket(FakeBucket):
    """A bucket in which another worker does something before the call of this number, counted from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.made = -1, 0
        self.other: Callable[[], object] = lambda: None

    def _make(self, operation: str, effect: Callable[[], Any]) -> Any:
        self.made += 1
        if self.made - 1 == self.number:
            self.other()
        return super()._make(operation, effect)


def outcome(request: RequestMessage, status: str, worker: str, attempt: int = 0) -> Task[Prediction]:
    """Return what `worker` has made of an image; a label is named after its worker."""
    task = new_task(delivery(request=request.model_copy(update={"attempt": attempt})))
    if status == "failed":
        return refuse(task, Failure(code="too_costly", message="it costs too much"), worker)
    ref = request.refs[0]
    done = Prediction(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="done",
        label=worker,
        score=0.9,
        worker=worker,
        attempts=1,
        attempt=attempt,
    )
    return task.with_payload(done)


@pytest.mark.parametrize("calls_before", range(6))
@pytest.mark.parametrize("there", [None, "failed", "done"])
@pytest.mark.parametrize("statuses", ["done done", "done failed", "failed done", "failed failed"])
def test_row_4_done_beats_failed_and_is_the_stored_result_of_two_concurrent_workers(
    statuses: str, there: str | None, calls_before: int
) -> None:
    request = new_request()
    mine, theirs = (outcome(request, status, f"i-{number}") for number, status in enumerate(statuses.split()))
    answers: list[ClassificationResult] = []
    outputs = OutputBucket(bucket := SharedBucket())
    if there is not None:
        store([outcome(request, there, "i-before")], outputs)
    bucket.made, bucket.number = 0, calls_before
    bucket.other = lambda: answers.append(store([theirs], outputs)[0].payload)
    answers.append(store([mine], outputs)[0].payload)
    if len(answers) == 1:  # the first was finished before the second began
        bucket.number = -1
        bucket.other()
    stored = Prediction.from_json(bucket.objects[output_key(request.refs[0])])
    assert stored.status == ("done" if "done" in [*statuses.split(), there] else "failed")
    assert {answer.label for answer in answers if answer.status == "done"} <= {stored.label}
    best = next((answer for answer in answers if answer.status == "done"), answers[0])
    assert best.status == stored.status


@pytest.mark.parametrize(
    ("stored", "status", "attempt", "stands"),
    [
        (("failed", 0), "failed", 1, "new"),
        (("failed", 0), "failed", 0, "old"),
        (("failed", 1), "failed", 0, "old"),
        (("failed", 1), "done", 0, "new"),
        (("done", 0), "failed", 1, "old"),
        (("done", 0), "done", 1, "old"),
    ],
)
def test_a_failed_prediction_gives_way_to_a_later_attempt_and_a_done_one_to_none(
    stored: tuple[str, int], status: str, attempt: int, stands: str
) -> None:
    request, s3 = new_request(), FakeBucket()
    outputs = OutputBucket(s3)
    store([outcome(request, stored[0], "old", stored[1])], outputs)
    answer = store([outcome(request, status, "new", attempt)], outputs)[0].payload
    assert Prediction.from_json(s3.objects[output_key(request.refs[0])]).worker == answer.worker == stands
    assert answer.attempt == max(attempt, stored[1] if stands == "old" else 0)


def test_an_object_larger_than_the_limit_is_rejected_as_too_large() -> None:
    one, s3 = delivery(), FakeBucket()
    s3.objects = {key_of(one.request): bytes(2_500_000)}
    with pytest.raises(ImageRejectedError, match=r"2\.5 MB is more than the 2\.0 MB allowed") as refused:
        reader = PackReader(InputBucket(s3), MemorySource, ImageLimits(max_bytes=2_000_000))
        next(reader.images(new_task(one), [0], lambda _, error: pytest.fail(str(error))))
    assert refused.value.code == "too_large"
