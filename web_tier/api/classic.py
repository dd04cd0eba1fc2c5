"""The classic synchronous contract: one image a request, answered with its label, however long that takes.

Load generators speak it: a form with one file, each request on a connection of its own, hundreds at once. 200 stands
for a real answer; everything else is a sentence, as plain text too. `POST /classify` also takes the poster's JSON.
"""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, NotFound

from core.config import Classic
from web_tier.api.singles import label_of
from web_tier.backend import current_backend
from web_tier.live import current_live
from web_tier.problems import refuse, refuse_in_text
from web_tier.uploads.multipart import Upload
from web_tier.uploads.request_body import Parts, json_image, only_file, request_parts

FIELDS = frozenset({"myfile", "inputFile"})
"""At `/` these fields ask for a classic answer; any other is the page's own form."""

NAMED_FIELD = "inputFile"
"""Its answer begins with the name of the file."""

classic = Blueprint("classic", __name__)


@classic.post("/api/image", strict_slashes=False)
@classic.post("/classify-image", strict_slashes=False)
@classic.post("/file-upload", strict_slashes=False)
def classify_form() -> ResponseReturnValue:
    """Classify the one file of a form; answer 200 with its label as plain text.

    Answers 413, 415 or 422 where the image is not taken or cannot be classified, 504 where there is no result in
    time, each with the reason as plain text; 404 where this contract is switched off.
    """
    return answer(request_parts(current_backend().config.web))


@classic.post("/classify", strict_slashes=False)
def classify_form_or_poster() -> ResponseReturnValue:
    """Classify the one file of a form as the other addresses do, or the image in the JSON body (`Base64Image`).

    JSON, under any content type, is answered with a JSON string: the sentence that the bundle has for the label,
    or the label where it has none.
    """
    return classify_form() if request.mimetype == "multipart/form-data" else _poster()


def asks_for_it(field: str | None) -> bool:
    """Return whether a form sent to `/` with its first file in `field` wants a classic answer, not a page."""
    return current_backend().config.classic.enabled and field in FIELDS


@classic.errorhandler(HTTPException)
def refused(error: HTTPException) -> Response | HTTPException:
    """Answer refusals at these addresses as plain text; in JSON where JSON was sent."""
    is_poster = request.endpoint == "classic.classify_form_or_poster" and request.mimetype != "multipart/form-data"
    return refuse(error) if is_poster else refuse_in_text(error)


def answer(parts: Parts) -> Response | HTTPException:
    """Answer a form with the label of its one file, or with the reason why there is none."""
    try:
        return Response(_label(parts), 200, mimetype="text/plain")
    except HTTPException as error:
        return refuse_in_text(error)


def reply(settings: Classic, field: str, filename: str, label: str) -> str:
    """Return the answer to an image called `filename` that came in `field`; no `:` in it belongs to the label."""
    plain = " ".join(label.replace(":", " ").split())
    named = settings.reply == "name_and_label" or (settings.reply == "by_field" and field == NAMED_FIELD)
    return f"{PurePosixPath(filename).stem}:{plain}" if named else plain


def _label(parts: Parts) -> str:
    settings = current_backend().config.classic
    if not settings.enabled:
        raise NotFound("single images are not classified here: switched off by the configuration (classic.enabled)")
    fields: list[str] = []
    record, label = label_of(_noting_fields(parts, fields), settings.wait_seconds)
    return reply(settings, fields[0], record.filename, label)


def _noting_fields(parts: Parts, fields: list[str]) -> Iterator[Upload]:
    for upload in only_file(parts):
        fields.append(upload.field)
        yield upload


def _poster() -> Response:
    backend = current_backend()
    uploads = json_image(backend.config.web, backend.reading)
    _, label = label_of(uploads, backend.config.classic.wait_seconds)
    return Response(json.dumps(current_live().words.messages.get(label, label)), 200, mimetype="application/json")
