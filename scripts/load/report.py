"""The HTML report of a load test: one file without scripts and external resources, with plots as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import Environment
from markupsafe import Markup

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


TEMPLATE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ground: light-dark(#f8fafc, #0b1220); --card: light-dark(#fff, #131c2e);
  --line: light-dark(#e2e8f0, #26344d); --ink: light-dark(#0f172a, #e7edf6); --quiet: light-dark(#5b6b82, #9fb0c8);
  --a: light-dark(#0f766e, #2dd4bf); --b: light-dark(#c2640c, #f0a353); --c: light-dark(#94a3b8, #64748b);
  --bad: light-dark(#b91c1c, #fca5a5); }
body { margin: 0 auto; max-width: 1320px; padding: 1rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 Inter, system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.05rem; margin: 0 0 .25rem; }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem; min-width: 0;
  overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; font-weight: 600; }
td { text-align: right; font-variant-numeric: tabular-nums; } td, th { padding: .15rem .5rem .15rem 0; }
tr + tr { border-top: 1px solid var(--line); } ul { margin: 0; padding-left: 1.2rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--quiet); font-size: 11px; }
.right { text-anchor: end; } .middle { text-anchor: middle; } .grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 2; } .a { stroke: var(--a); } .b { stroke: var(--b); } .c { stroke: var(--c); }
.legend { margin: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; }
.legend i { display: inline-block; width: 14px; height: 3px; margin-right: .35rem; vertical-align: middle; }
i.a { background: var(--a); } i.b { background: var(--b); } i.c { background: var(--c); }
.quiet { color: var(--quiet); } .bad { color: var(--bad); font-weight: 600; }
</style>
<h1>{{ title }}</h1>
<main>
<section><h2>Figures</h2><table>
{% for name, value in figures %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table></section>
<section><h2>Thresholds</h2><table>
{% for each in thresholds %}<tr><th>{{ each.limit }}</th><td>{{ each.measured }}</td>
<td{% if not each.is_reached %} class="bad"{% endif %}>{{ "reached" if each.is_reached else "missed" }}</td></tr>
{% endfor %}</table>
{% if problems %}<h2>First problems</h2><ul>
{% for problem in problems %}<li>{{ problem }}</li>{% endfor %}</ul>{% endif %}
</section>
{% for plot in plots %}<section>{{ plot }}</section>
{% endfor %}
<section><h2>Settings</h2><table>
{% for name, value in settings.items() %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
</section>
</main>
</html>
"""


def render_report(summary: LoadSummary, results: Sequence[ThresholdResult]) -> str:
    """Return the report of a load test with the results of its thresholds."""
    return (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(TEMPLATE)
        .render(
            title=f"Load test: {summary.images:,} images, {summary.mode}",
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
