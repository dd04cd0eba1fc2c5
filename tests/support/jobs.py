"""Jobs, images and results to test with."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, cast

from botocore.exceptions import ClientError
from PIL import Image

from core.ids import ImageRef, new_id
from core.jobs import pack_objects
from core.jobs.items import ACCEPTED, COUNTED, COUNTED_FIGURES, RUN, counts_partition, stated
from core.jobs.models import Counts, ImageRecord, Job, MinScores, Resend
from core.jobs.results import JobResults
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Failure, LabelScore, Model, Response, Status
from services.sqs import OutgoingMessage
from services.table import Item

UNKNOWN_ID = "01KAH8Z9M5J6C0Q2V4T7W1X3YD"
"""An id of its form that nothing has; written out, since tests that run side by side must have the same names."""

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

MODEL = Model(name="demo", digest="sha256:4b1e8899")


def member(sizes: Sequence[int], data: bytes, place: int) -> bytes:
    """Return the image at a place of a pack of images of these sizes with the object `data`."""
    start, length = (0, len(data)) if len(sizes) == 1 else pack_objects.member_part(sizes, place)
    return pack_objects.member(sizes, data[start : start + length], place)


def client_error(status: int, code: str = "SomeError") -> ClientError:
    """Return the error of a service that answered `status`."""
    error = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(cast(Any, error), "Call")


def record(job: Job, filename: str = "a.jpg") -> ImageRecord:
    """Return the record of an accepted image."""
    ref = ImageRef(job.job_id, new_id())
    return ImageRecord(ref, filename, "jpg", (1234,), NOW)


def statuses_of(store: JobStore, job_id: str) -> dict[str, Status]:
    """The status of every image of a job that has a result, by image id."""
    return {image_id: result.status for image_id, result in store.summaries(job_id)}


def add_images(store: JobStore, job: Job, *filenames: str) -> list[ImageRecord]:
    """Record images of a job; return them in the order of their ids."""
    records = [record(job, filename) for filename in filenames]
    store.record_images(records, NOW)
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
    before = store.images_of([image.ref for image in images]).values()
    retried = [replace(record, attempt=record.attempt + 1, retried_at=at) for record in before]
    assert all(store.replace_images([change]) for change in zip(before, retried, strict=True))
    store.put_retried(images[0].ref.job_id, at, retried)


def send_again(store: JobStore, image: ImageRecord, times: int = 1, at: datetime = NOW) -> None:
    """Record that the system requested an image again, as the controller does."""
    resend = Resend(image.attempt, at, at, waited_seconds=600, times=times)
    _write(store, JobResults.of(image.ref.job_id, resends={image.ref.image_id: resend}), at)


def put_results(store: JobStore, *responses: ClassificationResult, at: datetime = NOW) -> None:
    """Store results in place of worse ones, and count them, as the collector does."""
    for job_id in dict.fromkeys(response.job_id for response in responses):
        _write(store, JobResults.of(job_id, [each for each in responses if each.job_id == job_id]), at)


def resends_of(store: JobStore, job_id: str) -> dict[str, Resend]:
    """Return the resends of a job's images by image id."""
    return {image_id: each.resend for image_id, each in store.answers(job_id).items() if each.resend is not None}


def _write(store: JobStore, new: JobResults, at: datetime) -> None:
    for some in new.parts():
        some.read_again(store.table)
        if some.packs:
            store.table.transact(*some.writes(_token(store, new.job_id), run=0, at=at))


def _token(store: JobStore, job_id: str) -> int:
    """Return the fencing token of the controller that has counted last."""
    return int((store.table.get(counts_partition(job_id), COUNTED) or {}).get("token", 0))


def put_counts(store: JobStore, job_id: str, counts: Counts, token: int = 0) -> None:
    """Store counts of a job that has no such images and results, in place of its own."""
    pk, figures = counts_partition(job_id), {name: getattr(counts, name) for name in COUNTED_FIGURES}
    times = stated({"first_at": counts.first_result_at, "last_at": counts.last_result_at})
    runs = {f"{RUN}{run}": answers for run, answers in counts.runs}
    counted: Item = {"pk": pk, "sk": COUNTED, **figures, **times, **runs, "revision": counts.revision, "token": token}
    names = ("images", "packs", "acceptances", "presigned")
    store.table.put_all([counted, {"pk": pk, "sk": ACCEPTED, **{name: getattr(counts, name) for name in names}}])


def count_images(store: JobStore, job_id: str) -> int:
    """Return how many images of a job are recorded."""
    return sum(1 for _ in store.images(job_id))


def picture(form: str = "JPEG", size: tuple[int, int] = (16, 12), shade: int = 0) -> bytes:
    """Return an image file of one colour."""
    body = BytesIO()
    Image.new("RGB", size, (shade % 256, 80, 160)).save(body, form)
    return body.getvalue()


def move_border(store: JobStore, job_id: str, scores: MinScores, at: datetime = NOW) -> None:
    """Give a job these scores below which labels are unsure."""
    store.change_min_scores(store.job(job_id), lambda _: scores, at)


def response_of(*results: ClassificationResult) -> OutgoingMessage:
    """Return the message with which a worker answers a request of these images."""
    return OutgoingMessage(new_id(), Response(results=results).to_json())
