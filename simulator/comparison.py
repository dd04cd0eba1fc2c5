"""Every policy over every trace, beside what the cheapest fleet that knew everything would have cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulator.bound import BINS, mean_bound
from simulator.engine import Conditions, simulate
from simulator.outcome import Outcome, together
from simulator.policies.keda import keda_accurate
from simulator.policies.plain import fixed, one_per_message
from simulator.policies.ray_serve import ray_serve
from simulator.policies.target_tracking import target_tracking
from simulator.policy import Rule
from simulator.traces import Trace, TraceOf


@dataclass(frozen=True)
class Scene:
    """A trace made from each of several seeds, and the conditions that it is played under."""

    name: str
    seeds: tuple[int, ...]
    traces: tuple[Trace, ...]
    conditions: Conditions

    @classmethod
    def of(cls, name: str, trace_of: TraceOf, conditions: Conditions, seeds: Sequence[int]) -> "Scene":
        """Return the scene of a trace that is made from each of the seeds."""
        return cls(name, tuple(seeds), tuple(trace_of(seed) for seed in seeds), conditions)

    @property
    def deadline_seconds(self) -> float:
        """After which an answer counts as missed."""
        return self.traces[0].deadline_seconds

    def play(self, rule: Rule) -> "Played":
        """Return what becomes of the trace when `rule` decides."""
        pairs = zip(self.seeds, self.traces, strict=True)
        outcomes = tuple(simulate(trace, rule, self.conditions, seed) for seed, trace in pairs)
        return Played(self, rule, outcomes, together(outcomes))


@dataclass(frozen=True)
class Played:
    """A scene that has been played by a rule: each simulation, and all of them together."""

    scene: Scene
    rule: Rule
    outcomes: tuple[Outcome, ...]
    outcome: Outcome

    def bound(self, bins: int = BINS) -> float:
        """Return the least cost ÷ N·S with the same 95th percentile in each simulation (see `bound`)."""
        prepared = self.rule.new().terms.prepared
        return mean_bound(self.scene.traces, self.outcomes, self.scene.conditions, prepared, bins)

    @property
    def missed(self) -> float:
        """The share of images that were answered after the scene's deadline."""
        return self.outcome.missed(self.scene.deadline_seconds)


def rivals(conditions: Conditions) -> tuple[Rule, ...]:
    """Return the policies of others, with their defaults."""
    most = conditions.max_workers
    return (
        one_per_message(most),
        target_tracking(most, conditions.image_seconds),
        keda_accurate(most),
        ray_serve(most),
        fixed(most),
    )


MEASURES: tuple[tuple[str, Callable[[Played], float]], ...] = (
    ("cost", lambda played: played.outcome.cost),
    ("p50_s", lambda played: played.outcome.percentile(50)),
    ("p95_s", lambda played: played.outcome.p95),
    ("p99_s", lambda played: played.outcome.percentile(99)),
    ("missed_percent", lambda played: 100 * played.missed),
    ("launches", lambda played: played.outcome.launches),
    ("peak", lambda played: played.outcome.peak),
)
"""What is shown of a scene that was played, by the name that figures carry. Cost is ÷ N·S."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a trace, who decided, and the measures by name."""

    trace: str
    rule: str
    measures: dict[str, float]


def row_of(played: Played, bins: int = BINS) -> Row:
    """Return the line of a scene that was played, with its cost ÷ the bound over so many bins."""
    measures = {name: measure(played) for name, measure in MEASURES}
    over = played.outcome.cost / played.bound(bins)
    return Row(played.scene.name, played.rule.name, {**measures, "cost_over_bound": over})
