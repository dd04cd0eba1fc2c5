"""kill -9 of each process in the middle of a batch, and strikes that last: every accepted image gets one result."""

import os
import signal
from collections.abc import Sequence

import pytest

from tests.chaos.conftest import RunningSystem, signs
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

RIGHT = 99


def test_all_three_tiers_killed_at_once_lose_no_image(running: RunningSystem) -> None:
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
