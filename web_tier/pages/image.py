"""One image: its page, and the pictures of it that we draw."""

from dataclasses import dataclass

from flask import Blueprint, Response, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import ServiceUnavailable

from services.errors import NotFoundError
from services.ids import ImageRef
from services.images import ImageLimits
from services.jobs import ImageRecord
from services.messages import Timings
from web_tier.backend import current_backend
from web_tier.live import current_live
from web_tier.parameters import known_id
from web_tier.results.query import ImageResult
from web_tier.results.thumbnails import CONTENT_TYPE, PREVIEW, TILE, NoThumbnailError, thumbnail

PICTURE_SECONDS = 3_600
"""How long a browser keeps a picture; an image never changes under its address."""

image_pages = Blueprint("image", __name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of an image's way: how long it took, and where it stands in the whole, in percent."""

    name: str
    milliseconds: float
    start: float
    share: float


def stages(timings: Timings) -> list[Stage]:
    """Return where an image's time went, in the order of its way."""
    lengths = {name: length for name, length in timings.model_dump().items() if length is not None}
    whole = sum(lengths.values()) or 1.0
    found: list[Stage] = []
    for name, length in lengths.items():
        start = found[-1].start + found[-1].share if found else 0.0
        found.append(Stage(name, length, start, 100 * length / whole))
    return found


@image_pages.get("/jobs/<job_id>/images/<image_id>")
def image_page(job_id: str, image_id: str) -> str:
    """Show one image: what was found, how sure, and where its time went."""
    store, live = current_backend().store, current_live()
    ref = _ref(job_id, image_id)
    job, result = store.job(ref.job_id), ImageResult(store.image(ref), store.result(ref))
    response = result.response
    prediction = live.objects.prediction(ref) if response and response.status == "done" else None
    return render_template(
        "image.html",
        job=job,
        item=result,
        model=response.model if response else None,
        message=live.words.messages.get(response.label or "") if response else None,
        scores=live.words.all_scores(prediction) if prediction else [],
        stages=stages(response.timings) if response else [],
        fleet=store.fleet(),
    )


@image_pages.get("/jobs/<job_id>/images/<image_id>/thumbnail")
def image_thumbnail(job_id: str, image_id: str) -> ResponseReturnValue:
    """Return the picture of an image for a list."""
    return _picture(_ref(job_id, image_id), TILE)


@image_pages.get("/jobs/<job_id>/images/<image_id>/preview")
def image_preview(job_id: str, image_id: str) -> ResponseReturnValue:
    """Return the picture of an image for its own page."""
    return _picture(_ref(job_id, image_id), PREVIEW)


def _ref(job_id: str, image_id: str) -> ImageRef:
    return ImageRef(known_id("job", job_id), known_id("image", image_id))


def _picture(ref: ImageRef, side: int) -> ResponseReturnValue:
    record = current_backend().store.image(ref)
    with current_live().turns.one() as is_mine:
        if not is_mine:
            raise ServiceUnavailable("too many pictures are asked for just now; reload in a moment")
        try:
            body = _drawn(record, side)
        except (NotFoundError, NoThumbnailError):
            return redirect(url_for("static", filename="no-picture.svg"))
    answer = Response(body, mimetype=CONTENT_TYPE)
    answer.headers["Content-Disposition"] = "inline"
    answer.headers["Cache-Control"] = f"private, max-age={PICTURE_SECONDS}, immutable"
    return answer


def _drawn(record: ImageRecord, side: int) -> bytes:
    web = current_backend().config.web
    limits = ImageLimits(web.max_image_bytes, web.max_image_pixels)
    return thumbnail(current_live().objects.sent(record), limits, side)
