"""The API of operators: the fleet with its history and controls, dead letters, and the audit trail."""

from datetime import date, datetime, timedelta
from typing import Self

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field, model_validator
from werkzeug.exceptions import UnprocessableEntity

from core.config import MAX_CAP_DOLLARS, MAX_WORKERS, PriceSettings
from core.cost import ThousandCost
from core.fleet.models import (
    MAX_REASON_CHARACTERS,
    Decisions,
    EndedInstance,
    FleetInstances,
    FleetSnapshot,
    HistoryPoint,
    LimitsOverride,
    Span,
    WorkerLimits,
    points_since,
)
from core.fleet.store import NoSpendingCapError
from core.jobs.dead_letters import DeadLetterImage, DeadLetterPage
from core.messages import Failure
from services.clock import utc_now
from web_tier.api.openapi import ApiResponse, operation
from web_tier.api.parsing import (
    AuditQuery,
    DeadLettersQuery,
    HistoryQuery,
    RedriveQuery,
    json_response,
    parse_body,
    parse_query,
)
from web_tier.audit import AuditPage, audit_details, current_trail
from web_tier.auth.identity import current_identity
from web_tier.backend import current_backend
from web_tier.bodies import ApiBody
from web_tier.console import ConsoleLine
from web_tier.parameters import clean_reason, known_ref
from web_tier.uploads.retry import Redriven, RedriveOutcome, redrive, redrive_all

SPAN_LENGTHS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}

fleet_api = Blueprint("fleet_api", __name__)
dead_letters_api = Blueprint("dead_letters_api", __name__)
audit_api = Blueprint("audit_api", __name__)


class FleetStatusBody(FleetSnapshot):
    """What the autoscaler saw and decided last, how long ago, and what 1,000 images have cost, in US dollars."""

    silent_seconds: float = Field(
        default=0.0, description="How long the controller has not reported, as far as the web tier knows."
    )
    instances_dollars_per_1000_images: float | None = Field(
        default=None, description="`cost` by `images`; null before the first answer of a worker."
    )
    requests_dollars_per_1000_images: float | None = Field(
        default=None, description="For S3, SQS and DynamoDB; the same."
    )

    @classmethod
    def of(cls, fleet: FleetSnapshot, prices: PriceSettings, silent_seconds: float) -> Self:
        """Return the body of a snapshot."""
        fields, cost = {**dict(fleet), "silent_seconds": round(silent_seconds, 1)}, ThousandCost.of(fleet, prices)
        if cost is None:
            return cls(**fields)
        return cls(
            **fields,
            instances_dollars_per_1000_images=round(cost.instances_dollars, 6),
            requests_dollars_per_1000_images=round(cost.requests_dollars, 6),
        )


class FleetHistoryBody(ApiBody):
    """Workers and queue over a span, oldest first; each point holds until the next one."""

    span: Span
    points: tuple[HistoryPoint, ...]


class PauseFleet(ApiBody):
    """Why the fleet is to be paused."""

    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS, description="Shown with the pause.")


class FleetPauseBody(ApiBody):
    """Whether the fleet is paused, since when and why."""

    paused: bool
    since: datetime | None = None
    reason: str = ""


class SetLimits(BaseModel):
    """The least and the most workers that there may be from now on, and why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    min_workers: int | None = Field(
        default=None,
        ge=0,
        le=MAX_WORKERS,
        description="Without it, the minimum stays as it is, or becomes `max_workers` if that is lower.",
    )
    max_workers: int = Field(ge=0, le=MAX_WORKERS)
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS, description="Shown with the limits.")

    @model_validator(mode="after")
    def _minimum_is_at_most_maximum(self) -> Self:
        if self.min_workers is not None:
            WorkerLimits(min_workers=self.min_workers, max_workers=self.max_workers)
        return self


class FleetLimitsBody(ApiBody):
    """Limits that ops have set, since when and why."""

    min_workers: int
    max_workers: int
    since: datetime
    reason: str = ""


class AllowDollars(BaseModel):
    """The dollars by which the spending caps are raised today (UTC), and why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dollars: float = Field(
        gt=0,
        le=MAX_CAP_DOLLARS,
        allow_inf_nan=False,
        description="For the whole day: it replaces an earlier allowance.",
    )
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS, description="Shown with the allowance.")


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


class FleetInstancesBody(FleetInstances):
    """The fleet's instances, newest first; `total` may be more than are listed."""

    ended: tuple[EndedInstance, ...] = Field(description="Those that ended in the last hour, up to 20.")


@fleet_api.get("/fleet/instances")
@operation(
    ApiResponse(200, "Up to 100 instances with what their workers say of themselves.", FleetInstancesBody),
    name="fleet_instances",
    tag="System",
)
def instances() -> Response:
    """List the fleet's instances, newest first."""
    state = current_backend().fleet.state()
    return json_response(FleetInstancesBody(**dict(state.instances), ended=state.ended_lately(utc_now())))


@fleet_api.get("/fleet/decisions")
@operation(ApiResponse(200, "Up to 20 decisions, newest first.", Decisions), name="fleet_decisions", tag="System")
def decisions() -> Response:
    """List the last decisions of the autoscaler, with their reasons."""
    return json_response(current_backend().fleet.decisions())


@fleet_api.get("/fleet/history")
@operation(
    ApiResponse(200, "Points, oldest first; there is none while nothing changes.", FleetHistoryBody),
    name="fleet_history",
    tag="System",
    query=HistoryQuery,
)
def history() -> Response:
    """Get the number of workers and of queued images over time."""
    span = parse_query(HistoryQuery).span
    start = utc_now() - SPAN_LENGTHS[span]
    points = points_since(current_backend().fleet.blocks(span), start)
    return json_response(FleetHistoryBody(span=span, points=tuple(points)))


@fleet_api.post("/fleet/pause")
@operation(ApiResponse(200, "It is paused.", FleetPauseBody), name="pause_fleet", tag="System", body=PauseFleet)
def pause() -> Response:
    """Pause the fleet.

    While it is paused no worker is launched or started; those that run finish and end themselves. Images are still
    accepted, and wait. A fleet that is paused already stays so.
    """
    wanted = parse_body(PauseFleet, '{"reason": "..."}')
    pause = current_backend().fleet.pause(utc_now(), clean_reason(wanted.reason))
    audit_details(reason=pause.reason)
    return json_response(FleetPauseBody(paused=True, since=pause.since, reason=pause.reason))


@fleet_api.post("/fleet/resume")
@operation(ApiResponse(200, "It is not paused.", FleetPauseBody), name="resume_fleet", tag="System")
def resume() -> Response:
    """Resume the fleet."""
    current_backend().fleet.resume()
    return json_response(FleetPauseBody(paused=False))


@fleet_api.put("/fleet/limits")
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
    backend, minimum = current_backend(), wanted.min_workers
    if minimum is None:
        limits = backend.fleet.state().limits_in_force(WorkerLimits.configured(backend.config.fleet))
        minimum = min(limits.min_workers, wanted.max_workers)
    override = LimitsOverride(
        min_workers=minimum,
        max_workers=wanted.max_workers,
        since=utc_now(),
        reason=clean_reason(wanted.reason),
    )
    backend.fleet.set_limits(override)
    audit_details(min_workers=override.min_workers, max_workers=override.max_workers, reason=override.reason)
    return json_response(FleetLimitsBody(**override.model_dump(exclude={"version"})))


@fleet_api.delete("/fleet/limits")
@operation(ApiResponse(204, "The limits of config.yaml apply."), name="reset_fleet_limits", tag="System")
def reset_limits() -> Response:
    """Reset the fleet's limits to those of config.yaml."""
    current_backend().fleet.reset_limits()
    return Response(status=204)


@fleet_api.put("/fleet/allowance")
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
    reason, now = clean_reason(wanted.reason), utc_now()
    try:
        spending = current_backend().fleet.allow_dollars(wanted.dollars, reason, now)
    except NoSpendingCapError as error:
        raise UnprocessableEntity(str(error)) from error
    audit_details(dollars=wanted.dollars, day=spending.day, reason=reason)
    return json_response(
        FleetAllowanceBody(
            day=spending.day,
            dollars=wanted.dollars,
            since=now,
            reason=reason,
            cap_today=spending.cap("day"),
            cap_this_month=spending.cap("month"),
            still_reached=spending.reached is not None,
        )
    )


@fleet_api.delete("/fleet/allowance")
@operation(ApiResponse(204, "The caps of config.yaml apply."), name="withdraw_fleet_allowance", tag="System")
def reset_allowance() -> Response:
    """Withdraw the allowance of today."""
    current_backend().fleet.reset_allowance()
    return Response(status=204)


@fleet_api.post("/fleet/instances/<instance_id>/drain")
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


class ConsoleBody(ApiBody):
    """The newest lines of the console of an instance, in the order in which they were written."""

    instance_id: str
    read_at: datetime = Field(description="EC2 is called at most once in five seconds for an instance.")
    is_latest: bool = Field(
        description="False if EC2 has no latest output of this instance type. The lines are then of the time shortly "
        "after the instance has last changed its state."
    )
    lines: tuple[ConsoleLine, ...]


@fleet_api.get("/fleet/instances/<instance_id>/console")
@operation(ApiResponse(200, "Up to 1,000 lines, of up to 64 KB.", ConsoleBody), name="instance_console", tag="System")
def console(instance_id: str) -> Response:
    """Get the console of an instance.

    For instances that are listed, and for those that have ended in the last hour. The instance has written the lines:
    characters that control a terminal are removed, and a line of JSON is split into its parts.
    """
    backend = current_backend()
    read = backend.consoles.read(backend.fleet.known_instance(instance_id), current_identity().owner)
    return json_response(
        ConsoleBody(instance_id=instance_id, read_at=read.read_at, is_latest=read.is_latest, lines=read.lines)
    )


class DeadLetterBody(ApiBody):
    """An image that the system gave up, because workers received it too often without an answer."""

    job_id: str
    job_name: str
    image_id: str
    filename: str
    bytes: int = Field(description="Size of the file.")
    accepted_at: datetime
    retried_at: datetime | None = Field(description="When the image was last retried; null if never.")
    attempt: int = Field(description="Number of the request that failed: 0 for the first, one more for each retry.")
    tries: int = Field(description="How often workers received that request.")
    error: Failure | None = Field(description="Why the image failed.")
    recorded_at: datetime | None = Field(description="When the failed result became visible.")

    @classmethod
    def of(cls, letter: DeadLetterImage) -> Self:
        """Return the body of a dead letter."""
        record, result = letter.record, letter.result
        return cls.copied_from(result, record, job_name=letter.job.name, bytes=record.size, tries=result.attempts)


class DeadLettersBody(ApiBody):
    """Dead letters, newest jobs first; `next` is the cursor of the next page (`before`), null at the end."""

    dead_letters: tuple[DeadLetterBody, ...]
    next: str | None

    @classmethod
    def of(cls, page: DeadLetterPage) -> Self:
        """Return the body of a page."""
        return cls(dead_letters=tuple(map(DeadLetterBody.of, page.letters)), next=page.next_before)


class RedriveBody(ApiBody):
    """The outcome of redriving a dead letter.

    `sent`: the image was requested again; `running`: it is being retried already; `gone`: the image is no longer
    stored, so its owner must upload it again; `refused`: the queue refused the request, call again;
    `no_dead_letter`: there is no dead letter of the image, for example since it has a label by now.
    """

    job_id: str
    image_id: str
    outcome: RedriveOutcome


class RedriveAllBody(ApiBody):
    """The outcome of redriving up to 1,000 dead letters."""

    sent: int = Field(description="Images that were requested again.")
    refused: int = Field(
        description="Images with a request that the queue refused; their dead letters stay: call again."
    )
    gone: int = Field(description="Images that are no longer stored; their dead letters stay until discarded.")
    running: int = Field(description="Images that are being retried already.")
    next: str | None = Field(description="Call again with it as `before`; null when these were all.")

    @classmethod
    def of(cls, redriven: Redriven) -> Self:
        """Return the body of the outcome."""
        return cls(
            sent=redriven.sent,
            refused=redriven.rejected,
            gone=redriven.missing,
            running=redriven.running,
            next=redriven.next_before,
        )


@dead_letters_api.get("/dead-letters")
@operation(
    ApiResponse(200, "A page of dead letters, of all jobs.", DeadLettersBody),
    name="list_dead_letters",
    tag="Dead letters",
    query=DeadLettersQuery,
)
def list_letters() -> Response:
    """List dead letters, newest jobs first.

    A dead letter is an image that the system gave up, because workers received it `queues.max_receive_count` times
    without an answer. It stays until it is retried or discarded, or its job is deleted. For operators, who see the
    file and job names of all users here.
    """
    query = parse_query(DeadLettersQuery)
    return json_response(DeadLettersBody.of(current_backend().dead_letters.page(query.before, limit=query.limit)))


@dead_letters_api.get("/dead-letters/<job_id>/<image_id>")
@operation(ApiResponse(200, "The dead letter.", DeadLetterBody), name="show_dead_letter", tag="Dead letters")
def show_letter(job_id: str, image_id: str) -> Response:
    """Show a dead letter."""
    return json_response(DeadLetterBody.of(current_backend().dead_letters.get(known_ref(job_id, image_id))))


@dead_letters_api.post("/dead-letters/<job_id>/<image_id>/redrive")
@operation(ApiResponse(200, "The outcome.", RedriveBody), name="redrive_dead_letter", tag="Dead letters")
def redrive_letter(job_id: str, image_id: str) -> Response:
    """Redrive a dead letter.

    The image is requested again, once, however often this is called, and costs its owner nothing. Its failed result
    stays until there is a newer one.
    """
    backend = current_backend()
    outcome = redrive(backend.intake, backend.dead_letters, known_ref(job_id, image_id))
    audit_details(outcome=outcome)
    return json_response(RedriveBody(job_id=job_id, image_id=image_id, outcome=outcome))


@dead_letters_api.post("/dead-letters/redrive")
@operation(
    ApiResponse(200, "The outcome of up to 1,000 dead letters.", RedriveAllBody),
    name="redrive_dead_letters",
    tag="Dead letters",
    query=RedriveQuery,
)
def redrive_letters() -> Response:
    """Redrive dead letters, newest jobs first."""
    backend = current_backend()
    redriven = redrive_all(backend.intake, backend.dead_letters, parse_query(RedriveQuery).before)
    audit_details(sent=redriven.sent)
    return json_response(RedriveAllBody.of(redriven))


@dead_letters_api.delete("/dead-letters/<job_id>/<image_id>")
@operation(
    ApiResponse(204, "There is no dead letter of the image any more, or the image is being retried."),
    name="discard_dead_letter",
    tag="Dead letters",
)
def discard_letter(job_id: str, image_id: str) -> ResponseReturnValue:
    """Discard a dead letter.

    The image keeps its failed result, and its owner can still retry it.
    """
    current_backend().dead_letters.discard(known_ref(job_id, image_id))
    return "", 204


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
    def of(cls, page: AuditPage) -> Self:
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

    For operators, where people sign in. Events are sign-ins, sign-outs, failed sign-ins, password resets, tokens,
    deletions, dead letters, and orders to the fleet. They are kept for 90 days.
    """
    query = parse_query(AuditQuery)
    found = current_trail().find(
        user=query.user, since=query.since, until=query.until, before=query.before, limit=query.limit
    )
    return json_response(AuditEventsBody.of(found))
