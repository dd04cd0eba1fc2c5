"""Storage: fetching images, and publishing predictions and responses."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

import pytest

from app_tier.storage import answered_before, delete, fetch, refuse, respond, store
from app_tier.task import Task, new_task
from core.ids import output_key
from core.images import ImageLimits, ImageRejectedError
from core.messages import Failure, Prediction, RequestMessage, Response
from services.errors import FleetsightError, NotFoundError
from tests.support.worker import FakeBucket, FakeClock, FakeSqs, deliveries, delivery, new_request, refusal


def refused(number: int = 0) -> Task[Prediction]:
    task = new_task(delivery(number)).with_payload(b"", fetched=7.0)
    return refuse(task, Failure(code="empty", message="it is empty"), "i-1")


def test_a_refused_image_has_a_result_that_says_why() -> None:
    prediction = refused().payload
    assert (prediction.status, prediction.worker, prediction.attempts) == ("failed", "i-1", 1)
    assert prediction.error is not None
    assert prediction.error.code == "empty"
    assert prediction.timings.fetched == 7.0


def test_the_object_is_stored_under_the_image_and_the_response_knows_how_long_it_took() -> None:
    s3, task = FakeBucket(), refused()
    responded = store(task, s3.bucket())
    stored = Prediction.from_json(s3.objects[output_key(task.payload.ref)])
    assert stored == task.payload
    assert stored.timings.stored is None
    assert responded.payload.timings.stored is not None
    assert responded.payload.timings.fetched == 7.0


def test_what_could_not_be_stored_makes_no_response() -> None:
    s3 = FakeBucket()
    s3.errors["put"] = [refusal("SlowDown")]
    with pytest.raises(Exception, match="SlowDown"):
        store(refused(), s3.bucket())


def test_only_requests_whose_response_was_taken_are_answered() -> None:
    sqs = FakeSqs(FakeClock())
    tasks = [store(refused(number), FakeBucket().bucket()) for number in range(3)]
    sqs.refuse = {tasks[1].payload.image_id}
    answered = respond(tasks, sqs.queue())
    assert answered == [tasks[0].delivery, tasks[2].delivery]
    assert [Response.from_json(body).image_id for body in sqs.bodies] == [
        tasks[0].payload.image_id,
        tasks[2].payload.image_id,
    ]


def test_ten_answered_requests_are_deleted_in_one_call() -> None:
    sqs = FakeSqs(FakeClock())
    delete(deliveries(10), sqs.queue())
    assert [len(receipts) for receipts in sqs.called("delete")] == [10]


def test_a_delete_with_a_stale_receipt_is_harmless() -> None:
    sqs = FakeSqs(FakeClock())
    one = delivery()
    sqs.refuse = {one.receipt}
    try:
        delete([one], sqs.queue())
    except FleetsightError as error:
        raise AssertionError("a stale receipt is no error") from error


def test_an_image_that_is_gone_has_the_answer_of_an_earlier_delivery_if_that_one_found_a_label() -> None:
    s3, task = FakeBucket(), new_task(delivery())
    ref = task.delivery.request.ref
    assert answered_before(task, s3.bucket()) is None
    s3.objects[output_key(ref)] = refuse(task, Failure(code="gone", message="gone"), "i-1").payload.to_json().encode()
    assert answered_before(task, s3.bucket()) is None
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
    again = answered_before(task, s3.bucket())
    assert again is not None
    assert (again.payload, again.delivery) == (earlier.response(), task.delivery)


# Two workers with the same image at once: FAULTS rows 4 and 47


@dataclass
class SharedBucket(FakeBucket):
    """A bucket in which another worker does something before the call of this number, counted from 0."""

    number: int = -1
    other: Callable[[], object] = lambda: None
    made: int = field(default=0, init=False)

    def _call(self, operation: str) -> None:
        super()._call(operation)
        self.made += 1
        if self.made - 1 == self.number:
            self.other()


def outcome(request: RequestMessage, status: str, worker: str, attempt: int = 0) -> Task[Prediction]:
    """Return what `worker` has made of an image; a label is named after its worker."""
    task = new_task(delivery(request=request.model_copy(update={"attempt": attempt})))
    if status == "failed":
        return refuse(task, Failure(code="too_costly", message="it costs too much"), worker)
    ref = request.ref
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
def test_row_4_of_two_workers_at_once_done_beats_failed_and_both_answer_what_is_stored(
    statuses: str, there: str | None, calls_before: int
) -> None:
    request = new_request()
    mine, theirs = (outcome(request, status, f"i-{number}") for number, status in enumerate(statuses.split()))
    answers: list[Response] = []
    bucket = SharedBucket()
    if there is not None:
        store(outcome(request, there, "i-before"), bucket.bucket())
    bucket.made, bucket.number = 0, calls_before
    bucket.other = lambda: answers.append(store(theirs, bucket.bucket()).payload)
    answers.append(store(mine, bucket.bucket()).payload)
    if len(answers) == 1:  # the first was finished before the second began
        bucket.number = -1
        bucket.other()
    stored = Prediction.from_json(bucket.objects[output_key(request.ref)])
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
    store(outcome(request, stored[0], "old", stored[1]), s3.bucket())
    answer = store(outcome(request, status, "new", attempt), s3.bucket()).payload
    assert Prediction.from_json(s3.objects[output_key(request.ref)]).worker == answer.worker == stands
    assert answer.attempt == max(attempt, stored[1] if stands == "old" else 0)


def test_the_image_is_the_object_that_the_request_names() -> None:
    one, s3, clock = delivery(), FakeBucket(), FakeClock()
    s3.objects = {one.request.key: b"bytes", "other": b"other"}
    get = s3.get

    def slow(key: str, max_bytes: int | None = None) -> bytes:
        clock.advance(0.25)
        return get(key, max_bytes)

    s3.get = slow  # type: ignore[method-assign]
    task = fetch(new_task(one), s3.bucket(), ImageLimits(), clock)
    assert task.payload == b"bytes"
    assert task.sha256 == sha256(b"bytes").hexdigest()
    assert task.with_payload(None, decoded=1.0).sha256 == task.sha256, "the later stages know it too"
    assert task.timings.fetched == 250


def test_an_object_that_is_gone_is_said() -> None:
    with pytest.raises(NotFoundError):
        fetch(new_task(delivery()), FakeBucket().bucket(), ImageLimits())


def test_an_object_that_is_larger_than_an_image_may_be_is_the_images_fault_and_is_not_read() -> None:
    one, s3 = delivery(), FakeBucket()
    s3.objects = {one.request.key: bytes(2_500_000)}
    with pytest.raises(ImageRejectedError, match=r"2\.5 MB is more than the 2\.0 MB allowed") as refused:
        fetch(new_task(one), s3.bucket(), ImageLimits(max_bytes=2_000_000))
    assert refused.value.code == "too_large"
