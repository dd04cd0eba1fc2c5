"""The benchmark `fleet`: what it plays, what it is held to, and how it is shown."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.fleet import (
    CONDITIONS,
    OWN_TARGETS,
    QUICK,
    RIVALS,
    Duel,
    FleetReport,
    Part,
    batch_bars,
    bound_bar,
    compare,
    defaults_report,
    duel,
    duel_bars,
    fleet_settings,
    places,
    play_part,
    report_of,
)
from benchmarks.report import Bar
from core.config import load_config
from scripts.aws.deploy.settings import validated_config
from scripts.run.system import ROOT
from simulator.comparison import Dial, Row, Scene, figures_of, row_of
from simulator.engine import Conditions
from simulator.policies import fixed, one_per_message
from simulator.policy import NamedPolicy
from simulator.theory import Check
from simulator.traces import Trace, batch, named
from simulator.workers import CERTAIN


def part(trace: str, beyond: int = 0, over_bound: float = 1.2) -> Part:
    """Return what could have come of a trace."""
    row = Row(trace, "backlog", {"cost_over_bound": over_bound})
    return Part((row,), tuple(Duel(trace, rival, 60.0, 0.8, 0.0) for rival in RIVALS), (), beyond)


def test_every_trace_has_a_target_of_its_own() -> None:
    assert list(named(1.0)) == list(OWN_TARGETS)


def test_the_comparison_is_for_a_fleet_of_nineteen_that_starts_from_nothing() -> None:
    assert (fleet_settings().min_workers, fleet_settings().max_workers, CONDITIONS.max_workers) == (0, 19, 19)
    assert fleet_settings().image_seconds == CONDITIONS.image_seconds


def test_a_trace_is_played_by_every_policy_tuned_to_five_and_drawn_where_it_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="./scripts/setup.sh simulate")
    played = play_part("batch-100", QUICK, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch-100.png", "batch-100.svg"]
    assert [row.rule for row in played.rows] == [
        *("one per message", "target tracking", "KEDA accurate", "Ray Serve", "fixed 19", "backlog", "deadline")
    ]
    assert {each.rival for each in played.duels} == RIVALS
    assert [bar.what for bar in played.bars] == ["deadline, batch-100: cost ÷ clairvoyant bound, at p95 90 s"]
    assert played.beyond == 0
    assert min(row.measures["cost_over_bound"] for row in played.rows) >= 0.999999


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        (part("batch-100"), []),
        (part("batch-100", beyond=1), ["decisions beyond the maximum, every policy and trace"]),
        (part("batch-100", over_bound=0.99), ["cost ÷ clairvoyant bound, least of every policy and trace"]),
    ],
    ids=["nothing wrong", "beyond the maximum", "below the bound"],
)
def test_a_run_is_held_to_theory_to_aws_example_and_to_what_no_policy_may_do(worse: Part, missed: list[str]) -> None:
    theory = [Check(f"figure {number}", 1.0, 1.0) for number in range(3)]
    report = report_of([part("flash-crowd"), part("mmpp"), worse], theory, 0.0)
    assert [bar.what for bar in report.bars if not bar.ok] == missed
    assert len(report.bars) == 3 + 1 + 2 + 5 + 2
    assert report.figures["mmpp: index of dispersion"] > 20


def test_a_benchmark_without_plots_refuses_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["decode", "--plots", "/nowhere"])
    assert "decode draws none" in capsys.readouterr().err


def test_a_scene_is_played_by_the_seeds_that_made_it() -> None:
    asked: list[int] = []

    def trace_of(seed: int) -> Trace:
        asked.append(seed)
        return batch(seed, 90.0)

    scene = Scene.of("batch", trace_of, CONDITIONS, (3, 5))
    assert (asked, scene.seeds, [len(trace.arrivals) for trace in scene.traces]) == ([3, 5], (3, 5), [3, 5])


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


SHOWN = Scene.of("batch-100", lambda _: batch(100, 45.0), Conditions(CERTAIN), (0,))
ROWS = [row_of(SHOWN.play(rule)) for rule in (one_per_message(19), fixed(19))]
DUELS = [Duel("batch-100", "one per message", 50.0, 0.9, 0.0), Duel("batch-100", "Ray Serve", None, math.inf, 1.0)]


def shown_report() -> FleetReport:
    duelled = {name: value for each in DUELS for name, value in each.figures.items()}
    figures = {**figures_of(ROWS), **duelled, "this run, s": 2.0}
    return FleetReport("fleet", figures, (Bar("a bar", 1.0, 2.0),), ROWS, DUELS)


def test_a_table_says_of_each_policy_what_it_cost_and_how_fast_it_was() -> None:
    shown = io.StringIO()
    shown_report().show(Console(file=shown, width=80))
    lines = shown.getvalue().splitlines()
    words = next(line.split() for line in lines if line.strip().startswith("fixed 19"))
    assert words == ["fixed", "19", "7.6", "4.5", "7.5", "9", "0", "0", "19", "1"]
    assert any("one per message" in line and "62" in line for line in lines)  # of 100 later than 45 s
    assert any(line.split()[:3] == ["batch-100", "0.900", "slower"] for line in lines)
    assert any("a bar" in line and "ok" in line for line in lines)
    assert any("this run, s" in line for line in lines)


def test_every_measure_is_in_the_json_under_its_name(tmp_path: Path) -> None:
    file = tmp_path / "fleet.json"
    shown_report().write(file)
    figures = json.loads(file.read_text())["figures"]
    assert figures["batch-100, fixed 19: p95_s"] == 7.5
    assert figures["batch-100, fixed 19: cost_over_bound"] == 1.0
    assert figures["deadline tuned to one per message, batch-100: cost_ratio"] == 0.9
    assert not [name for name, value in figures.items() if not math.isfinite(value)]


def test_each_place_has_the_better_policy_by_default() -> None:
    on_aws, here = places(quick=True)[0], places(quick=True)[2]
    played = [compare(on_aws, "batch-1000"), compare(on_aws, "flash-crowd"), compare(here, "batch-1000")]
    report = defaults_report(played)
    assert [bar.what for bar in report.bars if not bar.ok] == []
    assert validated_config({}).fleet.policy == "deadline"
    assert load_config(ROOT / "config.yaml", {}).fleet.policy == "backlog"


def test_a_policy_that_is_dearer_or_slower_fails_the_comparison_of_defaults() -> None:
    on_aws, here = places(quick=True)[0], places(quick=True)[2]
    batches = [compare(on_aws, "batch-1000"), compare(here, "batch-1000")]
    stream = compare(on_aws, "flash-crowd")
    swapped = [replace(each, backlog=each.deadline, deadline=each.backlog) for each in (*batches, stream)]
    assert [bar.ok for bar in defaults_report(swapped).bars][:2] == [False, False]
    slow = on_aws.fleet.model_copy(update={"target_seconds": 120})
    slower = compare(replace(on_aws, fleet=slow), "flash-crowd")
    assert [bar.ok for bar in defaults_report([*batches, slower]).bars] == [True, True, True, False, True]
