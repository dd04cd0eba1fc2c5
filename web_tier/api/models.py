"""The bodies of `/api/v1`: what it takes and what it answers."""

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from services.jobs import Job, JobState, JobStatus
from services.messages import Failure, LabelScore, Model, Timings
from web_tier.intake.accept import Rejection
from web_tier.intake.names import MAX_JOB_NAME
from web_tier.intake.retry import Retried
from web_tier.intake.store import Outcome
from web_tier.results.query import ImageResult, ImageState, ResultsPage, images_per_second

ROOT = "/api/v1"


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Alive(_Body):
    """The process lives."""

    status: Literal["alive"] = "alive"


class Ready(_Body):
    """Whether uploads can be taken, and what is in the way if not."""

    ready: bool
    missing: dict[str, str]


class CreateJob(_Body):
    """What a job is made of."""

    name: str = Field(default="", max_length=MAX_JOB_NAME)


class JobLinks(_Body):
    """Where to go on from a job; paths on this server."""

    self: str
    images: str
    results: str
    results_csv: str
    results_jsonl: str
    retry: str
    page: str

    @classmethod
    def of(cls, job_id: str) -> Self:
        """Return the links of a job."""
        here = f"{ROOT}/jobs/{job_id}"
        return cls(
            self=here,
            images=f"{here}/images",
            results=f"{here}/results",
            results_csv=f"{here}/results.csv",
            results_jsonl=f"{here}/results.jsonl",
            retry=f"{here}/retry",
            page=f"/jobs/{job_id}",
        )


class JobBody(_Body):
    """A job."""

    job_id: str
    name: str
    created_at: datetime
    links: JobLinks

    @classmethod
    def of(cls, job: Job) -> Self:
        """Return the body of a job."""
        return cls(job_id=job.job_id, name=job.name, created_at=job.created_at, links=JobLinks.of(job.job_id))


class JobsPage(_Body):
    """Jobs, newest first; `next` is the cursor of the next page (`before`), null at the end."""

    jobs: tuple[JobBody, ...]
    next: str | None


class JobStatusBody(JobBody):
    """A job and where it stands: `accepted` = `done` + `failed` + `waiting`, in images."""

    state: JobState
    accepted: int
    done: int
    failed: int
    waiting: int
    first_result_at: datetime | None
    last_result_at: datetime | None
    images_per_second: float | None = Field(description="From the first to the last result.")
    model: Model | None = Field(description="The bundle that answered; null before the first result.")

    @classmethod
    def of_status(cls, status: JobStatus, model: Model | None) -> Self:
        """Return the body of a job's status."""
        return cls(
            **dict(JobBody.of(status.job)),
            state=status.state,
            accepted=status.accepted,
            done=status.counts.done,
            failed=status.counts.failed,
            waiting=status.waiting,
            first_result_at=status.counts.first_result_at,
            last_result_at=status.counts.last_result_at,
            images_per_second=images_per_second(status),
            model=model,
        )


class AcceptedImage(_Body):
    """A file that will get a result; `index` is its position among the files of the request, from 0."""

    index: int
    image_id: str
    filename: str


class RejectedImage(_Body):
    """A file that will get none, and why: a stable code, and a sentence for its owner."""

    index: int
    filename: str
    code: str
    message: str


class UploadOutcome(_Body):
    """What became of each file of a request, in the order of the files."""

    job_id: str
    accepted: tuple[AcceptedImage, ...]
    rejected: tuple[RejectedImage, ...]

    @classmethod
    def of(cls, job_id: str, outcomes: list[Outcome]) -> Self:
        """Return the body that tells `outcomes`."""
        accepted, rejected = [], []
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Rejection):
                rejected.append(
                    RejectedImage(index=index, filename=outcome.filename, code=outcome.code, message=outcome.message)
                )
            else:
                accepted.append(AcceptedImage(index=index, image_id=outcome.ref.image_id, filename=outcome.filename))
        return cls(job_id=job_id, accepted=tuple(accepted), rejected=tuple(rejected))


class ImageBody(_Body):
    """An accepted image and its result, as far as there is one; `bytes` is the size of the file."""

    image_id: str
    filename: str
    bytes: int
    accepted_at: datetime
    status: ImageState
    label: str | None = None
    score: float | None = None
    top: tuple[LabelScore, ...] = ()
    model: Model | None = None
    worker: str | None = None
    attempts: int | None = None
    timings: Timings | None = None
    error: Failure | None = None

    @classmethod
    def of(cls, result: ImageResult) -> Self:
        """Return the body of an image."""
        record, response = result.record, result.response
        found = {} if response is None else {name: getattr(response, name) for name in _FROM_RESPONSE}
        return cls(
            image_id=record.ref.image_id,
            filename=record.filename,
            bytes=record.size,
            accepted_at=record.accepted_at,
            status=result.state,
            **found,
        )


_FROM_RESPONSE = ("label", "score", "top", "model", "worker", "attempts", "timings", "error")


class ResultsBody(_Body):
    """Images of a job with their results; `next` is the cursor of the next page (`after`), null at the end."""

    job_id: str
    results: tuple[ImageBody, ...]
    next: str | None

    @classmethod
    def of(cls, job_id: str, page: ResultsPage) -> Self:
        """Return the body of a page."""
        return cls(job_id=job_id, results=tuple(ImageBody.of(item) for item in page.items), next=page.next_after)


class GoneImage(_Body):
    """A failed image that is no longer stored, so that it has to be uploaded again."""

    image_id: str
    filename: str


class RetryOutcome(_Body):
    """What became of a job's failed images, up to 1,000 at a call; a failed result stays until a better one comes."""

    job_id: str
    sent: int = Field(description="Images that were requested again.")
    refused: int = Field(description="Images that the queue did not take just now: call again.")
    gone: tuple[GoneImage, ...]
    next: str | None = Field(description="Call again with it as `after`; null when these were all.")

    @classmethod
    def of(cls, job_id: str, retried: Retried) -> Self:
        """Return the body that tells what was retried."""
        gone = tuple(GoneImage(image_id=image.ref.image_id, filename=image.filename) for image in retried.gone)
        return cls(job_id=job_id, sent=retried.sent, refused=retried.refused, gone=gone, next=retried.next_after)


class Index(_Body):
    """Where to begin."""

    documentation: str = "/api"
    openapi: str = f"{ROOT}/openapi.json"
    jobs: str = f"{ROOT}/jobs"
    fleet: str = f"{ROOT}/fleet"
    health: str = "/healthz"
    readiness: str = "/readyz"
