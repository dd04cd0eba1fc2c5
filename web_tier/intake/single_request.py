"""Step 1 of a single image's way in: the one file of a request, whichever of the known ways it is sent.

What is read counts against a budget that all requests of a process share, so that a thousand of them at once cannot
fill its memory.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import chain

from flask import request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge, UnprocessableEntity

from core.config import Web
from web_tier.intake.budget import MemoryLimiter
from web_tier.intake.multipart import FormField, Upload
from web_tier.intake.names import shown_filename

_JSON_COPIES = 3
"""The body, its text and the image in it are in memory at the same time."""

_BASE64_GROWTH = 4 / 3
_SPARE_BYTES = 64 * 1024
_DATA_URL = re.compile(r"data:[^,]{0,200},", re.ASCII)


class Base64Image(BaseModel):
    """An image in JSON; `data` is base64, with or without a data-URL prefix such as `data:image/png;base64,`."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(default="", description="What to call the image; never part of a path.")
    data: str = Field(description="The image file, base64.")


Parts = Iterator[Upload | FormField]


def up_to_first_file(parts: Parts) -> tuple[dict[str, str], str | None, Parts]:
    """Read a form up to its first file; return the fields before it, its own field, and the parts from it on."""
    fields: dict[str, str] = {}
    for part in parts:
        if isinstance(part, Upload):
            return fields, part.field, chain([part], parts)
        fields[part.name] = part.value
    return fields, None, iter(())


def only_file(parts: Parts) -> Iterator[Upload]:
    """Yield the one file of a form, then read the rest of it.

    Raises:
        UnprocessableEntity: when there is a second file.
    """
    found = False
    for part in parts:
        if isinstance(part, Upload):
            if found:
                raise UnprocessableEntity("the form holds more than one file; send one image a request")
            found = True
            yield part


def raw_image(name: str, limits: Web, budget: MemoryLimiter) -> Iterator[Upload]:
    """Yield the body of the current request as an image that is called `name`.

    Raises:
        RequestEntityTooLarge: when the body is larger than an image may be.
        RequestTimeout: when the client is too slow.
    """
    with budget.held(_expected_bytes(limits.max_image_bytes)):
        body = _body(limits.max_image_bytes)
        yield Upload(shown_filename(name), body, len(body))


def json_image(limits: Web, budget: MemoryLimiter) -> Iterator[Upload]:
    """Yield the image in the JSON body of the current request, with any content type.

    Raises:
        UnprocessableEntity: when the body is not JSON with base64 in `data`.
        RequestEntityTooLarge: when the body is larger than an image may be.
        RequestTimeout: when the client is too slow.
    """
    most = int(limits.max_image_bytes * _BASE64_GROWTH) + _SPARE_BYTES
    with budget.held(_JSON_COPIES * _expected_bytes(most)):
        sent = _parsed(_body(most))
        data = decoded(sent.data)
        yield Upload(shown_filename(sent.name), data, len(data))


def decoded(text: str) -> bytes:
    """Return the bytes that base64 stands for, behind a data-URL prefix or without one; white space is no part of it.

    Raises:
        UnprocessableEntity: when it is not base64.
    """
    prefix = _DATA_URL.match(text)
    try:
        return base64.b64decode("".join(text[prefix.end() if prefix else 0 :].split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnprocessableEntity(f"data is not base64 ({error}); send the image file encoded as base64") from error


def _parsed(body: bytes) -> Base64Image:
    try:
        return Base64Image.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise UnprocessableEntity(f'{where}: {first["msg"]}; send {{"name": "a.jpg", "data": "base64"}}') from error


def _body(max_bytes: int) -> bytes:
    request.max_content_length = max_bytes
    try:
        return request.get_data(cache=False)
    except RequestEntityTooLarge as error:
        raise RequestEntityTooLarge(
            f"the request is larger than the {max_bytes / 2**20:.4g} MB that it may be: shrink the image"
        ) from error


def _expected_bytes(most: int) -> int:
    """Return how many bytes the body will be in memory, at most `most`: what its client says, or the most."""
    length = request.content_length
    return most if length is None else min(length, most)
