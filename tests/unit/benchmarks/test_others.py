"""What other work took of the CPUs is told apart from what we took, and from nothing."""

import os
from pathlib import Path

import pytest

from benchmarks.others import watch_others

TICKS = os.sysconf("SC_CLK_TCK")


def stat(path: Path, user: float, idle: float) -> Path:
    """Write a ``/proc/stat`` of a machine that was busy and idle for so many seconds."""
    path.write_text(f"cpu  {int(user * TICKS)} 0 0 {int(idle * TICKS)} 0 0 0 0 0 0\ncpu0 1 2 3\n")
    return path


@pytest.mark.parametrize(("others", "trusted"), [(0.0, True), (1000.0, False)])
def test_a_machine_that_is_busy_with_something_else_is_not_trusted(
    others: float, trusted: bool, tmp_path: Path
) -> None:
    path = stat(tmp_path / "stat", 10, 10)
    with watch_others(path) as share:
        stat(path, 10 + others, 99)
    assert (share.ratio > 0) is not trusted
    assert share.trusted is trusted
