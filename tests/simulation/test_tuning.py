from dataclasses import dataclass, field

import pytest

from benchmarks.fleet import fleet_settings
from simulator.comparison import Dial, Played, Scene, deadline
from simulator.engine import Conditions
from simulator.policy import NO_ACTION, FleetView, NamedPolicy, PolicyTerms, ScalingAction
from simulator.traces import batch
from simulator.workers import CERTAIN

SCENE = Scene.of("batch-200", lambda _: batch(200, 90.0), Conditions(CERTAIN), (0,))


@dataclass
class Planned:
    """Launches once as many workers as answer 200 images of 1.5 s by its target, and no more."""

    target_seconds: float
    terms: PolicyTerms = field(default_factory=lambda: PolicyTerms(idle_seconds=1.0))

    def decide(self, view: FleetView) -> ScalingAction:
        time = max(0.1, self.target_seconds - 42)
        return ScalingAction(min(19, max(1, round(200 * 1.5 / time)))) if view.now == 0 else NO_ACTION


def planned(target_seconds: float) -> NamedPolicy:
    return NamedPolicy("planned", lambda: Planned(target_seconds))


@pytest.mark.parametrize("wanted", [75.0, 100.0, 160.0])
def test_a_policy_is_tuned_to_be_as_fast_as_wanted_and_no_faster_than_it_must(wanted: float) -> None:
    tuned = Dial(planned, SCENE).tune(wanted)
    assert tuned is not None
    outcome = tuned.played.outcome
    assert outcome.p95 <= wanted
    # One worker less would be too slow.
    fewer = SCENE.play(planned(42 + 300 / (outcome.peak - 1))).outcome
    assert fewer.p95 > wanted


def test_what_no_target_reaches_is_said_so() -> None:
    assert Dial(planned, SCENE).tune(20.0) is None


def test_what_was_played_once_is_not_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[NamedPolicy] = []
    play = Scene.play

    def listening(scene: Scene, rule: NamedPolicy) -> Played:
        played.append(rule)
        return play(scene, rule)

    monkeypatch.setattr(Scene, "play", listening)
    dial = Dial(planned, SCENE)
    dial.tune(100.0)
    first = len(played)
    dial.tune(100.0)
    assert len(played) == first > 0


def test_a_deadline_with_more_time_takes_fewer_workers() -> None:
    peaks = [SCENE.play(deadline(fleet_settings(), target)).outcome.peak for target in (70.0, 100.0, 200.0)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > peaks[-1]
