"""Error responses: problem JSON (RFC 9457) for programs, a page for people.

`detail` says what the user can do. Internal details are only in the log, under the request's id.
"""

import logging
import os
import signal
from enum import StrEnum
from http import HTTPStatus

from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, Response, make_response, render_template, request
from pydantic import BaseModel, Field
from werkzeug.exceptions import (
    Conflict,
    HTTPException,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    RequestedRangeNotSatisfiable,
    RequestEntityTooLarge,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
    UnprocessableEntity,
)

from core.model_catalog import CatalogRefusedError, UnknownModelError
from core.tokens import TokenUncheckedError
from services.errors import NotFoundError
from services.table import TableBusyError
from web_tier.auth.provider import ProviderUnreachableError
from web_tier.http.memory import BusyError, is_exhausted
from web_tier.http.middleware import is_for_programs, request_id, trace_id
from web_tier.uploads.idempotency import ReusedKeyError

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
_NOTHING_HERE = "nothing is at this address: check it, or start from the first page"

_log = logging.getLogger(__name__)


_URN = "urn:fleetsight:problem:"


class ProblemType(StrEnum):
    """The type of a problem; stable, for programs. `about:blank` means the HTTP status alone."""

    BAD_REQUEST = f"{_URN}bad-request"
    UNAUTHORIZED = f"{_URN}unauthorized"
    FORBIDDEN = f"{_URN}forbidden"
    NOT_FOUND = f"{_URN}not-found"
    METHOD_NOT_ALLOWED = f"{_URN}method-not-allowed"
    REQUEST_TIMEOUT = f"{_URN}request-timeout"
    REQUEST_ENTITY_TOO_LARGE = f"{_URN}request-entity-too-large"
    UNSUPPORTED_MEDIA_TYPE = f"{_URN}unsupported-media-type"
    UNPROCESSABLE_ENTITY = f"{_URN}unprocessable-entity"
    IDEMPOTENCY_KEY_REUSED = f"{_URN}idempotency-key-reused"
    JOB_CANCELLED = f"{_URN}job-cancelled"
    JOB_TAKES_NO_IMAGES = f"{_URN}job-takes-no-images"
    TOO_MANY_OPEN_JOBS = f"{_URN}too-many-open-jobs"
    TOO_MANY_REQUESTS = f"{_URN}too-many-requests"
    QUOTA_EXCEEDED = f"{_URN}quota-exceeded"
    MISDIRECTED_REQUEST = f"{_URN}misdirected-request"
    INTERNAL_SERVER_ERROR = f"{_URN}internal-server-error"
    SERVICE_UNAVAILABLE = f"{_URN}service-unavailable"
    GATEWAY_TIMEOUT = f"{_URN}gateway-timeout"
    OTHER = "about:blank"

    @classmethod
    def from_name(cls, name: str) -> "ProblemType":
        """Return the type of the HTTP error called `name`, such as `Not Found`."""
        urn = f"{_URN}{name.lower().replace(' ', '-')}"
        return next((known for known in cls if known.value == urn), cls.OTHER)


class IdempotencyKeyReusedError(UnprocessableEntity):
    """Raised when an Idempotency-Key is reused with a different request."""

    name = "Idempotency Key Reused"


class JobCancelledError(Conflict):
    """Raised when images are sent to a cancelled job."""

    name = "Job Cancelled"


class JobTakesNoImagesError(Conflict):
    """Raised when images are sent to a job with images from S3."""

    name = "Job Takes No Images"


class ImageRefusedError(HTTPException):
    """Raised when the image of a request gets no label.

    Args:
        status: of the response.
        image_code: `code` of the rejection or the failure.
        message: what is wrong and what to do, for the image's owner.
    """

    def __init__(self, status: HTTPStatus, image_code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.image_code = status, image_code


class TooManyOpenJobsError(TooManyRequests):
    """Raised when the maximum number of unfinished jobs exists."""

    name = "Too Many Open Jobs"


class Problem(BaseModel):
    """A problem details object (RFC 9457)."""

    type: ProblemType
    title: str
    status: int
    detail: str = Field(description="What was wrong, and what to do.")
    code: str = Field(
        description="Stable, for programs: of a rejected file or failed image, or else of the type or the status, "
        "such as `not_found`."
    )
    request_id: str = Field(description="Names the request in the log.")
    trace_id: str = Field(description="Name it when you ask for help: the log lines of the request have it.")

    @property
    def heading(self) -> str:
        """The title for people."""
        return "Page not found" if self.detail == _NOTHING_HERE else self.title.capitalize()


def answer_problems(app: Flask) -> None:
    """Return every error of `app` as a problem."""
    app.register_error_handler(Exception, _answer)


def _answer(error: Exception) -> Response | HTTPException:
    match error:
        case HTTPException():
            return refuse(error)
        case NotFoundError():
            return refuse(NotFound(str(error)))
        case ReusedKeyError():
            return refuse(IdempotencyKeyReusedError(str(error)))
        case UnknownModelError() | CatalogRefusedError():
            return refuse(UnprocessableEntity(str(error)))
        case (
            BotoCoreError()
            | ClientError()
            | TableBusyError()
            | BusyError()
            | ProviderUnreachableError()
            | TokenUncheckedError()
        ):
            _log.warning("a service failed", exc_info=error, extra={"request_id": request_id()})
            reason = "a service that this needs does not answer just now; try again in a moment"
            return refuse(ServiceUnavailable(reason))
    _log.error("a request failed", exc_info=error, extra={"request_id": request_id()})
    if is_exhausted():
        _log.critical("this process is out of memory: it ends, and gunicorn starts another")
        os.kill(os.getpid(), signal.SIGTERM)
    return refuse(InternalServerError("something went wrong on our side; the log has it under the trace ID"))


def problem(error: HTTPException) -> Problem:
    """Return the problem details of `error`."""
    detail = _NOTHING_HERE if error.description == NotFound.description else error.description
    if detail == RequestEntityTooLarge.description:
        sent, most = request.content_length or "too many", request.max_content_length
        detail = f"the body has {sent} bytes, and {most} are allowed here: send less at a time"
    elif isinstance(error, MethodNotAllowed) and error.valid_methods:
        wanted = " or ".join(sorted(set(error.valid_methods) - {"HEAD", "OPTIONS"}))
        remedy = (
            "the page /api lists all operations" if is_for_programs(request.path) else "start from the first page"
        )
        detail = f"this address takes {wanted}, not {request.method[:20]}: {remedy}"
    elif isinstance(error, RequestedRangeNotSatisfiable):
        detail = f"the file has {error.length} bytes: ask for a range within them, or leave out the header Range"
    return Problem(
        type=ProblemType.from_name(error.name),
        title=error.name,
        status=error.code or 500,
        detail=detail or error.name,
        code=error.image_code if isinstance(error, ImageRefusedError) else error.name.lower().replace(" ", "_"),
        request_id=request_id(),
        trace_id=trace_id(),
    )


def refuse(error: HTTPException) -> Response | HTTPException:
    """Return an error response, as JSON or as a page."""
    if error.code is None or error.code < 400:
        return error  # a redirect
    reason = problem(error)
    if is_for_programs(request.path):
        answer = Response(reason.model_dump_json(), reason.status, content_type=CONTENT_TYPE)
    else:
        answer = make_response(render_template("problem.html", problem=reason), reason.status)
    return _with_headers(error, answer)


def refuse_in_text(error: HTTPException) -> Response | HTTPException:
    """Return an error response with its detail as plain text."""
    if error.code is None or error.code < 400:
        return error
    reason = problem(error)
    return _with_headers(error, Response(reason.detail, reason.status, mimetype="text/plain"))


def _with_headers(error: HTTPException, answer: Response) -> Response:
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        answer.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    if isinstance(error, RequestedRangeNotSatisfiable):
        answer.headers["Content-Range"] = f"{error.units} */{error.length}"
    if isinstance(error, Unauthorized) and error.www_authenticate:
        answer.headers["WWW-Authenticate"] = ", ".join(each.to_header() for each in error.www_authenticate)
    if answer.status_code in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        # Our own errors give seconds.
        answer.headers["Retry-After"] = str(getattr(error, "retry_after", None) or RETRY_AFTER_SECONDS)
    return answer
