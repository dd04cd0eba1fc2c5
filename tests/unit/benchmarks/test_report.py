"""Reports with their bars, and the command that shows them."""

import importlib
import inspect
import json
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.report import Bar, Report
from tests.conftest import ROOT

KEPT = Bar("images/s", 90.0, at_least=80)
BROKEN = Bar("seconds", 1.4, at_most=1.3)


@pytest.mark.parametrize(
    ("bar", "ok", "words"),
    [
        (Bar("x", 80, at_least=80), True, ">= 80"),
        (Bar("x", 79.9, at_least=80), False, ">= 80"),
        (Bar("x", 1.3, at_most=1.3), True, "<= 1.3"),
        (Bar("x", 1.31, at_most=1.3), False, "<= 1.3"),
        (Bar("x", 2, at_least=1, at_most=3), True, ">= 1 and <= 3"),
    ],
)
def test_a_bar_is_held_up_to_its_limits_and_no_further(bar: Bar, ok: bool, words: str) -> None:
    assert bar.ok is ok
    assert bar.bar == words


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_name_that_is_offered_has_a_function_that_takes_quick(name: str) -> None:
    function = importlib.import_module(f"benchmarks.{name}").run
    assert next(iter(inspect.signature(function).parameters)) == "quick"


def test_every_module_with_a_benchmark_is_offered() -> None:
    sources = (ROOT / "benchmarks").glob("*.py")
    assert {path.stem for path in sources if "\ndef run(quick" in path.read_text()} == set(BENCHMARKS)


@pytest.mark.parametrize(("bar", "status"), [(KEPT, 0), (BROKEN, 1)])
def test_the_exit_status_is_1_if_a_bar_is_missed(
    bar: Bar, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.idle.run", lambda quick: Report("idle", {"quick": quick}, (bar,)))
    assert main(["idle", "--quick", "--json", str(tmp_path / "d.json")]) == status
    assert json.loads((tmp_path / "d.json").read_text())["figures"] == {"quick": True}
