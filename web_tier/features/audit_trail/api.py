"""The API of the audit trail."""

from datetime import datetime
from typing import Self

from flask import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from web_tier.auth.audit import AuditPage, current_trail
from web_tier.auth.permissions import Right
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parsing import MAX_JOBS, Cursor, Query, json_response, parse_query
from web_tier.http.routes import Routes

audit_api = Routes("audit_api", right=Right.OPERATE, needs_sign_in=True)


class AuditQuery(Query):
    """Which events of the audit trail to list."""

    limit: int = Field(default=50, ge=1, le=MAX_JOBS, description="Events in a page, at most.")
    before: Cursor | None = Field(default=None, description="`next` of the page before.")
    user: str | None = Field(
        default=None, min_length=1, max_length=128, description="E-mail address of the user, or their id."
    )
    since: AwareDatetime | None = Field(default=None, description="Not earlier than this moment (RFC 3339).")
    until: AwareDatetime | None = Field(default=None, description="Earlier than this moment (RFC 3339).")


class AuditEventBody(BaseModel):
    """Something that a user did."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    event_id: str
    at: datetime
    action: str
    user: str
    address: str
    request_id: str
    details: dict[str, str]


class AuditEventsBody(BaseModel):
    """A page of events, newest first."""

    model_config = ConfigDict(frozen=True)

    events: tuple[AuditEventBody, ...]
    next: str | None

    @classmethod
    def from_page(cls, page: AuditPage) -> Self:
        """Return the body of a page."""
        return cls(events=tuple(map(AuditEventBody.model_validate, page.events)), next=page.next_before)


@audit_api.get("/audit")
@operation(
    ApiResponse(200, "A page of events.", AuditEventsBody),
    name="audit_events",
    tag="System",
    query=AuditQuery,
    problems=(404,),
)
def events() -> Response:
    """List what users did, newest first.

    For operators, where people sign in. Events are sign-ins, sign-outs, failed sign-ins, rejected tokens (the first
    of an address in each hour), password resets, tokens, deletions, dead letters, and orders to the fleet. They are
    kept for 90 days.
    """
    query = parse_query(AuditQuery)
    found = current_trail().find(
        user=query.user, since=query.since, until=query.until, before=query.before, limit=query.limit
    )
    return json_response(AuditEventsBody.from_page(found))
