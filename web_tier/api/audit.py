"""The audit trail by the API, for operators."""

from datetime import datetime
from typing import Self

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict

from core.audit import AuditEvent, AuditPage
from web_tier.api.exchange import from_query, json_answer
from web_tier.api.queries import AuditQuery
from web_tier.audit import current_trail

audit_api = Blueprint("audit_api", __name__)


class AuditEventBody(BaseModel):
    """Something that a user did."""

    model_config = ConfigDict(frozen=True)

    event_id: str
    at: datetime
    action: str
    user: str
    address: str
    request_id: str
    details: dict[str, str]

    @classmethod
    def of(cls, event: AuditEvent) -> Self:
        """Return the body of an event."""
        return cls(
            event_id=event.event_id,
            at=event.at,
            action=event.action,
            user=event.user,
            address=event.address,
            request_id=event.request_id,
            details=dict(event.details),
        )


class AuditEventsBody(BaseModel):
    """A page of events, newest first."""

    model_config = ConfigDict(frozen=True)

    events: tuple[AuditEventBody, ...]
    next: str | None

    @classmethod
    def of(cls, page: AuditPage) -> Self:
        """Return the body of a page."""
        return cls(events=tuple(map(AuditEventBody.of, page.events)), next=page.next_before)


@audit_api.get("/audit")
def events() -> Response:
    """Return what users did, newest first."""
    query = from_query(AuditQuery)
    found = current_trail().find(
        user=query.user, since=query.since, until=query.until, before=query.before, limit=query.limit
    )
    return json_answer(AuditEventsBody.of(found))
