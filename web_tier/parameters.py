"""Parsing of ids, cursors and numbers in URLs."""

from flask import request
from werkzeug.exceptions import BadRequest

from core.ids import ImageRef, is_id
from services.errors import NotFoundError


def known_id(kind: str, text: str) -> str:
    """Return `text` if it has the format of an id.

    Raises:
        NotFoundError: it has not, so nothing with that id can exist.
    """
    if not is_id(text):
        raise NotFoundError(f"there is no {kind} {text[:40]!r}")
    return text


def known_ref(job_id: str, image_id: str) -> ImageRef:
    """Return the reference of an image, if both ids have the format of ids.

    Raises:
        NotFoundError: as `known_id`.
    """
    return ImageRef(known_id("job", job_id), known_id("image", image_id))


def cursor(name: str) -> str | None:
    """Return the cursor in the query parameter `name`, if any.

    Raises:
        BadRequest: it is no id.
    """
    text = request.args.get(name)
    if text is not None and not is_id(text):
        raise BadRequest(f"{name}={text[:40]!r} is not an id; take it from the page before")
    return text


def whole_number(name: str, *, default: int, maximum: int) -> int:
    """Return the query parameter `name`, from 1 to `maximum`.

    Raises:
        BadRequest: it is something else.
    """
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= maximum):
        raise BadRequest(f"{name}={text[:40]!r} is not a whole number from 1 to {maximum}")
    return int(text)
