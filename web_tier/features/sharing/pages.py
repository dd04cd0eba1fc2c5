"""The pages of shares: the dialog of a job's owner, and the page that opens a link.

The token of a link is behind the `#` of its address, which browsers send to no server and name to no other site. The
page of the link sends it in a form, and the browser then has it in a cookie for the addresses of that job alone.
"""

from flask import Response, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask.views import MethodView
from pydantic import ValidationError
from werkzeug.exceptions import UnprocessableEntity

from core.jobs.shares import DEFAULT_DAYS, MAX_DAYS
from services.errors import NotFoundError
from web_tier.api.schemas import ROOT
from web_tier.auth.context import LINK_COOKIE, SHARING, current_auth
from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.features.sharing.access import job_of_link, jobs_shared_with_user, share_of_sender, shares_in_force
from web_tier.features.sharing.api import SECONDS_PER_DAY, CreateShare, NewShareBody, end_share, make_share
from web_tier.http.parameters import known_id
from web_tier.http.routes import Routes
from web_tier.pages.job import job_not_found

pages = Routes("sharing", needs_sign_in=True)
pages.register_error_handler(NotFoundError, job_not_found)
pages.record(lambda state: state.app.extensions.update({SHARING: share_of_sender}))
pages.add_app_template_global(jobs_shared_with_user)


@pages.get("/jobs/<job_id>/share", right=Right.ACCOUNT)
def share_page(job_id: str) -> str:
    """Show the shares of a job, and the forms that make some."""
    return _share_page(known_id("job", job_id))


@pages.post("/jobs/<job_id>/share", right=Right.ACCOUNT, audit="job shared")
def share(job_id: str) -> ResponseReturnValue:
    """Share a job with the address of the form, or by a link, which is shown once."""
    user_jobs().job(known_id("job", job_id))
    email, days = request.form.get("email"), request.form.get("days", type=int)
    try:
        wanted = CreateShare.model_validate({"email": email, "days": days})
    except ValidationError as error:
        raise UnprocessableEntity(f"choose an e-mail address and 1 to {MAX_DAYS} days") from error
    return _share_page(job_id, make_share(job_id, wanted)), 201


@pages.post("/jobs/<job_id>/shares/<share_id>/end", right=Right.ACCOUNT, audit="share ended")
def end(job_id: str, share_id: str) -> ResponseReturnValue:
    """End a share, and show the others."""
    end_share(job_id, share_id)
    return redirect(url_for("sharing.share_page", job_id=job_id), 303)


def _share_page(job_id: str, made: NewShareBody | None = None) -> str:
    # A browser sends the origin of the page, which behind CloudFront is not the host of the request.
    link = f"{request.headers.get('Origin', request.host_url.rstrip('/'))}{made.path}" if made and made.path else None
    job = user_jobs().job(job_id)
    return render_template(
        "sharing/share.html",
        job=job,
        shares=shares_in_force(current_auth(), job.owner, job.shares),
        made=made,
        link=link,
        default_days=DEFAULT_DAYS,
        days=(1, DEFAULT_DAYS, MAX_DAYS),
    )


@pages.view("/shared", "link_page", right=Right.PUBLIC)
class LinkPage(MethodView):
    """The page that opens a link: its script sends the form, with what is behind the `#` of the address."""

    def get(self) -> Response:
        """Show the form."""
        return make_response(render_template("sharing/shared.html"))

    def post(self) -> Response:
        """Set the link's cookie and redirect to the job; a wrong link is answered as one to a missing job."""
        job_id, _, token = request.form.get("link", "").partition(".")
        try:
            job = job_of_link(known_id("job", job_id), token)
        except NotFoundError:
            return make_response(render_template("sharing/shared.html", is_wrong=True), 404)
        page = url_for("jobs.job_page", job_id=job.job_id)
        answer = make_response(redirect(page, 303))
        for path in (page, f"{ROOT}{page}"):
            # It outlives the share, so that the page can say that the share is over.
            lifetime = MAX_DAYS * SECONDS_PER_DAY
            answer.set_cookie(
                LINK_COOKIE, token, max_age=lifetime, path=path, secure=True, httponly=True, samesite="Lax"
            )
        return answer
