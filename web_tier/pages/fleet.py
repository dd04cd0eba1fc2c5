"""The fleet page: figures, instances, decisions and cost of the fleet, and the chart of workers and queue over time.

The server draws the chart, and `static/fleet/chart.js` draws the same, live. Workers and queue each have a scale from
zero to a round figure. The lines are steps, since a point holds until the next one.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from flask import Response, render_template, request
from pydantic import BaseModel, ConfigDict
from werkzeug.exceptions import BadRequest

from core.config import PriceSettings
from core.cost import ThousandCost
from core.fleet.models import Decision, FleetSnapshot, HistoryPoint, Span, WorkerLimits, points_since
from core.fleet.store import FleetState, FleetStore
from core.format import clocks_words, dollars, fleet_sentence, limits_words, pause_words, plural
from web_tier.backend import current_backend
from web_tier.pages.fleet_controls import limits_in_force
from web_tier.pages.instances import InstanceRow

LEFT, RIGHT, TOP, BOTTOM = 36, 684, 12, 190
"""Edges of the drawing in the viewBox of 720 by 220, as in chart.js."""

LINES = 3

_ROUND = (1, 2, 3, 5, 10)


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


MAX_DECISIONS_SHOWN = 12

MAX_COUNTED_LETTERS = 100
"""Dead letters that the page counts; each costs three reads of the job table."""


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
    span = request.args.get("span", FIRST_WINDOW)
    if span not in WINDOWS:
        raise BadRequest(f"span={span[:40]!r} is not one of {', '.join(WINDOWS)}")
    store = current_backend().fleet
    state = store.state()
    chart = fleet_chart(store, state.snapshot, WINDOWS[span])
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
