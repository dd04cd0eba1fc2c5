"""A web tier whose request queue answers what it is sent, as the fleet does."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from flask import Flask
from flask.testing import FlaskClient

from core.config import Config
from core.ids import ImageRef
from core.jobs.models import ImageRecord
from core.jobs.store import JobStore
from core.messages import RequestMessage, Response
from services.clients import Clients
from services.sqs import OutgoingMessage, Queue
from tests.support.jobs import done
from web_tier.app import create_app

Answering = Callable[[ImageRecord], Response | None]


class AnsweringQueue(Queue):
    """A request queue and its fleet: `answer` returns the result of an image, or None to leave it waiting."""

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


@pytest.fixture
def fleet(store: JobStore) -> AnsweringQueue:
    """Answers every image with `stop sign`, until it is told otherwise."""
    return AnsweringQueue(store)


@pytest.fixture
def answering(config: Config, provisioned: Clients, fleet: AnsweringQueue) -> Flask:
    """The web tier before `fleet`."""
    return create_app(config, request_queue=fleet)


@pytest.fixture
def asking(answering: Flask) -> FlaskClient:
    """A client of a web tier whose images are answered."""
    return answering.test_client()
