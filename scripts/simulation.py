"""``fleetsight simulate``: simulates the configured policy over one trace, and shows and writes the result."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from core.config import Config
from fleetsight_client.console import Console
from simulator.engine import Conditions, InstanceProfile, simulate_fleet
from simulator.table import figures_of, row_of, tables_of
from simulator.traces import Trace, TraceError, from_csv, named

MIN_INTERVAL_SECONDS: Final = 1.0
"""The shortest simulated interval of decisions: with a shorter one, a simulated day takes minutes."""


@dataclass(frozen=True, slots=True)
class SimulationRequest:
    """What to simulate.

    Attributes:
        trace: a trace's name, or the path of a CSV file.
        deadline_seconds: of a CSV file: an image that is answered later counts as missed.
    """

    trace: str
    seed: int
    deadline_seconds: float


def run_simulation(
    request: SimulationRequest, settings: Config, image_seconds: float | None, json_file: Path | None
) -> None:
    """Simulate images of `image_seconds`, or of the configured time; show the result, and write it to `json_file`.

    Raises:
        TraceError, StalledError, MissingError: see their descriptions.
    """
    conditions = Conditions(
        machine=InstanceProfile.booting_in(settings.fleet.boot_seconds),
        image_seconds=image_seconds or settings.fleet.image_seconds,
        max_workers=settings.fleet.max_workers,
        interval_seconds=max(MIN_INTERVAL_SECONDS, settings.controller.interval_seconds),
        idle_seconds=settings.worker.idle_seconds,
    )
    name, trace = requested_trace(request, conditions)
    outcome = simulate_fleet(trace, settings.fleet, conditions, request.seed, settings.prices)
    rows = [row_of(name, settings.fleet.policy, [(trace, outcome)], conditions)]
    for table in tables_of(rows):
        Console().print(table)
    if json_file is not None:
        report = {"name": "simulate", "figures": figures_of(rows), "bars": []}
        try:
            json_file.write_text(json.dumps(report, indent=2) + "\n")
        except OSError as error:
            reason = f"cannot write {json_file}: {error.strerror}; choose another file"
            raise click.ClickException(reason) from error


def requested_trace(request: SimulationRequest, conditions: Conditions) -> tuple[str, Trace]:
    """Return the name of the requested trace, and the trace.

    Raises:
        TraceError: the trace does not exist, its file cannot be read, or it contains no image.
    """
    if conditions.max_workers == 0:
        raise TraceError("fleet.max_workers is 0, so there is no fleet to simulate: set it to 1 or more")
    path = Path(request.trace)
    if path.suffix.lower() == ".csv":
        return path.stem, from_csv(path, request.deadline_seconds)
    makers = named(conditions.max_workers / conditions.image_seconds)
    if request.trace not in makers:
        raise TraceError(f"there is no trace {request.trace!r}: name a CSV file, or one of {', '.join(makers)}")
    trace = makers[request.trace](request.seed)
    if trace.arrivals.size == 0:
        raise TraceError(f"no image comes in {request.trace} for a fleet so slow: --image-seconds must be lower")
    return request.trace, trace
