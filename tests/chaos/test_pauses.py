"""Each process of `run.sh` is stopped for 15 seconds, as on a suspended machine: nothing ends or is lost."""

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from scripts.run.state import open_state
from tests.chaos.conftest import RunningSystem, run_system, signs
from tests.chaos.strikes import workers
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

PAUSE_SECONDS: Final = 15.0
SERVICES: Final = ("cloud", "hypervisor", "controller", "web")
PAUSED: Final = (*SERVICES, "worker")
IMAGES: Final = 60


def pause(running: RunningSystem, name: str) -> None:
    """Stop the processes of a service, or of all workers, for `PAUSE_SECONDS`."""
    first = running.system.supervisor.pid(name)
    groups = [first] if first is not None else [worker.pid for worker in workers(running.system)]
    assert groups
    for group in groups:
        os.killpg(group, signal.SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    for group in groups:
        os.killpg(group, signal.SIGCONT)


@pytest.mark.parametrize(
    ("has_state", "paused"), [(False, PAUSED), (True, ("cloud",))], ids=["without a state", "with a state"]
)
def test_a_pause_of_each_process_in_turn_ends_nothing_and_loses_no_image(
    tmp_path: Path, has_state: bool, paused: tuple[str, ...]
) -> None:
    """Row 67. Only the local cloud has a state, or is another process with one."""
    with ExitStack() as ends:
        state = open_state(tmp_path / "state") if has_state else None
        if state is not None:
            ends.callback(os.close, state.lock)
        running = ends.enter_context(run_system(tmp_path / "home", state=state))
        supervisor = running.system.supervisor
        started = {name: supervisor.pid(name) for name in SERVICES}
        for number, name in enumerate(paused):
            files, truth = signs(IMAGES, seed=300 + number)
            job_id = running.api.create_job(f"{name} stopped")
            outcome = running.upload(job_id, files)
            wait_until(lambda: running.api.status(job_id)["done"], "a worker works")  # noqa: B023 - at once
            pause(running, name)
            running.wait_for_results(job_id, IMAGES)
            assert running.right(job_id, outcome, truth) >= IMAGES - 1
            assert {each: supervisor.pid(each) for each in SERVICES} == started, f"{name} stopped, something ended"
