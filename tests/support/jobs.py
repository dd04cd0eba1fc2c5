"""Jobs, images and results to test with."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, cast

from botocore.exceptions import ClientError
from PIL import Image

from core.ids import ImageRef, new_id
from core.jobs.figures import JobFigures
from core.jobs.models import Counts, ImageRecord, Job, MinScores, Resend
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Failure, LabelScore, Model, Status

UNKNOWN_ID = "01KAH8Z9M5J6C0Q2V4T7W1X3YD"
"""An id of its form that nothing has; written out, since tests that run side by side must have the same names."""

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LATEST_TOKEN = 10**15
"""Later than that of a controller that runs beside the test and may have counted the images meanwhile."""

MODEL = Model(name="demo", digest="sha256:4b1e8899")


def client_error(status: int, code: str = "SomeError") -> ClientError:
    """Return the error of a service that answered `status`."""
    error = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(cast(Any, error), "Call")


def record(job: Job, filename: str = "a.jpg") -> ImageRecord:
    """Return the record of an accepted image."""
    ref = ImageRef(job.job_id, new_id())
    return ImageRecord(ref, filename, f"{ref.job_id}/{ref.image_id}.jpg", 1234, NOW)


def statuses_of(store: JobStore, job_id: str) -> dict[str, Status]:
    """The status of every image of a job that has a result, by image id."""
    return {image_id: result.status for image_id, result in store.summaries(job_id)}


def add_images(store: JobStore, job: Job, *filenames: str) -> list[ImageRecord]:
    """Record images of a job, and count them; return them in the order of their ids."""
    records = [record(job, filename) for filename in filenames]
    store.record_images(records, NOW)
    JobFigures(store.table).put_accepted_count(job.job_id, "writer", len(records))
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
    resends, results = store.resends(job_id), dict(store.summaries(job_id))
    retried = resends.keys() | {image_id for image_id, result in results.items() if result.attempts > 1}
    sent = sum(resend.times for resend in resends.values())
    counts = replace(JobFigures(store.table).counts(job_id), system_retried=len(retried), resends=sent)
    JobFigures(store.table).store_counts(job_id, counts, token=LATEST_TOKEN)


def put_results(store: JobStore, job: Job, *responses: ClassificationResult) -> None:
    """Store results and the job's counts, as the collector does."""
    for response in responses:
        if response.status == "done":
            store.put_each_done([response])
        else:
            store.put_failed(response)
    good = sum(response.status == "done" for response in responses)
    images = store.count_images(job.job_id)
    JobFigures(store.table).store_counts(job.job_id, Counts(good, len(responses) - good, images, NOW, NOW))


def picture(form: str = "JPEG", size: tuple[int, int] = (16, 12), shade: int = 0) -> bytes:
    """Return an image file of one colour."""
    body = BytesIO()
    Image.new("RGB", size, (shade % 256, 80, 160)).save(body, form)
    return body.getvalue()


def move_border(store: JobStore, job_id: str, scores: MinScores, at: datetime = NOW) -> None:
    """Give a job these scores below which labels are unsure."""
    store.change_min_scores(store.job(job_id), lambda _: scores, at)
