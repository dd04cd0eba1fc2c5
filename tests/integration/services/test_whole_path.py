"""The tiers as processes over the emulator: nothing of our own stands for AWS between an upload and its result."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.config import PATH_VARIABLE, Config
from core.ids import pack_of
from core.provision import provision
from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import samples
from services.ec2 import Fleet
from services.s3 import Bucket
from services.sqs import Queue
from tests.conftest import keys_in
from tests.integration.services.conftest import WirePlace
from tests.integration.web_tier.conftest import serving, two_processes
from tests.support.forked import ForkedPython
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

IMAGES, RIGHT = 100, 99
"""Images of the test, and how many of them the demo model is to recognize."""


@contextmanager
def program(module: str, config_file: Path, log: Path) -> Iterator[ForkedPython]:
    """Run a tier as a process while the context lasts; it is no EC2 instance."""
    own = {PATH_VARIABLE: str(config_file), "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9/"}
    process = ForkedPython(("-m", module), os.environ | own, log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE_SECONDS)


def configured(emulator: WirePlace, kind: str) -> Config:
    """Return a configuration with two workers, of which what one has in hand comes again soon."""
    return emulator.config(
        web=two_processes(),
        queues={"kind": kind, "visibility_timeout_seconds": 6},
        controller={"reconcile_seconds": 1},
        worker={"idle_seconds": DEADLINE_SECONDS},
        fleet={"policy": "fixed", "max_workers": 2},
    )


@pytest.mark.parametrize("kind", ["standard", pytest.param("fifo", marks=pytest.mark.thorough)])
def test_every_image_gets_one_right_result_over_the_emulator_when_a_worker_is_killed(
    emulator: WirePlace, tmp_path: Path, kind: str
) -> None:
    config, clients = configured(emulator, kind), emulator.clients
    provision(clients, config)
    signs = list(samples(IMAGES, seed=46))
    truth = {sign.filename: sign.label for sign in signs}
    files = [(sign.filename, sign.data) for sign in signs]
    with serving(config, tmp_path) as web:
        path, api = tmp_path / "config.yaml", ApiClient(web.url)
        with (
            program("web_tier.controller", path, tmp_path / "controller.log"),
            program("app_tier", path, tmp_path / "killed.log") as killed,
            program("app_tier", path, tmp_path / "worker.log"),
        ):
            job_id = api.create_job("judged")
            accepted = [*api.add_images(job_id, files[:60]).accepted]
            wait_until(lambda: api.status(job_id)["done"] >= 5, "the first images are classified")
            killed.kill()
            accepted += api.add_images(job_id, files[60:]).accepted
            wait_until(lambda: api.status(job_id)["state"] == "finished", "every image has a result")
            results = list(api.results(job_id))
            wait_until(lambda: len(Fleet(clients.ec2, config.names.worker_instance).instances()) == 2, "EC2 has both")
            queues = [config.names.request_queue, config.names.dead_letter_queue]
            for name in queues:
                queue = Queue.named(clients.sqs, config.queue_name(name))
                wait_until(lambda: queue.counts().total == 0, "the queue is empty")  # noqa: B023
    assert Counter(result["image_id"] for result in results) == Counter(image_id for image_id, _ in accepted)
    assert {result["status"] for result in results} == {"done"}
    assert sum(result["label"] == truth[result["filename"]] for result in results) >= RIGHT
    outputs = Bucket.named(clients, config.names.output_bucket)
    assert {key for key in keys_in(outputs, job_id) if "/results" not in key} == {
        f"{job_id}/{pack_id}.{'json' if images == 1 else 'jsonl'}"
        for pack_id, images in Counter(pack_of(image_id) for image_id, _ in accepted).items()
    }
