import math

import pytest

from benchmarks.fleet import RIVALS, Duel, batch_bars, bound_bar, duel, duel_bars
from benchmarks.report import Bar
from simulator.comparison import Dial, Scene
from simulator.engine import Conditions
from simulator.policy import NamedPolicy
from simulator.rivals.plain import fixed, one_per_message
from simulator.traces import batch
from simulator.workers import CERTAIN

SCENE = Scene.of("batch-100", lambda _: batch(100, 90.0), Conditions(CERTAIN), (0,))


def by_share(target_seconds: float) -> NamedPolicy:
    """Return a rule with as many workers as do 100 images of 1.5 s within the target."""
    return one_per_message(max(1, min(19, round(150 / target_seconds))))


DIAL = Dial(by_share, SCENE)


def duels(trace: str, **ratios: float) -> list[Duel]:
    """Return duels on one trace, with the cost ratio against each rival; 0.8 where none is given."""
    names = {name.replace(" ", "_").lower(): name for name in RIVALS}
    return [Duel(trace, name, 60.0, ratios.get(key, 0.8), 0.0) for key, name in names.items()]


def missed(bars: list[Bar]) -> list[str]:
    return [bar.what for bar in bars if not bar.ok]


def test_who_is_cheaper_everywhere_holds_every_bar() -> None:
    assert missed(duel_bars([*duels("flash-crowd"), *duels("mmpp"), *duels("nys-day")])) == []


@pytest.mark.parametrize(
    ("ratios", "what"),
    [
        ({"keda_accurate": 1.02}, "dearest"),
        ({"backlog": math.inf}, "dearest"),
        ({"ray_serve": 0.86}, "Ray Serve"),
        ({"target_tracking": 0.86}, "target tracking"),
        ({"keda_accurate": 0.95, "backlog": 0.95, "one_per_message": 0.95}, "third most beaten rival's, flash-crowd"),
    ],
)
def test_who_is_dearer_than_promised_misses_the_bar(ratios: dict[str, float], what: str) -> None:
    found = missed(duel_bars([*duels("flash-crowd", **ratios), *duels("mmpp")]))
    assert len(found) == 1
    assert what in found[0]


def test_one_percent_dearer_is_no_dearer_and_two_of_five_need_not_be_beaten() -> None:
    assert missed(duel_bars(duels("flash-crowd", keda_accurate=1.01, backlog=1.0))) == []


def test_more_missed_deadlines_miss_a_bar() -> None:
    worse = Duel("nys-day", "backlog", 60.0, 0.8, more_missed=0.001)
    assert missed(duel_bars([*duels("nys-day"), worse])) == [
        "missed deadlines beyond a rival's at its p95, worst share"
    ]


def test_a_duel_is_fought_at_the_rivals_latency() -> None:
    rival = SCENE.play(one_per_message(19))
    fought = duel(DIAL, rival)
    assert (fought.trace, fought.rival) == ("batch-100", "one per message")
    assert 0.5 < fought.cost_ratio <= 1.0
    assert fought.more_missed <= 0
    assert fought.figures.keys() == {
        "deadline tuned to one per message, batch-100: target_s",
        "deadline tuned to one per message, batch-100: cost_ratio",
    }


def test_a_rival_that_is_never_reached_costs_endlessly_and_has_no_figures() -> None:
    rival = SCENE.play(fixed(19))
    lost = duel(DIAL, rival)
    assert (lost.cost_ratio, lost.figures) == (math.inf, {})
    assert missed(duel_bars([*duels("mmpp"), lost])) != []


def test_the_bound_is_asked_for_at_the_percentile_that_was_reached() -> None:
    bar = bound_bar(DIAL)
    assert bar.at_most == 1.1
    assert bar.value >= 1.0


def test_a_hundred_images_in_ninety_seconds_take_no_more_than_five_workers() -> None:
    workers, billed = batch_bars(SCENE.play(one_per_message(5)).outcome)
    assert (workers.value, workers.ok) == (5, True)
    assert (billed.value, billed.ok) == (5 * (25 + 30 + 10), True)
    assert missed(batch_bars(SCENE.play(one_per_message(6)).outcome)) != []
