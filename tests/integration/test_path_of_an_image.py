"""The architecture's page lists what an image really passes: one is sent through the whole system and traced."""

import io
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from flask.testing import FlaskClient

from app_tier.classify import Classifier
from app_tier.models import ModelOpener
from app_tier.startup import open_model
from app_tier.worker import Worker, open_services
from core.config import Config
from services.clients import Clients
from services.lease import Tenure
from tests.conftest import ROOT
from tests.support.unsandboxed import central_crop, inspect
from tests.support.waiting import wait_until
from tests.support.worker import picture
from web_tier.app import create_app
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.controller.loops import controller_loops
from web_tier.controller.services import ControllerServices

ARCHITECTURE = ROOT / "docs" / "architecture.md"


def listed() -> set[tuple[str, str]]:
    """Return the modules and functions, or classes, of the page's table."""
    _, _, after = ARCHITECTURE.read_text(encoding="utf-8").partition("## The path of an image")
    found = set()
    for row in re.findall(r"^\|.*\.py`.*\|$", after.partition("\n## ")[0], re.MULTILINE):
        module, *functions = re.findall(r"`([^`]+)`", row)
        found |= {(module, function) for function in functions}
    return found


@contextmanager
def traced() -> Iterator[set[tuple[str, str]]]:
    """Collect the project's modules, classes and functions that are called, also in threads that start meanwhile."""
    called = set[tuple[str, str]]()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            module, name = str(Path(frame.f_code.co_filename).relative_to(ROOT)), frame.f_code.co_qualname
            called.update({(module, name), (module, name.partition(".")[0])})

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@contextmanager
def working(config: Config) -> Iterator[None]:
    """Run a worker in threads of this process, which also decodes: a sandboxed process could not be traced."""
    services, (model, sizing) = open_services(config), open_model(config)
    worker = Worker(
        config,
        services,
        Classifier("worker", config.worker.top_k),
        model,
        ModelOpener(config, sizing),
        services.responses.send,
        decoder=central_crop,
    )
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.lifetime.end("stopped")
        thread.join()


def send_picture(client: FlaskClient) -> str:
    """Send one picture into a new job; return the job's id."""
    job_id = str(client.post("/api/v1/jobs", json={}).get_json()["job_id"])
    form = {"images": (io.BytesIO(picture("red")), "red.png", "image/png")}
    assert client.post(f"/api/v1/jobs/{job_id}/images", data=form).status_code == 200
    return job_id


def test_an_image_passes_every_function_of_the_architecture_page(config: Config, provisioned: Clients) -> None:
    with traced() as called:
        client = create_app(config, inspect=inspect).test_client()
        job_id = send_picture(client)
        events = client.get(f"/api/v1/jobs/{job_id}/events").iter_encoded()
        next(events)
        services = ControllerServices.connect(config)
        watcher = FleetConfigWatcher(Path("config.yaml"), config.fleet)
        loops = {loop.name: loop.work for loop in controller_loops(services, watcher, Tenure(token=1))}

        def is_answered() -> bool:
            loops["collector"].tick()
            return bool(client.get(f"/api/v1/jobs/{job_id}").get_json()["done"])

        with working(config):
            wait_until(is_answered, "the image has its label")
        assert b"event: end" in list(events)[-1]
        assert client.get(f"/jobs/{job_id}", headers={"Accept": "text/html"}).status_code == 200
    assert len(listed()) > 30
    assert listed() - called == set()
