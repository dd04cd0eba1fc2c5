"""kill -9 of each process in the middle of a batch, and strikes that last: every accepted image gets one result."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from localcloud.machines.machine import Process
from scripts.run.system import System
from tests.chaos.conftest import RunningSystem, run_system, signs
from tests.chaos.strikes import Action, Strike, Striker
from tests.support.waiting import NEVER_SECONDS, wait_until

pytestmark = pytest.mark.processes

RIGHT = 99


def test_all_three_tiers_killed_at_once_lose_no_image(running: RunningSystem) -> None:
    _kill_all_three(running)


def test_all_three_tiers_killed_at_once_lose_no_image_with_fifo_queues(tmp_path: Path) -> None:
    with run_system(tmp_path, "fifo") as running:
        _kill_all_three(running)


def _kill_all_three(running: RunningSystem) -> None:
    files, truth = signs(100, seed=9)
    job_id = running.api.create_job("all killed")
    outcome = running.upload(job_id, files)
    wait_until(lambda: running.api.status(job_id)["done"] >= 5, "the first images are classified")
    pids = [running.worker_pid(worker) for worker in running.workers()]
    for name in ("controller", "web", "hypervisor"):
        running.kill(name)
    _kill(pids)
    wait_until(running.api.ready, "the web tier answers again")
    running.wait_for_results(job_id, 100)
    assert running.right(job_id, outcome, truth) >= RIGHT


def _kill(pids: Sequence[int | None]) -> None:
    for pid in pids:
        try:
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it had ended by itself


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
        monkeypatch.setattr("tests.chaos.strikes.workers", lambda _system: [Process.with_pid(process.pid)])
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
