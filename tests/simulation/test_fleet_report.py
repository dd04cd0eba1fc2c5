import io
import json
import math
from pathlib import Path

from rich.console import Console

from benchmarks.fleet import Duel, FleetReport
from benchmarks.report import Bar
from simulator.comparison import Scene, figures_of, row_of
from simulator.engine import Conditions
from simulator.rivals.plain import fixed, one_per_message
from simulator.traces import batch
from simulator.workers import CERTAIN

SCENE = Scene.of("batch-100", lambda _: batch(100, 45.0), Conditions(CERTAIN), (0,))
ROWS = [row_of(SCENE.play(rule)) for rule in (one_per_message(19), fixed(19))]
DUELS = [Duel("batch-100", "one per message", 50.0, 0.9, 0.0), Duel("batch-100", "Ray Serve", None, math.inf, 1.0)]


def report() -> FleetReport:
    duelled = {name: value for each in DUELS for name, value in each.figures.items()}
    figures = {**figures_of(ROWS), **duelled, "this run, s": 2.0}
    return FleetReport("fleet", figures, (Bar("a bar", 1.0, 2.0),), ROWS, DUELS)


def test_a_table_says_of_each_policy_what_it_cost_and_how_fast_it_was() -> None:
    shown = io.StringIO()
    report().show(Console(file=shown, width=80))
    lines = shown.getvalue().splitlines()
    words = next(line.split() for line in lines if line.strip().startswith("fixed 19"))
    assert words == ["fixed", "19", "7.6", "4.5", "7.5", "9", "0", "0", "19", "1"]
    assert any("one per message" in line and "62" in line for line in lines)  # of 100 later than 45 s
    assert any(line.split()[:3] == ["batch-100", "0.900", "slower"] for line in lines)
    assert any("a bar" in line and "ok" in line for line in lines)
    assert any("this run, s" in line for line in lines)


def test_every_measure_is_in_the_json_under_its_name(tmp_path: Path) -> None:
    file = tmp_path / "fleet.json"
    report().write(file)
    figures = json.loads(file.read_text())["figures"]
    assert figures["batch-100, fixed 19: p95_s"] == 7.5
    assert figures["batch-100, fixed 19: cost_over_bound"] == 1.0
    assert figures["deadline tuned to one per message, batch-100: cost_ratio"] == 0.9
    assert not [name for name, value in figures.items() if not math.isfinite(value)]
