"""The pages of a review: the evaluation of a job, and the forms that set true labels."""

from collections.abc import Sequence

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge, UnprocessableEntity

from core.jobs.models import Job, TrueLabel
from services.clock import utc_now
from web_tier.auth.guard import CSRF_FIELD, check_csrf
from web_tier.auth.job_access import UserJobs, user_jobs
from web_tier.auth.permissions import Right
from web_tier.features.review.api import TruthMatched, apply_folders, apply_truth_file
from web_tier.features.review.evaluation import MAX_UNKNOWN_LISTED, ConfusionMatrix
from web_tier.features.review.truth import MAX_TRUTH_BYTES, class_names, clean_label, read_evaluation
from web_tier.http.backend import current_backend, render_with_fleet
from web_tier.http.parameters import known_id, known_ref
from web_tier.http.routes import Routes
from web_tier.results.services import current_result_services
from web_tier.uploads.multipart import FormField
from web_tier.uploads.request_body import request_parts

pages = Routes("review")


MAX_MATRIX_CLASSES = 30
"""Classes in the table of the confusion matrix: those with the most errors."""

MAX_LISTED = 50
"""Errors that are listed beside the table, the most frequent first."""

MAX_CLASSES = 200
"""Classes with figures of their own, those with the most errors first; the API has all."""


@pages.app_template_global()
def classes_of(job: Job) -> Sequence[str]:
    """Return the labels that the true label of an image of a job can be, as its user types it."""
    return current_result_services().class_labels(job.model).labels


@pages.get("/jobs/<job_id>/evaluation", right=Right.READ)
def evaluation_page(job_id: str) -> str:
    """Show how the model's labels compare with the true labels."""
    return _evaluation_page(user_jobs(), known_id("job", job_id))


def _evaluation_page(jobs: UserJobs, job_id: str, outcome: TruthMatched | None = None) -> str:
    status = jobs.status(job_id)
    evaluation = read_evaluation(jobs, status)
    matrix = ConfusionMatrix.from_evaluation(evaluation, MAX_MATRIX_CLASSES)
    return render_with_fleet(
        "review/evaluation.html",
        job=status.job,
        status=status,
        evaluation=evaluation,
        matrix=matrix,
        max_listed=MAX_LISTED,
        max_classes=MAX_CLASSES,
        outcome=outcome,
        max_unknown=MAX_UNKNOWN_LISTED,
    )


@pages.post("/jobs/<job_id>/truth/csv", right=Right.CLASSIFY, checks_csrf=True)
def send_truth_file(job_id: str) -> str:
    """Set the true labels of the form's CSV file, and show the evaluation with what the file set."""
    jobs = user_jobs()
    jobs.job(known_id("job", job_id))
    bounds = {"max_files_per_request": 1, "max_image_bytes": MAX_TRUTH_BYTES}
    token, file = None, None
    for part in request_parts(current_backend().config.web.model_copy(update=bounds)):
        if isinstance(part, FormField):
            token = part.value if part.name == CSRF_FIELD else token
        else:
            file = part
    check_csrf(token)
    if file is None:
        raise UnprocessableEntity("no file was chosen; go back and choose a CSV file")
    if file.size > MAX_TRUTH_BYTES:
        raise RequestEntityTooLarge(f"the file is larger than {MAX_TRUTH_BYTES // 2**20} MB; send it in parts")
    return _evaluation_page(
        jobs, job_id, TruthMatched.from_outcome(job_id, *apply_truth_file(jobs, job_id, file.data))
    )


@pages.post("/jobs/<job_id>/truth/folders", right=Right.CLASSIFY)
def use_folder_names(job_id: str) -> str:
    """Set the names of folders as true labels, and show the evaluation."""
    jobs = user_jobs()
    jobs.job(known_id("job", job_id))
    return _evaluation_page(jobs, job_id, TruthMatched.from_outcome(job_id, *apply_folders(jobs, job_id)))


@pages.post("/jobs/<job_id>/images/<image_id>/truth", right=Right.CLASSIFY)
def set_truth(job_id: str, image_id: str) -> ResponseReturnValue:
    """Set or remove the true label of an image, and redirect to its page.

    The form sends the `label`; an empty one removes the true label.
    """
    ref, jobs = known_ref(job_id, image_id), user_jobs()
    jobs.image(ref)
    label = class_names(jobs.job(job_id)).respelled(clean_label(request.form.get("label", "")))
    jobs.set_truths(job_id, {image_id: TrueLabel(label, utc_now()) if label else None})
    return redirect(url_for("image.image_page", job_id=job_id, image_id=image_id), 303)
