"""``fleetsight simulate``: simulates the configured policy over one trace, and shows, plots and writes the result."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from core.config import Config
from simulator.comparison import Scene, draw, figures_of, rivals, row_of, tables_of
from simulator.engine import Conditions
from simulator.policies import ours
from simulator.traces import TraceError, from_csv, named
from simulator.workers import InstanceProfile

MIN_INTERVAL_SECONDS: Final = 1.0
"""The shortest simulated interval of decisions: with a shorter one, a simulated day takes minutes."""


@dataclass(frozen=True, slots=True)
class SimulationRequest:
    """What to simulate.

    Attributes:
        trace: a trace's name, or the path of a CSV file.
        seed: of arrivals and boots.
        deadline_seconds: of a CSV file: an image that is answered later counts as missed.
        against: whether other policies are simulated too.
    """

    trace: str
    seed: int
    deadline_seconds: float
    against: bool


@dataclass(frozen=True, slots=True)
class SimulationOutputs:
    """Further outputs beside the terminal: a folder of plots, and a JSON file, if given."""

    plots: Path | None
    json_file: Path | None


def run_simulation(
    request: SimulationRequest, settings: Config, image_seconds: float | None, outputs: SimulationOutputs
) -> None:
    """Simulate images of `image_seconds`, or of the configured time; show the result, plot and write it.

    Raises:
        TraceError, StalledError, PlotError, MissingError: see their descriptions.
    """
    conditions = Conditions(
        machine=InstanceProfile.booting_in(settings.fleet.boot_seconds),
        image_seconds=image_seconds or settings.fleet.image_seconds,
        max_workers=settings.fleet.max_workers,
    )
    scene = build_scene(request, conditions)
    interval = max(MIN_INTERVAL_SECONDS, settings.controller.interval_seconds)
    own = ours(settings.fleet, interval, settings.worker.idle_seconds, settings.prices)
    played = [scene.play(rule) for rule in (*(rivals(conditions) if request.against else ()), own)]
    rows = [row_of(each) for each in played]
    for table in tables_of(rows):
        Console().print(table)
    if outputs.plots is not None:
        click.echo("drawn: " + ", ".join(str(path) for path in draw(played, outputs.plots)))
    if outputs.json_file is not None:
        report = {"name": "simulate", "figures": figures_of(rows), "bars": []}
        try:
            outputs.json_file.write_text(json.dumps(report, indent=2) + "\n")
        except OSError as error:
            reason = f"cannot write {outputs.json_file}: {error.strerror}; choose another file"
            raise click.ClickException(reason) from error


def build_scene(request: SimulationRequest, conditions: Conditions) -> Scene:
    """Return the scene of the requested trace.

    Raises:
        TraceError: the trace does not exist, its file cannot be read, or it contains no image.
    """
    if conditions.max_workers == 0:
        raise TraceError("fleet.max_workers is 0, so there is no fleet to simulate: set it to 1 or more")
    path = Path(request.trace)
    if path.suffix.lower() == ".csv":
        return Scene(path.stem, (request.seed,), (from_csv(path, request.deadline_seconds),), conditions)
    makers = named(conditions.max_workers / conditions.image_seconds)
    if request.trace not in makers:
        raise TraceError(f"there is no trace {request.trace!r}: name a CSV file, or one of {', '.join(makers)}")
    scene = Scene.of(request.trace, makers[request.trace], conditions, (request.seed,))
    if scene.traces[0].arrivals.size == 0:
        raise TraceError(f"no image comes in {request.trace} for a fleet so slow: --image-seconds must be lower")
    return scene
