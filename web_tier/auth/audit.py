"""The audit trail: who did what and when, for operators; in the job table, for 90 days.

| pk              | sk       | content                                                 |
| --------------- | -------- | ------------------------------------------------------- |
| `AUDIT`         | event id | the event, in the list of all events by time            |
| `AUDIT#` user   | event id | the same event, in the list of one user                 |

An event's id is a ULID, so events of a time span are found by the ids of its ends.

A request that signs in or out, or changes what others rely on, is one event. Its route names it (`audit`), or its
view. The web tier records an event when it has answered the request. It also logs each event, so an event that could
not be stored is not lost. Of the tokens that are refused to an address, the trail has the first one in each hour.
Without sign-in there are no users, and no trail.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from flask import Flask, Response, g, request

from core.ids import first_id_of, new_id
from core.logs import AUDIT_LOGGER
from services.clock import utc_now
from services.table import CLOUD_ERRORS, EXPIRES_AT, LAST, Item, Table
from services.users import normalise_email
from web_tier.auth.identity import known_identity
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend
from web_tier.http.middleware import request_id
from web_tier.http.rate_limits import is_first_refusal
from web_tier.http.routes import Attempt, current_route

RETENTION: Final = timedelta(days=90)
"""Time for which an event is stored."""

MAX_DETAIL_CHARACTERS: Final = 200
"""Maximum characters of the value of a detail; the rest is cut."""

_ALL: Final = "AUDIT"
_FIRST_ID: Final = "0"

SIGN_IN, FAILED_SIGN_IN, REJECTED_TOKEN = "sign-in", "failed sign-in", "rejected token"
PASSWORD_CHANGED, PASSWORD_RESET, ACCOUNT_DELETED = "password changed", "password reset", "account deleted"
CODE_ASKED_FOR, RECOVERY_CODE_USED = "code asked for", "recovery code used"
SECOND_FACTOR_ON, SECOND_FACTOR_OFF, RECOVERY_CODES_MADE = (
    "second factor on",
    "second factor off",
    "recovery codes made",
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An action of a user.

    Attributes:
        event_id: a ULID of its time.
        at: its time in UTC.
        action: the action, such as `sign-in` or `job deleted`.
        user: the user's e-mail address, or their id if the address is unknown; empty if nothing shows who it is.
        address: IP address of the request.
        details: further data, such as the job's id; `account` is the one that a failed sign-in named.
    """

    event_id: str
    at: datetime
    action: str
    user: str
    address: str
    request_id: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some events, newest first; `next_before` is the cursor of the next page, if any."""

    events: tuple[AuditEvent, ...]
    next_before: str | None


@dataclass(frozen=True)
class AuditTrail:
    """The audit trail in the job table. botocore's errors and `TableBusyError` pass through."""

    table: Table

    def record(self, event: AuditEvent) -> None:
        """Record an event; recording it again changes nothing."""
        concerned = event.user or event.details.get("account", "")
        self.table.put_all([_item(event, _ALL), _item(event, _of_user(concerned))])

    def find(
        self,
        *,
        user: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: str | None = None,
        limit: int,
    ) -> AuditPage:
        """Return up to `limit` events, newest first: from `since` on, before `until`, of or about `user`.

        `before` is the cursor of the page, an event's id.
        """
        low = _FIRST_ID if since is None else first_id_of(since)
        ends = [end for end in (before, None if until is None else first_id_of(until)) if end is not None]
        # The query includes its upper end, so one more item is read.
        high = min(ends, default=LAST)
        if low > high:
            return AuditPage((), None)
        items = self.table.query(
            _ALL if user is None else _of_user(user), low, high, limit=limit + 2, newest_first=True
        )
        found = [event for event in map(_event_of, items) if event.event_id < high][: limit + 1]
        return AuditPage(tuple(found[:limit]), found[limit - 1].event_id if len(found) > limit else None)


def _of_user(user: str) -> str:
    return f"AUDIT#{user.strip().lower()}"


def _item(event: AuditEvent, partition: str) -> Item:
    return {
        "pk": partition,
        "sk": event.event_id,
        "at": event.at.isoformat(),
        "action": event.action,
        "user": event.user,
        "address": event.address,
        "request_id": event.request_id,
        "details": json.dumps(dict(event.details), ensure_ascii=False, sort_keys=True),
        EXPIRES_AT: int((event.at + RETENTION).timestamp()),
    }


def _event_of(item: Item) -> AuditEvent:
    return AuditEvent(
        event_id=str(item["sk"]),
        at=datetime.fromisoformat(str(item["at"])),
        action=str(item["action"]),
        user=str(item["user"]),
        address=str(item["address"]),
        request_id=str(item["request_id"]),
        details=json.loads(str(item["details"])),
    )


def record_audit_events(app: Flask) -> None:
    """Record what requests to `app` do; only where people sign in."""
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
        logging.getLogger(AUDIT_LOGGER).info("audit", extra={**extra, "request_id": event.request_id})
        if event.action == REJECTED_TOKEN and not is_first_refusal():
            return response
        try:
            current_trail().record(event)
        except CLOUD_ERRORS as error:
            _log.error("an audit event could not be stored; the line before has it: %s", error)
    return response


def _event(status: int) -> AuditEvent | None:
    """Return the event of the current request, which is answered with `status`, or None if it is none."""
    route, identity = current_route(), known_identity()
    if "audit_event" in g:
        action, user = g.audit_event
    elif request.method not in {"POST", "PUT", "DELETE"}:
        return None
    elif status == 401 and route.attempt is Attempt.PASSWORD and route.right is Right.PUBLIC:
        action, user = FAILED_SIGN_IN, ""  # the sender has proven nothing
        audit_details(account=normalise_email(request.form.get("email", "")) or "")
    elif status == 401 and route.attempt is Attempt.PASSWORD and identity is not None:
        action, user = FAILED_SIGN_IN, identity.email
        audit_details(by=identity.by)
    elif route.audit is not None and identity is not None and status < 400:
        action, user = route.audit, identity.email or identity.owner
        audit_details(by=identity.by)
    else:
        return None
    details = {**(request.view_args or {}), **g.get("audit_details", {})}
    cut = {name: value[:MAX_DETAIL_CHARACTERS] for name, value in details.items()}
    address = request.remote_addr or ""
    return AuditEvent(new_id(), utc_now(), action, user.strip().lower(), address, request_id(), cut)
