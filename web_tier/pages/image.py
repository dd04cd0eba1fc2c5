"""The pages of one image: its result, its timeline, its thumbnails and the form that retries it.

**Timeline.** Three clocks give the times: the web tier's (accepted, stored, retried by the user), the queue's
(queued, first received) and the controller's (requested again by the system, delivered). A worker reports only
durations, so a worker with a wrong clock falsifies nothing. If times of two clocks contradict each other, the page
says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

from flask import Response, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import ServiceUnavailable

from core.format import clock, duration, milliseconds, plural
from core.ids import ImageRef, received_at
from core.images import thumbnail_type
from core.jobs.models import Job, Resend
from core.messages import ClassificationResult
from core.sandbox.process import PoolUnavailableError
from services.errors import NotFoundError, ObjectTooLargeError
from web_tier.auth.job_access import bulkhead_caller, user_jobs
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend, render_with_fleet
from web_tier.http.parameters import known_id, known_ref
from web_tier.http.rate_limits import current_quota_scope
from web_tier.http.routes import Routes
from web_tier.pages.job import IMAGE_RETRY_NOTES, job_page_after
from web_tier.results.query import ImageResult, is_final, results_page
from web_tier.results.services import current_result_services
from web_tier.results.thumbnails import PREVIEW, TILE, NoThumbnailError
from web_tier.uploads.retry import retry_image

image_pages = Routes("image")


PICTURE_CANDIDATES = 20
"""First images of a job, one of which the list of jobs shows."""

THUMBNAIL_SECONDS = 3_600
"""How long a browser caches a thumbnail; the image at an address never changes."""

CLOCK_RESOLUTION = timedelta(milliseconds=2)
"""SQS and the ids of images have whole milliseconds, so their times may be out of order by this much."""

TIMES = "\N{MULTIPLICATION SIGN}"

_WORKER_STEPS = (
    ("fetched", "fetched", "from S3"),
    ("decoded", "decoded", "and made ready for the model"),
    ("inferred", "classified", "by the model"),
    ("stored", "result stored", "in the output bucket"),
)


@image_pages.get("/jobs/<job_id>/images/<image_id>", right=Right.READ, reads_shared_jobs=True)
def image_page(job_id: str, image_id: str) -> str:
    """Show one image: its label, its scores, and its timeline."""
    services, jobs = current_result_services(), user_jobs()
    job, result = jobs.image(known_ref(job_id, image_id))
    share = jobs.share_of(job)
    response = result.response
    labels, facts = services.class_labels(job.model), current_backend().served.facts(job.model)
    model = response.model if response else None
    is_of_model = model is not None and model.digest.removeprefix("sha256:") == facts.digest
    outputs, is_done = current_backend().outputs, result.state == "done"
    prediction = outputs.prediction_of(result.record, response) if response and is_done else None
    possible, scores = services.possible_labels(job), labels.all_scores(prediction) if prediction else []
    if possible is not None:
        scores = [each for each in scores if each.label in possible]
    return render_with_fleet(
        "image.html",
        for_viewer=share is not None,
        share=share,
        job=job,
        item=result,
        model=model,
        seen=facts.seen if is_of_model else None,
        message=labels.messages.get(response.label or "") if response else None,
        scores=scores,
        possible_labels=possible,
        timeline=ImageTimeline.from_result(result, is_from_s3=bool(job.source)),
        is_kept=job.keep or result.state != "done",
        original_at=result.record.original_at,
        can_retry=response is not None and not result.retrying and not is_final(response),
        note=IMAGE_RETRY_NOTES.get(request.args.get("retried", "")),
    )


@image_pages.post("/jobs/<job_id>/images/<image_id>/retry", right=Right.CLASSIFY)
def retry_one(job_id: str, image_id: str) -> ResponseReturnValue:
    """Request one failed image again, then redirect to the page with the form."""
    job, item = user_jobs().image(known_ref(job_id, image_id))
    retried = retry_image(current_backend().intake, job, item.record, item.response, current_quota_scope())
    if request.form.get("from") == "job":
        return redirect(job_page_after(job_id, retried), 303)
    return redirect(url_for("image.image_page", job_id=job_id, image_id=image_id, retried=retried.of_one()), 303)


@image_pages.get("/jobs/<job_id>/images/<image_id>/thumbnail", right=Right.READ, reads_shared_jobs=True)
def image_thumbnail(job_id: str, image_id: str) -> ResponseReturnValue:
    """Return the thumbnail of an image for a list."""
    return _thumbnail(known_ref(job_id, image_id), TILE)


@image_pages.get("/jobs/<job_id>/images/<image_id>/preview", right=Right.READ, reads_shared_jobs=True)
def image_preview(job_id: str, image_id: str) -> ResponseReturnValue:
    """Return the thumbnail of an image for its own page."""
    return _thumbnail(known_ref(job_id, image_id), PREVIEW)


@image_pages.get("/jobs/<job_id>/picture", right=Right.READ, reads_shared_jobs=True)
def job_picture(job_id: str) -> ResponseReturnValue:
    """Redirect to the thumbnail of one of a job's first images, for the list of jobs: of one that has not failed."""
    page = results_page(user_jobs(), known_id("job", job_id), after=None, limit=PICTURE_CANDIDATES)
    shown = next((each.record.ref for each in page.items if each.state != "failed"), None)
    if shown is None:
        return redirect(url_for("static", filename="no-picture.svg"))
    answer = redirect(url_for("image.image_thumbnail", job_id=job_id, image_id=shown.image_id))
    answer.headers["Cache-Control"] = f"private, max-age={THUMBNAIL_SECONDS}"
    return answer


def _thumbnail(ref: ImageRef, side: int) -> ResponseReturnValue:
    """Return the thumbnail that a worker drew, or draw one from the original, whichever is better and there is."""
    job, result = user_jobs().image(ref)
    has_original = (job.keep or result.state != "done") and result.record.source is None
    worker_first = result.state == "done" and (side == TILE or not has_original)
    placeholder = "job/deleted.svg" if result.record.source is None else "no-picture.svg"
    for read in (_stored, _drawn) if worker_first else (_drawn, _stored):
        try:
            body = read(job, result, side)
        except NotFoundError:
            continue
        except NoThumbnailError:
            placeholder = "no-picture.svg"
            continue
        answer = Response(body, mimetype=thumbnail_type(body))
        answer.headers["Content-Disposition"] = "inline"
        answer.headers["Cache-Control"] = f"private, max-age={THUMBNAIL_SECONDS}, immutable"
        return answer
    return redirect(url_for("static", filename=placeholder))


def _stored(_job: Job, result: ImageResult, _side: int) -> bytes:
    return current_backend().outputs.thumbnail(result.record)


def _drawn(job: Job, result: ImageResult, side: int) -> bytes:
    """Return a thumbnail drawn from the original; raises `NoThumbnailError`, or `NotFoundError` if it is deleted."""
    services, response, ref = current_result_services(), result.response, result.record.ref
    # A worker rejected the image for its time or memory, so a thumbnail would need too much as well.
    was_too_costly = response is not None and response.error is not None and response.error.code == "too_costly"
    if was_too_costly or services.thumbnails.is_unavailable(ref):
        raise NoThumbnailError("it cannot be drawn")
    with services.render_limiter.slot(bulkhead_caller(job)) as may_draw:
        if not may_draw:
            raise ServiceUnavailable("too many pictures are asked for just now; reload in a moment")
        try:
            return services.thumbnails.render(services.original(result.record), job.owner, side)
        except (ObjectTooLargeError, NoThumbnailError) as error:
            services.thumbnails.mark_unavailable(ref)
            raise NoThumbnailError(str(error)) from error
        except PoolUnavailableError as error:
            raise ServiceUnavailable("pictures cannot be drawn just now; reload in a moment") from error


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """One step of a timeline.

    Attributes:
        name: such as `queued`.
        at: time by the clock of a service; None if only the duration is known.
        milliseconds: duration of the step, or of the wait for it; None if it is not known.
        share: duration in percent of the longest step.
        state: `done`, `failed`, or `open` for a step that has not happened yet.
    """

    name: str
    note: str = ""
    at: datetime | None = None
    milliseconds: float | None = None
    share: float = 0.0
    state: str = "done"


@dataclass(frozen=True, slots=True)
class ImageTimeline:
    """The steps of an image in order; `contradiction` says which clocks contradict each other, if any do."""

    steps: tuple[TimelineStep, ...]
    contradiction: str | None

    @classmethod
    def from_result(cls, result: ImageResult, *, is_from_s3: bool = False) -> "ImageTimeline":
        """Return the timeline of an image until now; the controller has listed an image that `is_from_s3`."""
        steps = _steps(result, "listed in S3 by the controller" if is_from_s3 else "checked by the web tier")
        longest = max((step.milliseconds or 0.0 for step in steps), default=0.0) or 1.0
        shown = (replace(step, share=100 * (step.milliseconds or 0.0) / longest) for step in steps)
        return cls(tuple(shown), _contradiction(steps))

    @property
    def total(self) -> float | None:
        """Sum of the durations of the steps in milliseconds, or None if none is known.

        The first and the last time are by two clocks, so their difference is not a duration.
        """
        lengths = [step.milliseconds for step in self.steps if step.milliseconds is not None]
        return sum(lengths) if lengths else None


def _steps(result: ImageResult, accepted_how: str) -> list[TimelineStep]:
    record, response = result.record, result.response
    accepted = TimelineStep("accepted", accepted_how, received_at(record.ref))
    stored = TimelineStep("stored", "in the input bucket", record.accepted_at)
    if record.source is not None:
        stored = replace(stored, name="recorded", note="its object stays where it is in S3")
    known = [accepted, stored]
    resent = _resent(result.resend)
    retried: list[TimelineStep] = []
    if record.retried_at is not None:
        retried = [TimelineStep("requested again", "by its user, after it had failed", record.retried_at)]
    # The attempt shows whether the resend came before the last retry of the user.
    early, late = (resent, []) if result.resend and result.resend.attempt < record.attempt else ([], resent)
    if response is None:
        return [*known, *late, TimelineStep("queued", "waits for a worker", state="open")]
    if result.retrying:
        message = response.error.message if response.error else ""
        failed = TimelineStep("failed", message, response.recorded_at, state="failed")
        waiting = TimelineStep("queued", "waits for a worker once more", state="open")
        return [*known, *early, failed, *retried, *late, waiting]
    return [*known, *early, *retried, *_answered(response, late)]


def _resent(resend: Resend | None) -> list[TimelineStep]:
    """Return the step with how often and why the controller requested the image again, if it did."""
    if resend is None:
        return []
    waited = duration(resend.waited_seconds)
    note, times = f"no result for {waited}: its request or its response was presumed lost", ""
    if resend.times > 1:
        times = f" {TIMES}{resend.times}"
        note += f"; the first time at {clock(resend.first_at)}"
    return [TimelineStep(f"requested again by the system{times}", note, resend.last_at)]


def _answered(response: ClassificationResult, resent: list[TimelineStep]) -> list[TimelineStep]:
    """Return the steps of a response, from the queue to its delivery, with the resend at its time."""
    timings, steps = response.timings, list[TimelineStep]()
    if response.queued_at is not None:
        steps.append(TimelineStep("queued", "taken by the request queue", response.queued_at))
    if response.attempts:
        steps.append(_received(response))
    lengths = timings.model_dump()
    steps += [
        TimelineStep(name, note, milliseconds=lengths[key])
        for key, name, note in _WORKER_STEPS
        if lengths[key] is not None
    ]
    failed = response.status == "failed"
    note = "the failure is visible to its owner" if failed else "the result is visible to its owner"
    steps.append(TimelineStep("delivered", note, response.recorded_at, state="failed" if failed else "done"))
    # An earlier request may be the one that was answered.
    resent_at = resent[0].at if resent else None
    later = (index for index, step in enumerate(steps) if step.at and resent_at and step.at > resent_at)
    index = next(later, len(steps) - 1)
    return [*steps[:index], *resent, *steps[index:]]


def _received(response: ClassificationResult) -> TimelineStep:
    waited = response.timings.queued
    times, note = "", f"by worker {response.worker}"
    if response.attempts > 1:
        times = f" {TIMES}{response.attempts}"
        note = f"last by worker {response.worker}; the time is that of the first"
        note += f". {_unanswered(response.attempts - 1)}"
    at = None
    if response.queued_at is not None and waited is not None:
        at = response.queued_at + timedelta(milliseconds=waited)
    return TimelineStep(f"received{times}", note, at, waited)


def _unanswered(receives: int) -> str:
    return f"{plural(receives, 'receive')} ended without an answer: a worker stopped or failed"


def _contradiction(steps: Sequence[TimelineStep]) -> str | None:
    """Return a sentence about the first two neighbouring times that contradict each other, if any do."""
    timed = [(step.name, step.at) for step in steps if step.at is not None]
    for (first, before), (second, after) in pairwise(timed):
        if after < before - CLOCK_RESOLUTION:
            ahead = milliseconds((before - after).total_seconds() * 1_000)
            return (
                f"The clocks disagree: “{second}” reads {ahead} earlier than “{first}”, which came before it. "
                "The times of different services cannot be compared here; the lengths of the steps hold."
            )
    return None
