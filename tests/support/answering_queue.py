"""A request queue that answers its messages, as the fleet does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.ids import ImageRef
from core.job_records import ImageRecord
from core.jobs import JobStore
from core.messages import RequestMessage, Response
from services.sqs import OutgoingMessage
from tests.support.jobs import done

Answering = Callable[[ImageRecord], Response | None]


@dataclass
class AnsweringQueue:
    """A request queue with a fleet: `answer` returns the result of an image, or None to leave it waiting."""

    store: JobStore
    answer: Answering = done
    images: list[ImageRef] = field(default_factory=list)

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        for message in messages:
            ref = RequestMessage.from_json(message.body).ref
            self.images.append(ref)
            result = self.answer(self.store.image(ref))
            if result is not None and result.status == "done":
                self.store.put_done([result])
            elif result is not None:
                self.store.put_failed(result)
        return []
