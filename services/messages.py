"""What travels between the tiers: the request, the prediction object and the response.

The only module that knows these formats. Unknown versions and malformed bodies raise `MessageError`;
unknown fields are ignored, so that an older reader survives a newer writer.
"""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.errors import MessageError
from services.ids import ULID_PATTERN, ImageRef

Id = Annotated[str, Field(pattern=ULID_PATTERN)]
Status = Literal["done", "failed"]


class _Wire(BaseModel):
    """A frozen model that reads and writes JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

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


class _OfImage(_Wire):
    """Something about one image."""

    version: Literal[1] = 1
    job_id: Id
    image_id: Id

    @property
    def ref(self) -> ImageRef:
        """The image it is about."""
        return ImageRef(self.job_id, self.image_id)


class RequestMessage(_OfImage):
    """Asks a worker to classify the object at `key` of the input bucket."""

    key: str = Field(max_length=100)
    submitted_at: AwareDatetime

    @classmethod
    def about(cls, ref: ImageRef, key: str, submitted_at: datetime) -> Self:
        """Return the request for the image `ref`, stored at `key`."""
        return cls(job_id=ref.job_id, image_id=ref.image_id, key=key, submitted_at=submitted_at)


class LabelScore(_Wire):
    """A label with its softmax probability, 0 to 1."""

    label: str
    score: float


class Model(_Wire):
    """The bundle that answered."""

    name: str
    digest: str


class Timings(_Wire):
    """Where an image's time went, in milliseconds; a stage that was not reached is absent."""

    queued: float | None = None
    fetched: float | None = None
    decoded: float | None = None
    inferred: float | None = None
    stored: float | None = None


class Failure(_Wire):
    """Why an image has no label: a stable `code` for programs, a sentence for its owner."""

    code: str
    message: str


class Response(_OfImage):
    """The result of one image, as it travels in the response queue and stands in the job table."""

    status: Status
    label: str | None = None
    score: float | None = None
    top: tuple[LabelScore, ...] = ()
    model: Model | None = None
    worker: str
    attempts: int = Field(ge=0)
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


class FleetSnapshot(_Wire):
    """What the autoscaler saw and decided at one look.

    Attributes:
        running, pending, stopped: instances of the fleet by state.
        visible, in_flight, delayed: messages of the request queue by state.
        dead_letters: messages that were received too often.
        min_workers, max_workers: the limits in force.
        peak_workers: most running and pending at once since the fleet was last at zero and empty.
        billed_seconds: instance-seconds since the fleet's first launch, each instance at least the billed minimum.
        reason: the last decision in words.
        problem: why the last launch failed, in words; None when it did not.
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
    reason: str
    problem: str | None = None


def failed(ref: ImageRef, failure: Failure, *, worker: str, attempts: int) -> Prediction:
    """Return the prediction of an image that cannot be classified."""
    return Prediction(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="failed",
        worker=worker,
        attempts=attempts,
        error=failure,
    )
