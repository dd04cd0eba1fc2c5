"""Plots over time, one for each trace: what came, how many workers each policy had, and what waited."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.errors import FleetsightError
from simulator.bound import need
from simulator.comparison import Played
from simulator.outcome import COLUMNS, Floats

POINTS: Final = 600
"""Points of a line; of longer histories each shows the highest of several."""
COLORS: Final = ("#d1495b", "#edae49", "#30638e", "#8d5a97", "#9aa5b1", "#0b6e4f", "#003d5b")
NOW, VISIBLE, WORKERS = (COLUMNS.index(name) for name in ("now", "visible", "workers"))


class PlotError(FleetsightError):
    """Raised when plots cannot be written; the message says what to do."""


def draw(played: Sequence[Played], folder: Path) -> list[Path]:
    """Draw the first simulation of one scene by several policies; return the PNG and the SVG in `folder`.

    The last of them stands out.

    Raises:
        PlotError: when the folder cannot be written.
        MissingError: when matplotlib is not installed.
    """
    # A fixed salt and no date, so that the same simulation gives the same file.
    with need("matplotlib").rc_context({"svg.hashsalt": "fleetsight", "svg.fonttype": "none", "font.size": 9}):
        figure = need("matplotlib.figure").Figure(figsize=(10, 7.5), layout="constrained")
        _fill(figure, played)
        return _save(figure, folder, played[0].scene.name)


def _fill(figure: Any, played: Sequence[Played]) -> None:
    scene = played[0].scene
    unit, name = (3_600.0, "h") if scene.traces[0].seconds > 7_200 else (60.0, "min")
    last = max(each.outcome.history[-1, NOW] for each in played)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1, 2, 2))
    times, rates = rate_over_time(scene.traces[0].arrivals, last)
    top.fill_between(times / unit, rates, step="post", color="#9aa5b1")
    for number, each in enumerate(played):
        width = 2.2 if each is played[-1] else 1.2
        style = {"label": each.rule.name, "color": COLORS[number % len(COLORS)], "linewidth": width}
        middle.step(*_line(each, WORKERS, unit), where="post", **style)
        bottom.step(*_line(each, VISIBLE, unit), where="post", **style)
    top.set(ylabel="images/s come", title=f"{scene.name}: {len(scene.traces[0].arrivals):,} images")
    middle.set(ylabel="workers", ylim=(0, scene.conditions.max_workers + 1))
    bottom.set(ylabel="images wait", xlabel=name, yscale="symlog", ylim=(0, None))
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    middle.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def rate_over_time(arrivals: Floats, seconds: float) -> tuple[Floats, Floats]:
    """Return times, and the mean arrivals a second from each to the next, over `seconds`."""
    edges = np.linspace(0.0, max(seconds, 1.0), POINTS // 4 + 1)
    counts, _ = np.histogram(arrivals, edges)
    return edges[:-1], counts / np.diff(edges)


def thinned(times: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return at most `POINTS` points; each stands for several and shows the highest of them."""
    step = max(1, -(-len(times) // POINTS))
    begins = np.arange(0, len(times), step)
    return times[begins], np.maximum.reduceat(values, begins)


def _line(played: Played, column: int, unit: float) -> tuple[Floats, Floats]:
    history = played.outcome.history
    times, values = thinned(history[:, NOW], history[:, column])
    return times / unit, values


def _save(figure: Any, folder: Path, name: str) -> list[Path]:
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise PlotError(f"cannot write the plots to {folder}: {error}; choose another folder") from error
    return paths
