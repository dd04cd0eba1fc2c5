"""A system with a state: kill -9 of its local cloud, or of everything, loses no image that was acknowledged."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleetsight_client.api import ApiError, UploadResult
from scripts.run.state import OpenState, open_state
from tests.chaos.conftest import RunningSystem, run_system, signs
from tests.chaos.strikes import workers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

IMAGES = 120
KILLS = 3
RIGHT = IMAGES - 1
SLICE = 10


@contextmanager
def opened(path: Path) -> Iterator[OpenState]:
    """Use a state, as `run.sh --state` does."""
    state = open_state(path)
    try:
        yield state
    finally:
        os.close(state.lock)


def upload(running: Callable[[], RunningSystem], job_id: str, files: list[tuple[str, bytes]]) -> UploadResult:
    """Upload files to the present system in slices, four at a time, each under its key until it is acknowledged."""

    def send(start: int) -> UploadResult:
        def acknowledged() -> UploadResult | None:
            try:
                return running().api.add_images(job_id, files[start : start + SLICE], key=f"slice-{start}")
            except ApiError:
                return None

        return wait_until(acknowledged, f"the images from {start} are acknowledged")

    with ThreadPoolExecutor(4) as senders:
        outcomes = list(senders.map(send, range(0, len(files), SLICE)))
    return UploadResult([each for outcome in outcomes for each in outcome.accepted], [])


def has_results(running: RunningSystem, job_id: str, count: int) -> bool:
    """Return True if a job has so many results; False also if the system does not answer."""
    try:
        return bool(running.api.status(job_id)["done"] >= count)
    except ApiError:
        return False


@pytest.mark.thorough
def test_a_local_cloud_that_is_killed_again_and_again_under_load_loses_no_image(tmp_path: Path) -> None:
    files, truth = signs(IMAGES, seed=41)
    with opened(tmp_path / "state") as state, run_system(tmp_path / "home", state=state) as running:
        job_id = running.api.create_job("cloud killed")
        with ThreadPoolExecutor(1) as client:
            sent = client.submit(upload, lambda: running, job_id, files)
            for number in range(KILLS):
                wait_until(lambda: has_results(running, job_id, 1 + 30 * number), "results come")  # noqa: B023 - at once
                killed = running.kill("cloud")
                wait_until(
                    lambda: running.system.supervisor.pid("cloud") not in {None, killed},  # noqa: B023 - at once
                    "the local cloud is started again",
                )
            outcome = sent.result()
        wait_until(lambda: has_results(running, job_id, IMAGES), "every image has a result")
        running.wait_for_results(job_id, IMAGES)
        assert len(outcome.accepted) == IMAGES
        assert running.right(job_id, outcome, truth) >= RIGHT
        assert running.api.status(job_id)["accepted"] == IMAGES
        assert not running.system.supervisor.failed.is_set()


def kill_everything(running: RunningSystem) -> None:
    """Kill every process of a system with -9, so that none can do anything more."""
    running.system.supervisor._stopping.set()  # the command that would start them again is killed, too
    machines = workers(running.system)
    for name in ("cloud", "hypervisor", "controller", "web"):
        running.kill(name)
    for machine in machines:
        machine.signal_group(signal.SIGKILL)


def kill_everything_again_and_again(folder: Path, images: int, kills: int, seed: int) -> None:
    """Send images to a system of which everything is killed at random moments, and check every image."""
    files, truth = signs(images, seed=seed)
    moments = random.Random(seed)
    present, done = list[RunningSystem](), 0
    with ThreadPoolExecutor(1) as client:
        for number in range(kills + 1):
            with opened(folder / "state") as state, run_system(folder / "home", state=state) as running:
                present[:] = [running]
                if number == 0:
                    job_id = running.api.create_job("everything killed")
                    sent = client.submit(upload, lambda: present[0], job_id, files)
                assert running.api.status(job_id)["done"] >= done, "a recorded result is lost"
                if number < kills:
                    enough = max(1, images * (2 * number + 1) // (2 * kills + 2))
                    wait_until(lambda: has_results(running, job_id, enough), "results come")  # noqa: B023 - at once
                    time.sleep(moments.uniform(0, 0.5))
                    done = running.api.status(job_id)["done"]
                    kill_everything(running)
                else:
                    outcome = sent.result()
                    assert len(outcome.accepted) == len({image_id for image_id, _ in outcome.accepted}) == images
                    running.wait_for_results(job_id, images)
                    assert running.right(job_id, outcome, truth) >= images * RIGHT // IMAGES
                    assert running.api.status(job_id)["accepted"] == images
                    results = list(running.api.results(job_id))
                    assert {result["image_id"] for result in results} == {
                        image_id for image_id, _ in outcome.accepted
                    }
    with opened(folder / "state") as state, run_system(folder / "home", state=state) as running:
        assert list(running.api.results(job_id)) == results


def test_a_system_of_which_everything_is_killed_three_times_continues_with_its_state(tmp_path: Path) -> None:
    kill_everything_again_and_again(tmp_path, IMAGES, kills=3, seed=42)
