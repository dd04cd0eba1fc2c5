"""Images in the body of the current request: as a multipart form, as the raw body, or as base64 in JSON.

While a body is read, its bytes are acquired from a limiter that all requests of a process share, so that a thousand
concurrent requests cannot fill the memory.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from itertools import chain

from flask import request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnprocessableEntity, UnsupportedMediaType

from core.config import WebSettings
from core.ids import MAX_POSITION
from core.images import too_large
from web_tier.http.backend import current_backend
from web_tier.http.memory import MemoryLimiter
from web_tier.http.parameters import clean_filename
from web_tier.http.parsing import json_text
from web_tier.http.problems import ImageRefusedError
from web_tier.uploads.ingest import UNAVAILABLE, RejectedUpload, UploadResult
from web_tier.uploads.multipart import FormField, Upload, read_parts

_JSON_COPIES = 3
"""Copies of an image in JSON: the body, its text and the image are in memory at the same time."""

_BASE64_GROWTH = 4 / 3
_SPARE_BYTES = 64 * 1024
_SPARE_LINES, _MIN_LINE_CHARACTERS = 100, 32
"""Lines that base64 may have, beside one for so many characters on average: each takes memory of its own."""
_STANDARD_ALPHABET = str.maketrans("-_ ", "+/+")
_DATA_URL = re.compile(r"data:[^,]{0,200},", re.ASCII)

NO_FILE = "the form holds no file: give the part with the image a filename, as curl -F image=@a.jpg does"
"""Message to a client that sends a form without a file."""

Parts = Iterator[Upload | FormField]


class Base64Image(BaseModel):
    """An image in JSON; `data` is base64, with or without a data-URL prefix such as `data:image/png;base64,`."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(default="", description="What to call the image; never part of a path.")
    data: str = Field(description="The image file, base64.")


def request_parts(limits: WebSettings) -> Parts:
    """Yield the parts of the current request's form as they arrive.

    Raises:
        UnsupportedMediaType: the body is not multipart/form-data.
        BadRequest: the form is malformed or ends early.
        RequestEntityTooLarge: it has too many files or is too large.
        BusyError: the bodies that are being read fill the memory.
    """
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(f"send images as multipart/form-data, not {request.mimetype or 'without a type'}")
    boundary = request.mimetype_params.get("boundary")
    if not boundary:
        raise BadRequest("the Content-Type names no boundary; let your client set that header")
    request.max_content_length = limits.max_request_bytes
    try:
        with current_backend().reading.acquired(_expected_bytes(limits.max_image_bytes)):
            yield from read_parts(
                request.stream.read,
                boundary,
                max_files=limits.max_files_per_request,
                max_file_bytes=limits.max_image_bytes,
            )
    except RequestEntityTooLarge as error:
        counted = "" if error.description == RequestEntityTooLarge.description else f"{error.description}; "
        raise RequestEntityTooLarge(
            f"{counted or _counted(limits.max_request_bytes)}a request takes at most {limits.max_files_per_request} "
            f"files and {limits.max_request_bytes / 2**20:.4g} MB, so nothing was accepted: "
            "send the files in several requests to the same job"
        ) from error


def up_to_first_file(parts: Parts) -> tuple[dict[str, str], Parts]:
    """Return the fields of a form before its first file, and the parts from the file on."""
    fields: dict[str, str] = {}
    for part in parts:
        if isinstance(part, Upload):
            return fields, chain([part], parts)
        fields[part.name] = part.value
    return fields, iter(())


POSITIONS_FIELD = "positions"
REMAINING_FIELD = "remaining"

_FIELDS_OF_FILES = {
    POSITIONS_FIELD: (
        re.compile(r"[0-9]{1,7}(,[0-9]{1,7})*", re.ASCII),
        f"{POSITIONS_FIELD} must come before the files, with a whole number from 0 to {MAX_POSITION} for each: 0,1,2",
    ),
    REMAINING_FIELD: (
        re.compile(r"[0-9]{1,9}", re.ASCII),
        f"{REMAINING_FIELD} must come before the files, with the number of files of further requests: 400",
    ),
}
"""The pattern of each field, and the message to a client that does not keep to it."""


def positioned_files(parts: Parts) -> Iterator[Upload]:
    """Yield the files of a form, with what the fields `positions` and `remaining` before them say.

    Raises:
        UnprocessableEntity: a field is wrong or after a file, or `positions` does not have one for each file.
    """
    given, files = dict[str, list[int]](), 0
    for part in parts:
        if isinstance(part, FormField):
            if part.name in _FIELDS_OF_FILES:
                pattern, refusal = _FIELDS_OF_FILES[part.name]
                if files or part.name in given or not pattern.fullmatch(part.value):
                    raise UnprocessableEntity(refusal)
                given[part.name] = [int(number) for number in part.value.split(",")]
            continue
        positions, remaining = given.get(POSITIONS_FIELD), given.get(REMAINING_FIELD)
        if positions is not None and files == len(positions):
            raise UnprocessableEntity(_FIELDS_OF_FILES[POSITIONS_FIELD][1])
        in_request = 1 if positions is None else len(positions) - files
        yield replace(
            part,
            position=None if positions is None else positions[files],
            left=None if remaining is None else in_request + remaining[0],
        )
        files += 1
    if files < len(given.get(POSITIONS_FIELD, ())):
        raise UnprocessableEntity(_FIELDS_OF_FILES[POSITIONS_FIELD][1])


def only_file(parts: Parts) -> Iterator[Upload]:
    """Yield the one file of a form, then read the rest of it.

    Raises:
        UnprocessableEntity: there is a second file.
    """
    found = False
    for part in parts:
        if isinstance(part, Upload):
            if found:
                raise UnprocessableEntity("the form holds more than one file; send one image a request")
            found = True
            yield part


def raw_image(name: str, limits: WebSettings, memory: MemoryLimiter) -> Iterator[Upload]:
    """Yield the body of the current request as an image with that `name`.

    Raises:
        ImageRefusedError, RequestEntityTooLarge: the body is larger than an image may be; the first if the client
            declares its size.
    """
    if (length := request.content_length or 0) > limits.max_image_bytes:
        refusal = too_large(length, limits.image_limits)
        raise ImageRefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, refusal.code, refusal.message)
    with memory.acquired(_expected_bytes(limits.max_image_bytes)):
        body = _body(limits.max_image_bytes)
        yield Upload(clean_filename(name), body, len(body))


def json_image(limits: WebSettings, memory: MemoryLimiter) -> Iterator[Upload]:
    """Yield the image in the JSON body of the current request, with any content type.

    Raises:
        UnprocessableEntity: the body is not JSON with base64 in `data`.
        RequestEntityTooLarge: the body is larger than an image may be.
    """
    max_bytes = int(limits.max_image_bytes * _BASE64_GROWTH) + _SPARE_BYTES
    with memory.acquired(_JSON_COPIES * _expected_bytes(max_bytes)):
        body = _body(max_bytes)
        try:
            image = Base64Image.model_validate_json(json_text(body))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            reason = f'{where}: {first["msg"]}; send {{"name": "a.jpg", "data": "base64"}}'
            raise UnprocessableEntity(reason) from error
        data = decoded(image.data)
        yield Upload(clean_filename(image.name), data, len(data))


def decoded(text: str) -> bytes:
    """Return the bytes of base64 text in the standard or the URL-safe alphabet, with or without padding.

    It may have a data-URL prefix. White space at the ends and around line breaks is ignored; any other space was a +,
    which the decoding of a form or of a query turns into a space.

    Raises:
        UnprocessableEntity: the text is not base64.
    """
    prefix = _DATA_URL.match(text)
    text = text[prefix.end() if prefix else 0 :].replace("\r\n", "\n").replace("\r", "\n")
    if text.count("\n") > _SPARE_LINES + len(text) // _MIN_LINE_CHARACTERS:
        raise UnprocessableEntity("data has lines of a few characters; send it in lines of 64 or more, or in one")
    lines = text.split("\n")
    digits = "".join(line.strip() for line in lines).translate(_STANDARD_ALPHABET).rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnprocessableEntity(f"data is not base64 ({error}); send the image file encoded as base64") from error


def _body(max_bytes: int) -> bytes:
    request.max_content_length = max_bytes
    try:
        return request.get_data(cache=False)
    except RequestEntityTooLarge as error:
        raise RequestEntityTooLarge(
            f"{_counted(max_bytes)}this one may have {max_bytes / 2**20:.4g} MB: shrink the image"
        ) from error


def _counted(max_bytes: int) -> str:
    """Return the size of the body of the current request, which is larger than allowed, for a message."""
    length = request.content_length
    size = f"more than {max_bytes / 2**20:.4g}" if length is None else f"{length / 2**20:.4g}"
    return f"the request has {size} MB; "


def _expected_bytes(max_bytes: int) -> int:
    """Return the size of the body, at most `max_bytes`, which is assumed if the client does not declare it."""
    length = request.content_length
    return max_bytes if length is None else min(length, max_bytes)


def upload_status(results: list[UploadResult]) -> int:
    """Return the HTTP status of an upload: 200 if any file was accepted, 503 for a fault of the system, else 422."""
    codes = {result.code for result in results if isinstance(result, RejectedUpload)}
    if any(not isinstance(result, RejectedUpload) for result in results):
        return 200
    return 503 if UNAVAILABLE in codes else 422
