"""A page of an account, and the same page once more with a sentence about what was wrong."""

from http import HTTPStatus
from typing import Final

from flask import Response, make_response, redirect, render_template, request

from services.errors import FleetsightError
from services.user_errors import TooManyAttemptsError, WrongCredentialsError
from web_tier.auth.browser import FIRST_PAGE, safe_redirect

RETRY_AFTER_SECONDS: Final = 60
"""The user pool does not say how long it refuses more attempts: a second at first, up to 15 minutes."""


def show(page: str, *, status: int = HTTPStatus.OK, **facts: object) -> Response:
    """Return the page `page` as it looks with `facts`."""
    return make_response(render_template(f"accounts/{page}.html", next=asked_path(), **facts), status)


def refuse(page: str, error: FleetsightError, **facts: object) -> Response:
    """Return the page `page` with what `error` says beside the form."""
    answer = show(page, status=_status_of(error), fault=sentence(str(error)), **facts)
    if isinstance(error, TooManyAttemptsError):
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


def go_to(address: str) -> Response:
    """Send the browser to another page of ours, which it then asks for by GET."""
    return make_response(redirect(address, 303))


def asked_path() -> str:
    """Return where the current request asks to go on to afterwards: a path of this site."""
    return safe_redirect(request.values.get("next", FIRST_PAGE))


def typed(field: str) -> str:
    """Return what stands in a field of the form that was sent; the templates show it again, but for passwords."""
    return request.form.get(field, "")


def sentence(text: str) -> str:
    """Return an error's message as a sentence."""
    ended = text if text.endswith((".", "!", "?")) else f"{text}."
    return ended[:1].upper() + ended[1:]


def _status_of(error: FleetsightError) -> HTTPStatus:
    match error:
        case WrongCredentialsError():
            return HTTPStatus.UNAUTHORIZED
        case TooManyAttemptsError():
            return HTTPStatus.TOO_MANY_REQUESTS
        case _:
            return HTTPStatus.UNPROCESSABLE_ENTITY
