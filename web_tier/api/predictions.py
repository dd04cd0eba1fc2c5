"""The asynchronous pair: an image is handed in for an id, and its label is asked for with that id."""

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from core.ids import ImageRef
from services.errors import NotFoundError
from web_tier.api.exchange import json_answer
from web_tier.api.singles import accepted, answered
from web_tier.auth.job_access import user_jobs
from web_tier.backend import current_backend
from web_tier.parameters import known_ref
from web_tier.uploads.request_body import json_image

RETRY_SECONDS = 1

predictions = Blueprint("predictions", __name__)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class InferenceBody(_Body):
    """An image was accepted: ask for its label at `/predictions/` with this `uuid`."""

    uuid: str = Field(description="Opaque; as long as its image is kept, it leads to the image.")


class PredictionBody(_Body):
    """The label of an image; null as long as it is not known."""

    prediction: str | None


@predictions.post("/inference/image", strict_slashes=False)
@predictions.post("/inference/image/")
def hand_in() -> Response:
    """Take in one image, sent as JSON (`Base64Image`) under any content type; answer 200 with `InferenceBody`.

    Answers 413 or 422 where the image is not taken.
    """
    backend = current_backend()
    record = accepted(json_image(backend.config.web, backend.reading))
    return json_answer(InferenceBody(uuid=ticket(record.ref)))


@predictions.get("/predictions/<uuid>")
@predictions.get("/predictions/<uuid>/")
def prediction(uuid: str) -> ResponseReturnValue:
    """Answer 200 with `PredictionBody`, or 202 with the same as long as the label is not known.

    Answers 404 for an id that is not known, 422 where the image cannot be classified.
    """
    try:
        _, item = user_jobs().image(image_of(uuid))
    except NotFoundError as error:
        raise NotFoundError(f"there is no prediction {uuid[:80]!r}") from error
    if item.response is not None:
        return json_answer(PredictionBody(prediction=answered(item.response).label))
    return json_answer(PredictionBody(prediction=None), 202), {"Retry-After": str(RETRY_SECONDS)}


def ticket(ref: ImageRef) -> str:
    """Return the id that stands for an image: those of its job and its own, so that nothing needs to be looked up."""
    return f"{ref.job_id}-{ref.image_id}"


def image_of(uuid: str) -> ImageRef:
    """Return the image that `uuid` stands for.

    Raises:
        NotFoundError: when it is none of ours.
    """
    job_id, _, image_id = uuid.partition("-")
    return known_ref(job_id, image_id)
