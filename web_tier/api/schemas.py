"""Bodies of `/api/v1` about jobs and images.

The OpenAPI document shows docstrings and descriptions of these models to users. `results.export` has the body of one
image, since the results file consists of such bodies.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field
from pydantic_core import to_json

from core.cost import JobCost
from core.ids import ImageRef
from core.images import CODES
from core.jobs.models import CopyState, Job, JobState, JobStatus, ListingState
from core.messages import Model
from core.s3_locations import MAX_LOCATION_CHARACTERS, MAX_PATTERN_CHARACTERS
from web_tier.autoscaler.forecast import Forecast
from web_tier.http.bodies import ApiBody
from web_tier.http.parameters import MAX_JOB_NAME
from web_tier.http.parsing import FinishBy, Label
from web_tier.results.export import ImageBody
from web_tier.results.query import ResultsPage, images_per_second
from web_tier.uploads.ingest import RejectedUpload, UploadResult
from web_tier.uploads.retry import Retried, RetriedOutcome

ROOT = "/api/v1"

MAX_LABEL_SCORES: Final = 200
"""Labels with a lowest score of their own: every read of the job reads them."""

Score = Annotated[float, Field(ge=0, le=1)]


class BorderOfDoubt(ApiBody):
    """Below which scores the images of a job are `unsure`."""

    min_score: Score | None = Field(
        default=None, description="Score from which a label counts, by default 0.5; below, the image is `unsure`."
    )
    label_min_scores: dict[Label, Score] | None = Field(
        default=None,
        max_length=MAX_LABEL_SCORES,
        description="The same for some labels; a label may have other capitals, or `_` or `-` for a space.",
    )


class CreateJob(BorderOfDoubt):
    """What a job is made of."""

    name: str = Field(default="", max_length=MAX_JOB_NAME, description="By default the time of the job's creation.")
    keep: bool = Field(
        default=False,
        description="Whether the images and the records stay; else images are deleted once they are classified, "
        "those that were stored in one object together, and the job expires.",
    )
    source: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_LOCATION_CHARACTERS,
        description="A folder in S3, `s3://bucket/prefix`, with everything in it: the images of the job. Workers "
        "read them there, unless the job keeps its images. The configuration (`imports.sources`) says which are "
        "allowed.",
    )
    source_pattern: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_PATTERN_CHARACTERS,
        description="Of the names below `source` that are taken, such as `**/*.jpg`: `**` stands for any folders, "
        "`*` and `?` for characters of one name. By default all are taken. Of a pattern that ends in `.tar` the "
        "images in these tars are taken, as of a WebDataset, and stay there: `keep` cannot be true.",
    )
    results: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_LOCATION_CHARACTERS,
        description="A folder in S3, `s3://bucket/prefix`, to which all results are copied as `JOB_ID.jsonl` when "
        "the job is finished. The configuration (`imports.destinations`) says which are allowed.",
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Name or digest of the model that classifies the images, of those that `GET /models` lists; by "
        "default the system chooses it.",
    )
    max_failed_percent: float | None = Field(
        default=None,
        ge=0.1,
        le=99,
        description="Percent of the job's results, of at least 100, that may be failures; when more are, the system "
        "cancels the job. By default there is no limit.",
    )
    labels: Annotated[tuple[Label, ...], AfterValidator(lambda names: tuple(sorted({*names})))] | None = Field(
        default=None,
        min_length=1,
        description="The labels of the model that can occur: results have no others, and their scores are exact "
        "shares among these. A label may have other capitals, or `_` or `-` for a space. By default all can occur.",
    )
    finish_by: FinishBy | None = Field(
        default=None,
        description="When the job may be finished at the latest, within 7 days, such as `2026-11-29T08:00:00+01:00`: "
        "the policies `deadline` and `schedule` then use the fewest workers. By default it is as soon as possible.",
    )

    @property
    def digest(self) -> str:
        """The digest of the request, without null fields: a new field changes no request that does not state it."""
        stated = self.model_dump(mode="json", exclude_none=True)
        return sha256(to_json({name: stated[name] for name in sorted(stated)})).hexdigest()


class JobLinks(ApiBody):
    """The next requests about a job; paths on this server."""

    self: str
    images: str
    uploads: str
    results: str
    results_csv: str
    results_jsonl: str
    results_file: str
    images_zip: str
    min_scores: str
    retry: str
    cancel: str
    page: str

    @classmethod
    def for_job(cls, job_id: str) -> Self:
        """Return the links of a job."""
        here = f"{ROOT}/jobs/{job_id}"
        return cls(
            self=here,
            images=f"{here}/images",
            uploads=f"{here}/uploads",
            results=f"{here}/results",
            results_csv=f"{here}/results.csv",
            results_jsonl=f"{here}/results.jsonl",
            results_file=f"{here}/results/file",
            images_zip=f"{here}/images.zip",
            min_scores=f"{here}/min-scores",
            retry=f"{here}/retry",
            cancel=f"{here}/cancel",
            page=f"/jobs/{job_id}",
        )


class JobBody(ApiBody):
    """A job."""

    job_id: str
    name: str
    created_at: datetime
    keep: bool = Field(description="Whether the images and the records stay.")
    model: Model | None = Field(
        description="The bundle that classifies the images; null if it is that of each worker's configuration."
    )
    max_failed_percent: float | None = Field(description="Limit of its failures; null for none.")
    min_score: float = Field(description="Score from which a label counts; below, the image is `unsure`.")
    label_min_scores: dict[str, float] = Field(description="The same for labels that have their own.")
    finish_by: datetime | None = Field(description="When it may be finished at the latest; null for soon.")
    links: JobLinks

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the body of a job."""
        links = JobLinks.for_job(job.job_id)
        model = None if job.model is None else Model(name=job.model.name, digest=job.model.bundle)
        scores = job.min_scores
        return cls.copied_from(
            job, model=model, links=links, min_score=scores.every, label_min_scores=dict(scores.labels)
        )


class JobsPage(ApiBody):
    """Jobs, newest first; `next` is the cursor of the next page (`before`), null at the end."""

    jobs: tuple[JobBody, ...]
    next: str | None


class ResultsFile(ApiBody):
    """All results of a finished job as one file in the output bucket, as JSON Lines."""

    address: str = Field(description="`s3://bucket/key`.")
    written_at: datetime
    current: bool = Field(
        description="Whether it holds the current results; if not, the controller rewrites it soon."
    )

    @classmethod
    def from_status(cls, status: JobStatus, bucket: str) -> Self | None:
        """Return where the results of a job stand in `bucket`, or None as long as they do not."""
        merged = status.merged
        if merged is None:
            return None
        current = merged.edition == status.edition
        return cls.copied_from(merged, address=f"s3://{bucket}/{merged.key}", current=current)


class JobCostBody(ApiBody):
    """What a job has cost so far, in US dollars by the configured prices."""

    billed_seconds: float = Field(
        description="Instance-seconds: the job's share, by images, of what EC2 bills for the fleet, with boots, idle "
        "time and the least that is billed for an instance."
    )
    instances_dollars: float
    requests: int = Field(description="About so many requests and request units of S3, SQS and DynamoDB.")
    requests_dollars: float
    dollars: float = Field(description="Instances and requests.")
    dollars_per_1000_images: float | None = Field(description="Null where no worker has answered an image.")

    @classmethod
    def from_cost(cls, cost: JobCost) -> Self:
        """Return the body of a job's cost."""
        per_thousand = cost.dollars_per_thousand
        return cls(
            billed_seconds=round(cost.instances.seconds, 1),
            instances_dollars=round(cost.instances.dollars, 6),
            requests=cost.requests.total,
            requests_dollars=round(cost.request_dollars, 6),
            dollars=round(cost.dollars, 6),
            dollars_per_1000_images=None if per_thousand is None else round(per_thousand, 6),
        )


class SourceBody(ApiBody):
    """How far the source of a job is listed: `listed` objects = `accepted` images + `skipped` objects."""

    uri: str
    pattern: str | None = Field(description="Of the names below it that are taken; null for all.")
    state: ListingState = Field(
        description="Of the listing. After `complete`, `failed` and `cancelled` the job gets no more images."
    )
    listed: int
    accepted: int
    skipped: dict[str, int] = Field(
        description="Other objects by the reason: `not_an_image` by the name, `empty`, `too_large`, `archived`, "
        "`not_matched` by the pattern; in a job that keeps its images also `gone` or `not_readable` when it is "
        "copied, and of tars `damaged`, `not_readable` and `changed` for each that could not be read to its end."
    )
    error: str | None = Field(description="Why the listing failed, and what to do.")
    paused_until: datetime | None = Field(
        description="When the listing goes on, if the day's quota of images or bytes is used up."
    )

    @classmethod
    def from_status(cls, status: JobStatus) -> Self | None:
        """Return how far the source of a job is listed, or None if its images are uploaded."""
        listing = status.listing
        if listing is None:
            return None
        return cls.copied_from(
            listing, uri=status.job.source, pattern=status.job.source_pattern or None, error=listing.error or None
        )


class ResultsCopyBody(ApiBody):
    """The copy of the results file to the location that was chosen for it in S3."""

    uri: str = Field(description="`s3://bucket/key`.")
    state: CopyState = Field(
        description="`written` when it has the current results, `failed` if S3 or the configuration rejects it, "
        "else `waiting`."
    )
    error: str | None = Field(description="Why it is rejected.")

    @classmethod
    def from_status(cls, status: JobStatus) -> Self | None:
        """Return the copy of a job's results file, or None if no location was chosen for it."""
        job, state = status.job, status.copy_state
        if not job.results:
            return None
        error = None if state != "failed" else status.copy.error if status.copy else "the job has no images"
        return cls(uri=f"{job.results}/{job.job_id}.jsonl", state=state, error=error)


class JobStatusBody(JobBody):
    """A job and where it stands: `accepted` = `done` + `failed` + `waiting`, in images."""

    labels: tuple[str, ...] | None = Field(
        description="The labels that can occur, in the order of the model's; null if all can."
    )
    state: JobState
    blocked: str | None = Field(
        description="Why no waiting image can be classified, such as `paused by ops`; null if nothing prevents it."
    )
    accepted: int
    done: int
    failed: int
    cancelled: int = Field(description="Of `failed`: images without a label because the job was cancelled.")
    waiting: int
    cancelled_at: datetime | None = Field(description="Null unless the state is `cancelled`.")
    stopped: str | None = Field(
        description="Why the system cancelled the job: `max_failed_percent`, and the most common code of failures; "
        "null if it did not. A retry resumes the job, and ends the limit."
    )
    system_retried: int = Field(
        description="Images that the system retried: received more than once, or requested again."
    )
    first_result_at: datetime | None
    last_result_at: datetime | None
    images_per_second: float | None = Field(
        description="Of a finished job, from its creation to its last result; before, from the first to the last "
        "result of a worker."
    )
    results_file: ResultsFile | None = Field(description="All results as one file; null until the job is finished.")
    cost: JobCostBody | None = Field(description="What the job has cost so far; null when that is not known.")
    source: SourceBody | None = Field(description="Where its images come from in S3; null if they are uploaded.")
    results: ResultsCopyBody | None = Field(description="Where its results are copied in S3; null if nowhere.")

    @classmethod
    def of_status(
        cls,
        status: JobStatus,
        answered: Model | None,
        labels: Sequence[str] | None,
        output_bucket: str,
        cost: JobCost | None,
        blocked: str | None,
    ) -> Self:
        """Return the body of a job's status.

        Args:
            status: of the job.
            answered: the model of its first results, for a job without a model.
            labels: that can occur; None if all can.
            output_bucket: where its results stand as one file.
            cost: of the job so far.
            blocked: why its images wait.
        """
        job = JobBody.from_job(status.job)
        return cls.copied_from(
            job,
            status,
            status.counts,
            model=job.model or answered,
            labels=None if labels is None else tuple(labels),
            blocked=blocked,
            first_result_at=status.counts.first_result_at,
            last_result_at=status.counts.last_result_at,
            images_per_second=images_per_second(status),
            results_file=ResultsFile.from_status(status, output_bucket),
            cost=None if cost is None else JobCostBody.from_cost(cost),
            source=SourceBody.from_status(status),
            results=ResultsCopyBody.from_status(status),
            stopped=status.stopped or None,
        )


class AcceptedImage(ApiBody):
    """A file that will get a result; `index` is its position among the files of the request, from 0."""

    index: int
    image_id: str
    filename: str


class RejectedImage(ApiBody):
    """A file that will get none, and why: a stable code, and a sentence for its owner."""

    index: int
    filename: str
    code: str = Field(description=f"Stable, for programs. Of what a file is: {', '.join(CODES)}.")
    message: str


class UploadOutcome(ApiBody):
    """The outcome of each file of a request, in the order of the files."""

    job_id: str
    accepted: tuple[AcceptedImage, ...]
    rejected: tuple[RejectedImage, ...]

    @classmethod
    def from_outcomes(cls, job_id: str, outcomes: Iterable[tuple[int, UploadResult]]) -> Self:
        """Return the body of `outcomes`, each with the position of its file."""
        accepted, rejected = [], []
        for index, outcome in outcomes:
            if isinstance(outcome, RejectedUpload):
                rejected.append(RejectedImage.copied_from(outcome, index=index))
            else:
                accepted.append(AcceptedImage.copied_from(outcome, outcome.ref, index=index))
        return cls(job_id=job_id, accepted=tuple(accepted), rejected=tuple(rejected))


class ResultsBody(ApiBody):
    """Images of a job with their results; `next` is the cursor of the next page (`after`), null at the end."""

    job_id: str
    results: tuple[ImageBody, ...]
    next: str | None

    @classmethod
    def from_page(cls, job_id: str, page: ResultsPage) -> Self:
        """Return the body of a page."""
        return cls(
            job_id=job_id, results=tuple(ImageBody.from_result(item) for item in page.items), next=page.next_after
        )


class GoneImage(ApiBody):
    """A failed image that is no longer stored, so that it has to be uploaded again."""

    image_id: str
    filename: str


class RetryOutcome(ApiBody):
    """The outcome of retrying a job's failed images, up to 1,000 a call; a failed result stays until a newer one."""

    job_id: str
    sent: int = Field(description="Images that were requested again.")
    refused: int = Field(description="Images with a request that the queue rejected: call again.")
    gone: tuple[GoneImage, ...]
    final: int = Field(description="Images that cannot be classified: a retry would fail.")
    running: int = Field(description="Images that are being retried already.")
    next: str | None = Field(description="Call again with it as `after`; null when these were all.")

    @classmethod
    def from_retried(cls, job_id: str, retried: Retried) -> Self:
        """Return the body of a retry."""
        gone = tuple(GoneImage.copied_from(image, image.ref) for image in retried.missing)
        return cls.copied_from(retried, job_id=job_id, refused=retried.rejected, gone=gone, next=retried.next_after)


class ImageRetryOutcome(ApiBody):
    """The outcome of retrying one image.

    `sent`: requested again; `refused`: the queue rejected the request, call again; `gone`: no longer stored,
    upload it again; `final`: it cannot be classified, so a retry would fail; `running`: it is being retried
    already; `not_failed`: nothing was done, since it has a label or waits for its result.
    """

    job_id: str
    image_id: str
    outcome: RetriedOutcome

    @classmethod
    def from_retried(cls, ref: ImageRef, retried: Retried) -> Self:
        """Return the body of a retry of the image `ref`."""
        return cls.copied_from(ref, outcome=retried.of_one())


class ForecastBody(ApiBody):
    """When images would have their results, and their cost, by the fleet as it is now."""

    images: int
    workers: int = Field(description="Workers that run or start already.")
    launches: int = Field(description="Workers that will start for the queue and these images.")
    last_result_seconds: float | None = Field(description="Null if nothing will classify it as things are.")
    dollars: float | None = Field(description="Instances and requests, in US dollars; null as before.")
    text: str = Field(description="The same in words.")

    @classmethod
    def from_forecast(cls, forecast: Forecast) -> Self:
        """Return the body of a forecast."""
        seconds, dollars = forecast.seconds, forecast.dollars
        return cls.copied_from(
            forecast,
            last_result_seconds=None if seconds is None else round(seconds, 2),
            dollars=None if dollars is None else round(dollars, 6),
        )


class Index(ApiBody):
    """Where to begin."""

    documentation: str = "/api"
    openapi: str = f"{ROOT}/openapi.json"
    jobs: str = f"{ROOT}/jobs"
    fleet: str = f"{ROOT}/fleet"
    forecast: str = f"{ROOT}/forecast"
    health: str = "/healthz"
    readiness: str = "/readyz"
