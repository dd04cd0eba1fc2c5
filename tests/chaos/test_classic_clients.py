"""Classic clients before the whole system: a fleet that starts from nothing, and workers that die while they wait."""

import os
import signal
import threading

import pytest

from scripts.load.drive import Load
from scripts.load.pictures import Pictures, drawn_signs
from scripts.load.target import parse_target
from tests.chaos.conftest import RunningSystem
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

CLIENTS = 100


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """A hundred drawn signs."""
    return drawn_signs(tmp_path_factory.mktemp("signs"), CLIENTS, 51, 128, lambda number: None)


def classic(running: RunningSystem, field: str) -> Load:
    return Load(parse_target(running.system.url, anywhere=False), "classic", CLIENTS, "/", field, 110)


def test_a_hundred_clients_before_a_cold_fleet_are_all_answered_right(
    running: RunningSystem, pictures: Pictures
) -> None:
    assert running.workers() == []
    summary = classic(running, "inputFile").run(pictures, threading.Event(), lambda images: None)
    assert (summary.failed, summary.lost) == (0, 0), summary
    assert summary.right >= CLIENTS - 1


def test_a_worker_that_dies_costs_its_clients_time_and_no_answer(running: RunningSystem, pictures: Pictures) -> None:
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
