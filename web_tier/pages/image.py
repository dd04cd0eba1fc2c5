"""One image: its page, the form that tries it again, and the pictures of it that we draw."""

from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import ServiceUnavailable

from core.ids import ImageRef
from core.jobs.models import Job
from core.messages import Response as MessageResponse
from core.sandbox.process import PoolUnavailableError
from services.errors import NotFoundError, ObjectTooLargeError
from web_tier.auth.job_access import user_jobs
from web_tier.backend import current_backend
from web_tier.live import current_live
from web_tier.pages.job import job_page_after
from web_tier.pages.timeline import Timeline
from web_tier.parameters import known_ref
from web_tier.rate_limits.limiter import current_quota_scope
from web_tier.results.query import ImageResult, is_final
from web_tier.results.thumbnails import CONTENT_TYPE, PREVIEW, TILE, NoThumbnailError
from web_tier.uploads.retry import retry_image

PICTURE_SECONDS = 3_600
"""How long a browser keeps a picture; an image never changes under its address."""

NOTES = {
    "sent": "Requested again: a worker will try it once more.",
    "gone": "It is no longer stored, so it cannot be tried again: upload it again.",
    "refused": "The queue did not take it just now: try again in a moment.",
    "final": "This file cannot be classified, so it would fail again: upload another one.",
    "running": "It is being tried again already.",
}
"""What became of an image that was to be tried again, in words."""

image_pages = Blueprint("image", __name__)


@image_pages.get("/jobs/<job_id>/images/<image_id>")
def image_page(job_id: str, image_id: str) -> str:
    """Show one image: what was found, how sure, and where its time went."""
    live = current_live()
    job, result = user_jobs().image(known_ref(job_id, image_id))
    response = result.response
    prediction = live.objects.prediction(response) if response and response.status == "done" else None
    return render_template(
        "image.html",
        job=job,
        item=result,
        model=response.model if response else None,
        message=live.words.messages.get(response.label or "") if response else None,
        scores=live.words.all_scores(prediction) if prediction else [],
        timeline=Timeline.of(result),
        is_kept=is_kept(job, result),
        can_retry=response is not None and not result.retrying and not is_final(response),
        note=NOTES.get(request.args.get("retried", "")),
        fleet=current_backend().fleet.snapshot(),
    )


def is_kept(job: Job, result: ImageResult) -> bool:
    """Return whether the file of an image may still be stored."""
    return job.keep or result.state != "done"


@image_pages.post("/jobs/<job_id>/images/<image_id>/retry")
def retry_one(job_id: str, image_id: str) -> ResponseReturnValue:
    """Request one failed image again, and go back to the page that the form was on."""
    _, item = user_jobs().image(known_ref(job_id, image_id))
    retried = retry_image(current_backend().intake, item.record, item.response, current_quota_scope())
    if request.form.get("from") == "job":
        return redirect(job_page_after(job_id, retried), 303)
    return redirect(url_for("image.image_page", job_id=job_id, image_id=image_id, retried=retried.of_one()), 303)


@image_pages.get("/jobs/<job_id>/images/<image_id>/thumbnail")
def image_thumbnail(job_id: str, image_id: str) -> ResponseReturnValue:
    """Return the picture of an image for a list."""
    return _picture(known_ref(job_id, image_id), TILE)


@image_pages.get("/jobs/<job_id>/images/<image_id>/preview")
def image_preview(job_id: str, image_id: str) -> ResponseReturnValue:
    """Return the picture of an image for its own page."""
    return _picture(known_ref(job_id, image_id), PREVIEW)


def _picture(ref: ImageRef, side: int) -> ResponseReturnValue:
    job, result = user_jobs().image(ref)
    thumbnails = current_live().thumbnails
    if thumbnails.has_none(ref) or _was_too_costly(result.response):
        return _no_picture()
    with current_live().turns.one(job.owner) as is_mine:
        if not is_mine:
            raise ServiceUnavailable("too many pictures are asked for just now; reload in a moment")
        try:
            body = thumbnails.of(current_live().objects.sent(result.record), side)
        except NotFoundError:
            return redirect(url_for("static", filename="job/deleted.svg"))
        except (ObjectTooLargeError, NoThumbnailError):
            thumbnails.note_none(ref)
            return _no_picture()
        except PoolUnavailableError as error:
            raise ServiceUnavailable("pictures cannot be drawn just now; reload in a moment") from error
    answer = Response(body, mimetype=CONTENT_TYPE)
    answer.headers["Content-Disposition"] = "inline"
    answer.headers["Cache-Control"] = f"private, max-age={PICTURE_SECONDS}, immutable"
    return answer


def _was_too_costly(response: MessageResponse | None) -> bool:
    """Return True if a worker gave the image up for the time or memory that it took: a picture would take as much."""
    return response is not None and response.error is not None and response.error.code == "too_costly"


def _no_picture() -> ResponseReturnValue:
    return redirect(url_for("static", filename="no-picture.svg"))
