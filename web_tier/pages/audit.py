"""The page of the audit trail, for operators."""

from datetime import UTC, date, datetime, time, timedelta

from flask import render_template, request
from werkzeug.exceptions import BadRequest

from core.audit import RETENTION
from web_tier.audit import current_trail
from web_tier.backend import current_backend
from web_tier.parameters import cursor

EVENTS_PER_PAGE = 50


def audit_page() -> str:
    """Show the events of the audit trail, newest first."""
    user = request.args.get("user", "").strip()[:128]
    since, until = _day("since"), _day("until")
    page = current_trail().find(
        user=user or None,
        since=None if since is None else _midnight(since),
        until=None if until is None else _midnight(until) + timedelta(days=1),
        before=cursor("before"),
        limit=EVENTS_PER_PAGE,
    )
    return render_template(
        "audit.html",
        page=page,
        query={"user": user, "since": since or "", "until": until or ""},
        kept_days=RETENTION.days,
        is_first_page="before" not in request.args,
        fleet=current_backend().fleet.snapshot(),
    )


def _day(name: str) -> date | None:
    text = request.args.get(name, "")
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise BadRequest(f"{name}={text[:20]!r} is no day: write it as 2026-11-21") from error


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
