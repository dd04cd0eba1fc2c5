"""Jobs, images and results to test with, and a bucket and a queue in memory that can fail."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from botocore.exceptions import ClientError

from core.ids import ImageRef, new_id
from core.jobs.models import AcceptedCount, Counts, ImageRecord, Job, Resend
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Failure, LabelScore, Model, RequestMessage
from services.s3 import Bucket
from services.sqs import OutgoingMessage, Queue

UNKNOWN_ID = "01KAH8Z9M5J6C0Q2V4T7W1X3YD"
"""An id of its form that nothing has; written out, since tests that run side by side must have the same names."""

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LATEST_TOKEN = 10**15
"""Later than that of a controller that runs beside the test and may have counted the images meanwhile."""

MODEL = Model(name="demo", digest="sha256:4b1e8899")


class MemoryBucket(Bucket):
    """A bucket in memory with the tags of its objects; `fails` returns the error for a body that it refuses."""

    def __init__(self, fails: Callable[[bytes], Exception | None] = lambda body: None) -> None:
        super().__init__(cast(Any, None), "memory")
        self.fails = fails
        self.objects: dict[str, bytes] = {}
        self.tags: dict[str, Mapping[str, str] | None] = {}

    def put(self, key: str, body: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
        error = self.fails(body)
        if error is not None:
            raise error
        self.objects[key], self.tags[key] = body, tags

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def exists(self, key: str) -> bool:
        return key in self.objects


class MemoryQueue(Queue):
    """A queue in memory; `fails` may raise, or return the messages that it refuses."""

    def __init__(
        self, fails: Callable[[Sequence[OutgoingMessage]], list[OutgoingMessage]] = lambda messages: []
    ) -> None:
        super().__init__(cast(Any, None), "memory")
        self.fails = fails
        self.bodies: list[str] = []

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        refused = self.fails(messages)
        self.bodies += [message.body for message in messages if message not in refused]
        return refused

    @property
    def image_ids(self) -> set[str]:
        return {RequestMessage.from_json(body).image_id for body in self.bodies}


def client_error(status: int, code: str = "SomeError") -> ClientError:
    """Return the error of a service that answered `status`."""
    error = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(cast(Any, error), "Call")


def record(job: Job, filename: str = "a.jpg") -> ImageRecord:
    """Return the record of an accepted image."""
    ref = ImageRef(job.job_id, new_id())
    return ImageRecord(ref, filename, f"{ref.job_id}/{ref.image_id}.jpg", 1234, NOW)


def add_images(store: JobStore, job: Job, *filenames: str) -> list[ImageRecord]:
    """Record images of a job, and count them; return them in the order of their ids."""
    records = [record(job, filename) for filename in filenames]
    store.record_images(records, NOW)
    store.put_accepted_count(job.job_id, "writer", AcceptedCount(len(records)))
    return sorted(records, key=lambda added: added.ref.image_id)


def done(image: ImageRecord, label: str = "stop sign", score: float = 0.93) -> ClassificationResult:
    """Return a result with a label."""
    return ClassificationResult(
        job_id=image.ref.job_id,
        image_id=image.ref.image_id,
        status="done",
        label=label,
        score=score,
        top=(LabelScore(label=label, score=score),),
        model=MODEL,
        worker="i-0f3a",
        attempts=1,
    )


def failed(
    image: ImageRecord, message: str = "its workers crashed", code: str = "crashed_worker", attempt: int = 0
) -> ClassificationResult:
    """Return a failed result; by default one that a retry may change."""
    return ClassificationResult(
        job_id=image.ref.job_id,
        image_id=image.ref.image_id,
        status="failed",
        worker="i-0f3a",
        attempt=attempt,
        attempts=1,
        error=Failure(code=code, message=message),
    )


def request_again(store: JobStore, images: Sequence[ImageRecord], at: datetime) -> None:
    """Record that failed images of one job are requested again, as the web tier does."""
    for record in store.images_of([image.ref for image in images]).values():
        assert store.replace_image(record, replace(record, attempt=record.attempt + 1, retried_at=at))
    store.put_retried(images[0].ref.job_id, at)


def send_again(store: JobStore, image: ImageRecord, times: int = 1, at: datetime = NOW) -> None:
    """Record that the system requested an image again, as the controller does."""
    job_id = image.ref.job_id
    store.put_resends(job_id, {image.ref.image_id: Resend(image.attempt, at, at, waited_seconds=600, times=times)})
    resends, results = store.resends(job_id), store.result_summaries(job_id)
    retried = resends.keys() | {image_id for image_id, result in results.items() if result.attempts > 1}
    sent = sum(resend.times for resend in resends.values())
    counts = replace(store.counts(job_id), system_retried=len(retried), resends=sent)
    store.store_counts(job_id, counts, token=LATEST_TOKEN)


def put_results(store: JobStore, job: Job, *responses: ClassificationResult) -> None:
    """Store results and the job's counts, as the collector does."""
    for response in responses:
        if response.status == "done":
            store.put_done([response])
        else:
            store.put_failed(response)
    good = sum(response.status == "done" for response in responses)
    images = store.count_images(job.job_id)
    store.store_counts(job.job_id, Counts(good, len(responses) - good, images, NOW, NOW))
