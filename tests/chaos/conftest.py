"""The whole system as `scripts/run.sh` starts it, on ports and folders of its own, for tests that break it."""

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fleetsight_client.api import ApiClient, UploadResult
from localcloud.clients import ControlClient
from localcloud.machines.machine import Machine
from scripts.demo_model.signs import SizeShares, samples
from scripts.run.state import OpenState
from scripts.run.system import System
from services.ec2 import Fleet, Instance
from tests.support.systems import running_system
from tests.support.waiting import wait_until


@dataclass
class RunningSystem:
    """A system under test, seen through its public API and its cloud."""

    system: System
    api: ApiClient
    fleet: Fleet
    max_seen: int = 0
    truth: dict[str, str] = field(default_factory=dict)

    def workers(self) -> list[Instance]:
        """Instances that are pending or running."""
        alive = self.fleet.instances(("pending", "running"))
        self.max_seen = max(self.max_seen, len(alive))
        return alive

    def worker_pid(self, instance: Instance) -> int | None:
        """The process of an instance, as its local hypervisor wrote it down."""
        process = Machine(self.system.state_dir / "instances" / instance.instance_id).process()
        return None if process is None else process.pid

    def upload(self, job_id: str, files: list[tuple[str, bytes]], slice_size: int = 20) -> UploadResult:
        """Upload files in slices, four at a time; a slice that fails counts as not acknowledged."""
        slices = [files[at : at + slice_size] for at in range(0, len(files), slice_size)]
        with ThreadPoolExecutor(4) as uploaders:
            outcomes = list(uploaders.map(lambda part: self.api.add_images(job_id, part), slices))
        return UploadResult(
            [image for outcome in outcomes for image in outcome.accepted],
            [file for outcome in outcomes for file in outcome.rejected],
        )

    def wait_for_results(self, job_id: str, accepted: int) -> None:
        """Wait until every accepted image has a result."""

        def ended() -> bool:
            self.workers()
            status = self.api.status(job_id)
            return bool(status["done"] + status["failed"] >= accepted and status["state"] == "finished")

        wait_until(ended, f"all {accepted} images of {job_id} have a result")

    def right(self, job_id: str, outcome: UploadResult, truth: dict[str, str]) -> int:
        """Assert that each acknowledged image has exactly one result, a label; return how many are right.

        An image with an empty truth has none.
        """
        results = list(self.api.results(job_id))
        names = Counter(result["filename"] for result in results)
        assert [name for name, times in names.items() if times > 1] == [], "an image has two results"
        by_id = {result["image_id"]: result for result in results}
        good = [by_id[image_id] for image_id, name in outcome.accepted if truth[name]]
        assert [result for result in good if result["status"] != "done"] == [], "an image failed that is good"
        return sum(by_id[image_id]["label"] == truth[name] for image_id, name in outcome.accepted)

    def set_switches(self, **switches: Any) -> None:
        """Set switches of the local cloud."""
        with closing(ControlClient(self.system.endpoint_url)) as cloud:
            cloud.call("PUT", "switches", switches)

    def kill(self, name: str) -> int:
        """Kill a supervised service with -9, with all its processes; return the id of its first."""
        pid = self.system.supervisor.pid(name)
        assert pid is not None
        os.killpg(pid, signal.SIGKILL)
        return pid


SIZES: SizeShares = (((64, 64), 0.3), ((128, 96), 0.3), ((150, 200), 0.3), ((640, 480), 0.1))
"""Sizes of signs, in pixels. A megapixel takes a quarter of a second to draw."""


def signs(count: int, seed: int) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """Return drawn signs as files, and their labels by filename."""
    drawn = list(samples(count, seed, SIZES))
    return [(sample.filename, sample.data) for sample in drawn], {sample.filename: sample.label for sample in drawn}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A whole system for the tests of a module."""
    with run_system(tmp_path_factory.mktemp("system")) as started:
        yield started


@contextmanager
def run_system(
    home: Path,
    kind: str = "standard",
    state: OpenState | None = None,
    *,
    patient: bool = False,
    visibility_seconds: int = 6,
    extensions: Sequence[str] = (),
) -> Iterator[RunningSystem]:
    """Run a whole system with queues of a kind.

    Its time-outs are short, so that what a test kills is soon replaced; a busy machine may exceed them, which costs
    an image a try. With `patient`, they are those of `config.yaml`.
    """
    settings = {
        "FLEETSIGHT__QUEUES__KIND": kind,
        "FLEETSIGHT__CONTROLLER__RECONCILE_SECONDS": "2",
        "FLEETSIGHT__WORKER__IDLE_SECONDS": "2",
        "FLEETSIGHT__FLEET__MAX_WORKERS": "4",
    }
    if not patient:
        settings |= {
            "FLEETSIGHT__QUEUES__VISIBILITY_TIMEOUT_SECONDS": str(visibility_seconds),
            "FLEETSIGHT__CONTROLLER__LEASE_SECONDS": "2",
            "FLEETSIGHT__CONTROLLER__LOST_AFTER_SECONDS": "15",
        }
    with running_system(home, settings, state=state, extensions=extensions) as system:
        fleet = Fleet(system.clients.ec2, system.config.names.worker_instance)
        yield RunningSystem(system, ApiClient(system.url), fleet)
