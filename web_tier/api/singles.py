"""One image in, its result out: what all ways of asking about a single image share."""

from collections.abc import Iterable, Mapping
from typing import Final

from werkzeug.exceptions import (
    GatewayTimeout,
    HTTPException,
    RequestEntityTooLarge,
    ServiceUnavailable,
    UnprocessableEntity,
)

from core.jobs.models import ImageRecord
from core.messages import Response
from web_tier.auth.identity import current_identity
from web_tier.backend import current_backend
from web_tier.rate_limits.limiter import current_quota_scope
from web_tier.uploads.ingest import UNAVAILABLE, CachedImage, RejectedUpload
from web_tier.uploads.memory_limiter import BusyError
from web_tier.uploads.multipart import Upload

RETRY_SECONDS: Final = 5
"""After how long a request may be sent again that found too many others waiting."""

_STATUS_OF: Mapping[str, type[HTTPException]] = {UNAVAILABLE: ServiceUnavailable, "too_large": RequestEntityTooLarge}


def accepted(uploads: Iterable[Upload]) -> ImageRecord:
    """Take in the one image that `uploads` yields; return its record.

    Raises:
        UnprocessableEntity: when there is no file, or it is not an image that we take.
        RequestEntityTooLarge: when it is larger than an image may be.
        ServiceUnavailable: when it could not be stored.
        QuotaExceededError: when its sender has sent as much today as is taken.
    """
    try:
        outcome = current_backend().singles.ingest_one(current_identity().owner, uploads, current_quota_scope())
    except BusyError as error:
        raise ServiceUnavailable(str(error)) from error
    if outcome is None:
        raise UnprocessableEntity("the form holds no file; send one image in a field of the form")
    if isinstance(outcome, RejectedUpload):
        raise _refusal(outcome)
    return outcome


def result_of(record: ImageRecord, seconds: float) -> Response | None:
    """Return the result of an accepted image, or None when there is none within `seconds`.

    Or None at once when too many requests wait already, of this user or of all.

    Raises:
        UnprocessableEntity: when the result is that the image cannot be classified.
    """
    with current_backend().bulkheads.waiting.place(current_identity().owner) as may_wait:
        return _awaited(record, seconds if may_wait else 0)


def _awaited(record: ImageRecord, seconds: float) -> Response | None:
    if isinstance(record, CachedImage):
        return record.response
    response = current_backend().watch.wait(record.ref, seconds) if seconds else None
    return None if response is None else answered(response)


def answered(response: Response) -> Response:
    """Return `response` if it has a label.

    Raises:
        UnprocessableEntity: when it says that the image cannot be classified.
    """
    if response.error is not None:
        raise UnprocessableEntity(response.error.message)
    return response


def label_of(uploads: Iterable[Upload], seconds: float) -> tuple[ImageRecord, str]:
    """Take in the one image that `uploads` yields; return its record and its label.

    Raises:
        GatewayTimeout: when there is no result within `seconds`.
        ServiceUnavailable: when too many requests wait already, of this user or of all; the image is not accepted.
        HTTPException: as `accepted` and `result_of`.
    """
    with current_backend().bulkheads.waiting.place(current_identity().owner) as may_wait:
        if not may_wait:
            raise ServiceUnavailable(
                f"too many requests wait for their results just now; send it again in {RETRY_SECONDS} s",
                retry_after=RETRY_SECONDS,
            )
        record = accepted(uploads)
        response = _awaited(record, seconds)
    if response is None:
        raise GatewayTimeout(f"there is no result after {seconds:g} s; the image was accepted: send it again later")
    return record, str(response.label)


def _refusal(rejection: RejectedUpload) -> HTTPException:
    return _STATUS_OF.get(rejection.code, UnprocessableEntity)(rejection.message)
