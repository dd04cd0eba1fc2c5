"""Classic clients before the whole system: a fleet that starts from nothing, and workers that die while they wait."""

import os
import signal
import threading
from pathlib import Path

import pytest

from scripts.load.inputs import LoadImages, drawn_signs, parse_target
from scripts.load.runner import LoadTest
from tests.chaos.conftest import RunningSystem
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

CLIENTS = 100


def hundred_signs(folder: Path, seed: int) -> LoadImages:
    return drawn_signs(folder, CLIENTS, seed, 128, lambda number: None)


def classic(running: RunningSystem, field: str) -> LoadTest:
    return LoadTest(parse_target(running.system.url, anywhere=False), "classic", CLIENTS, "/", field, 110)


def test_a_hundred_clients_before_a_cold_fleet_are_all_answered_right(running: RunningSystem, tmp_path: Path) -> None:
    pictures = hundred_signs(tmp_path, seed=51)
    assert running.workers() == []
    summary = classic(running, "inputFile").run(pictures, threading.Event(), lambda images: None)
    assert (summary.failed, summary.lost) == (0, 0), summary
    assert summary.right >= CLIENTS - 1


def test_a_worker_that_dies_costs_its_clients_time_and_no_answer(running: RunningSystem, tmp_path: Path) -> None:
    pictures = hundred_signs(tmp_path, seed=53)
    killed, first = list[int](), threading.Lock()

    def kill_a_worker(_answered: int) -> None:
        """Kill a worker at the first answer, when most images are still in hand."""
        if first.acquire(blocking=False):
            pids = [pid for instance in running.workers() if (pid := running.worker_pid(instance))]
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

    summary = classic(running, "myfile").run(pictures, threading.Event(), kill_a_worker)
    assert killed
    assert (summary.failed, summary.lost) == (0, 0), summary
    assert summary.right >= CLIENTS - 1
    wait_until(lambda: not running.workers(), "the fleet has ended itself")
