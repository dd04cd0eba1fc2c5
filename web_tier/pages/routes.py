"""The addresses of all pages.

The permissions (`web_tier.auth.permissions`) and templates name a page by its endpoint, `blueprint.function`. Without
sign-in the guard closes all account pages.
"""

from flask import Blueprint, Flask

from web_tier.pages.account import account, make_token, revoke_token, visitor, visitor_now
from web_tier.pages.audit import audit_page
from web_tier.pages.dead_letters import dead_letters_page, discard_letter, redrive_letter, redrive_letters
from web_tier.pages.fleet import fleet_now, fleet_page
from web_tier.pages.fleet_controls import confirm_drain, drain, limits_page, pause, reset_limits, resume, set_limits
from web_tier.pages.image import image_page, image_preview, image_thumbnail, retry_one
from web_tier.pages.job import (
    ask_to_delete,
    delete,
    job_events,
    job_page,
    job_progress,
    job_rows,
    jobs_page,
    retry,
)
from web_tier.pages.second_factor import (
    RecoveryPage,
    SecondFactorPage,
    confirm_second_factor,
    new_recovery_codes,
    turn_off_second_factor,
)
from web_tier.pages.sign_in import (
    CodePage,
    ForgotPasswordPage,
    NewPasswordPage,
    ResetPasswordPage,
    SignInPage,
    SignUpPage,
    sign_out,
)
from web_tier.pages.upload import plain_upload_form, upload, upload_form

GET, POST = ["GET"], ["POST"]


def install_pages(app: Flask) -> None:
    """Add all pages to `app`, and the global `visitor()` to its templates."""
    app.jinja_env.globals["visitor"] = visitor
    for blueprint in (_pages(), _image(), _changes(), _live(), _operate(), _audit(), _dead_letters(), _accounts()):
        app.register_blueprint(blueprint)


def _pages() -> Blueprint:
    pages = Blueprint("pages", __name__)
    pages.add_url_rule("/", view_func=upload_form, methods=GET)
    pages.add_url_rule("/", view_func=upload, methods=POST)
    pages.add_url_rule("/upload", view_func=plain_upload_form, methods=GET)
    pages.add_url_rule("/jobs", view_func=jobs_page, methods=GET)
    pages.add_url_rule("/jobs/<job_id>", view_func=job_page, methods=GET)
    pages.add_url_rule("/fleet", view_func=fleet_page, methods=GET)
    pages.add_url_rule("/fleet/now", view_func=fleet_now, methods=GET)
    return pages


def _image() -> Blueprint:
    image, here = Blueprint("image", __name__), "/jobs/<job_id>/images/<image_id>"
    image.add_url_rule(here, view_func=image_page, methods=GET)
    image.add_url_rule(f"{here}/retry", view_func=retry_one, methods=POST)
    image.add_url_rule(f"{here}/thumbnail", view_func=image_thumbnail, methods=GET)
    image.add_url_rule(f"{here}/preview", view_func=image_preview, methods=GET)
    return image


def _changes() -> Blueprint:
    """Return the forms that change a job."""
    changes = Blueprint("changes", __name__)
    changes.add_url_rule("/jobs/<job_id>/retry", view_func=retry, methods=POST)
    changes.add_url_rule("/jobs/<job_id>/delete", view_func=ask_to_delete, methods=GET)
    changes.add_url_rule("/jobs/<job_id>/delete", view_func=delete, methods=POST)
    return changes


def _live() -> Blueprint:
    """Return the addresses that an open job page polls or streams."""
    live = Blueprint("live", __name__)
    live.add_url_rule("/api/v1/jobs/<job_id>/events", view_func=job_events, methods=GET)
    live.add_url_rule("/jobs/<job_id>/rows", view_func=job_rows, methods=GET)
    live.add_url_rule("/jobs/<job_id>/progress", view_func=job_progress, methods=GET)
    return live


def _operate() -> Blueprint:
    """Return the controls of the fleet."""
    operate = Blueprint("operate", __name__)
    operate.add_url_rule("/fleet/pause", view_func=pause, methods=POST)
    operate.add_url_rule("/fleet/resume", view_func=resume, methods=POST)
    operate.add_url_rule("/fleet/limits", view_func=limits_page, methods=GET)
    operate.add_url_rule("/fleet/limits", view_func=set_limits, methods=POST)
    operate.add_url_rule("/fleet/limits/reset", view_func=reset_limits, methods=POST)
    operate.add_url_rule("/fleet/instances/<instance_id>/drain", view_func=confirm_drain, methods=GET)
    operate.add_url_rule("/fleet/instances/<instance_id>/drain", view_func=drain, methods=POST)
    return operate


def _audit() -> Blueprint:
    audit = Blueprint("audit", __name__)
    audit.add_url_rule("/audit", view_func=audit_page, methods=GET)
    return audit


def _dead_letters() -> Blueprint:
    letters, letter = Blueprint("dead_letters", __name__), "/dead-letters/<job_id>/<image_id>"
    letters.add_url_rule("/dead-letters", view_func=dead_letters_page, methods=GET)
    letters.add_url_rule("/dead-letters/redrive", view_func=redrive_letters, methods=POST)
    letters.add_url_rule(f"{letter}/redrive", view_func=redrive_letter, methods=POST)
    letters.add_url_rule(f"{letter}/discard", view_func=discard_letter, methods=POST)
    return letters


def _accounts() -> Blueprint:
    accounts = Blueprint("accounts", __name__)
    accounts.add_url_rule("/sign-in", view_func=SignInPage.as_view("sign_in"))
    accounts.add_url_rule("/sign-in/code", view_func=CodePage.as_view("code"))
    accounts.add_url_rule("/sign-in/recovery", view_func=RecoveryPage.as_view("recovery"))
    accounts.add_url_rule("/sign-out", view_func=sign_out, methods=POST)
    accounts.add_url_rule("/sign-up", view_func=SignUpPage.as_view("sign_up"))
    accounts.add_url_rule("/new-password", view_func=NewPasswordPage.as_view("new_password"))
    accounts.add_url_rule("/forgot", view_func=ForgotPasswordPage.as_view("forgot"))
    accounts.add_url_rule("/reset", view_func=ResetPasswordPage.as_view("reset"))
    accounts.add_url_rule("/account", view_func=account, methods=GET)
    accounts.add_url_rule("/account/visitor", view_func=visitor_now, methods=GET)
    accounts.add_url_rule("/account/second-factor", view_func=SecondFactorPage.as_view("second_factor"))
    accounts.add_url_rule("/account/second-factor/confirm", view_func=confirm_second_factor, methods=POST)
    accounts.add_url_rule("/account/second-factor/off", view_func=turn_off_second_factor, methods=POST)
    accounts.add_url_rule("/account/second-factor/recovery-codes", view_func=new_recovery_codes, methods=POST)
    accounts.add_url_rule("/account/tokens", view_func=make_token, methods=POST)
    accounts.add_url_rule("/account/tokens/<token_id>/revoke", view_func=revoke_token, methods=POST)
    return accounts
