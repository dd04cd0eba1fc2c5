"""What each route asks of its caller. A route without a row here stops the web tier at start."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from flask import Flask

from services.errors import ConfigError
from web_tier.access.identity import Identity, Scope


class Right(StrEnum):
    """What a route is.

    Attributes:
        PUBLIC: for everybody, signed in or not.
        READ: for users, to see what is theirs; a token needs the scope `read`.
        CLASSIFY: for users, to send images and change what is theirs; a token needs the scope `classify`.
        ACCOUNT: for users themselves, and for no personal token: what concerns the account.
        SECOND_FACTOR: for users at the page, also before they have the second factor that is required of them.
        OPERATE: for operators; a token needs the scope `operate`.
    """

    PUBLIC = "public"
    READ = "read"
    CLASSIFY = "classify"
    ACCOUNT = "account"
    SECOND_FACTOR = "second factor"
    OPERATE = "operate"

    def is_given_to(self, identity: Identity) -> bool:
        """Return whether a user has it."""
        match self:
            case Right.PUBLIC:
                return True
            case Right.ACCOUNT:
                return identity.by in {"session", "pool_token"}
            case Right.SECOND_FACTOR:
                return identity.by == "session"
            case Right.OPERATE:
                return identity.operates
            case Right.READ | Right.CLASSIFY:
                return Scope(self.value) in identity.scopes


RIGHTS: Final[Mapping[str, Right]] = {
    endpoint: right
    for right, endpoints in {
        Right.PUBLIC: (
            "static",
            "bootstrap.static",
            "health.alive",
            "health.ready",
            "health_v1.alive",
            "health_v1.ready",
            "api_docs.page",
            "api_docs.openapi",
            "api_v1.index",
            "admission.may_send",
            "accounts.sign_in",
            "accounts.new_password",
            "accounts.code",
            "accounts.recovery",
            "accounts.sign_up",
            "accounts.forgot",
            "accounts.reset",
            "accounts.sign_out",
            "accounts.visitor_now",
        ),
        Right.READ: (
            "limits_api.limits_left",
            "pages.upload_form",
            "pages.plain_upload_form",
            "pages.jobs_page",
            "pages.job_page",
            "image.image_page",
            "image.image_thumbnail",
            "image.image_preview",
            "changes.ask_to_delete",
            "live.job_events",
            "live.job_rows",
            "live.job_progress",
            "api_v1.list_jobs",
            "api_v1.job_status",
            "api_v1.job_results",
            "api_v1.job_results_csv",
            "api_v1.job_results_jsonl",
            "api_v1.job_results_json",
            "api_v1.job_results_file",
            "api_v1.job_image",
            "predictions.prediction",
        ),
        Right.CLASSIFY: (
            "pages.upload",
            "changes.retry",
            "changes.delete",
            "image.retry_one",
            "api_v1.new_job",
            "api_v1.delete_job",
            "api_v1.add_images",
            "api_v1.retry_job",
            "api_v1.retry_one",
            "classify.classify_image",
            "classic.classify_form",
            "classic.classify_form_or_poster",
            "predictions.hand_in",
            "direct.offer_uploads",
            "direct.commit_upload",
        ),
        Right.ACCOUNT: (
            "accounts.account",
            "accounts.make_token",
            "accounts.revoke_token",
            "tokens_api.list_tokens",
            "tokens_api.make_token",
            "tokens_api.revoke_token",
        ),
        Right.SECOND_FACTOR: (
            "accounts.second_factor",
            "accounts.confirm_second_factor",
            "accounts.turn_off_second_factor",
            "accounts.new_recovery_codes",
        ),
        Right.OPERATE: (
            "audit.audit_page",
            "audit_api.events",
            "pages.fleet_page",
            "pages.fleet_now",
            "operate.pause",
            "operate.resume",
            "operate.limits_page",
            "operate.set_limits",
            "operate.reset_limits",
            "operate.ask_to_drain",
            "operate.drain",
            "dead_letters.dead_letters_page",
            "dead_letters.redrive_letter",
            "dead_letters.redrive_letters",
            "dead_letters.discard_letter",
            "dead_letters_api.list_letters",
            "dead_letters_api.show_letter",
            "dead_letters_api.redrive_letter",
            "dead_letters_api.redrive_letters",
            "dead_letters_api.discard_letter",
            "api_v1.fleet",
            "fleet_api.instances",
            "fleet_api.decisions",
            "fleet_api.history",
            "fleet_api.pause",
            "fleet_api.resume",
            "fleet_api.set_limits",
            "fleet_api.reset_limits",
            "fleet_api.drain",
        ),
    }.items()
    for endpoint in endpoints
}


def check_rights(app: Flask) -> None:
    """Check that every route of `app` has a row.

    Raises:
        ConfigError: when one has none; names it.
    """
    if missing := sorted({rule.endpoint for rule in app.url_map.iter_rules()} - set(RIGHTS)):
        raise ConfigError(f"web_tier/access/rights.py says nothing of {', '.join(missing)}: say what each route asks")
