"""The API of the fleet: its status, history and controls."""

from datetime import date, datetime
from typing import Self, cast

from flask import Response
from pydantic import Field
from werkzeug.exceptions import NotFound

from core.fleet.models import (
    MAX_REASON_CHARACTERS,
    Decisions,
    FleetPause,
    HistoryPoint,
    Span,
    SpendingAllowance,
    WorkerLimits,
    points_since,
)
from core.format import waiting_words
from services.clock import utc_now
from web_tier.auth.identity import current_identity
from web_tier.auth.permissions import Right
from web_tier.features.fleet_control.actions import allow_fleet_dollars, pause_fleet, set_fleet_limits
from web_tier.features.fleet_control.bodies import AllowDollars, FleetInstancesBody, FleetStatusBody, SetLimits
from web_tier.features.fleet_control.chart import WINDOWS
from web_tier.features.fleet_control.console import console_lines
from web_tier.features.fleet_control.pages import pages
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parsing import Query, json_response, parse_body, parse_query
from web_tier.http.routes import Routes

api = Routes("fleet_api", right=Right.OPERATE, pages=pages, back="fleet.fleet_page")


class HistoryQuery(Query):
    """How far back to look."""

    span: Span = Field(
        default="hour",
        description="`minutes` are the last ten, with a point a second at most; `hour` has one each 5 seconds, and "
        "`day` one each 2 minutes.",
    )


class FleetHistoryBody(ApiBody):
    """Workers and queue over a span, oldest first; each point holds until the next one."""

    span: Span
    points: tuple[HistoryPoint, ...]


class PauseFleet(ApiBody):
    """Why the fleet is to be paused."""

    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS, description="Shown with the pause.")


class FleetPauseBody(ApiBody):
    """Whether the fleet is paused, since when and why, and what the request has changed."""

    paused: bool
    since: datetime | None = None
    reason: str = ""
    changed: bool = Field(description="Whether the request has paused or resumed the fleet.")
    effect: str = Field(description="What follows for images that wait, as a sentence.")

    @classmethod
    def from_pause(cls, pause: FleetPause | None, *, changed: bool) -> Self:
        """Return the body of a fleet with this pause, or with none."""
        backend = current_backend()
        state = backend.fleet.state()
        waiting = state.snapshot.visible + state.snapshot.delayed if state.snapshot else 0
        return cls(
            paused=pause is not None,
            since=pause and pause.since,
            reason=pause.reason if pause else "",
            changed=changed,
            effect=waiting_words(waiting, state.halt(WorkerLimits.configured(backend.config.fleet)), state.spending),
        )


class FleetLimitsBody(ApiBody):
    """Limits that ops have set, since when and why."""

    min_workers: int
    max_workers: int
    since: datetime
    reason: str = ""


class FleetAllowanceBody(ApiBody):
    """The dollars that ops allow on a day (UTC), since when and why, and the caps with them."""

    day: date
    dollars: float
    since: datetime
    reason: str = ""
    cap_today: float | None = Field(description="Null without `fleet.dollars_per_day`.")
    cap_this_month: float | None = Field(description="As it applies today; null without `fleet.dollars_per_month`.")
    still_reached: bool = Field(description="Whether a cap is still reached: allow more to let workers start.")


class FleetDrainBody(ApiBody):
    """An instance that drains: its worker finishes its images and terminates."""

    instance_id: str
    asked_at: datetime


class ConsoleBody(ApiBody):
    """The last lines of the console of an instance, in the order in which they were written."""

    instance_id: str
    lines: list[str]


@api.get("/fleet")
@operation(
    ApiResponse(200, "The fleet, the queue, the last decision and the cost.", FleetStatusBody),
    tag="System",
    problems=(404,),
)
def fleet() -> Response:
    """Get the fleet and the last decision of the autoscaler."""
    backend = current_backend()
    state = backend.fleet.state()
    if state.snapshot is None:
        reason = state.problem or "try again in a second"
        raise NotFound(f"the controller has not published a fleet status yet; {reason}")
    snapshot = state.snapshot.model_copy(update={"problem": state.problem})
    return json_response(FleetStatusBody.from_fleet(snapshot, backend.reports.silent_seconds(snapshot)))


@api.get("/fleet/instances")
@operation(
    ApiResponse(200, "Up to 100 instances with what their workers say of themselves.", FleetInstancesBody),
    name="fleet_instances",
    tag="System",
)
def instances() -> Response:
    """List the fleet's instances, newest first."""
    state = current_backend().fleet.state()
    return json_response(FleetInstancesBody(**dict(state.instances), ended=state.ended_lately(utc_now())))


@api.get("/fleet/decisions")
@operation(ApiResponse(200, "Up to 20 decisions, newest first.", Decisions), name="fleet_decisions", tag="System")
def decisions() -> Response:
    """List the last decisions of the autoscaler, with their reasons."""
    return json_response(current_backend().fleet.decisions())


@api.get("/fleet/history")
@operation(
    ApiResponse(200, "Points, oldest first; there is none while nothing changes.", FleetHistoryBody),
    name="fleet_history",
    tag="System",
    query=HistoryQuery,
)
def history() -> Response:
    """Get the number of workers, and of images waiting or in flight, over time."""
    span = parse_query(HistoryQuery).span
    start = utc_now() - WINDOWS[span].length
    points = points_since(current_backend().fleet.blocks(span), start)
    return json_response(FleetHistoryBody(span=span, points=tuple(points)))


@api.post("/fleet/pause", audit="fleet paused")
@operation(ApiResponse(200, "It is paused.", FleetPauseBody), name="pause_fleet", tag="System", body=PauseFleet)
def pause() -> Response:
    """Pause the fleet.

    While it is paused no worker is launched or started; those that run finish and end themselves. Images are still
    accepted, and wait. A fleet that is paused already stays so.
    """
    pause, changed = pause_fleet(parse_body(PauseFleet, '{"reason": "..."}').reason)
    return json_response(FleetPauseBody.from_pause(pause, changed=changed))


@api.post("/fleet/resume", form="/fleet/resume", audit="fleet resumed")
@operation(ApiResponse(200, "It is not paused.", FleetPauseBody), name="resume_fleet", tag="System")
def resume() -> Response:
    """Resume the fleet."""
    pause = current_backend().fleet.resume(current_identity().name or "ops")
    return json_response(FleetPauseBody.from_pause(None, changed=pause is not None))


@api.put("/fleet/limits", audit="limits set")
@operation(
    ApiResponse(200, "The limits take effect within seconds.", FleetLimitsBody),
    name="set_fleet_limits",
    tag="System",
    body=SetLimits,
)
def set_limits() -> Response:
    """Set the fleet's limits.

    The limits override `min_workers` and `max_workers` of config.yaml until they are deleted, also when that file
    changes. `min_workers` is at most `max_workers`. Workers above a lowered maximum finish their images and terminate
    when idle.
    """
    wanted = parse_body(SetLimits, '{"min_workers": 0, "max_workers": 5}', may_be_empty=False)
    limits = set_fleet_limits(wanted)
    return json_response(FleetLimitsBody(**limits.model_dump(exclude={"version"})))


@api.delete("/fleet/limits", form="/fleet/limits/reset", audit="limits reset")
@operation(ApiResponse(204, "The limits of config.yaml apply."), name="reset_fleet_limits", tag="System")
def reset_limits() -> Response:
    """Reset the fleet's limits to those of config.yaml."""
    current_backend().fleet.reset_limits()
    return Response(status=204)


@api.put("/fleet/allowance", audit="dollars allowed")
@operation(
    ApiResponse(200, "The caps are raised within seconds, until midnight UTC.", FleetAllowanceBody),
    name="allow_fleet_dollars",
    tag="System",
    body=AllowDollars,
)
def set_allowance() -> Response:
    """Allow more dollars today.

    It raises `fleet.dollars_per_day` and `fleet.dollars_per_month` until midnight UTC. Without a spending cap there
    is nothing to raise: 422.
    """
    wanted = parse_body(AllowDollars, '{"dollars": 5, "reason": "..."}', may_be_empty=False)
    spending = allow_fleet_dollars(wanted)
    allowance = cast(SpendingAllowance, spending.allowance)
    return json_response(
        FleetAllowanceBody(
            day=spending.day,
            dollars=allowance.dollars,
            since=allowance.since,
            reason=allowance.reason,
            cap_today=spending.cap("day"),
            cap_this_month=spending.cap("month"),
            still_reached=spending.reached is not None,
        )
    )


@api.delete("/fleet/allowance", form="/fleet/allowance/reset", audit="allowance withdrawn")
@operation(ApiResponse(204, "The caps of config.yaml apply."), name="withdraw_fleet_allowance", tag="System")
def reset_allowance() -> Response:
    """Withdraw the allowance of today."""
    current_backend().fleet.reset_allowance()
    return Response(status=204)


@api.get("/fleet/instances/<instance_id>/console")
@operation(ApiResponse(200, "Up to 100 lines.", ConsoleBody), name="instance_console", tag="System")
def console(instance_id: str) -> Response:
    """Get the last lines of an instance's console.

    For instances that are listed, and for those that have ended in the last hour. The instance has written the lines:
    characters that control a terminal are removed. Of a type without the Nitro System, EC2 has only the lines from
    shortly after its last change of state.
    """
    return json_response(ConsoleBody(instance_id=instance_id, lines=console_lines(instance_id)))


@api.post(
    "/fleet/instances/<instance_id>/drain", form="/fleet/instances/<instance_id>/drain", audit="instance drained"
)
@operation(
    ApiResponse(202, "Its worker starts to drain within seconds.", FleetDrainBody),
    name="drain_instance",
    tag="System",
)
def drain(instance_id: str) -> Response:
    """Drain an instance.

    The worker receives no more images, finishes those it has, and terminates with its machine. If the fleet still
    needs it, the controller launches a replacement.
    """
    asked_at = utc_now()
    fleet = current_backend().fleet
    fleet.drainable_instance(instance_id)
    fleet.request_drain(instance_id, asked_at)
    return json_response(FleetDrainBody(instance_id=instance_id, asked_at=asked_at), 202)
