"""The addresses of all pages.

The permissions (`web_tier.auth.permissions`) and templates name a page by its endpoint, `blueprint.function`. Without
sign-in the guard closes all account pages.
"""

from flask import Blueprint, Flask

from services.errors import NotFoundError
from web_tier.pages import (
    account,
    console,
    costs,
    fleet,
    image,
    job,
    model,
    operators,
    review,
    second_factor,
    sign_in,
    upload,
)

GET, POST = ["GET"], ["POST"]

_IMAGE, _LETTER = "/jobs/<job_id>/images/<image_id>", "/dead-letters/<job_id>/<image_id>"
_INSTANCE = "/fleet/instances/<instance_id>"

ROUTES = {
    "pages": (
        ("/", upload.upload_form, GET),
        ("/", upload.upload, POST),
        ("/upload", upload.plain_upload_form, GET),
        ("/jobs", job.jobs_page, GET),
        ("/jobs/<job_id>", job.job_page, GET),
        ("/model", model.model_page, GET),
        ("/fleet", fleet.fleet_page, GET),
        ("/fleet/now", fleet.fleet_now, GET),
        ("/fleet/models", fleet.fleet_models, GET),
    ),
    "image": (
        (_IMAGE, image.image_page, GET),
        (f"{_IMAGE}/retry", image.retry_one, POST),
        (f"{_IMAGE}/thumbnail", image.image_thumbnail, GET),
        ("/jobs/<job_id>/picture", image.job_picture, GET),
        (f"{_IMAGE}/preview", image.image_preview, GET),
    ),
    # The forms that change a job.
    "changes": (
        ("/jobs/<job_id>/retry", job.retry, POST),
        ("/jobs/<job_id>/cancel", job.cancel, POST),
        ("/jobs/<job_id>/notify", job.notify, POST),
        ("/jobs/cancel", job.cancel_jobs, POST),
        ("/jobs/delete/confirm", job.ask_to_delete_jobs, POST),
        ("/jobs/delete", job.delete_jobs, POST),
        ("/jobs/<job_id>/delete", job.ask_to_delete, GET),
        ("/jobs/<job_id>/delete", job.delete, POST),
    ),
    "review": (
        ("/jobs/<job_id>/evaluation", review.evaluation_page, GET),
        ("/jobs/<job_id>/truth/csv", review.send_truth_file, POST),
        ("/jobs/<job_id>/truth/folders", review.use_folder_names, POST),
        (f"{_IMAGE}/truth", review.set_truth, POST),
    ),
    # The addresses that an open job page polls or streams.
    "live": (
        ("/api/v1/jobs/<job_id>/events", job.job_events, GET),
        ("/jobs/<job_id>/rows", job.job_rows, GET),
        ("/jobs/<job_id>/progress", job.job_progress, GET),
    ),
    # The controls of the fleet, and the consoles of its instances.
    "operate": (
        ("/fleet/pause", fleet.pause_page, GET),
        ("/fleet/pause", fleet.pause, POST),
        ("/fleet/resume", fleet.resume, POST),
        ("/fleet/limits", fleet.limits_page, GET),
        ("/fleet/limits", fleet.set_limits, POST),
        ("/fleet/limits/reset", fleet.reset_limits, POST),
        ("/fleet/allowance", fleet.allowance_page, GET),
        ("/fleet/allowance", fleet.set_allowance, POST),
        ("/fleet/allowance/reset", fleet.reset_allowance, POST),
        (f"{_INSTANCE}/drain", fleet.confirm_drain, GET),
        (f"{_INSTANCE}/drain", fleet.drain, POST),
        (f"{_INSTANCE}/console", console.console_page, GET),
    ),
    "costs": (("/costs", costs.costs_page, GET),),
    "audit": (("/audit", operators.audit_page, GET),),
    "dead_letters": (
        ("/dead-letters", operators.dead_letters_page, GET),
        ("/dead-letters/redrive", operators.redrive_letters, POST),
        (f"{_LETTER}/redrive", operators.redrive_letter, POST),
        (f"{_LETTER}/discard", operators.discard_letter, POST),
    ),
    "accounts": (
        ("/sign-in", sign_in.SignInPage.as_view("sign_in"), None),
        ("/sign-in/code", sign_in.CodePage.as_view("code"), None),
        ("/sign-in/recovery", second_factor.RecoveryPage.as_view("recovery"), None),
        ("/sign-out", sign_in.sign_out, POST),
        ("/sign-up", sign_in.SignUpPage.as_view("sign_up"), None),
        ("/new-password", sign_in.NewPasswordPage.as_view("new_password"), None),
        ("/forgot", sign_in.ForgotPasswordPage.as_view("forgot"), None),
        ("/reset", sign_in.ResetPasswordPage.as_view("reset"), None),
        ("/account", account.account, GET),
        ("/account/visitor", account.visitor_now, GET),
        ("/account/second-factor", second_factor.SecondFactorPage.as_view("second_factor"), None),
        ("/account/second-factor/confirm", second_factor.confirm_second_factor, POST),
        ("/account/second-factor/off", second_factor.turn_off_second_factor, POST),
        ("/account/second-factor/recovery-codes", second_factor.new_recovery_codes, POST),
        ("/account/tokens", account.make_token, POST),
        ("/account/tokens/<token_id>/revoke", account.revoke_token, POST),
    ),
}
"""Rule, view and methods of each page by the blueprint of its endpoint; a class has the methods that it defines."""

SHOW_JOBS = frozenset({"pages", "image", "changes"})
"""Blueprints with pages of jobs and images, which may not exist any more."""


def install_pages(app: Flask) -> None:
    """Add all pages to `app`, and the globals `visitor()` and `model_facts()` to its templates."""
    app.jinja_env.globals.update(visitor=account.visitor, model_facts=model.model_facts)
    for name, routes in ROUTES.items():
        blueprint = Blueprint(name, __name__)
        for rule, view, methods in routes:
            blueprint.add_url_rule(rule, view_func=view, methods=methods)
        if name in SHOW_JOBS:
            blueprint.register_error_handler(NotFoundError, job.job_not_found)
        app.register_blueprint(blueprint)
