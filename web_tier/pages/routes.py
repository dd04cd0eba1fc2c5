"""The addresses of all pages, and the right that each requires.

Templates name a page by its endpoint, `blueprint.function`. Without sign-in the guard closes all account pages.
"""

from flask import Blueprint, Flask

from services.errors import NotFoundError
from web_tier.auth.permissions import Right
from web_tier.features.audit_trail import pages as audit_trail
from web_tier.features.consoles import pages as console
from web_tier.features.costs import pages as costs
from web_tier.features.dead_letters import pages as dead_letters
from web_tier.features.fleet_control import pages as fleet
from web_tier.features.models import pages as model
from web_tier.features.models.comparison import current_comparison
from web_tier.features.review import pages as review
from web_tier.pages import account, image, job, second_factor, sign_in, upload

GET, POST = ["GET"], ["POST"]

_IMAGE, _LETTER = "/jobs/<job_id>/images/<image_id>", "/dead-letters/<job_id>/<image_id>"
_INSTANCE = "/fleet/instances/<instance_id>"

ROUTES = {
    "pages": (
        ("/", upload.upload_form, GET, Right.READ),
        ("/", upload.upload, POST, Right.CLASSIFY),
        ("/upload", upload.plain_upload_form, GET, Right.READ),
        ("/jobs", job.jobs_page, GET, Right.READ),
        ("/jobs/<job_id>", job.job_page, GET, Right.READ),
        ("/model", model.model_page, GET, Right.READ),
        ("/fleet", fleet.fleet_page, GET, Right.OPERATE),
        ("/fleet/now", fleet.fleet_now, GET, Right.OPERATE),
        ("/fleet/models", model.fleet_models, GET, Right.OPERATE),
    ),
    "image": (
        (_IMAGE, image.image_page, GET, Right.READ),
        (f"{_IMAGE}/retry", image.retry_one, POST, Right.CLASSIFY),
        (f"{_IMAGE}/thumbnail", image.image_thumbnail, GET, Right.READ),
        ("/jobs/<job_id>/picture", image.job_picture, GET, Right.READ),
        (f"{_IMAGE}/preview", image.image_preview, GET, Right.READ),
    ),
    # The forms that change a job.
    "changes": (
        ("/jobs/<job_id>/retry", job.retry, POST, Right.CLASSIFY),
        ("/jobs/<job_id>/cancel", job.cancel, POST, Right.CLASSIFY),
        ("/jobs/<job_id>/notify", job.notify, POST, Right.CLASSIFY),
        ("/jobs/cancel", job.cancel_jobs, POST, Right.CLASSIFY),
        ("/jobs/delete/confirm", job.ask_to_delete_jobs, POST, Right.CLASSIFY),
        ("/jobs/delete", job.delete_jobs, POST, Right.CLASSIFY),
        ("/jobs/<job_id>/delete", job.ask_to_delete, GET, Right.READ),
        ("/jobs/<job_id>/delete", job.delete, POST, Right.CLASSIFY),
    ),
    "review": (
        ("/jobs/<job_id>/evaluation", review.evaluation_page, GET, Right.READ),
        ("/jobs/<job_id>/truth/csv", review.send_truth_file, POST, Right.CLASSIFY),
        ("/jobs/<job_id>/truth/folders", review.use_folder_names, POST, Right.CLASSIFY),
        (f"{_IMAGE}/truth", review.set_truth, POST, Right.CLASSIFY),
    ),
    # The addresses that an open job page polls or streams.
    "live": (
        ("/api/v1/jobs/<job_id>/events", job.job_events, GET, Right.READ),
        ("/jobs/<job_id>/rows", job.job_rows, GET, Right.READ),
        ("/jobs/<job_id>/progress", job.job_progress, GET, Right.READ),
    ),
    # The controls of the fleet, and the consoles of its instances.
    "operate": (
        ("/fleet/pause", fleet.pause_page, GET, Right.OPERATE),
        ("/fleet/pause", fleet.pause, POST, Right.OPERATE),
        ("/fleet/resume", fleet.resume, POST, Right.OPERATE),
        ("/fleet/limits", fleet.limits_page, GET, Right.OPERATE),
        ("/fleet/limits", fleet.set_limits, POST, Right.OPERATE),
        ("/fleet/limits/reset", fleet.reset_limits, POST, Right.OPERATE),
        ("/fleet/allowance", fleet.allowance_page, GET, Right.OPERATE),
        ("/fleet/allowance", fleet.set_allowance, POST, Right.OPERATE),
        ("/fleet/allowance/reset", fleet.reset_allowance, POST, Right.OPERATE),
        (f"{_INSTANCE}/drain", fleet.confirm_drain, GET, Right.OPERATE),
        (f"{_INSTANCE}/drain", fleet.drain, POST, Right.OPERATE),
        (f"{_INSTANCE}/console", console.console_page, GET, Right.OPERATE),
    ),
    "costs": (("/costs", costs.costs_page, GET, Right.READ),),
    "audit": (("/audit", audit_trail.audit_page, GET, Right.OPERATE),),
    "dead_letters": (
        ("/dead-letters", dead_letters.dead_letters_page, GET, Right.OPERATE),
        ("/dead-letters/redrive", dead_letters.redrive_letters, POST, Right.OPERATE),
        (f"{_LETTER}/redrive", dead_letters.redrive_letter, POST, Right.OPERATE),
        (f"{_LETTER}/discard", dead_letters.discard_letter, POST, Right.OPERATE),
    ),
    "accounts": (
        ("/sign-in", sign_in.SignInPage.as_view("sign_in"), None, Right.PUBLIC),
        ("/sign-in/code", sign_in.CodePage.as_view("code"), None, Right.PUBLIC),
        ("/sign-in/recovery", second_factor.RecoveryPage.as_view("recovery"), None, Right.PUBLIC),
        ("/sign-out", sign_in.sign_out, POST, Right.PUBLIC),
        ("/sign-up", sign_in.SignUpPage.as_view("sign_up"), None, Right.PUBLIC),
        ("/new-password", sign_in.NewPasswordPage.as_view("new_password"), None, Right.PUBLIC),
        ("/forgot", sign_in.ForgotPasswordPage.as_view("forgot"), None, Right.PUBLIC),
        ("/reset", sign_in.ResetPasswordPage.as_view("reset"), None, Right.PUBLIC),
        ("/account", account.account, GET, Right.ACCOUNT),
        ("/account/visitor", account.visitor_now, GET, Right.PUBLIC),
        (
            "/account/second-factor",
            second_factor.SecondFactorPage.as_view("second_factor"),
            None,
            Right.CREDENTIALS,
        ),
        ("/account/second-factor/confirm", second_factor.confirm_second_factor, POST, Right.CREDENTIALS),
        ("/account/second-factor/off", second_factor.turn_off_second_factor, POST, Right.CREDENTIALS),
        ("/account/second-factor/recovery-codes", second_factor.new_recovery_codes, POST, Right.CREDENTIALS),
        ("/account/password", account.ChangePasswordPage.as_view("password"), None, Right.CREDENTIALS),
        ("/account/sessions/end", account.sign_out_everywhere, POST, Right.CREDENTIALS),
        ("/account/sessions/<family>/end", account.end_session, POST, Right.CREDENTIALS),
        ("/account/tokens", account.make_token, POST, Right.ACCOUNT),
        ("/account/tokens/<token_id>/revoke", account.revoke_token, POST, Right.ACCOUNT),
    ),
}
"""Rule, view, methods and right of each page by the blueprint of its endpoint; a class defines its methods itself."""

SHOW_JOBS = frozenset({"pages", "image", "changes"})
"""Blueprints with pages of jobs and images, which may not exist any more."""


def install_pages(app: Flask) -> None:
    """Add all pages to `app`, and globals to its templates."""
    app.jinja_env.globals.update(
        visitor=account.visitor, model_facts=model.model_facts, model_comparison=current_comparison
    )
    for name, routes in ROUTES.items():
        blueprint = Blueprint(name, __name__)
        for rule, view, methods, _ in routes:
            blueprint.add_url_rule(rule, view_func=view, methods=methods)
        if name in SHOW_JOBS:
            blueprint.register_error_handler(NotFoundError, job.job_not_found)
        app.register_blueprint(blueprint)


def page_rights() -> dict[str, Right]:
    """Return the right that each page requires, by its endpoint."""
    return {f"{name}.{view.__name__}": right for name, routes in ROUTES.items() for _, view, _, right in routes}
