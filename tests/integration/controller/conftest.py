"""Real controllers on the local cloud, and what they act upon."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.config import Config
from core.fleet.models import FleetSnapshot
from core.fleet.store import FleetStore
from core.ids import ImageRef, new_id
from core.images import FORMATS
from core.jobs.models import ImageRecord, Job
from core.jobs.requests import request_images
from core.messages import ClassificationResult
from core.provision import provision
from services.clients import Clients
from tests.conftest import ConfigMaker, write_config
from tests.support.forked import ForkedPython
from tests.support.jobs import response_of
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.controller.services import ControllerServices

QUICK = {"interval_seconds": 0.05, "lease_seconds": 15, "reconcile_seconds": 0.2, "lost_after_seconds": 0.5}
"""A controller with little patience, so that tests need none.

Its lease is long: on a busy machine a controller may lose a short one, and then it ends, since nothing supervises it.
"""


def done(ref: ImageRef, label: str = "cat") -> ClassificationResult:
    """A worker's answer for an image that was classified."""
    return ClassificationResult(
        job_id=ref.job_id, image_id=ref.image_id, status="done", label=label, score=0.5, worker="i-1", attempts=1
    )


@dataclass
class Scene:
    """A configuration, its services and the controllers that were started on them."""

    config: Config
    config_file: Path
    wiring: ControllerServices
    log_dir: Path
    controllers: list[ForkedPython] = field(default_factory=list)

    def start_controller(self) -> ForkedPython:
        """Start a controller; its log is in `log_dir`."""
        log = self.log_dir / f"controller-{len(self.controllers)}.log"
        environment = {**os.environ, "FLEETSIGHT_CONFIG": str(self.config_file)}
        self.controllers.append(ForkedPython(("-m", "web_tier.controller"), environment, log))
        return self.controllers[-1]

    def kill_controller(self, number: int) -> None:
        """Kill controller `number`, and let the lease that it holds run out at once."""
        self.controllers[number].kill()
        self.controllers[number].wait()
        table = self.wiring.store.table
        if held := table.get("LEASE", "controller"):
            table.put_all([{**held, "holder": "", "version": int(held["version"]) + 1}])

    def work(self) -> None:
        """Run a worker until it has had nothing to do for a second."""
        environment = {
            **os.environ,
            "FLEETSIGHT_CONFIG": str(self.config_file),
            "FLEETSIGHT__WORKER__IDLE_SECONDS": "1",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9/",  # refuses at once
        }
        worker = ForkedPython(("-m", "app_tier"), environment, self.log_dir / "worker.log")
        assert worker.wait(DEADLINE_SECONDS) == 0

    def log(self, number: int = 0) -> str:
        """Return what controller `number` has logged."""
        return (self.log_dir / f"controller-{number}.log").read_text()

    def acts(self, number: int) -> bool:
        """Return whether controller `number` has taken the lease at some time."""
        return "holds the lease" in self.log(number)

    def add_job(self, images: int, *, request: bool = True) -> list[ImageRef]:
        """Make a job with accepted images, as the web tier does; return the images."""
        now, jpeg = datetime.now(UTC), FORMATS["JPEG"]
        job = Job(new_id(), "a job", now)
        records = [ImageRecord.of(job, new_id(), "cat.jpg", jpeg, 6, now) for _ in range(images)]
        for record in records:
            self.wiring.inputs.put(record, b"pixels", is_kept=True)
        self.wiring.store.create(job)
        self.wiring.store.record_images(records, now)
        if request:
            assert not request_images(self.wiring.requests, records, now, job.group)
        return [record.ref for record in records]

    def respond(self, responses: list[ClassificationResult]) -> None:
        """Send responses, as workers do."""
        assert not self.wiring.responses.send([response_of(response) for response in responses])

    def workers(self) -> int:
        """Return how many instances of the fleet are pending or running."""
        return len(self.wiring.fleet.instances(("pending", "running")))

    def snapshot(self) -> FleetSnapshot | None:
        """Return what the controller has reported of the fleet last."""
        return FleetStore(self.wiring.store.table).snapshot()

    def stop(self) -> None:
        """End every controller for good."""
        for controller in self.controllers:
            controller.send_signal(signal.SIGCONT)
            controller.kill()
            controller.wait()
        instances = self.wiring.fleet.instances()
        self.wiring.fleet.terminate([instance.instance_id for instance in instances])


SceneMaker = Callable[..., Scene]


@pytest.fixture
def make_scene(make_config: ConfigMaker, clients: Clients, tmp_path: Path) -> Iterator[SceneMaker]:
    """Make one scene: `make_scene(fleet={"max_workers": 3})`; everything in it ends with the test."""
    scenes: list[Scene] = []

    def make(**changes: dict[str, object]) -> Scene:
        fleet = {"max_workers": 19, "images_per_worker": 20, **changes.get("fleet", {})}
        config = make_config(**{**changes, "fleet": fleet, "controller": {**QUICK, **changes.get("controller", {})}})
        provision(clients, config)
        path = write_config(config, tmp_path / "config.yaml")
        scenes.append(Scene(config, path, ControllerServices.connect(config), tmp_path))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.stop()


@pytest.fixture
def scene(make_scene: SceneMaker) -> Scene:
    """A scene of 20 images a worker and a controller with little patience."""
    return make_scene()
