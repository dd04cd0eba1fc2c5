"""Permissions: the right that each route requires, and the users who must have a second factor.

A page has its right beside its address (`web_tier.pages.routes`), all other routes in `RIGHTS`; a route without one
stops the web tier at start.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, cast

from flask import Flask

from core.credentials import Scope
from services.accounts import OPERATORS
from services.errors import ConfigError
from web_tier.auth.context import current_auth
from web_tier.auth.identity import Identity, known_session
from web_tier.http.backend import current_backend

_EXTENSION: Final = "fleetsight-rights"


class Right(StrEnum):
    """The right that a route requires.

    Attributes:
        PUBLIC: none; the sender need not be signed in.
        READ: users view their own jobs; a token needs the scope `read`.
        CLASSIFY: users send images and change their own jobs; a token needs the scope `classify`.
        ACCOUNT: users manage their account; personal tokens may not.
        CREDENTIALS: users change what they sign in with, in a session, also while they lack a required second factor.
        OPERATE: operators manage the fleet; a token needs the scope `operate`.
    """

    PUBLIC = "public"
    READ = "read"
    CLASSIFY = "classify"
    ACCOUNT = "account"
    CREDENTIALS = "credentials"
    OPERATE = "operate"

    def is_granted_to(self, identity: Identity) -> bool:
        """Return whether a user has the right."""
        match self:
            case Right.PUBLIC:
                return True
            case Right.ACCOUNT:
                return identity.by in {"session", "pool_token"}
            case Right.CREDENTIALS:
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
        ),
        Right.READ: (
            "limits_api.limits_left",
            "models_api.list_models",
            "api_v1.forecast",
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
            "review_api.evaluation",
            "review_api.truth_file",
        ),
        Right.CLASSIFY: (
            "notifications_api.set_notification",
            "notifications_api.cancel_notification",
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
            "review_api.change_truth",
            "review_api.send_truth_file",
            "review_api.use_folder_names",
        ),
        Right.ACCOUNT: (
            "tokens_api.list_tokens",
            "tokens_api.make_token",
            "tokens_api.revoke_token",
        ),
        # A name without a dot is a whole blueprint, with the safest right for a route that it gets later.
        Right.OPERATE: (
            "audit_api",
            "consoles_api",
            "dead_letters_api",
            "fleet_api",
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


def install_rights(app: Flask, pages: Mapping[str, Right]) -> None:
    """Set the right that each route of `app` requires.

    Args:
        app: has all its routes.
        pages: the rights of its pages, by their endpoints.

    Raises:
        ConfigError: a route is not a page and has no row in `RIGHTS`, nor has its blueprint; names it.
    """
    rights, endpoints = {**RIGHTS, **pages}, {rule.endpoint for rule in app.url_map.iter_rules()}
    found = {endpoint: rights.get(endpoint) or rights.get(endpoint.partition(".")[0]) for endpoint in endpoints}
    if missing := sorted(endpoint for endpoint, right in found.items() if right is None):
        raise ConfigError(
            f"web_tier/auth/permissions.py has no row for {', '.join(missing)}: add the right of each route"
        )
    app.extensions[_EXTENSION] = found


def rights_of(app: Flask) -> Mapping[str, Right]:
    """Return the right that each route of `app` requires, by its endpoint."""
    return cast(Mapping[str, Right], app.extensions[_EXTENSION])


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

    A session proves one if its sign-in included a code. A token proves one if its account has one now: the pool
    issues no token for such an account without a code, and earlier credentials ended when it was set up.
    """
    if not is_required_of(identity):
        return False
    session = known_session() if identity.by == "session" else None
    if session is not None:
        return not session.record.second_factor
    account = current_auth().accounts.find(identity.owner)
    return account is None or not account.second_factor
