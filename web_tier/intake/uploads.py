"""Uploads as HTTP has them: the parts of the request that Flask serves now, and the status that answers them."""

from collections.abc import Iterator

from flask import request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from core.config import Web
from web_tier.backend import current_backend
from web_tier.intake.accept import RejectedUpload
from web_tier.intake.multipart import FormField, Upload, read_parts
from web_tier.intake.store import UNAVAILABLE, Outcome


def request_parts(limits: Web) -> Iterator[Upload | FormField]:
    """Yield the parts of the current request's form as they arrive.

    Raises:
        UnsupportedMediaType: when the body is not multipart/form-data.
        BadRequest: when the form is malformed or ends early.
        RequestEntityTooLarge: when it has too many files or is too large.
        RequestTimeout: when the client is too slow.
        BusyError: when so much is being read already that there is no memory for more.
    """
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(f"send images as multipart/form-data, not {request.mimetype or 'without a type'}")
    boundary = request.mimetype_params.get("boundary")
    if not boundary:
        raise BadRequest("the Content-Type names no boundary; let your client set that header")
    request.max_content_length = limits.max_request_bytes
    at_once = limits.max_image_bytes if request.content_length is None else request.content_length
    try:
        with current_backend().reading.held(min(at_once, limits.max_image_bytes)):
            yield from read_parts(
                request.stream,
                boundary,
                max_files=limits.max_files_per_request,
                max_file_bytes=limits.max_image_bytes,
            )
    except RequestEntityTooLarge as error:
        raise RequestEntityTooLarge(
            f"a request takes at most {limits.max_files_per_request} files and "
            f"{limits.max_request_bytes / 2**20:.4g} MB, so nothing was accepted: "
            "send the files in several requests to the same job"
        ) from error


def upload_status(outcomes: list[Outcome]) -> int:
    """Return the HTTP status for an upload: 200 when any file was accepted, 503 when that is our fault, else 422."""
    reasons = {outcome.code for outcome in outcomes if isinstance(outcome, RejectedUpload)}
    if any(not isinstance(outcome, RejectedUpload) for outcome in outcomes):
        return 200
    return 503 if UNAVAILABLE in reasons else 422
