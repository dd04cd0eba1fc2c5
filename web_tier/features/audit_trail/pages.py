"""The page of the audit trail."""

from datetime import UTC, date, datetime, time, timedelta

from flask import request

from web_tier.auth.audit import RETENTION, current_trail
from web_tier.auth.permissions import Right
from web_tier.http.backend import render_with_fleet
from web_tier.http.parameters import cursor_of_page
from web_tier.http.routes import Routes

audit_pages = Routes("audit", right=Right.OPERATE, needs_sign_in=True)


EVENTS_PER_PAGE = 50


@audit_pages.get("/audit")
def audit_page() -> str:
    """Show the events of the audit trail, newest first."""
    user = request.args.get("user", "").strip()[:128]
    since, until, before = _day("since"), _day("until"), cursor_of_page("before")
    page = current_trail().find(
        user=user or None,
        since=None if since is None else _midnight(since),
        until=None if until is None else _midnight(until) + timedelta(days=1),
        before=before,
        limit=EVENTS_PER_PAGE,
    )
    return render_with_fleet(
        "audit.html",
        page=page,
        query={"user": user, "since": since or "", "until": until or ""},
        kept_days=RETENTION.days,
        is_first_page=before is None,
    )


def _day(name: str) -> date | None:
    text = request.args.get(name, "")
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        return None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
