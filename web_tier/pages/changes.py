"""Forms that change a job: its failed images once more, or the whole of it away."""

from flask import Blueprint, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from web_tier.auth.job_access import user_jobs
from web_tier.backend import current_backend
from web_tier.pages.job import job_page_after
from web_tier.parameters import known_id
from web_tier.rate_limits.limiter import current_quota_scope
from web_tier.uploads.retry import retry_failed

changes = Blueprint("changes", __name__)


@changes.post("/jobs/<job_id>/retry")
def retry(job_id: str) -> ResponseReturnValue:
    """Request a job's failed images again, up to 1,000 of them, and go back to its page."""
    job = user_jobs().job(known_id("job", job_id))
    retried = retry_failed(current_backend().intake, job, current_quota_scope())
    return redirect(job_page_after(job_id, retried), 303)


@changes.post("/jobs/<job_id>/delete")
def delete(job_id: str) -> ResponseReturnValue:
    """Delete a job and go to the list of the others."""
    user_jobs().delete(known_id("job", job_id))
    return redirect(url_for("pages.jobs_page"), 303)


@changes.get("/jobs/<job_id>/delete")
def ask_to_delete(job_id: str) -> str:
    """Ask whether a job is to be deleted."""
    status = user_jobs().status(known_id("job", job_id))
    return render_template("delete.html", status=status, fleet=current_backend().fleet.snapshot())
