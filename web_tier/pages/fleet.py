"""The fleet page: figures, instances, decisions and cost of the fleet, its chart over time, and its controls.

The chart shows workers and queue. The server draws it, and `static/fleet/chart.js` draws the same, live. Workers and
queue each have a scale from zero to a round figure. The lines are steps, since a point holds until the next one.

Operators pause and resume the fleet, set the limits of the number of workers, and drain instances.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from flask import Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict

from core.config import MAX_WORKERS, PriceSettings
from core.cost import ThousandCost
from core.fleet.models import Decision, FleetSnapshot, HistoryPoint, LimitsOverride, Span, WorkerLimits, points_since
from core.fleet.store import FleetState, FleetStore
from core.format import InstanceRow, clocks_words, dollars, fleet_sentence, limits_words, pause_words, plural
from web_tier.audit import audit_details
from web_tier.backend import current_backend
from web_tier.parameters import clean_reason

LEFT, RIGHT, TOP, BOTTOM = 36, 684, 12, 190
"""Edges of the drawing in the viewBox of 720 by 220, as in chart.js."""

LINES = 3

_ROUND = (1, 2, 3, 5, 10)

MAX_DECISIONS_SHOWN = 12

MAX_COUNTED_LETTERS = 100
"""Dead letters that the page counts; each costs three reads of the job table."""

MAX_SHOWN_CHARACTERS = 10
"""Characters of an invalid field that the form shows again."""


@dataclass(frozen=True, slots=True)
class ChartWindow:
    """The time that the chart shows, until now; its data are from the history of `span`."""

    name: str
    length: timedelta
    title: str
    ago: str
    span: Span


WINDOWS = {
    window.name: window
    for window in (
        ChartWindow("minutes", timedelta(minutes=10), "Last 10 minutes", "10 min ago", "hour"),
        ChartWindow("hour", timedelta(hours=1), "Last hour", "1 h ago", "hour"),
        ChartWindow("day", timedelta(days=1), "Last day", "24 h ago", "day"),
    )
}

FIRST_WINDOW = "minutes"


@dataclass(frozen=True, slots=True)
class ChartLabel:
    """A text at an axis."""

    x: int
    y: int
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The drawing: paths, labels and a sentence for screen readers; `samples` is JSON for the script."""

    window: ChartWindow
    workers: str
    queue: str
    area: str
    gridlines: tuple[str, ...]
    labels: tuple[ChartLabel, ...]
    summary: str
    samples: str

    @classmethod
    def of(cls, window: ChartWindow, points: Sequence[HistoryPoint], now: HistoryPoint) -> "Chart":
        """Return the chart of `points`, the first at the start of `window`, and of the state `now`."""
        drawn = [*points, now]
        start = now.at - window.length
        max_workers, max_queue = max(each.workers for each in drawn), max(each.queue for each in drawn)
        tops = ceiling(max_workers), ceiling(max_queue)
        queue = _steps([(_x(each.at, start, window.length), _y(each.queue / tops[1])) for each in drawn])
        return cls(
            window=window,
            workers=_steps([(_x(each.at, start, window.length), _y(each.workers / tops[0])) for each in drawn]),
            queue=queue,
            area=f"{queue}V{BOTTOM}H{_x(drawn[0].at, start, window.length)}Z",
            gridlines=tuple(f"M{LEFT} {_y(line / LINES)}H{RIGHT}" for line in range(LINES + 1)),
            labels=(
                ChartLabel(LEFT - 6, TOP + 4, "end", f"{tops[0]:,}"),
                ChartLabel(LEFT - 6, BOTTOM + 4, "end", "0"),
                ChartLabel(RIGHT + 6, TOP + 4, "start", f"{tops[1]:,}"),
                ChartLabel(RIGHT + 6, BOTTOM + 4, "start", "0"),
                ChartLabel(LEFT, BOTTOM + 22, "start", window.ago),
                ChartLabel(RIGHT, BOTTOM + 22, "end", "now"),
            ),
            summary=f"{window.title}: at most {plural(max_workers, 'worker')} and {plural(max_queue, 'image')} in "
            f"the queue; now {plural(now.workers, 'worker')} and {plural(now.queue, 'image')}.",
            samples=json.dumps([(round(each.at.timestamp() * 1000), each.workers, each.queue) for each in drawn]),
        )


def ceiling(value: int) -> int:
    """Return the lowest round figure that is not below `value`."""
    power = int(10 ** math.floor(math.log10(max(1, value))))
    return next(step * power for step in _ROUND if step * power >= value)


def _x(at: datetime, start: datetime, length: timedelta) -> str:
    return f"{LEFT + max(0.0, (at - start) / length) * (RIGHT - LEFT):.1f}"


def _y(share: float) -> str:
    return f"{BOTTOM - share * (BOTTOM - TOP):.1f}"


def _steps(places: Sequence[tuple[str, str]]) -> str:
    first, *others = places
    return f"M{first[0]} {first[1]}" + "".join(f"H{x}V{y}" for x, y in others)


class DecisionRow(BaseModel):
    """A decision: its moment as ISO 8601, its time of the day (UTC), and its text."""

    model_config = ConfigDict(frozen=True)

    at: str
    time: str
    words: str

    @classmethod
    def of(cls, decision: Decision) -> Self:
        """Return the row of a decision."""
        words = f"{decision.words[:1].upper()}{decision.words[1:]}"
        return cls(at=decision.at.isoformat(), time=decision.at.strftime("%H:%M:%S"), words=words)


class FleetBody(BaseModel):
    """The fleet as its page shows it and polls it; figures count instances and messages.

    Attributes:
        known: whether the controller has reported; all figures are zero otherwise.
        running, pending, stopped: instances.
        waiting, in_flight, dead_letters: messages of the request queue and of its dead-letter queue.
        min_workers, max_workers: the limits in force.
        peak_workers: most workers at once since the fleet was last at zero.
        billed, cost: instance-seconds since the first launch, and their cost in US dollars, as texts.
        per_thousand: cost of 1,000 images as a text; None before the first answer of a worker.
        per_thousand_of: the parts of that cost.
        sentence: what happens at the moment, and why.
        problem: what prevents a launch, if anything does.
        clocks: a warning if the clocks of controller and web tier differ.
        paused: since when and why the fleet is paused; None if it is not.
        limits_set: limits that operators have set, since when and why; None if those of config.yaml hold.
        instances: newest first; `unlisted` is a text with the number of older ones, if there are any.
        decisions: the last ones, newest first.
    """

    model_config = ConfigDict(frozen=True)

    known: bool = False
    running: int = 0
    pending: int = 0
    stopped: int = 0
    waiting: int = 0
    in_flight: int = 0
    dead_letters: int = 0
    min_workers: int = 0
    max_workers: int = 0
    peak_workers: int = 0
    billed: str = "0 s"
    cost: str = dollars(0)
    per_thousand: str | None = None
    per_thousand_of: str = ""
    sentence: str
    problem: str | None = None
    clocks: str | None = None
    paused: str | None = None
    limits_set: str | None = None
    instances: tuple[InstanceRow, ...] = ()
    unlisted: str | None = None
    decisions: tuple[DecisionRow, ...] = ()

    @classmethod
    def of(
        cls,
        state: FleetState,
        prices: PriceSettings,
        now: datetime | None = None,
        *,
        silent_seconds: float = 0.0,
        controller_ahead: timedelta = timedelta(),
    ) -> Self:
        """Return the body of the fleet's state.

        Args:
            state: last report of the controller; its times are by the controller's clock.
            prices: prices of instances and requests.
            now: time by the web tier's clock.
            silent_seconds: how long the controller has not reported.
            controller_ahead: how far the controller's clock is ahead of the web tier's.
        """
        now, listed = now or datetime.now(UTC), state.instances
        seen_at = now if state.snapshot is None else state.snapshot.at
        older = listed.total - len(listed.instances)
        limits = limits_in_force(state, WorkerLimits(min_workers=0, max_workers=0))
        configured = None if state.snapshot is None else state.snapshot.configured
        return cls(
            **({} if state.snapshot is None else _figures(state.snapshot, prices)),
            min_workers=limits.min_workers,
            max_workers=limits.max_workers,
            limits_set=state.limits and f"Limits {limits_words(limits, configured, now)}.",
            sentence=fleet_sentence(state.snapshot, silent_seconds),
            clocks=clocks_words(controller_ahead),
            paused=None if state.pause is None else pause_words(state.pause),
            instances=tuple(InstanceRow.of(each, seen_at) for each in listed.instances),
            unlisted=f"and {older:,} older" if older > 0 else None,
            decisions=tuple(DecisionRow.of(each) for each in state.decisions.decisions[:MAX_DECISIONS_SHOWN]),
        )


def _figures(fleet: FleetSnapshot, prices: PriceSettings) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "known": True,
        "running": fleet.running,
        "pending": fleet.pending,
        "stopped": fleet.stopped,
        "waiting": fleet.visible + fleet.delayed,
        "in_flight": fleet.in_flight,
        "dead_letters": fleet.dead_letters,
        "peak_workers": fleet.peak_workers,
        "billed": f"{fleet.billed_seconds:,.0f} s",
        "cost": dollars(fleet.cost),
        "problem": fleet.problem,
    }
    if (cost := ThousandCost.of(fleet, prices)) is not None:
        instances, requests = dollars(cost.instances_dollars), dollars(cost.requests_dollars)
        figures["per_thousand"] = dollars(cost.dollars)
        figures["per_thousand_of"] = f"for 1,000 images: instances {instances}, requests {requests}"
    return figures


def fleet_chart(store: FleetStore, fleet: FleetSnapshot | None, window: ChartWindow) -> Chart:
    """Return the chart of `window`, until now."""
    now = datetime.now(UTC)
    start = now - window.length
    points = points_since(store.blocks(window.span), start)
    if not points or points[0].at > start:
        points = [HistoryPoint(at=start, workers=0, queue=0), *points]  # the first point ever is the first change
    workers, queue = points[-1].workers, points[-1].queue
    if fleet is not None:
        workers, queue = fleet.running + fleet.pending, fleet.visible + fleet.delayed + fleet.in_flight
    return Chart.of(window, points, HistoryPoint(at=now, workers=workers, queue=queue))


def fleet_page() -> str:
    """Show the fleet and its history."""
    window = WINDOWS.get(request.args.get("span", ""), WINDOWS[FIRST_WINDOW])
    store = current_backend().fleet
    state = store.state()
    chart = fleet_chart(store, state.snapshot, window)
    return render_template(
        "fleet.html",
        body=_fleet_body(state),
        chart=chart,
        windows=WINDOWS,
        dead_letters=current_backend().dead_letters.page(limit=MAX_COUNTED_LETTERS),
        fleet=state.snapshot,
    )


def fleet_now() -> Response:
    """Return the fleet without its history; the page polls it."""
    return Response(_fleet_body(current_backend().fleet.state()).model_dump_json(), mimetype="application/json")


def _fleet_body(state: FleetState) -> FleetBody:
    backend = current_backend()
    silent_seconds = backend.reports.silent_seconds(state.snapshot)
    return FleetBody.of(
        state, backend.config.prices, silent_seconds=silent_seconds, controller_ahead=backend.reports.ahead
    )


def limits_in_force(state: FleetState, configured: WorkerLimits) -> WorkerLimits:
    """Return the limits that operators set last, even if the controller has not applied them yet.

    `configured` are the limits of config.yaml; they count if no controller has reported yet.
    """
    snapshot = state.snapshot
    if state.limits is not None:
        return state.limits
    if snapshot is None:
        return configured
    if snapshot.limits_order is not None and snapshot.configured is not None:
        return snapshot.configured
    return WorkerLimits(min_workers=snapshot.min_workers, max_workers=snapshot.max_workers)


@dataclass(frozen=True, slots=True)
class LimitsForm:
    """The fields of the form that sets limits, and the error message if they are not valid."""

    min_workers: str
    max_workers: str
    reason: str = ""
    fault: str | None = None

    @classmethod
    def of(cls, limits: WorkerLimits) -> Self:
        """Return the form that shows `limits`."""
        return cls(str(limits.min_workers), str(limits.max_workers))

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> Self:
        """Return the form that a browser sent, validated."""
        low, high = (fields.get(name, "").strip()[:MAX_SHOWN_CHARACTERS] for name in ("min_workers", "max_workers"))
        invalid = [
            name
            for name, text in (("minimum", low), ("maximum", high))
            if not (text.isascii() and text.isdigit() and int(text) <= MAX_WORKERS)
        ]
        fault = None
        if invalid:
            fault = f"The {invalid[0]} must be a whole number from 0 to {MAX_WORKERS:,}."
        elif int(low) > int(high):
            fault = f"The minimum ({low}) must be at most the maximum ({high})."
        return cls(low, high, clean_reason(fields.get("reason", "")), fault)

    def override(self, now: datetime) -> LimitsOverride | None:
        """Return the limits of the form, or None if a field is not valid."""
        if self.fault is not None:
            return None
        return LimitsOverride(
            min_workers=int(self.min_workers), max_workers=int(self.max_workers), since=now, reason=self.reason
        )


def pause() -> ResponseReturnValue:
    """Pause the fleet and redirect to its page."""
    pause = current_backend().fleet.pause(datetime.now(UTC), clean_reason(request.form.get("reason", "")))
    audit_details(reason=pause.reason)
    return _redirect_to_fleet()


def resume() -> ResponseReturnValue:
    """Resume the fleet and redirect to its page."""
    current_backend().fleet.resume()
    return _redirect_to_fleet()


def limits_page() -> str:
    """Show the form that sets limits."""
    state = current_backend().fleet.state()
    return _limits_page(state, LimitsForm.of(limits_in_force(state, _configured())))


def set_limits() -> ResponseReturnValue:
    """Set limits and redirect to the fleet's page; show the form again if a field is not valid."""
    form = LimitsForm.of_fields(request.form)
    override = form.override(datetime.now(UTC))
    store = current_backend().fleet
    if override is None:
        return _limits_page(store.state(), form), 422
    store.set_limits(override)
    audit_details(min_workers=override.min_workers, max_workers=override.max_workers, reason=override.reason)
    return _redirect_to_fleet()


def reset_limits() -> ResponseReturnValue:
    """Reset the limits to those of config.yaml and redirect to the fleet's page."""
    current_backend().fleet.reset_limits()
    return _redirect_to_fleet()


def confirm_drain(instance_id: str) -> str:
    """Show the form that confirms the drain of an instance."""
    backend = current_backend()
    instance = backend.fleet.drainable_instance(instance_id)
    return render_template("drain.html", instance_id=instance_id, instance=instance, fleet=backend.fleet.snapshot())


def drain(instance_id: str) -> ResponseReturnValue:
    """Drain an instance and redirect to the fleet's page."""
    store = current_backend().fleet
    store.drainable_instance(instance_id)
    store.request_drain(instance_id, datetime.now(UTC))
    return _redirect_to_fleet()


def _redirect_to_fleet() -> ResponseReturnValue:
    return redirect(url_for("pages.fleet_page"), 303)


def _configured() -> WorkerLimits:
    fleet = current_backend().config.fleet
    return WorkerLimits(min_workers=fleet.min_workers, max_workers=fleet.max_workers)


def _limits_page(state: FleetState, form: LimitsForm) -> str:
    limits = limits_in_force(state, _configured())
    configured = state.snapshot.configured if state.snapshot else _configured()
    return render_template(
        "limits.html",
        form=form,
        words=limits_words(limits, configured, datetime.now(UTC)),
        is_set=state.limits is not None,
        fleet=state.snapshot,
    )
