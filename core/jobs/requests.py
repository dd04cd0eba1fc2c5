"""Requests for the results of images: one message for images of a pack that have the same attempt and model."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from core.ids import place_of
from core.jobs.models import ImageRecord
from core.messages import RequestMessage
from core.tracing import current_traceparent, new_traceparent
from services.sqs import OutgoingMessage, Queue


def request_images(queue: Queue, images: Iterable[ImageRecord], at: datetime, group: str) -> list[ImageRecord]:
    """Request the results of images, as of `at`; return those of which the queue refused the request.

    `group` is the message group of their job, as `requests_of` takes it.
    """
    requests = requests_of(images, at, group)
    refused = {message.id for message in queue.send([message for message, _ in requests])}
    return [image for message, some in requests if message.id in refused for image in some]


def requests_of(
    images: Iterable[ImageRecord], at: datetime, group: str = ""
) -> list[tuple[OutgoingMessage, Sequence[ImageRecord]]]:
    """Return the messages that request the results of the last attempts of images, each with its images.

    Users share the fleet fairly: the message group is `group`, that of their job. If it is empty, it is the user, or
    the job if the user is unknown.
    """
    by_request = dict[object, list[ImageRecord]]()
    for image in images:
        by_request.setdefault((image.ref.job_id, image.pack_id, image.attempt, image.model), []).append(image)
    return [(_request(some, at, group), some) for some in by_request.values()]


def _request(images: Sequence[ImageRecord], at: datetime, group: str) -> OutgoingMessage:
    first = images[0]
    request = RequestMessage(
        job_id=first.ref.job_id,
        pack_id=first.pack_id,
        extension=first.object_extension,
        sizes=first.sizes,
        submitted_at=at,
        attempt=first.attempt,
        model=first.model,
        source=first.source,
        traceparent=first.traceparent or current_traceparent() or new_traceparent(),
    ).asking_for(sorted(place_of(image.ref.image_id) for image in images))
    return OutgoingMessage(first.ref.image_id, request.to_json(), group or first.owner or first.ref.job_id)
