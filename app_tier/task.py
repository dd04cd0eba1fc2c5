"""What passes from stage to stage: one image on its way, with what the last stage made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Generic, TypeVar

from core.messages import RequestMessage, Timings
from services.sqs import ReceivedMessage

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of a request message.

    A message that is delivered twice is two deliveries, each with a receipt of its own: both go through the worker,
    and the second is answered with the prediction that the first has stored.

    Attributes:
        received: the message as SQS gave it.
        request: what it asks for.
    """

    received: ReceivedMessage
    request: RequestMessage

    @property
    def receipt(self) -> str:
        """The receipt handle, which tells this delivery from every other."""
        return self.received.receipt

    @property
    def tries(self) -> int:
        """How many deliveries of the request have not been answered, this one included.

        A delivery that its worker gave back does not count.
        """
        return self.request.crashes + self.received.receive_count

    @property
    def redelivered(self) -> bool:
        """Whether an earlier delivery ended without an answer, perhaps because this image ended its worker."""
        return self.tries > 1

    def given_back(self) -> RequestMessage:
        """Return the request that takes the place of this one in the queue: this delivery does not count as a try."""
        return self.request.model_copy(update={"crashes": self.tries - 1})

    @property
    def queued_at(self) -> datetime:
        """When SQS took the message, by its clock."""
        return datetime.fromtimestamp(self.received.sent_at, UTC)

    @property
    def queued_ms(self) -> float:
        """Milliseconds from sending to the first receive; both by SQS's clock, so that no skew can falsify it."""
        return round(max(0.0, self.received.first_received_at - self.received.sent_at) * 1000, 3)


@dataclass(frozen=True, slots=True)
class Task(Generic[T_co]):
    """A delivery between two stages.

    Attributes:
        delivery: where it came from; decides what happens to the message.
        made: what the last stage made: nothing, bytes, pixels, a prediction.
        milliseconds: how long each stage so far took; a plain mapping, since it is copied at every stage.
        sha256: of the image's bytes, hexadecimal; empty until they have been fetched.
    """

    delivery: Delivery
    made: T_co
    milliseconds: Mapping[str, float]
    sha256: str = ""

    @property
    def timings(self) -> Timings:
        """The same as a result tells it."""
        return Timings(**self.milliseconds)

    def then(self, made: U, **milliseconds: float) -> "Task[U]":
        """Return the task for the next stage, with what this one made and how long it took."""
        rounded = {stage: round(duration, 3) for stage, duration in milliseconds.items()}
        return Task(self.delivery, made, {**self.milliseconds, **rounded}, self.sha256)

    def identified(self, sha256: str) -> "Task[T_co]":
        """Return the task with what its image's bytes are known by."""
        return replace(self, sha256=sha256)


def begin(delivery: Delivery) -> Task[None]:
    """Return the task that the first stage takes."""
    return Task(delivery, None, {"queued": delivery.queued_ms})
