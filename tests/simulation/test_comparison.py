"""Policies beside each other: tuned to be as fast as another, drawn, and none cheaper than the cheapest fleet."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.fleet import fleet_settings
from simulator.bound import MissingError, batch_bound, fluid_bound, lower_bound, need
from simulator.comparison import (
    POINTS,
    Dial,
    Played,
    PlotError,
    Scene,
    deadline,
    draw,
    rate_over_time,
    rivals,
    thinned,
)
from simulator.engine import Conditions, simulate
from simulator.policies import fixed, one_per_message
from simulator.policy import NO_ACTION, FleetView, NamedPolicy, PolicyTerms, ScalingAction
from simulator.traces import Mmpp, Trace, batch, poisson
from simulator.workers import CERTAIN
from tests.simulation.stories import Script

pytest.importorskip("scipy", reason="./scripts/setup.sh simulate")
USUAL = Conditions()


def test_the_bound_of_a_batch_is_the_fewest_workers_that_do_95_percent_in_time() -> None:
    # 95 images by 90 s: 32 each after a boot of 42 s, so 3 workers: 25 s for each, and 150 s of work.
    assert batch_bound(100, 90.0, USUAL) == pytest.approx((3 * 25 + 150) / 150)
    # 5 s more than a boot: 3 images each, so 32 workers are too many; 8 s: 5 each, 19 workers of a minute.
    assert batch_bound(100, 47.0, USUAL) == math.inf
    assert batch_bound(100, 49.5, USUAL) == pytest.approx(19 * 60 / 150)


def test_no_policy_that_starts_from_nothing_is_faster_than_a_boot() -> None:
    assert batch_bound(10, 42.0, USUAL) == math.inf
    assert batch_bound(10, 15.0, USUAL, prepared=1) == pytest.approx(60 / 15)


def test_a_bound_is_reached_by_who_knows() -> None:
    conditions = Conditions(CERTAIN)
    trace = batch(380, 60.0)
    outcome = simulate(trace, Script({0.0: ScalingAction(10)}, PolicyTerms(idle_seconds=0.001)).as_rule(), conditions)
    assert outcome.cost / lower_bound(trace, outcome.p95, conditions) == pytest.approx(1.0, abs=0.03)


def test_a_steady_stream_costs_its_work_and_a_boot_at_least() -> None:
    trace = Trace("steady", np.arange(0, 3_000, 1.5), 3_000.0, 60.0)
    bound = fluid_bound(trace, 60.0, USUAL, bins=500)
    work = len(trace.arrivals) * 1.5
    assert bound == pytest.approx(1 + 25 / work, abs=0.01)


def test_the_sooner_the_dearer() -> None:
    trace = Trace("bursts", Mmpp((0.5, 10.0), (200.0, 40.0)).arrivals(2_000.0, seed=2), 2_000.0, 60.0)
    costs = [fluid_bound(trace, p95, USUAL, bins=300) for p95 in (200.0, 80.0, 50.0, 46.0)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_what_comes_before_the_first_boot_ends_can_only_be_late_in_part() -> None:
    assert fluid_bound(Trace("short", np.linspace(0, 30, 20), 30.0, 60.0), 5.0, USUAL) == math.inf


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 2.0, 8.0]), st.sampled_from([120.0, 600.0]))
def test_no_policy_costs_less_than_the_bound(seed: int, rate: float, seconds: float) -> None:
    half = int(seconds / 2)
    trace = Trace("any", np.append(poisson([rate] * half + [rate / 9] * half, 1.0, seed), seconds), seconds, 60.0)
    for rule in rivals(USUAL):
        outcome = simulate(trace, rule, USUAL, seed)
        bound = lower_bound(trace, outcome.p95, USUAL, rule.new().terms.prepared, bins=60)
        assert outcome.cost >= bound - 1e-9, rule.name


@given(st.integers(1, 400), st.integers(0, 100))
def test_no_policy_costs_less_than_the_bound_of_a_batch(images: int, seed: int) -> None:
    trace = batch(images, 60.0)
    for rule in rivals(USUAL):
        outcome = simulate(trace, rule, USUAL, seed)
        assert outcome.cost >= lower_bound(trace, outcome.p95, USUAL, rule.new().terms.prepared) - 1e-9, rule.name


def test_several_simulations_are_each_held_to_their_own_percentile() -> None:
    scene = Scene.of("bursts", lambda seed: batch(50 + 50 * seed, 60.0), USUAL, (0, 1))
    played = scene.play(one_per_message(19))
    bounds = [batch_bound(n, each.p95, USUAL) * n for n, each in zip((50, 100), played.outcomes, strict=True)]
    assert played.bound() == pytest.approx(sum(bounds) / 150)


TWO_HUNDRED = Scene.of("batch-200", lambda _: batch(200, 90.0), Conditions(CERTAIN), (0,))


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
    tuned = Dial(planned, TWO_HUNDRED).tune(wanted)
    assert tuned is not None
    outcome = tuned.played.outcome
    assert outcome.p95 <= wanted
    # One worker less would be too slow.
    fewer = TWO_HUNDRED.play(planned(42 + 300 / (outcome.peak - 1))).outcome
    assert fewer.p95 > wanted


def test_what_no_target_reaches_is_said_so() -> None:
    assert Dial(planned, TWO_HUNDRED).tune(20.0) is None


def test_what_was_played_once_is_not_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[NamedPolicy] = []
    play = Scene.play

    def listening(scene: Scene, rule: NamedPolicy) -> Played:
        played.append(rule)
        return play(scene, rule)

    monkeypatch.setattr(Scene, "play", listening)
    dial = Dial(planned, TWO_HUNDRED)
    dial.tune(100.0)
    first = len(played)
    dial.tune(100.0)
    assert len(played) == first > 0


def test_a_deadline_with_more_time_takes_fewer_workers() -> None:
    peaks = [TWO_HUNDRED.play(deadline(fleet_settings(), target)).outcome.peak for target in (70.0, 100.0, 200.0)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > peaks[-1]


HUNDRED = Scene.of("batch-100", lambda _: batch(100, 45.0), Conditions(), (0,))
PLAYED = [HUNDRED.play(rule) for rule in (one_per_message(19), fixed(19))]


def test_a_trace_is_drawn_as_png_and_svg_with_every_policy_named_and_again_the_same(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="./scripts/setup.sh simulate")
    png, svg = draw(PLAYED, tmp_path / "made" / "for it")
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert min(image.size) > 500
    text = svg.read_text()
    assert "one per message" in text
    assert "fixed 19" in text
    assert draw(PLAYED, tmp_path / "again")[1].read_text() == text


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="./scripts/setup.sh simulate")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PlotError, match=r"cannot write the plots to .*file"):
        draw(PLAYED, tmp_path / "file")


def test_without_the_package_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module.partition(".")[0])

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingError, match=r"needs scipy: \./scripts/setup\.sh simulate"):
        need("scipy.optimize")


def test_a_long_history_is_thinned_and_keeps_its_peaks() -> None:
    times = np.arange(86_400.0)
    values = np.zeros(86_400)
    values[12_345] = 19.0
    thin_times, thin_values = thinned(times, values)
    assert len(thin_times) <= POINTS
    assert thin_values.max() == 19.0
    assert abs(thin_times[thin_values.argmax()] - 12_345) < 86_400 / POINTS


def test_a_rate_is_arrivals_a_second() -> None:
    _, rates = rate_over_time(np.arange(0.0, 1_500.0, 0.5), 1_500.0)
    assert rates.tolist() == pytest.approx([2.0] * len(rates))
