"""The fleet by the API: its instances, decisions and history, and the orders of ops."""

from datetime import UTC, datetime, timedelta

from flask import Blueprint, Response

from core.fleet.models import LimitsOverride, points_since
from web_tier.api.exchange import from_body, from_query, json_answer
from web_tier.api.models import (
    FleetDrainBody,
    FleetHistoryBody,
    FleetLimitsBody,
    FleetPauseBody,
    PauseFleet,
    SetLimits,
)
from web_tier.api.queries import HistoryQuery
from web_tier.audit import audit_details
from web_tier.backend import current_backend
from web_tier.fleet_orders import order_drain
from web_tier.text import clean_reason

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
    pause = current_backend().fleet.pause(datetime.now(UTC), clean_reason(wanted.reason))
    audit_details(reason=pause.reason)
    return json_answer(FleetPauseBody(paused=True, since=pause.since, reason=pause.reason))


@fleet_api.post("/fleet/resume")
def resume() -> Response:
    """End the pause, if there is one."""
    current_backend().fleet.resume()
    return json_answer(FleetPauseBody(paused=False))


@fleet_api.put("/fleet/limits")
def set_limits() -> Response:
    """Set limits in place of those of config.yaml, until they are taken back."""
    wanted = from_body(SetLimits, '{"min_workers": 0, "max_workers": 5}', may_be_empty=False)
    order = LimitsOverride(
        min_workers=wanted.min_workers,
        max_workers=wanted.max_workers,
        since=datetime.now(UTC),
        reason=clean_reason(wanted.reason),
    )
    current_backend().fleet.set_limits(order)
    audit_details(min_workers=order.min_workers, max_workers=order.max_workers, reason=order.reason)
    return json_answer(FleetLimitsBody(**order.model_dump(exclude={"version"})))


@fleet_api.delete("/fleet/limits")
def reset_limits() -> Response:
    """Let the limits of config.yaml hold again, if ops have set others."""
    current_backend().fleet.reset_limits()
    return Response(status=204)


@fleet_api.post("/fleet/instances/<instance_id>/drain")
def drain(instance_id: str) -> Response:
    """Ask the worker of an instance to finish what it has and end."""
    asked_at = datetime.now(UTC)
    order_drain(current_backend().fleet, instance_id, asked_at)
    return json_answer(FleetDrainBody(instance_id=instance_id, asked_at=asked_at), 202)
