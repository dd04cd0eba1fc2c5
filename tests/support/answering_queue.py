"""A request queue that answers its messages, as the fleet does."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from core.ids import ImageRef
from core.jobs.models import ImageRecord
from core.jobs.store import JobStore
from core.messages import ClassificationResult, RequestMessage
from services.sqs import OutgoingMessage, Queue
from tests.support.jobs import done

Answering = Callable[[ImageRecord], ClassificationResult | None]


class AnsweringQueue(Queue):
    """A request queue with a fleet: `answer` returns the result of an image, or None to leave it waiting."""

    def __init__(self, store: JobStore, answer: Answering = done) -> None:
        super().__init__(cast(Any, None), "memory")
        self.store, self.answer = store, answer
        self.images: list[ImageRef] = []

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
