from pathlib import Path

import pytest

from benchmarks import fleet
from benchmarks.__main__ import main, names
from benchmarks.fleet import CONDITIONS, OWN_TARGETS, QUICK, RIVALS, Duel, Part, fleet_settings, play_part, run
from simulator.comparison import Row, Scene
from simulator.traces import Trace, batch, named


def part(trace: str, beyond: int = 0, over_bound: float = 1.2) -> Part:
    """Return what could have come of a trace."""
    row = Row(trace, "backlog", {"cost_over_bound": over_bound})
    return Part((row,), tuple(Duel(trace, rival, 60.0, 0.8, 0.0) for rival in RIVALS), (), beyond)


def test_the_fleet_is_a_benchmark_as_others_are() -> None:
    assert "fleet" in names()


def test_every_trace_has_a_target_of_its_own() -> None:
    assert list(named(1.0)) == list(OWN_TARGETS)


def test_the_comparison_is_for_a_fleet_of_nineteen_that_starts_from_nothing() -> None:
    assert (fleet_settings().min_workers, fleet_settings().max_workers, CONDITIONS.max_workers) == (0, 19, 19)
    assert fleet_settings().image_seconds == CONDITIONS.image_seconds


def test_a_trace_is_played_by_every_policy_and_tuned_to_five() -> None:
    played = play_part("batch-100", QUICK)
    assert [row.rule for row in played.rows] == [
        *("one per message", "target tracking", "KEDA accurate", "Ray Serve", "fixed 19", "backlog", "deadline")
    ]
    assert {each.rival for each in played.duels} == RIVALS
    assert [bar.what for bar in played.bars] == ["deadline, batch-100: cost ÷ clairvoyant bound, at p95 90 s"]
    assert played.beyond == 0
    assert min(row.measures["cost_over_bound"] for row in played.rows) >= 0.999999


def test_a_trace_is_drawn_where_it_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="./scripts/setup.sh simulate")
    play_part("batch-100", QUICK, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch-100.png", "batch-100.svg"]


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        (part("batch-100"), []),
        (part("batch-100", beyond=1), ["decisions beyond the maximum, every policy and trace"]),
        (part("batch-100", over_bound=0.99), ["cost ÷ clairvoyant bound, least of every policy and trace"]),
    ],
    ids=["nothing wrong", "beyond the maximum", "below the bound"],
)
def test_a_run_is_held_to_theory_to_aws_example_and_to_what_no_policy_may_do(
    monkeypatch: pytest.MonkeyPatch, worse: Part, missed: list[str]
) -> None:
    parts = [part("flash-crowd"), part("mmpp"), worse]
    monkeypatch.setattr(fleet, "_side_by_side", lambda *_: parts)
    report = run(quick=True)
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
