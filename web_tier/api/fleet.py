"""The fleet by the API: its instances, decisions and history, and the pause."""

from datetime import UTC, datetime, timedelta

from flask import Blueprint, Response

from services.fleet import points_since
from web_tier.api.exchange import from_body, from_query, json_answer
from web_tier.api.models import FleetHistoryBody, FleetPauseBody, PauseFleet
from web_tier.api.queries import HistoryQuery
from web_tier.backend import current_backend
from web_tier.intake.names import shown_reason

LENGTHS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}

fleet_api = Blueprint("fleet_api", __name__)


@fleet_api.get("/fleet/instances")
def instances() -> Response:
    """List the instances, newest first."""
    return json_answer(current_backend().fleet.instances())


@fleet_api.get("/fleet/decisions")
def decisions() -> Response:
    """Tell the last decisions, newest first."""
    return json_answer(current_backend().fleet.decisions())


@fleet_api.get("/fleet/history")
def history() -> Response:
    """Tell how many workers and images there were over a span."""
    span = from_query(HistoryQuery).span
    start = datetime.now(UTC) - LENGTHS[span]
    points = points_since(current_backend().fleet.blocks(span), start)
    return json_answer(FleetHistoryBody(span=span, points=tuple(points)))


@fleet_api.post("/fleet/pause")
def pause() -> Response:
    """Pause the fleet; it stays paused since it was."""
    wanted = from_body(PauseFleet, '{"reason": "..."}')
    pause = current_backend().fleet.pause(datetime.now(UTC), shown_reason(wanted.reason))
    return json_answer(FleetPauseBody(paused=True, since=pause.since, reason=pause.reason))


@fleet_api.post("/fleet/resume")
def resume() -> Response:
    """End the pause, if there is one."""
    current_backend().fleet.resume()
    return json_answer(FleetPauseBody(paused=False))
