"""`POST /api/v1/classify`: one image, answered with its prediction while the client waits."""

from collections.abc import Iterator
from typing import Self

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from pydantic import Field
from werkzeug.exceptions import UnsupportedMediaType

from core.jobs.models import ImageRecord
from core.messages import Response
from web_tier.api.exchange import from_query, json_answer
from web_tier.api.models import ROOT, ImageBody
from web_tier.api.queries import ClassifyQuery
from web_tier.api.singles import accepted, result_of
from web_tier.backend import current_backend
from web_tier.results.query import ImageResult
from web_tier.uploads.multipart import Upload
from web_tier.uploads.request_body import json_image, only_file, raw_image, request_parts

classify = Blueprint("classify", __name__)


class SingleImageBody(ImageBody):
    """An image that was sent alone: with its prediction, or `waiting`, to be asked for again at `location`."""

    job_id: str
    location: str = Field(description="Path of the image on this server; also in the `Location` header.")

    @classmethod
    def of_single(cls, record: ImageRecord, response: Response | None) -> Self:
        """Return the body of an image that has been accepted, and of its result, if there is one yet."""
        body = ImageBody.of(ImageResult(record, response))
        location = f"{ROOT}/jobs/{record.ref.job_id}/images/{record.ref.image_id}"
        return cls(**dict(body), job_id=record.ref.job_id, location=location)


@classify.post("/classify")
def classify_image() -> ResponseReturnValue:
    """Classify one image and answer with its prediction.

    The image comes as a form with one file, as the body itself (type `image/...` or `application/octet-stream`), or
    as JSON (`Base64Image`). Answers 200 with `SingleImageBody`, or 202 with the same, `waiting`, and a `Location` to
    ask again; 413, 415 or 422 where the image is not taken, 422 also where it cannot be classified.
    """
    query = from_query(ClassifyQuery)
    record = accepted(_uploads(query.name or ""))
    response = result_of(record, query.wait)
    body = SingleImageBody.of_single(record, response)
    return json_answer(body, 200 if response else 202), {"Location": body.location}


def _uploads(name: str) -> Iterator[Upload]:
    backend = current_backend()
    limits, kind = backend.config.web, request.mimetype
    if kind == "multipart/form-data":
        return only_file(request_parts(limits))
    if kind == "application/json":
        return json_image(limits, backend.reading)
    if kind == "application/octet-stream" or kind.startswith("image/"):
        return raw_image(name, limits, backend.reading)
    raise UnsupportedMediaType(
        "send the image as multipart/form-data, as application/json with base64 in `data`, or as it is with its "
        f"image type or application/octet-stream; not {kind or 'without a type'}"
    )
