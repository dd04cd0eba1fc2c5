"""What travels between the tiers: the request, the prediction object and the response.

The only module that knows these formats. Unknown versions and malformed bodies raise `MessageError`;
unknown fields are ignored, so that an older reader survives a newer writer.
"""

from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.ids import ULID_PATTERN, ImageRef
from services.errors import MessageError

Id = Annotated[str, Field(pattern=ULID_PATTERN)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Status = Literal["done", "failed"]
WorkerState = Literal["ready", "busy", "draining", "ended"]


class WireModel(BaseModel):
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


class _OfImage(WireModel):
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


class LabelScore(WireModel):
    """A label with its softmax probability, 0 to 1."""

    label: str
    score: float


class Model(WireModel):
    """The bundle that answered."""

    name: str
    digest: str


class Timings(WireModel):
    """Where an image's time went, in milliseconds; a stage that was not reached is absent."""

    queued: float | None = None
    fetched: float | None = None
    decoded: float | None = None
    inferred: float | None = None
    stored: float | None = None


class Failure(WireModel):
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


class Heartbeat(WireModel):
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


def parse_worker_message(body: str | bytes) -> Response | Heartbeat:
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
