"""The chart of workers and queue over time, drawn on the server; `static/fleet/chart.js` draws the same, live.

Each has a scale of its own, from zero to a round figure. Lines are steps, since a point holds until the next one.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.fleet.models import HistoryPoint, Span
from core.format import plural

LEFT, RIGHT, TOP, BOTTOM = 36, 684, 12, 190
"""Edges of the drawing in the viewBox of 720 by 220, as in chart.js."""
LINES = 3
_ROUND = (1, 2, 3, 5, 10)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time to look at, until now; drawn from the history of `span`."""

    name: str
    length: timedelta
    title: str
    ago: str
    span: Span


WINDOWS = {
    window.name: window
    for window in (
        Window("minutes", timedelta(minutes=10), "Last 10 minutes", "10 min ago", "hour"),
        Window("hour", timedelta(hours=1), "Last hour", "1 h ago", "hour"),
        Window("day", timedelta(days=1), "Last day", "24 h ago", "day"),
    )
}
FIRST_WINDOW = "minutes"


@dataclass(frozen=True, slots=True)
class Label:
    """A word beside the drawing."""

    x: int
    y: int
    anchor: str
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The drawing: paths, labels and what it shows in words; `samples` are for the script, as JSON."""

    window: Window
    workers: str
    queue: str
    area: str
    gridlines: tuple[str, ...]
    labels: tuple[Label, ...]
    words: str
    samples: str

    @classmethod
    def of(cls, window: Window, points: Sequence[HistoryPoint], now: HistoryPoint) -> "Chart":
        """Return the chart of `points`, the first at the beginning of `window`, and of what there is `now`."""
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
            labels=_labels(*tops, window.ago),
            words=_in_words(window, now, max_workers, max_queue),
            samples=json.dumps([(round(each.at.timestamp() * 1000), each.workers, each.queue) for each in drawn]),
        )


def ceiling(most: int) -> int:
    """Return the least round figure that is not below `most`."""
    power = int(10 ** math.floor(math.log10(max(1, most))))
    return next(step * power for step in _ROUND if step * power >= most)


def _x(at: datetime, start: datetime, length: timedelta) -> str:
    return f"{LEFT + max(0.0, (at - start) / length) * (RIGHT - LEFT):.1f}"


def _y(share: float) -> str:
    return f"{BOTTOM - share * (BOTTOM - TOP):.1f}"


def _steps(places: Sequence[tuple[str, str]]) -> str:
    first, *others = places
    return f"M{first[0]} {first[1]}" + "".join(f"H{x}V{y}" for x, y in others)


def _labels(workers: int, queue: int, ago: str) -> tuple[Label, ...]:
    return (
        Label(LEFT - 6, TOP + 4, "end", f"{workers:,}"),
        Label(LEFT - 6, BOTTOM + 4, "end", "0"),
        Label(RIGHT + 6, TOP + 4, "start", f"{queue:,}"),
        Label(RIGHT + 6, BOTTOM + 4, "start", "0"),
        Label(LEFT, BOTTOM + 22, "start", ago),
        Label(RIGHT, BOTTOM + 22, "end", "now"),
    )


def _in_words(window: Window, now: HistoryPoint, workers: int, queue: int) -> str:
    return (
        f"{window.title}: at most {plural(workers, 'worker')} and {plural(queue, 'image')} in the queue; "
        f"now {plural(now.workers, 'worker')} and {plural(now.queue, 'image')}."
    )
