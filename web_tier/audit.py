"""What goes into the audit trail: one event for each request that signs in or out, or changes what others rely on.

The tables below name the events by endpoint. Each is recorded when its request was answered. Each is a line of the
log as well, so that one that could not be stored is not lost. Without sign-in there are no users, and no trail.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, Response, g, request

from core.audit import AuditEvent, AuditTrail, new_event
from services.table import TableBusyError
from services.users import normalise_email
from web_tier.auth.context import current_auth
from web_tier.auth.identity import known_identity
from web_tier.backend import current_backend
from web_tier.middleware import request_id

SIGN_IN, FAILED_SIGN_IN, PASSWORD_RESET = "sign-in", "failed sign-in", "password reset"
CODE_ASKED_FOR, RECOVERY_CODE_USED = "code asked for", "recovery code used"
SECOND_FACTOR_ON, SECOND_FACTOR_OFF, RECOVERY_CODES_MADE = (
    "second factor on",
    "second factor off",
    "recovery codes made",
)

_BY_FORM: Final[Mapping[tuple[str, int], str]] = {
    ("accounts.sign_in", 303): SIGN_IN,
    ("accounts.sign_in", 401): FAILED_SIGN_IN,
    ("accounts.new_password", 303): SIGN_IN,
    ("accounts.new_password", 401): FAILED_SIGN_IN,
    ("accounts.recovery", 303): SIGN_IN,
    ("accounts.recovery", 401): FAILED_SIGN_IN,
    ("accounts.reset", 200): PASSWORD_RESET,
}
"""Requests of people who are not signed in, by their answer; the form says which account they are about."""

_BY_USER: Final[Mapping[str, str]] = {
    endpoint: action
    for action, endpoints in {
        "sign-out": ("accounts.sign_out",),
        "token created": ("accounts.make_token", "tokens_api.make_token"),
        "token revoked": ("accounts.revoke_token", "tokens_api.revoke_token"),
        "job deleted": ("changes.delete", "api_v1.delete_job"),
        "fleet paused": ("operate.pause", "fleet_api.pause"),
        "fleet resumed": ("operate.resume", "fleet_api.resume"),
        "limits set": ("operate.set_limits", "fleet_api.set_limits"),
        "limits reset": ("operate.reset_limits", "fleet_api.reset_limits"),
        "instance drained": ("operate.drain", "fleet_api.drain"),
        "dead letter redriven": ("dead_letters.redrive_letter", "dead_letters_api.redrive_letter"),
        "dead letters redriven": ("dead_letters.redrive_letters", "dead_letters_api.redrive_letters"),
        "dead letter discarded": ("dead_letters.discard_letter", "dead_letters_api.discard_letter"),
    }.items()
    for endpoint in endpoints
}
"""Requests of signed-in users that succeeded."""

_PROOFS_BY_USER: Final = frozenset(
    f"accounts.{name}" for name in ("second_factor", "turn_off_second_factor", "new_recovery_codes")
)
"""Requests of signed-in users that prove once more who they are: with 401 they failed."""

_BY_VIEW: Final = (CODE_ASKED_FOR, RECOVERY_CODE_USED, SECOND_FACTOR_ON, SECOND_FACTOR_OFF, RECOVERY_CODES_MADE)
"""What the views themselves record, by `audit_as`."""

ACTIONS: Final = tuple(sorted({*_BY_FORM.values(), *_BY_USER.values(), *_BY_VIEW}))

_log = logging.getLogger(__name__)


def record_audit_events(app: Flask) -> None:
    """Record what requests to `app` do, where people sign in."""
    app.after_request(_record)


def audit_as(action: str, user: str) -> None:
    """Let the current request be the event `action` of `user`, with any answer."""
    g.audit_event = action, normalise_email(user) or ""


def audit_details(**details: object) -> None:
    """Add to the event of the current request, such as the limits that it sets."""
    g.setdefault("audit_details", {}).update({name: str(value) for name, value in details.items()})


def current_trail() -> AuditTrail:
    """Return the audit trail of the application which serves the current request."""
    return AuditTrail(current_backend().store.table)


def _record(response: Response) -> Response:
    event = _event(response.status_code)
    if event is not None:
        details = json.dumps(dict(event.details), sort_keys=True)
        extra = {"action": event.action, "user": event.user, "details": details, "address": event.address}
        _log.info("audit", extra={**extra, "request_id": event.request_id})
        try:
            current_trail().record(event)
        except (BotoCoreError, ClientError, TableBusyError) as error:
            _log.error("an audit event could not be stored; the line before has it: %s", error)
    return response


def _event(status: int) -> AuditEvent | None:
    """Return the event of the current request, which is answered with `status`, or None if it is none."""
    endpoint, identity = request.endpoint or "", known_identity()
    if request.method not in {"POST", "PUT", "DELETE"} or not current_auth().signs_in:
        return None
    if "audit_event" in g:
        action, user = g.audit_event
    elif action := _BY_FORM.get((endpoint, status)):
        user = normalise_email(request.form.get("email", "")) or ""
    elif identity is not None and status == 401 and endpoint in _PROOFS_BY_USER:
        action, user = FAILED_SIGN_IN, identity.email
        audit_details(by=identity.by)
    elif identity is not None and status < 400 and endpoint in _BY_USER:
        action, user = _BY_USER[endpoint], identity.email or identity.owner
        audit_details(by=identity.by)
    else:
        return None
    return new_event(
        action,
        user,
        at=datetime.now(UTC),
        address=request.remote_addr or "",
        request_id=request_id(),
        details={**(request.view_args or {}), **g.get("audit_details", {})},
    )
