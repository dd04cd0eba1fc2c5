"""Permissions: the right that each route requires, and the users who must have a second factor.

A route without a row in `RIGHTS`, whose blueprint has none either, stops the web tier at start.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from flask import Flask

from core.credentials import Scope
from services.accounts import OPERATORS
from services.errors import ConfigError
from web_tier.auth.context import current_auth
from web_tier.auth.identity import Identity, known_session
from web_tier.backend import current_backend


class Right(StrEnum):
    """The right that a route requires.

    Attributes:
        PUBLIC: none; the sender need not be signed in.
        READ: users view their own jobs; a token needs the scope `read`.
        CLASSIFY: users send images and change their own jobs; a token needs the scope `classify`.
        ACCOUNT: users manage their account; personal tokens may not.
        SECOND_FACTOR: users set up a second factor on the page, also while they lack a required one.
        OPERATE: operators manage the fleet; a token needs the scope `operate`.
    """

    PUBLIC = "public"
    READ = "read"
    CLASSIFY = "classify"
    ACCOUNT = "account"
    SECOND_FACTOR = "second factor"
    OPERATE = "operate"

    def is_granted_to(self, identity: Identity) -> bool:
        """Return whether a user has the right."""
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
            "models_api.list_models",
            "pages.upload_form",
            "pages.plain_upload_form",
            "pages.model_page",
            "pages.jobs_page",
            "pages.job_page",
            "image.image_page",
            "image.image_thumbnail",
            "image.job_picture",
            "image.image_preview",
            "changes.ask_to_delete",
            "live.job_events",
            "live.job_rows",
            "live.job_progress",
            "api_v1.forecast",
            "costs.costs_page",
            "costs_api.costs",
            "costs_api.costs_csv",
            "api_v1.list_jobs",
            "api_v1.job_status",
            "api_v1.job_results",
            "api_v1.job_results_csv",
            "api_v1.job_results_jsonl",
            "api_v1.job_results_json",
            "api_v1.job_results_file",
            "api_v1.job_images_zip",
            "api_v1.job_image",
            "notifications_api.get_notification",
            "predictions.prediction",
            "review.evaluation_page",
            "review_api.evaluation",
            "review_api.truth_file",
        ),
        Right.CLASSIFY: (
            "pages.upload",
            "changes.retry",
            "changes.cancel",
            "changes.cancel_jobs",
            "changes.ask_to_delete_jobs",
            "changes.delete_jobs",
            "changes.delete",
            "changes.notify",
            "notifications_api.set_notification",
            "notifications_api.cancel_notification",
            "image.retry_one",
            "api_v1.new_job",
            "api_v1.cancel",
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
            "review.send_truth_file",
            "review.use_folder_names",
            "review.set_truth",
            "review_api.change_truth",
            "review_api.send_truth_file",
            "review_api.use_folder_names",
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
        # A name without a dot is a whole blueprint, with the safest right for a route that it gets later.
        Right.OPERATE: (
            "audit",
            "audit_api",
            "dead_letters",
            "dead_letters_api",
            "fleet_api",
            "operate",
            "pages.fleet_page",
            "pages.fleet_now",
            "pages.fleet_models",
            "api_v1.fleet",
            "models_api.compare",
            "models_api.add",
            "models_api.remove",
            "models_api.roll_out",
            "models_api.promote",
            "models_api.roll_back",
            "metrics.metrics_text",
        ),
    }.items()
    for endpoint in endpoints
}


def right_of(endpoint: str) -> Right:
    """Return the right that a route requires: that of its own row in `RIGHTS`, else that of its blueprint."""
    return RIGHTS.get(endpoint) or RIGHTS[endpoint.partition(".")[0]]


def check_rights(app: Flask) -> None:
    """Check that every route of `app` has a row in `RIGHTS`, or its blueprint.

    Raises:
        ConfigError: a route has none; names it.
    """
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules()} - set(RIGHTS)
    if missing := sorted(each for each in endpoints if each.partition(".")[0] not in RIGHTS):
        raise ConfigError(
            f"web_tier/auth/permissions.py has no row for {', '.join(missing)}: add the right of each route"
        )


def is_required_of(identity: Identity) -> bool:
    """Return whether the configuration requires a second factor of a user."""
    match current_backend().config.auth.require_second_factor:
        case "everyone":
            return not identity.is_local
        case "operators":
            return OPERATORS in identity.groups and not identity.is_local
        case "none":
            return False


def lacks_second_factor(identity: Identity) -> bool:
    """Return whether a second factor is required of a user, and their credential does not prove one.

    A session proves one if its sign-in included a code. A token proves one if its account has one now, because the
    pool issues no token for such an account without a code. An earlier pool token stays valid for its hour.
    """
    if not is_required_of(identity):
        return False
    session = known_session() if identity.by == "session" else None
    if session is not None:
        return not session.record.second_factor
    account = current_auth().accounts.find(identity.owner)
    return account is None or not account.second_factor
