"""What passes from stage to stage: a request until its pack is read, then each image of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

from app_tier.engines import LoadedModel
from core.ids import ImageRef
from core.messages import Failure, ImageContent, Prediction, RequestMessage, Timings, failed
from services.clock import epoch_seconds
from services.sqs import ReceivedMessage

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a request message.

    A message that is delivered twice is two deliveries, each with its own receipt. Both go through the worker; the
    second is answered with the stored prediction of the first.

    Attributes:
        is_suspect: whether one of its images may have ended a worker that received it before.
        has_priority: whether it overtakes others in the pipeline: `InFlightMessages.hold` decides.
    """

    received: ReceivedMessage
    request: RequestMessage
    is_suspect: bool = False
    has_priority: bool = False

    @property
    def images(self) -> int:
        """How many images it asks for."""
        return len(self.request.places)

    @property
    def receipt(self) -> str:
        """The receipt handle, which identifies this delivery."""
        return self.received.receipt

    @property
    def owner(self) -> str:
        """The user of its job as far as the queue knows, else the job: decoders are never shared between owners."""
        return self.received.group or self.request.job_id

    @property
    def receives(self) -> int:
        """How often its message was received, including this time; one that is given back is a new message."""
        return self.received.receive_count

    @property
    def queued_at(self) -> datetime:
        """When SQS accepted the message, by its clock."""
        return datetime.fromtimestamp(self.received.sent_at, UTC)


@dataclass(frozen=True, slots=True)
class Task(Generic[T_co]):
    """A delivery, or one of its images, between two stages.

    Attributes:
        delivery: where it came from; decides what happens to the message.
        payload: output of the last stage: None, bytes, pixels, a prediction, or the answers of all images.
        milliseconds: duration of each stage so far; a plain mapping, since it is copied at every stage.
        content: what was read from the image besides its pixels; empty until it has been decoded.
        ended_at: when each stage that this worker has done ended, in seconds of the epoch.
        assigned: the model that classifies it; None until the image has got one that is loaded.
        place: of the image in its pack; None for all that the delivery asks for.
    """

    delivery: Delivery
    payload: T_co
    milliseconds: Mapping[str, float]
    content: ImageContent = field(default_factory=ImageContent)
    ended_at: Mapping[str, float] = field(default_factory=dict)
    assigned: LoadedModel | None = None
    place: int | None = None

    @property
    def ref(self) -> ImageRef:
        """Its image; of a whole delivery the first one of the pack, which has the pack's id."""
        return self.delivery.request.ref_at(self.place or 0)

    @property
    def traceparent(self) -> str | None:
        """The trace context of its request, or None."""
        return self.delivery.request.traceparent

    @property
    def model(self) -> LoadedModel:
        """The model that classifies it, of an image that has been fetched."""
        if self.assigned is None:
            raise ValueError("an image without a model is neither decoded nor classified")
        return self.assigned

    @property
    def timings(self) -> Timings:
        """The durations as a result contains them."""
        return Timings(**self.milliseconds)

    def with_payload(self, payload: U, **milliseconds: float) -> "Task[U]":
        """Return the task for the next stage, with the output of this one and its duration."""
        rounded = {stage: round(duration, 3) for stage, duration in milliseconds.items()}
        return Task(
            self.delivery,
            payload,
            {**self.milliseconds, **rounded},
            self.content,
            {**self.ended_at, **dict.fromkeys(milliseconds, epoch_seconds())},
            self.assigned,
            self.place,
        )

    def image(self, place: int, payload: U) -> "Task[U]":
        """Return the task of an image of the delivery."""
        return replace(self.with_payload(payload), place=place)


def new_task(delivery: Delivery) -> Task[None]:
    """Return the task for the first stage; it was queued from its sending to its first receive.

    Both are by SQS's clock, so clock skew has no effect.
    """
    queued = delivery.received.first_received_at - delivery.received.sent_at
    return Task(delivery, None, {"queued": round(max(0.0, queued) * 1000, 3)})


def refuse(task: Task[object], failure: Failure, worker: str) -> Task[Prediction]:
    """Return the task with the result of an image that cannot be classified."""
    delivery, attempt = task.delivery, task.delivery.request.attempt
    prediction = failed(task.ref, failure, worker=worker, attempts=delivery.receives, attempt=attempt)
    more = {"timings": task.timings, "queued_at": delivery.queued_at, "traceparent": task.traceparent}
    return task.with_payload(prediction.model_copy(update=more))
