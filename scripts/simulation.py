"""What ``fleetsight simulate`` does: the configured policy over one trace, shown, drawn and written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from core.config import Config
from simulator.comparison import Scene, figures_of, rivals, row_of, tables_of
from simulator.engine import Conditions
from simulator.ours import ours
from simulator.plots import draw
from simulator.traces import TraceError, from_csv, named
from simulator.workers import Machine

MIN_INTERVAL_SECONDS: Final = 1.0
"""Decisions are simulated no more often: a day of them would take minutes, and boots take far longer than this."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What to simulate.

    Attributes:
        trace: a trace's name, or the path of a CSV file.
        seed: of arrivals and boots.
        deadline_seconds: of a CSV file: an image that is answered later counts as missed.
        against: whether other policies play it too.
    """

    trace: str
    seed: int
    deadline_seconds: float
    against: bool


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the outcome goes beside the screen: a folder for plots, and a JSON file, where given."""

    plots: Path | None
    json_file: Path | None


def carry_out(wish: Wish, settings: Config, image_seconds: float | None, outputs: Outputs) -> None:
    """Simulate images of `image_seconds`, or of what `settings` say; show the outcome as a table, draw and write it.

    Raises:
        TraceError, StalledError, PlotError, MissingError: see there.
    """
    conditions = Conditions(
        machine=Machine.booting_in(settings.fleet.boot_seconds),
        image_seconds=image_seconds or settings.fleet.image_seconds,
        max_workers=settings.fleet.max_workers,
    )
    scene = scene_of(wish, conditions)
    interval = max(MIN_INTERVAL_SECONDS, settings.controller.interval_seconds)
    own = ours(settings.fleet, interval, settings.worker.idle_seconds)
    played = [scene.play(rule) for rule in (*(rivals(conditions) if wish.against else ()), own)]
    rows = [row_of(each) for each in played]
    for table in tables_of(rows):
        Console().print(table)
    if outputs.plots is not None:
        click.echo("drawn: " + ", ".join(str(path) for path in draw(played, outputs.plots)))
    if outputs.json_file is not None:
        _write(figures_of(rows), outputs.json_file)


def scene_of(wish: Wish, conditions: Conditions) -> Scene:
    """Return the one trace that is wished for.

    Raises:
        TraceError: when there is none of that name, its file cannot be read, or no image comes in it.
    """
    if conditions.max_workers == 0:
        raise TraceError("fleet.max_workers is 0, so there is no fleet to simulate: set it to 1 or more")
    path = Path(wish.trace)
    if path.suffix.lower() == ".csv":
        return Scene(path.stem, (wish.seed,), (from_csv(path, wish.deadline_seconds),), conditions)
    makers = named(conditions.max_workers / conditions.image_seconds)
    if wish.trace not in makers:
        raise TraceError(f"there is no trace {wish.trace!r}: name a CSV file, or one of {', '.join(makers)}")
    scene = Scene.of(wish.trace, makers[wish.trace], conditions, (wish.seed,))
    if scene.traces[0].arrivals.size == 0:
        raise TraceError(f"no image comes in {wish.trace} for a fleet so slow: --image-seconds must be lower")
    return scene


def _write(figures: Mapping[str, float], path: Path) -> None:
    try:
        path.write_text(json.dumps({"name": "simulate", "figures": figures, "bars": []}, indent=2) + "\n")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}; choose another file") from error
