"""The page of the cost report: by day, user, job or model, of all users for operators, else of one's own jobs."""

from datetime import date
from typing import Final, get_args

from flask import request

from services.clock import utc_now
from web_tier.auth.identity import current_identity
from web_tier.auth.permissions import Right
from web_tier.features.costs.report import MAX_REPORT_DAYS, Grouping, oldest_day, visible_reports
from web_tier.http.page_header import render_with_fleet
from web_tier.http.routes import Routes

cost_pages = Routes("costs")


LINES_PER_PAGE: Final = 100
"""Lines that the page shows, the dearest ones; the CSV has more."""

SPANS: Final = {1: "1 day", 7: "7 days", MAX_REPORT_DAYS: f"{MAX_REPORT_DAYS} days"}
"""Lengths of a report that the page offers, in days."""

_TITLES: Final = {"job": "Job", "user": "User", "model": "Model", "day": "Day"}


@cost_pages.get("/costs", right=Right.READ)
def costs_page() -> str:
    """Show a cost report; an address that is not valid shows the one of today."""
    today = utc_now().date()
    day, by = _day(today), _grouping()
    days = request.args.get("days", default=1, type=int)
    days = days if days in SPANS else 1
    reports, sees_all = visible_reports(), current_identity().operates
    report = reports.report(day, days, by)
    return render_with_fleet(
        "costs.html",
        report=report,
        lines=reports.named(report.lines[:LINES_PER_PAGE]),
        day=day,
        today=today,
        oldest=oldest_day(today),
        days=days,
        by=by,
        spans=SPANS,
        groupings={name: title for name, title in _TITLES.items() if sees_all or name != "user"},
        sees_all=sees_all,
    )


def _day(today: date) -> date:
    """Return the last day of the report, of those that are kept."""
    try:
        day = date.fromisoformat(request.args.get("day", ""))
    except ValueError:
        return today
    return max(oldest_day(today), min(today, day))


def _grouping() -> Grouping:
    by = request.args.get("by", "job")
    return next((name for name in get_args(Grouping) if name == by), "job")
