"""The chart of the fleet page: workers and queue over time.

Workers and queue each have a scale from zero to a round figure. The lines are steps, since a point holds until the
next one.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.fleet.models import FleetSnapshot, HistoryPoint, Span, points_since
from core.fleet.store import FleetStore
from core.format import duration, plural
from services.clock import utc_now

LEFT, RIGHT, TOP, BOTTOM = 36, 684, 26, 200
"""Edges of the drawing in the viewBox of 720 by 230, as in static/fleet/chart.js."""

LINES = 3

_ROUND = (1, 2, 3, 5, 10)


@dataclass(frozen=True, slots=True)
class ChartWindow:
    """The time that the chart shows, until now, with a tick of the time axis each `tick_seconds`."""

    span: Span
    length: timedelta
    tick_seconds: int
    title: str
    link: str


WINDOWS = {
    window.span: window
    for window in (
        ChartWindow("minutes", timedelta(minutes=10), 120, "Last 10 minutes", "10 min"),
        ChartWindow("hour", timedelta(hours=1), 600, "Last hour", "Hour"),
        ChartWindow("day", timedelta(days=1), 14_400, "Last day", "Day"),
    )
}


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
    ticks: tuple[str, ...]
    labels: tuple[ChartLabel, ...]
    summary: str
    samples: str

    @classmethod
    def from_window(cls, window: ChartWindow, points: Sequence[HistoryPoint], now: HistoryPoint) -> "Chart":
        """Return the chart of `points`, the first at the start of `window`, and of the state `now`."""
        drawn = [*points, now]
        start = now.at - window.length
        seconds = int(window.length.total_seconds())
        ticks = range(window.tick_seconds, seconds, window.tick_seconds)
        places = [(RIGHT - each / seconds * (RIGHT - LEFT), duration(each)) for each in ticks]
        max_workers, max_queue = max(each.workers for each in drawn), max(each.queue for each in drawn)
        tops = ceiling(max_workers), ceiling(max_queue)
        queue = _steps([(_x(each.at, start, window.length), _y(each.queue / tops[1])) for each in drawn])
        return cls(
            window=window,
            workers=_steps([(_x(each.at, start, window.length), _y(each.workers / tops[0])) for each in drawn]),
            queue=queue,
            area=f"{queue}V{BOTTOM}H{_x(drawn[0].at, start, window.length)}Z",
            gridlines=tuple(f"M{LEFT} {_y(line / LINES)}H{RIGHT}" for line in range(LINES + 1)),
            ticks=tuple(f"M{x:.1f} {BOTTOM}v5" for x, _ in places),
            labels=(
                ChartLabel(LEFT - 6, TOP + 4, "end", f"{tops[0]:,}"),
                ChartLabel(LEFT - 6, BOTTOM + 4, "end", "0"),
                ChartLabel(RIGHT + 6, TOP + 4, "start", f"{tops[1]:,}"),
                ChartLabel(RIGHT + 6, BOTTOM + 4, "start", "0"),
                ChartLabel(0, 12, "start", "workers"),
                ChartLabel(720, 12, "end", "images"),
                ChartLabel(RIGHT, BOTTOM + 20, "end", "now"),
                *(ChartLabel(round(x), BOTTOM + 20, "middle", f"{words} ago") for x, words in places),
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


def fleet_chart(store: FleetStore, fleet: FleetSnapshot | None, window: ChartWindow) -> Chart:
    """Return the chart of `window`, until now."""
    now = utc_now()
    start = now - window.length
    points = points_since(store.blocks(window.span), start)
    if not points or points[0].at > start:
        points = [HistoryPoint(at=start, workers=0, queue=0), *points]  # the first point ever is the first change
    workers, queue = points[-1].workers, points[-1].queue
    if fleet is not None:
        workers, queue = fleet.running + fleet.pending, fleet.visible + fleet.delayed + fleet.in_flight
    return Chart.from_window(window, points, HistoryPoint(at=now, workers=workers, queue=queue))
