"""What travels between the tiers: the request, the prediction object and the response.

The only module that knows these formats. Unknown versions and malformed bodies raise `MessageError`;
unknown fields are ignored, so that an older reader survives a newer writer.
"""

from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.config import MAX_WORKERS
from core.ids import ULID_PATTERN, ImageRef
from services.errors import MessageError

Id = Annotated[str, Field(pattern=ULID_PATTERN)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Status = Literal["done", "failed"]
WorkerState = Literal["ready", "busy", "draining", "ended"]
MAX_REASON_CHARACTERS = 200
"""Characters of the reason for a pause, or for limits that ops set."""


class Wire(BaseModel):
    """A frozen model that reads and writes JSON."""

    # JSON has neither infinity nor NaN: written as null, they could not be read again.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), allow_inf_nan=False)

    def to_json(self) -> str:
        """Return the model as compact JSON."""
        return self.model_dump_json(exclude_none=True)

    @classmethod
    def from_json(cls, body: str | bytes) -> Self:
        """Return the model that `body` holds.

        Raises:
            MessageError: when it is not JSON of this form and version.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            raise MessageError(f"not a {cls.__name__}: {where}: {first['msg']}") from error


class _OfImage(Wire):
    """Something about one image."""

    version: Literal[1] = 1
    job_id: Id
    image_id: Id

    @property
    def ref(self) -> ImageRef:
        """The image it is about."""
        return ImageRef(self.job_id, self.image_id)


class RequestMessage(_OfImage):
    """Asks a worker to classify the object at `key` of the input bucket.

    Attributes:
        attempt: 0 for the first request of an image; each retry by its user has the next number.
        crashes: how often this request was received and not answered, in messages that this one replaces.
    """

    key: str = Field(max_length=100)
    submitted_at: AwareDatetime
    attempt: int = Field(default=0, ge=0)
    crashes: int = Field(default=0, ge=0)

    @classmethod
    def about(cls, ref: ImageRef, key: str, submitted_at: datetime, attempt: int = 0) -> Self:
        """Return the request for the image `ref`, stored at `key`."""
        return cls(job_id=ref.job_id, image_id=ref.image_id, key=key, submitted_at=submitted_at, attempt=attempt)


class LabelScore(Wire):
    """A label with its softmax probability, 0 to 1."""

    label: str
    score: float


class Model(Wire):
    """The bundle that answered."""

    name: str
    digest: str


class Timings(Wire):
    """Where an image's time went, in milliseconds; a stage that was not reached is absent."""

    queued: float | None = None
    fetched: float | None = None
    decoded: float | None = None
    inferred: float | None = None
    stored: float | None = None


class Failure(Wire):
    """Why an image has no label: a stable `code` for programs, a sentence for its owner.

    Of what the image is, the code is one of `core.images.CODES`.
    """

    code: str
    message: str


class Response(_OfImage):
    """The result of one image, as it travels in the response queue and stands in the job table.

    Attributes:
        key, sha256: of the object that was classified, in the input bucket; absent where it was not read.
        cached: whether it was answered from the result of an earlier image with the same bytes.
        source: key of the prediction, in the output bucket, that a cached result repeats.
        queued_at: when SQS took the request that was answered, by its clock.
        recorded_at: when the result became visible to its owner.
        attempt: that of the request that was answered.
        attempts: how often the request was received until it was answered.
    """

    status: Status
    key: str | None = Field(default=None, max_length=100)
    sha256: Sha256 | None = None
    cached: bool = False
    source: str | None = Field(default=None, max_length=100)
    queued_at: AwareDatetime | None = None
    recorded_at: AwareDatetime | None = None
    label: str | None = None
    score: float | None = None
    top: tuple[LabelScore, ...] = ()
    model: Model | None = None
    worker: str
    attempts: int = Field(ge=0)
    attempt: int = Field(default=0, ge=0)
    timings: Timings = Timings()
    error: Failure | None = None

    @model_validator(mode="after")
    def _done_has_a_label_and_failed_has_an_error(self) -> Self:
        if self.status == "done" and (self.label is None or self.score is None):
            raise ValueError("a result that is done needs a label and a score")
        if self.status == "failed" and self.error is None:
            raise ValueError("a result that failed needs an error")
        return self


class Prediction(Response):
    """The object in the output bucket, the durable truth: the response with one probability per class."""

    probabilities: tuple[float, ...] = ()

    def response(self) -> Response:
        """Return the same without the full vector."""
        return Response.model_construct(**{name: getattr(self, name) for name in Response.model_fields})


class Heartbeat(Wire):
    """Says that a worker lives; it travels in the response queue, among the responses.

    Attributes:
        worker: who says it.
        at: when, by the worker's own clock.
        state: `ready` without an image in hand, `busy` with some, `draining` when it takes no more, then `ended`.
        images: answered so far.
        in_hand: received and not answered yet.
        images_per_second: answered since the last heartbeat.
    """

    version: Literal[1] = 1
    kind: Literal["heartbeat"] = "heartbeat"
    worker: str = Field(min_length=1, max_length=100)
    at: AwareDatetime
    state: WorkerState
    images: int = Field(ge=0)
    in_hand: int = Field(ge=0)
    images_per_second: float = Field(default=0, ge=0)


def from_worker(body: str | bytes) -> Response | Heartbeat:
    """Return what a message of the response queue holds.

    Raises:
        MessageError: when it is neither of the two; says what is wrong with it as a response.
    """
    try:
        return Response.from_json(body)
    except MessageError as error:
        # Responses are many, so it costs nothing to look for them first.
        try:
            return Heartbeat.from_json(body)
        except MessageError:
            raise error from None


class FleetPause(Wire):
    """Nothing is launched or started: since when, and why if the operator has said so."""

    version: Literal[1] = 1
    since: AwareDatetime
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS)


class WorkerLimits(Wire):
    """The least and the most workers that there may be, in the bounds of config.yaml."""

    min_workers: int = Field(ge=0, le=MAX_WORKERS)
    max_workers: int = Field(ge=0, le=MAX_WORKERS)

    @model_validator(mode="after")
    def _least_is_not_above_most(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must be at most max_workers ({self.max_workers})")
        return self


class LimitsOverride(WorkerLimits):
    """Limits that ops have set: since when, and why if they have said so.

    They hold in place of those of config.yaml until they are taken back.
    """

    version: Literal[1] = 1
    since: AwareDatetime
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS)


class BillingPeriod(Wire):
    """A stretch in which the fleet had work, from one rest to the next, or an hour of it.

    All images that workers answered in it share what it cost: boots, idle time and the billed minimum included.

    Attributes:
        number: of the run; the next one has the next.
        images: answered by workers in it.
        billed_seconds: instance-seconds that were billed in it.
        cost: the same in US dollars.
        is_open: whether it goes on.
    """

    number: int = Field(ge=1)
    images: int = Field(default=0, ge=0)
    billed_seconds: float = 0.0
    cost: float = 0.0
    is_open: bool = True


class FleetSnapshot(Wire):
    """What the autoscaler saw and decided at one look.

    Attributes:
        running, pending, stopped: instances of the fleet by state.
        visible, in_flight, delayed: messages of the request queue by state.
        dead_letters: messages that were received too often.
        min_workers, max_workers: the limits in force.
        policy: by which the size of the fleet is decided.
        limits_order: the limits in force, when ops have set them; None when they are those of config.yaml.
        configured: the limits of config.yaml.
        peak_workers: most running and pending at once since the fleet was last at zero and empty.
        billed_seconds: instance-seconds since the fleet's first launch, each instance at least the billed minimum.
        cost: the same in US dollars, each instance at the price of its type and market.
        images: answered by workers since then.
        run: the run that goes on, or the last one; None before the first.
        reason: the last decision in words.
        problem: why the last launch failed, in words; None when it did not.
        paused: since when nothing is launched, while the fleet is paused.
        image_seconds: that one worker takes for an image, as measured; None as long as that is not known.
        boot_seconds: from a launch to the worker's first word, as measured; None as long as that is not known.
    """

    version: Literal[1] = 1
    at: AwareDatetime
    running: int
    pending: int
    stopped: int = 0
    visible: int
    in_flight: int
    delayed: int = 0
    dead_letters: int = 0
    min_workers: int
    max_workers: int
    peak_workers: int
    billed_seconds: float
    cost: float = 0.0
    images: int = 0
    run: BillingPeriod | None = None
    reason: str
    problem: str | None = None
    paused: FleetPause | None = None
    image_seconds: float | None = None
    boot_seconds: float | None = None
    policy: str | None = None
    limits_order: LimitsOverride | None = None
    configured: WorkerLimits | None = None


GONE: Final = Failure(code="gone", message="the image is no longer stored: upload it again")
"""The failure of an image without an object in the input bucket."""


CRASHED_WORKER: Final = "crashed_worker"
"""The code of the failure of an image that workers received too often without an answer."""


def crashed_worker(tries: int) -> Failure:
    """Return the failure of an image that `tries` workers received and did not answer."""
    message = f"could not be classified after {tries} tries: the worker stopped or failed each time"
    return Failure(code=CRASHED_WORKER, message=message)


def failed(ref: ImageRef, failure: Failure, *, worker: str, attempts: int, attempt: int = 0) -> Prediction:
    """Return the prediction of an image that cannot be classified."""
    return Prediction(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="failed",
        worker=worker,
        attempt=attempt,
        attempts=attempts,
        error=failure,
    )
