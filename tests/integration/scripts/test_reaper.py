"""The CPU time of a step of the tests is that of all its processes, also of those that no parent waits for."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ORPHAN = """
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        while time.process_time() < 1.5:
            pass
    os._exit(0)
os.wait()
sys.exit(3)
"""


def test_the_time_of_an_orphan_counts_and_the_status_is_that_of_the_command(tmp_path: Path) -> None:
    file = tmp_path / "cpu"
    step = [sys.executable, "-m", "tests.support.reaper", str(file), sys.executable, "-c", ORPHAN]
    assert subprocess.run(step, check=False, timeout=120).returncode == 3
    assert int(file.read_text()) >= 1
