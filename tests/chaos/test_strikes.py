"""A strike that lasts takes memory or disk away from a real process, and gives it back."""

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from scripts.chaos.strikes import Action, Strike, Striker
from scripts.run.system import System
from tests.support.waiting import NEVER_SECONDS

pytestmark = pytest.mark.processes

PROGRAM = """
import sys
for line in sys.stdin:
    try:
        bytearray(1 << 30)
        with open(sys.argv[1], "w") as file:
            file.write("x")
    except (OSError, MemoryError) as error:
        print(type(error).__name__, flush=True)
    else:
        print("done", flush=True)
"""
ALONE = [sys.executable, "-c", PROGRAM]
WITH_PARENT = ["/bin/sh", "-c", '"$@"; true', "sh", *ALONE]


@pytest.mark.parametrize(
    ("action", "command", "error"),
    [("no_memory", ALONE, "MemoryError"), ("disk_full", ALONE, "OSError"), ("disk_full", WITH_PARENT, "OSError")],
)
def test_a_process_without_memory_or_disk_gets_it_back(
    action: Action, command: list[str], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[dict[str, Any]] = []
    striker = Striker(cast(System, None), 0, NEVER_SECONDS, log.append)
    with subprocess.Popen(
        [*command, str(tmp_path / "file")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        monkeypatch.setattr(striker, "_pids", lambda _victim: [process.pid])
        assert tries(process) == "done"
        striker._strike(Strike(0.0, "worker", action, 0.0, NEVER_SECONDS))
        assert tries(process) == error
        striker._end_lasting(float("inf"))
        assert tries(process) == "done"
        process.kill()
    assert [(each["action"], each["pid"]) for each in log] == [(action, process.pid)]
    assert (len(striker.moments), striker.kills) == (1, 0)


def tries(process: "subprocess.Popen[str]") -> str:
    """Have the process allocate memory and write to its file; return what came of it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()
