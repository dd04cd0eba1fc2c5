"""``python -m benchmarks fleet``: every policy over every trace, the simulator against theory, and the bars."""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from benchmarks.fleet_standing import OWN_TARGETS, RIVALS, Duel, FleetReport, batch_bars, bound_bar, duel, duel_bars
from benchmarks.report import Bar
from core.config import FleetSettings, load_config
from simulator import traces
from simulator.bound import BINS
from simulator.comparison import Row, Scene, rivals, row_of
from simulator.engine import Conditions
from simulator.machine import CERTAIN
from simulator.plots import draw
from simulator.policies.ours import ours
from simulator.policies.target_tracking import acceptable_backlog, wanted
from simulator.policy import Rule
from simulator.tables import figures_of
from simulator.theory import checks
from simulator.tuning import STEPS, Dial, deadline

ROOT: Final = Path(__file__).resolve().parents[1]
CONDITIONS: Final = Conditions()
CAPACITY: Final = CONDITIONS.max_workers / CONDITIONS.image_seconds
"""Images/s of a full fleet."""
IMAGES_PER_WORKER: Final = 10
"""Of `backlog`: ten images of 1.5 s are a quarter of a minute's work."""
PROCESSES: Final = 2
"""Traces that are played side by side."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How thorough a run is.

    Attributes:
        seeds: simulations of each trace but the days, which are long enough for one.
        bins: of the bound's linear program.
        steps: of tuning, see `tuning.STEPS`.
        images: against theory.
        hours: of each day.
    """

    seeds: int
    bins: int
    steps: int
    images: int
    hours: range


FULL: Final = Effort(seeds=5, bins=BINS, steps=STEPS, images=1_000_000, hours=traces.DAY)
QUICK: Final = Effort(seeds=2, bins=300, steps=7, images=200_000, hours=traces.MORNING)


@dataclass(frozen=True, slots=True)
class Part:
    """What came of one trace: every policy's row, the duels, the bars, and decisions beyond the maximum."""

    rows: tuple[Row, ...]
    duels: tuple[Duel, ...]
    bars: tuple[Bar, ...]
    beyond: int


def run(quick: bool = False, plots: Path | None = None) -> FleetReport:
    """Play everything; draw a plot for each trace into the folder `plots`, if it is given."""
    started, effort = time.perf_counter(), QUICK if quick else FULL
    parts = _side_by_side(list(traces.named(CAPACITY)), effort, plots)
    rows, duels = [row for part in parts for row in part.rows], [each for part in parts for each in part.duels]
    tuned = {name: value for each in duels for name, value in each.figures.items()}
    bars = [*_theory_bars(effort.images), *_law_bars(parts), *_promised_bars(parts)]
    others = {
        "mmpp: index of dispersion": traces.bursty(CAPACITY).dispersion,
        "this run, s": time.perf_counter() - started,
    }
    figures = {**figures_of(rows), **tuned, **others}
    return FleetReport("fleet", figures, tuple(bars), rows, duels)


def fleet_settings() -> FleetSettings:
    """Return the fleet section of config.yaml, with the maximum and the images for each worker of the comparison."""
    fleet = load_config(ROOT / "config.yaml", {}).fleet
    return fleet.model_copy(
        update={
            "policy": "backlog",
            "min_workers": 0,
            "max_workers": CONDITIONS.max_workers,
            "images_per_worker": IMAGES_PER_WORKER,
            "image_seconds": CONDITIONS.image_seconds,
            "boot_seconds": CONDITIONS.machine.boot_seconds,
        }
    )


def play_part(name: str, effort: Effort, plots: Path | None = None) -> Part:
    """Play the trace called `name` by every policy, tune `deadline` to the others; draw it into `plots`, if given."""
    seeds = 1 if name.endswith("-day") else effort.seeds
    scene = Scene.of(name, traces.named(CAPACITY, effort.hours)[name], CONDITIONS, range(seeds))
    fleet = fleet_settings()
    dial = Dial(partial(deadline, fleet), scene, effort.steps)
    played = [scene.play(rule) for rule in _rules(fleet, name)]
    if plots is not None:
        draw(played, plots)
    return Part(
        rows=tuple(row_of(each, effort.bins) for each in played),
        duels=tuple(duel(dial, each) for each in played if each.rule.name in RIVALS),
        bars=(bound_bar(dial, effort.bins),),
        beyond=sum(each.outcome.beyond_maximum for each in played),
    )


def _side_by_side(names: Sequence[str], effort: Effort, plots: Path | None) -> list[Part]:
    play = partial(play_part, effort=effort, plots=plots)
    with ProcessPoolExecutor(PROCESSES) as processes:
        # The longest, which stand last, begin first.
        return list(processes.map(play, reversed(names)))[::-1]


def _rules(fleet: FleetSettings, trace: str) -> tuple[Rule, ...]:
    """Return who plays the trace: others, `backlog`, and `deadline` with the trace's own target."""
    target, _ = OWN_TARGETS[trace]
    return (*rivals(CONDITIONS), ours(fleet), deadline(fleet, target))


def _theory_bars(images: int) -> list[Bar]:
    """Return the simulator beside queueing theory, and AWS's rule beside its published example."""
    bars = [Bar(f"{check.what}: deviation", check.deviation, at_most=0.02) for check in checks(images)]
    more = wanted(1_500, 10, acceptable_backlog(10.0, 0.1)) - 10
    return [*bars, Bar("AWS's example, 1,500 messages on 10 instances: more of them", more, at_most=5, at_least=5)]


def _law_bars(parts: Sequence[Part]) -> list[Bar]:
    """Return what holds for every policy: the maximum, and that none is cheaper than the cheapest possible."""
    # To a millionth, since a fixed fleet can cost exactly what the bound says.
    least = round(min(row.measures["cost_over_bound"] for part in parts for row in part.rows), 6)
    beyond = sum(part.beyond for part in parts)
    return [
        Bar("decisions beyond the maximum, every policy and trace", beyond, at_most=0),
        Bar("cost ÷ clairvoyant bound, least of every policy and trace", least, at_least=1.0),
    ]


def _promised_bars(parts: Sequence[Part]) -> list[Bar]:
    """Return what `deadline` is held to: against the others, against the bound, and for a hundred images."""
    hundred = Scene.of("batch-100", lambda _: traces.batch(100, 90.0), Conditions(CERTAIN), (0,))
    duels = [each for part in parts for each in part.duels]
    return [
        *duel_bars(duels),
        *chain.from_iterable(part.bars for part in parts),
        *batch_bars(hundred.play(deadline(fleet_settings(), 90.0)).outcome),
    ]
