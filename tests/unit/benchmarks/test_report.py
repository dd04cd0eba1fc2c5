"""The command of the benchmarks ends by its bars."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.report import Bar, Report


@pytest.mark.parametrize(
    ("bar", "status"),
    [
        (Bar("x", 80, at_least=80), 0),
        (Bar("x", 79.9, at_least=80), 1),
        (Bar("x", 1.3, at_most=1.3), 0),
        (Bar("x", 1.31, at_most=1.3), 1),
        (Bar("x", 2, at_least=1, at_most=3), 0),
    ],
)
def test_the_exit_status_is_1_if_a_bar_is_missed(
    bar: Bar, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.idle.run", lambda quick: Report("idle", {"quick": quick}, (bar,)))
    assert main(["idle", "--quick", "--json", str(tmp_path / "d.json")]) == status
    written = json.loads((tmp_path / "d.json").read_text())
    assert (written["figures"], written["bars"][0]["ok"]) == ({"quick": True}, status == 0)
