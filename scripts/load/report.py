"""The HTML report of a load test: one file without scripts and external resources, with plots as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import Environment
from markupsafe import Markup

from core.format import plural
from scripts.load.metrics import LoadSummary, summary_rows
from scripts.load.thresholds import ThresholdResult

Point = tuple[float, float]

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 34
"""Of a plot, in pixels; the last four are margins for the ticks."""

MAX_TICKS = 5


@dataclass(frozen=True)
class Line:
    """A line of a plot: `style` is the class of its colour, `is_step` holds each value until the next."""

    name: str
    points: Sequence[Point]
    style: str
    is_step: bool = False


def nice_ticks(highest: float) -> list[float]:
    """Return ticks from 0 in steps of 1, 2 or 5 times a power of ten; the last is at least `highest`."""
    step = 10.0 ** math.floor(math.log10(highest / MAX_TICKS)) if highest > 0 else 1.0
    step = next(step * factor for factor in (1, 2, 5, 10) if step * factor * MAX_TICKS >= highest)
    return [number * step for number in range(max(1, math.ceil(highest / step - 1e-9)) + 1)]


def plot(title: str, lines: Sequence[Line], x_title: str, y_title: str) -> Markup:
    """Return a plot as SVG; without any point, a sentence that says so."""
    points = [point for line in lines for point in line.points]
    if not points:
        return Markup('<h2>{}</h2><p class="quiet">Nothing was measured.</p>').format(title)
    x_ticks, y_ticks = (nice_ticks(max(values)) for values in zip(*points, strict=True))
    x_scale = (WIDTH - LEFT - RIGHT) / x_ticks[-1]
    y_scale = (HEIGHT - TOP - BOTTOM) / y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return round(LEFT + x * x_scale, 1), round(HEIGHT - BOTTOM - y * y_scale, 1)

    parts = []
    for tick in y_ticks:
        x, y = place(0, tick)
        parts.append(
            Markup(
                '<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/><text class="right" x="{}" y="{}">{}</text>'
            ).format(x, y, WIDTH - RIGHT, y, x - 6, y + 4, f"{tick:,g}")
        )
    for tick in x_ticks:
        x, y = place(tick, 0)
        parts.append(Markup('<text class="middle" x="{}" y="{}">{}</text>').format(x, y + 15, f"{tick:,g}"))
    for line in lines:
        places = [place(*point) for point in line.points]
        if line.is_step and places:
            places = [
                corner
                for before, after in zip(places, [*places[1:], places[-1]], strict=True)
                for corner in (before, (after[0], before[1]))
            ]
        drawn = " ".join(f"{x},{y}" for x, y in places)
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(line.style, drawn))
        if len(line.points) == 1:
            parts.append(Markup('<circle class="{}" cx="{}" cy="{}" r="3"/>').format(line.style, *places[0]))
    names = Markup(" ").join(
        Markup('<span><i class="{}"></i>{}</span>').format(line.style, line.name) for line in lines
    )
    return Markup(
        '<h2>{}</h2><p class="legend">{} <span class="quiet">up: {}; across: {}</span></p>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(title, names, y_title, x_title, WIDTH, HEIGHT, title, Markup("").join(parts))


def plots_of(summary: LoadSummary) -> list[Markup]:
    """Return the plots of a load test."""
    steps, fleet = summary.timeline, summary.fleet
    latency = [
        Line("p50", [(step.second, step.p50_s) for step in steps], "a"),
        Line("p95", [(step.second, step.p95_s) for step in steps], "b"),
        Line("slowest", [(step.second, step.slowest_s) for step in steps], "c"),
    ]
    answers = [Line("requests", [(step.second, step.per_second) for step in steps], "a")]
    workers = [Line("workers", [(each.second, each.running + each.starting) for each in fleet], "a", is_step=True)]
    waiting = [Line("waiting", [(each.second, each.waiting) for each in fleet], "a", is_step=True)]
    shares = [Line("requests", [(share, seconds) for share, seconds in enumerate(summary.percentiles_s)], "a")]
    return [
        plot("Latency over time", latency, "seconds of the test", "seconds"),
        plot("Requests per second", answers, "seconds of the test", "ended requests/s"),
        plot("Workers", workers, "seconds of the test", "running and starting"),
        plot("Images in the queue", waiting, "seconds of the test", "images"),
        plot("Latency by percentile", shares, "percent of the requests", "seconds"),
    ]


def verdict(summary: LoadSummary, results: Sequence[ThresholdResult]) -> str:
    """Return whether the test has passed, and what decides it, in a sentence."""
    if missed := sum(not each.is_reached for each in results):
        return f"Failed: {missed} of {plural(len(results), 'threshold')} missed."
    if summary.ok:
        return f"Passed: all {plural(summary.images, 'image')} have the right answer."
    return f"Passed: {summary.not_right:,} of {summary.images:,} images are not right, as the thresholds allow."


TEMPLATE: Final = Path(__file__).with_name("report.html")


def render_report(summary: LoadSummary, results: Sequence[ThresholdResult]) -> str:
    """Return the report of a load test with the results of its thresholds."""
    return (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            title=f"Load test: {summary.images:,} images, {summary.mode}",
            verdict=verdict(summary, results),
            figures=[*summary_rows(summary), ("started late", f"{summary.late:,}")],
            thresholds=results,
            problems=summary.problems,
            plots=plots_of(summary),
            settings=summary.settings,
        )
    )


def write_report(file: Path, summary: LoadSummary, results: Sequence[ThresholdResult]) -> None:
    """Write the report of a load test.

    Raises:
        OSError: the file cannot be written.
    """
    file.write_text(render_report(summary, results), encoding="utf-8")
