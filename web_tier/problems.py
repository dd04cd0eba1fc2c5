"""Everything that goes wrong, told in one form: problem JSON (RFC 9457) to programs, a page to people.

What the user can act on is in `detail`; what went wrong inside is in the log only, under the request's id.
"""

import logging

from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, Response, make_response, render_template, request
from pydantic import BaseModel, Field
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed, NotFound, ServiceUnavailable

from services.errors import NotFoundError
from services.table import TableBusyError
from web_tier.intake.budget import BusyError
from web_tier.request_log import request_id

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
_NOTHING_HERE = "there is nothing at this address; check it, or start from the first page"

_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """A problem as RFC 9457 has it; `type` is stable, `request_id` is in the log."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str = Field(description="Name it when you ask for help.")


def answer_problems(app: Flask) -> None:
    """Answer every error of `app` as a problem."""
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(NotFoundError, _not_found)
    for unavailable in (BotoCoreError, ClientError, TableBusyError, BusyError):
        app.register_error_handler(unavailable, _unavailable)
    app.register_error_handler(Exception, _unexpected)


def problem(error: HTTPException) -> Problem:
    """Return what `error` says."""
    detail = _NOTHING_HERE if error.description == NotFound.description else error.description
    return Problem(
        type=f"urn:fleetsight:problem:{error.name.lower().replace(' ', '-')}",
        title=error.name,
        status=error.code or 500,
        detail=detail or error.name,
        request_id=request_id(),
    )


def _refused(error: HTTPException) -> Response | HTTPException:
    if error.code is None or error.code < 400:
        return error  # a redirect
    answer = _answer(problem(error))
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        answer.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    if isinstance(error, ServiceUnavailable):
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


def _not_found(error: NotFoundError) -> Response | HTTPException:
    return _refused(NotFound(str(error)))


def _unavailable(error: Exception) -> Response | HTTPException:
    _log.error("a service failed", exc_info=error, extra={"request_id": request_id()})
    return _refused(ServiceUnavailable("a service that this needs does not answer just now; try again in a moment"))


def _unexpected(error: Exception) -> Response | HTTPException:
    _log.error("a request failed", exc_info=error, extra={"request_id": request_id()})
    return _refused(InternalServerError("something went wrong on our side; the log has it under the request id"))


def _answer(said: Problem) -> Response:
    if request.path.startswith(("/api/", "/healthz", "/readyz")):
        return Response(said.model_dump_json(), said.status, content_type=CONTENT_TYPE)
    return make_response(render_template("problem.html", problem=said), said.status)
