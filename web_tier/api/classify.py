"""Single images: a client sends one image and gets its label.

* `POST /api/v1/classify` answers with the prediction while the client waits.
* The classic contracts (`/api/image`, `/classify-image`, `/file-upload`, `/classify`, and `/` for programs)
  answer a form with one file with its label as plain text. Load generators use them: hundreds of connections at
  once. Errors are plain text, too. `POST /classify` also accepts the poster's JSON.
* The asynchronous pair `/inference/image` and `/predictions/ID` answers with an id, and later with the label.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Final, Self

from flask import Response, request
from flask.typing import ResponseReturnValue
from pydantic import Field
from werkzeug.exceptions import (
    GatewayTimeout,
    HTTPException,
    NotFound,
    ServiceUnavailable,
    UnprocessableEntity,
    UnsupportedMediaType,
)

from core.jobs.models import ImageRecord, MinScores
from core.messages import ClassificationResult
from services.errors import NotFoundError
from web_tier.api.schemas import ROOT
from web_tier.auth.identity import current_identity
from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.memory import BusyError
from web_tier.http.openapi import BYTES, FILE, FORM, JSON, ApiResponse, operation
from web_tier.http.parameters import known_ref
from web_tier.http.parsing import ClassifyQuery, json_response, parse_query
from web_tier.http.problems import ImageRefusedError, refuse, refuse_in_text
from web_tier.http.rate_limits import current_quota_scope
from web_tier.http.routes import Routes
from web_tier.results.export import ImageBody
from web_tier.results.query import ImageResult
from web_tier.results.services import current_result_services
from web_tier.uploads.ingest import UNAVAILABLE, RejectedUpload
from web_tier.uploads.multipart import Upload
from web_tier.uploads.request_body import NO_FILE, Base64Image, Parts, json_image, only_file, raw_image, request_parts

BUSY_RETRY_SECONDS: Final = 5
"""Seconds after which a client should repeat a request that was rejected since too many others wait."""

_STATUS_OF: Mapping[str, HTTPStatus] = {
    UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    "too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}
"""Statuses of rejections, by their code; others get 422."""


def ingest_single(uploads: Iterable[Upload]) -> tuple[ImageRecord, MinScores]:
    """Accept the one image of `uploads`; return its record, and the border of doubt of its job.

    Raises:
        UnprocessableEntity: if there is no file.
        ImageRefusedError: if its image is not valid or too large, or could not be stored.
        ServiceUnavailable: if no memory became free for it.
        QuotaExceededError: if its sender has used up the day's quota.
    """
    try:
        outcome = current_backend().singles.ingest_one(current_identity().owner, uploads, current_quota_scope())
    except BusyError as error:
        raise ServiceUnavailable(str(error)) from error
    if outcome is None:
        raise UnprocessableEntity(NO_FILE)
    record, min_scores = outcome
    if isinstance(record, RejectedUpload):
        status = _STATUS_OF.get(record.code, HTTPStatus.UNPROCESSABLE_ENTITY)
        raise ImageRefusedError(status, record.code, record.message)
    return record, min_scores


def wait_for_result(record: ImageRecord, seconds: float) -> ClassificationResult | None:
    """Return the result of an accepted image, or None if none exists within `seconds`.

    Raises:
        ImageRefusedError: if the image cannot be classified.
    """
    response = current_backend().watch.wait(record.ref, seconds) if seconds else None
    return None if response is None else require_label(response)


def require_label(response: ClassificationResult) -> ClassificationResult:
    """Return `response`, which has a label.

    Raises:
        ImageRefusedError: if the image cannot be classified.
    """
    if response.error is not None:
        raise ImageRefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, response.error.code, response.error.message)
    return response


def classify_single(uploads: Iterable[Upload], seconds: float) -> tuple[ImageRecord, str]:
    """Accept the one image of `uploads`; return its record and its label.

    Raises:
        GatewayTimeout: if there is no result within `seconds`.
        ServiceUnavailable: if too many requests of this user or of all users wait; the image is not accepted.
        HTTPException: as `ingest_single` and `wait_for_result`.
    """
    with current_backend().bulkheads.waiting.place(current_identity().owner) as may_wait:
        if not may_wait:
            raise ServiceUnavailable(
                f"too many requests wait for their results just now; send it again in {BUSY_RETRY_SECONDS} s",
                retry_after=BUSY_RETRY_SECONDS,
            )
        record, _ = ingest_single(uploads)
        response = wait_for_result(record, seconds)
    if response is None:
        raise GatewayTimeout(f"there is no result after {seconds:g} s; the image was accepted: send it again later")
    return record, str(response.label)


classify = Routes("classify")


class SingleImageBody(ImageBody):
    """An image that was sent alone: with its label, or `waiting`, to be asked for again at `location`."""

    location: str = Field(description="Path of the image on this server; also in the `Location` header.")

    @classmethod
    def of_single(cls, record: ImageRecord, response: ClassificationResult | None, min_scores: MinScores) -> Self:
        """Return the body of an accepted image, with its result if it has one, judged by these scores of its job."""
        body = ImageBody.from_result(ImageResult(record, response, min_scores=min_scores))
        location = f"{ROOT}/jobs/{record.ref.job_id}/images/{record.ref.image_id}"
        return cls(**dict(body), location=location)


_ONE_FILE = {"type": "object", "properties": {"image": FILE}, "required": ["image"]}


@classify.post("/classify", right=Right.CLASSIFY)
@operation(
    ApiResponse(200, "The image and its label.", SingleImageBody),
    ApiResponse(202, "The image was accepted and has no result yet: ask at `location`.", SingleImageBody),
    name="classify",
    tag="Single images",
    query=ClassifyQuery,
    body={FORM: _ONE_FILE, JSON: Base64Image, BYTES: FILE},
    problems=(408, 415),
)
def classify_image() -> ResponseReturnValue:
    """Classify one image.

    The image comes as a form with one file, as base64 in JSON (with or without a data-URL prefix), or as the body
    itself with its image type.
    """
    query = parse_query(ClassifyQuery)
    record, min_scores = ingest_single(_uploads(query.name or ""))
    with current_backend().bulkheads.waiting.place(current_identity().owner) as may_wait:
        # Answered at once if too many requests of this user or of all users wait.
        response = wait_for_result(record, query.wait if may_wait else 0)
    body = SingleImageBody.of_single(record, response, min_scores)
    return json_response(body, 200 if response else 202), {"Location": body.location}


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


NAMED_FIELD = "inputFile"
"""Field with an answer that begins with the name of the file."""

classic = Routes("classic")


@classic.post("/api/image", strict_slashes=False, right=Right.CLASSIFY)
@classic.post("/classify-image", strict_slashes=False, right=Right.CLASSIFY)
@classic.post("/file-upload", strict_slashes=False, right=Right.CLASSIFY)
def classify_form() -> ResponseReturnValue:
    """Classify the one file of a form; return 200 with its label as plain text.

    Returns 413, 415 or 422 if the image is rejected or cannot be classified, and 504 if there is no result in time,
    each with the reason as plain text; 404 if the contract is disabled.
    """
    return classic_answer(request_parts(current_backend().config.web))


@classic.post("/classify", strict_slashes=False, right=Right.CLASSIFY)
def classify_form_or_poster() -> ResponseReturnValue:
    """Classify the one file of a form like the other addresses, or the image in the JSON body (`Base64Image`).

    The answer to JSON, under any content type, is a JSON string: the bundle's message for the label, or the label if
    it has none.
    """
    if request.mimetype == "multipart/form-data":
        return classify_form()
    backend = current_backend()
    uploads = json_image(backend.config.web, backend.reading)
    record, label = classify_single(uploads, backend.config.classic.wait_seconds)
    messages = current_result_services().class_labels(record.model).messages
    return Response(json.dumps(messages.get(label, label)), 200, mimetype="application/json")


@classic.errorhandler(HTTPException)
def classic_error(error: HTTPException) -> Response | HTTPException:
    """Return an error at these addresses as plain text, or as JSON if the client sent JSON."""
    is_poster = request.endpoint == "classic.classify_form_or_poster" and request.mimetype != "multipart/form-data"
    return refuse(error) if is_poster else refuse_in_text(error)


def classic_answer(parts: Parts) -> Response | HTTPException:
    """Return the label of the one file of a form as plain text, or the error."""
    settings, fields = current_backend().config.classic, list[str]()
    if not settings.enabled:
        return refuse_in_text(
            NotFound("single images have no result here: switched off by the configuration (classic.enabled)")
        )
    try:
        record, label = classify_single(_record_fields(parts, fields), settings.wait_seconds)
    except HTTPException as error:
        return refuse_in_text(error)
    return Response(classic_reply(fields[0], record.filename, label), 200, mimetype="text/plain")


def classic_reply(field: str, filename: str, label: str) -> str:
    """Return the answer to an image called `filename` in `field`; a `:` in the label is replaced by a space."""
    plain = " ".join(label.replace(":", " ").split())
    return f"{PurePosixPath(filename).stem}:{plain}" if field == NAMED_FIELD else plain


def _record_fields(parts: Parts, fields: list[str]) -> Iterator[Upload]:
    for upload in only_file(parts):
        fields.append(upload.field)
        yield upload


POLL_SECONDS: Final = 1
"""Seconds after which a client should ask for a prediction again."""

predictions = Routes("predictions")


class InferenceBody(ApiBody):
    """An image was accepted: ask for its label at `/predictions/` with this `uuid`."""

    uuid: str = Field(description="Opaque; as long as its image is kept, it leads to the image.")


class PredictionBody(ApiBody):
    """The label of an image; null as long as it is not known."""

    prediction: str | None


@predictions.post("/inference/image", strict_slashes=False, right=Right.CLASSIFY)
@predictions.post("/inference/image/", right=Right.CLASSIFY)
def hand_in() -> Response:
    """Accept one image as JSON (`Base64Image`) under any content type; return 200 with `InferenceBody`.

    Returns 413 or 422 if the image is rejected.
    """
    backend = current_backend()
    record, _ = ingest_single(json_image(backend.config.web, backend.reading))
    # The ids of job and image, so that no lookup is necessary.
    return json_response(InferenceBody(uuid=f"{record.ref.job_id}-{record.ref.image_id}"))


@predictions.get("/predictions/<uuid>", right=Right.READ)
@predictions.get("/predictions/<uuid>/", right=Right.READ)
def prediction(uuid: str) -> ResponseReturnValue:
    """Return 200 with `PredictionBody`, or 202 with the same until the label is known.

    Returns 404 if the id is not known, and 422 if the image cannot be classified.
    """
    job_id, _, image_id = uuid.partition("-")
    try:
        _, item = user_jobs().image(known_ref(job_id, image_id))
    except NotFoundError as error:
        raise NotFoundError(f"there is no prediction {uuid[:80]!r}") from error
    if item.response is not None:
        return json_response(PredictionBody(prediction=require_label(item.response).label))
    return json_response(PredictionBody(prediction=None), 202), {"Retry-After": str(POLL_SECONDS)}
