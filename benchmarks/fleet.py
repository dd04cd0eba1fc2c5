"""Policies in the simulator.

``python -m benchmarks fleet``: every policy over every trace, the simulator against theory, and the bars.
``python -m benchmarks fleet_defaults``: `deadline` beside `backlog`, with the defaults of AWS and of this machine.
"""

import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import geometric_mean
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.report import Bar, Report
from core.config import FleetSettings, load_config
from scripts.aws.deploy.settings import validated_config
from simulator import traces
from simulator.bound import BINS
from simulator.comparison import (
    Dial,
    Played,
    Row,
    Scene,
    deadline,
    draw,
    figures_of,
    rivals,
    row_of,
    tables_of,
)
from simulator.engine import Conditions, SimulationOutcome
from simulator.policies import acceptable_backlog, ours, wanted
from simulator.theory import Check, checks
from simulator.workers import CERTAIN, InstanceProfile

ROOT: Final = Path(__file__).resolve().parents[1]
CONDITIONS: Final = Conditions()
CAPACITY: Final = CONDITIONS.max_workers / CONDITIONS.image_seconds
"""Images/s of a full fleet."""

IMAGES_PER_WORKER: Final = 10
"""Of `backlog`: ten images of 1.5 s are a quarter of a minute's work."""

PROCESSES: Final = 2
"""Traces that are played side by side."""


RIVALS: Final = frozenset({"one per message", "backlog", "target tracking", "KEDA accurate", "Ray Serve"})
"""Each of these it is tuned to."""

NO_DEARER: Final = 1.01
CLEARLY_CHEAPER: Final = 0.85
CHEAPER: Final = 0.9
CLEARLY_BEATEN: Final = frozenset({"target tracking", "Ray Serve"})
BURSTY: Final = frozenset({"flash-crowd", "mmpp"})

OWN_TARGETS: Final = {
    "batch-100": (90.0, 1.1),
    "batch-1000": (180.0, 1.1),
    "batch-10000": (900.0, 1.1),
    "flash-crowd": (25.0, 1.15),
    "mmpp": (46.0, 1.25),
    "nys-day": (5.0, 1.1),
    "twitter-day": (5.0, 1.1),
}
"""By trace: the 95th percentile to reach, in seconds, and the most that it may cost ÷ the bound there."""


@dataclass(frozen=True)
class Duel:
    """The tuned policy against another one at its latency.

    Attributes:
        target_seconds: that makes it as fast; None where none does.
        cost_ratio: the tuned one's cost ÷ the other's; infinite where it cannot be as fast.
        more_missed: by how much its share of missed deadlines is higher.
    """

    trace: str
    rival: str
    target_seconds: float | None
    cost_ratio: float
    more_missed: float

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names; none where no target is as fast."""
        if self.target_seconds is None:
            return {}
        begin = f"deadline tuned to {self.rival}, {self.trace}"
        return {f"{begin}: target_s": self.target_seconds, f"{begin}: cost_ratio": self.cost_ratio}


@dataclass(frozen=True)
class FleetReport(Report):
    """A report with figures that are shown as tables by trace.

    Attributes:
        rows: of the comparison.
        duels: of `deadline` with each rival on each trace.
    """

    rows: Sequence[Row] = field(default=())
    duels: Sequence[Duel] = field(default=())

    def show(self, console: Console) -> None:
        """Print the comparison, the duels and the bars."""
        for table in tables_of(self.rows):
            console.print(table)
        console.print(table_of_duels(self.duels))
        shown = figures_of(self.rows).keys() | {name for each in self.duels for name in each.figures}
        others = {name: value for name, value in self.figures.items() if name not in shown}
        Report(self.name, others, self.bars).show(console)


@dataclass(frozen=True, slots=True)
class Effort:
    """How thorough a run is.

    Attributes:
        seeds: of the simulations of each trace but the days, which are long enough for one.
        bins: of the bound's linear program.
        images: against theory.
        has_days: whether the days are played.
    """

    seeds: Sequence[int]
    bins: int
    images: int
    has_days: bool


DAYS: Final = ("nys-day", "twitter-day")
FULL: Final = Effort(range(5), BINS, images=1_000_000, has_days=True)
QUICK: Final = Effort((1,), bins=300, images=200_000, has_days=False)


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
    with ProcessPoolExecutor(PROCESSES) as processes:
        # The longest, which stand last, begin first.
        names = [name for name in reversed(traces.named(CAPACITY)) if effort.has_days or name not in DAYS]
        parts = list(processes.map(partial(play_part, effort=effort, plots=plots), names))[::-1]
    return report_of(parts, checks(effort.images), started)


def report_of(parts: Sequence[Part], theory: Sequence[Check], started: float) -> FleetReport:
    """Return the report of all traces: the comparison, and its bars.

    They are queueing theory and AWS's published example, what holds for every policy (the maximum; none is cheaper
    than the cheapest possible), and what `deadline` is held to.

    Args:
        parts: what came of each trace.
        theory: figures of the simulator beside queueing theory's.
        started: when the run began, by `time.perf_counter`.
    """
    rows, duels = [row for part in parts for row in part.rows], [each for part in parts for each in part.duels]
    more = wanted(1_500, 10, acceptable_backlog(10.0, 0.1)) - 10
    beyond = sum(part.beyond for part in parts)
    # To a millionth, since a fixed fleet can cost exactly what the bound says.
    least = round(min(row.measures["cost_over_bound"] for row in rows), 6)
    hundred = Scene.of("batch-100", lambda _: traces.batch(100, 90.0), Conditions(CERTAIN), (0,))
    bars = [
        *(Bar(f"{check.what}: deviation", check.deviation, at_most=0.02) for check in theory),
        Bar("AWS's example, 1,500 messages on 10 instances: more of them", more, at_most=5, at_least=5),
        Bar("decisions beyond the maximum, every policy and trace", beyond, at_most=0),
        Bar("cost ÷ clairvoyant bound, least of every policy and trace", least, at_least=1.0),
        *duel_bars(duels),
        *chain.from_iterable(part.bars for part in parts),
        *batch_bars(hundred.play(deadline(fleet_settings(), 90.0)).outcome),
    ]
    figures = figures_of(rows) | {name: value for each in duels for name, value in each.figures.items()}
    figures["mmpp: index of dispersion"] = traces.bursty(CAPACITY).dispersion
    figures["this run, s"] = time.perf_counter() - started
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
    seeds = (0,) if name in DAYS else effort.seeds
    scene = Scene.of(name, traces.named(CAPACITY)[name], CONDITIONS, seeds)
    fleet = fleet_settings()
    dial = Dial(partial(deadline, fleet), scene)
    own_target, _ = OWN_TARGETS[name]
    rules = (*rivals(CONDITIONS), ours(fleet), deadline(fleet, own_target))
    played = [scene.play(rule) for rule in rules]
    if plots is not None:
        draw(played, plots)
    return Part(
        rows=tuple(row_of(each, effort.bins) for each in played),
        duels=tuple(duel(dial, each) for each in played if each.rule.name in RIVALS),
        bars=(bound_bar(dial, effort.bins),),
        beyond=sum(each.outcome.beyond_maximum for each in played),
    )


def duel(dial: Dial, rival: Played) -> Duel:
    """Tune to the rival's 95th percentile on its scene, and compare."""
    trace, name = rival.scene.name, rival.rule.name
    tuned = dial.tune(rival.outcome.p95)
    if tuned is None:
        return Duel(trace, name, None, float("inf"), 1.0)
    return Duel(
        trace=trace,
        rival=name,
        target_seconds=tuned.target_seconds,
        cost_ratio=tuned.played.outcome.cost / rival.outcome.cost,
        more_missed=tuned.played.missed - rival.missed,
    )


def duel_bars(duels: Sequence[Duel]) -> list[Bar]:
    """Return what is promised of a deadline policy beside others at their latency."""
    clear = [each.cost_ratio for each in duels if each.rival in CLEARLY_BEATEN]
    bars = [
        Bar("cost ÷ the dearest rival's at its p95, worst", max(each.cost_ratio for each in duels), NO_DEARER),
        Bar("cost ÷ target tracking's and Ray Serve's at their p95, worst", max(clear), CLEARLY_CHEAPER),
        Bar(
            "missed deadlines beyond a rival's at its p95, worst share", max(each.more_missed for each in duels), 0.0
        ),
    ]
    for trace in sorted({each.trace for each in duels} & BURSTY):
        ratios = sorted(each.cost_ratio for each in duels if each.trace == trace)
        bars.append(Bar(f"cost ÷ the third most beaten rival's, {trace}", ratios[2], CHEAPER))
    return bars


def bound_bar(dial: Dial, bins: int = BINS) -> Bar:
    """Return what is promised of a deadline policy beside the clairvoyant bound at its own 95th percentile."""
    wanted, most = OWN_TARGETS[dial.scene.name]
    tuned = dial.tune(wanted)
    ratio = float("inf") if tuned is None else tuned.played.outcome.cost / tuned.played.bound(bins)
    return Bar(f"deadline, {dial.scene.name}: cost ÷ clairvoyant bound, at p95 {wanted:g} s", ratio, most)


def batch_bars(outcome: SimulationOutcome) -> list[Bar]:
    """Return what is promised of 100 images of 1.5 s with boots of 42 s and `target_seconds` 90."""
    return [
        Bar("deadline, 100 images of 1.5 s in 90 s: workers", outcome.peak, 5),
        Bar("deadline, 100 images of 1.5 s in 90 s: billed instance-seconds", outcome.billed_seconds, 330),
    ]


def table_of_duels(duels: Iterable[Duel]) -> Table:
    """Return a table of `deadline`'s cost ÷ each rival's, when it is as fast as the rival."""
    ratios = {(each.trace, each.rival): each.cost_ratio for each in duels}
    names = list(dict.fromkeys(rival for _, rival in ratios))
    title = "deadline tuned to the p95 of each: its cost ÷ theirs"
    table = Table("trace", title=title, title_justify="left", box=SIMPLE_HEAD)
    for rival in names:
        table.add_column(rival, justify="right")
    for trace in dict.fromkeys(trace for trace, _ in ratios):
        costs = [ratios[trace, rival] for rival in names]
        table.add_row(trace, *(f"{ratio:.3f}" if math.isfinite(ratio) else "slower" for ratio in costs))
    return table


@dataclass(frozen=True)
class Place:
    """How fleets are run by default at one place.

    Attributes:
        fleet: the settings that both policies run with.
        conditions: of the simulation.
        interval_seconds, idle_seconds: of the controller and of the workers.
        traces: names of those that are played.
    """

    name: str
    fleet: FleetSettings
    conditions: Conditions
    interval_seconds: float
    idle_seconds: float
    traces: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """A trace by both policies at one place."""

    place: Place
    trace: str
    backlog: SimulationOutcome
    deadline: SimulationOutcome

    @property
    def cost(self) -> float:
        """Cost with `deadline` ÷ with `backlog`."""
        return self.deadline.cost / self.backlog.cost

    @property
    def p95(self) -> float:
        """The 95th percentile of latency with `deadline` ÷ with `backlog`."""
        return self.deadline.p95 / self.backlog.p95

    @property
    def boots_waited(self) -> float:
        """The 95th percentile of latency with `deadline` ÷ the time of a boot."""
        return self.deadline.p95 / self.place.conditions.machine.boot_seconds


BATCHES: Final = ("batch-100", "batch-1000", "batch-10000")
STREAMS: Final = ("flash-crowd", "mmpp", *DAYS)
AWS_IMAGE_SECONDS: Final = {"AWS": None, "AWS, fast": 1 / 90}
"""Seconds that a worker takes for an image: the estimate of config.yaml, and ResNet-18 on two cores."""

LOCAL_PROFILE: Final = InstanceProfile(
    pending_seconds=0.1, init_seconds=1.9, slow_share=0.0, never_share=0.0, minimum_seconds=0.0
)
"""A process: it starts in two seconds, and costs what it runs for."""

LOCAL_CORES: Final = (2, 8)
LOCAL_INTERVAL_SECONDS: Final = 0.25
LOCAL_TARGET_SECONDS: Final = 5.0
"""Of `deadline` on this machine: with more, it is only slower there."""


def run_defaults(quick: bool) -> Report:
    """Play both policies; `quick` leaves out the days, and the streams of this machine."""
    pairs = [(place, trace) for place in places(quick) for trace in place.traces]
    with ProcessPoolExecutor(PROCESSES) as processes:
        # The longest, which stand last at each place, begin first.
        played = list(processes.map(compare, *zip(*reversed(pairs), strict=True)))[::-1]
    return defaults_report(played)


def places(quick: bool) -> list[Place]:
    """Return the defaults of the stack on AWS, and those of `scripts/run.sh`."""
    stack, local = validated_config({}), load_config(ROOT / "config.yaml", {})
    aws, streams = InstanceProfile.booting_in(stack.fleet.boot_seconds), STREAMS[:2] if quick else STREAMS
    found = [
        Place(
            name,
            stack.fleet,
            Conditions(aws, image_seconds=seconds or stack.fleet.image_seconds, max_workers=stack.fleet.max_workers),
            stack.controller.interval_seconds,
            stack.worker.idle_seconds,
            (*BATCHES, *streams),
        )
        for name, seconds in AWS_IMAGE_SECONDS.items()
    ]
    for cores in LOCAL_CORES:
        changes = {
            "max_workers": cores,
            "boot_seconds": LOCAL_PROFILE.boot_seconds,
            "target_seconds": LOCAL_TARGET_SECONDS,
        }
        found.append(
            Place(
                f"{cores} cores here",
                local.fleet.model_copy(update=changes),
                Conditions(LOCAL_PROFILE, image_seconds=local.fleet.image_seconds, max_workers=cores),
                LOCAL_INTERVAL_SECONDS,
                local.worker.idle_seconds,
                BATCHES if quick else (*BATCHES, *STREAMS[:2]),
            )
        )
    return found


def compare(place: Place, trace: str) -> Comparison:
    """Return what comes of `trace` by both policies; of a day, two hours of the morning."""
    capacity = place.conditions.max_workers / place.conditions.image_seconds
    scene = Scene.of(trace, traces.named(capacity, traces.MORNING)[trace], place.conditions, (0,))

    def play(policy: str) -> SimulationOutcome:
        settings = place.fleet.model_copy(update={"policy": policy})
        return scene.play(ours(settings, place.interval_seconds, place.idle_seconds)).outcome

    return Comparison(place, trace, play("backlog"), play("deadline"))


def defaults_report(played: Sequence[Comparison]) -> Report:
    """Return cost and p95 of `deadline` ÷ those of `backlog`, and that each place has the better one by default.

    On AWS each second of an instance is paid for. The cheaper policy is the better one there, unless images wait
    longer than a boot, as the first images always do. On this machine workers cost nothing: the faster one is better.
    """
    figures = dict[str, float]()
    for each in played:
        begin = f"{each.place.name}, {each.trace}"
        figures |= {f"{begin}: cost_ratio": each.cost, f"{begin}: p95_ratio": each.p95}
        figures |= {f"{begin}: backlog_p95_s": each.backlog.p95, f"{begin}: deadline_p95_s": each.deadline.p95}
    on_aws = [each for each in played if each.place.conditions.machine.minimum_seconds]
    here = [each for each in played if each not in on_aws]
    batches = [each for each in on_aws if each.trace in BATCHES]
    bars = (
        Bar("AWS: cost with deadline ÷ with backlog, dearest trace", max(each.cost for each in on_aws), at_most=1),
        Bar("AWS: the same, geometric mean", geometric_mean([each.cost for each in on_aws]), at_most=0.5),
        Bar("AWS, batches: p95 with deadline ÷ with backlog, worst", max(each.p95 for each in batches), at_most=1.2),
        Bar(
            "AWS, streams: p95 with deadline ÷ time of a boot, worst",
            max(each.boots_waited for each in on_aws if each not in batches),
            at_most=1,
        ),
        Bar(
            "this machine: p95 with backlog ÷ with deadline, mean", 1 / geometric_mean([each.p95 for each in here]), 1
        ),
    )
    return Report("fleet_defaults", figures, bars)
