"""Queues, buckets and workers of one test, in a local cloud that the tests share."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core.config import Config
from core.ids import ImageRef, new_id
from core.jobs.keys import output_key, outputs_key
from core.jobs.pack_objects import TAR
from core.jobs.packs import pack_object
from core.messages import (
    ClassificationResult,
    Heartbeat,
    Prediction,
    RequestedModel,
    Response,
    StoredResults,
    parse_worker_message,
)
from core.provision import provision
from localcloud.launch import LocalCloud
from services.clients import Clients
from services.s3 import Bucket
from services.sqs import OutgoingMessage, Queue
from tests.conftest import ConfigMaker, write_config
from tests.support.forked import ForkedPython
from tests.support.waiting import DEADLINE_SECONDS
from tests.support.worker import key_of, new_request, request_for

ROOT = Path(__file__).parents[3]
NOWHERE = "http://127.0.0.1:9/"
"""Nothing listens on the discard port: a metadata service that refuses at once."""


@dataclass
class WorkerProcess:
    """A real `python -m app_tier` that logs to a file."""

    process: ForkedPython | subprocess.Popen[bytes]
    log_path: Path

    def wait(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)

    def log(self) -> list[dict[str, Any]]:
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def said(self, message: str) -> bool:
        return any(line["message"] == message for line in self.log())


@dataclass
class Site:
    """What one test does with the queues and buckets that its configuration names."""

    cloud: LocalCloud
    clients: Clients
    config: Config
    folder: Path
    workers: list[WorkerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config_file = write_config(self.config, self.folder / "config.yaml")
        self.inputs = Bucket.named(self.clients, self.config.names.input_bucket)
        self.outputs = Bucket.named(self.clients, self.config.names.output_bucket)
        self.requests = self._queue(self.config.names.request_queue)
        self.responses = self._queue(self.config.names.response_queue)
        self.dead_letters = self._queue(self.config.names.dead_letter_queue)

    def _queue(self, name: str) -> Queue:
        return Queue.named(self.clients.sqs, self.config.queue_name(name))

    def submit(self, images: Iterable[bytes], model: RequestedModel | None = None) -> list[ImageRef]:
        """Store each image and ask for it with `model`, as the web tier does for one user; return them in order."""
        job_id = new_id()
        refs = []
        messages = []
        for data in images:
            ref = ImageRef(job_id, new_id())
            request = request_for(ref).model_copy(update={"model": model})
            self.inputs.put(key_of(request), data, "image/jpeg")
            messages.append(OutgoingMessage(ref.image_id, request.to_json(), "alice"))
            refs.append(ref)
        assert self.requests.send(messages) == []
        return refs

    def submit_pack(self, images: Sequence[bytes]) -> list[ImageRef]:
        """Store images as the members of one object and ask for all of them; return them in order."""
        sizes = tuple(map(len, images))
        request = new_request().model_copy(update={"extension": TAR, "sizes": sizes})
        self.inputs.put(
            key_of(request), bytes(pack_object([("jpg", data) for data in images], len(images))), "application/x-tar"
        )
        assert self.requests.send([OutgoingMessage(request.pack_id, request.to_json(), "alice")]) == []
        return request.refs

    def start_worker(
        self, command: Sequence[str] = ("-m", "app_tier"), *, afresh: bool = False, **extra: str
    ) -> WorkerProcess:
        """Start a worker process, with imports of its own if `afresh`; `extra` is added to its environment."""
        log_path = self.folder / f"worker-{len(self.workers)}.log"
        environment = {
            **os.environ,
            **self.cloud.environment(),
            "FLEETSIGHT_CONFIG": str(self.config_file),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": NOWHERE,
            **extra,
        }
        if afresh:
            with log_path.open("wb") as log:
                started = subprocess.Popen(
                    [sys.executable, *command], cwd=ROOT, env=environment, stderr=log, stdout=log
                )
            worker = WorkerProcess(started, log_path)
        else:
            worker = WorkerProcess(ForkedPython(command, environment, log_path), log_path)
        self.workers.append(worker)
        return worker

    def collect(self, count: int, seconds: float = DEADLINE_SECONDS) -> dict[str, list[ClassificationResult]]:
        """Receive responses until `count` images have one, and return them all by image."""
        found: dict[str, list[ClassificationResult]] = {}
        deadline = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < deadline:
            messages = self.responses.receive(wait_seconds=1)
            for message in messages:
                parsed = parse_worker_message(message.body)
                for result in parsed.results if isinstance(parsed, Response) else ():
                    found.setdefault(result.image_id, []).append(result)
            self.responses.delete([message.receipt for message in messages])
        assert len(found) == count, (
            f"{len(found)} of {count} answered; {[w.log_path.read_text() for w in self.workers]}"
        )
        return found

    def left(self) -> Iterator[ClassificationResult | StoredResults | Heartbeat]:
        """Take everything out of the response queue: the results of responses one by one."""
        while messages := self.responses.receive(wait_seconds=0):
            self.responses.delete([message.receipt for message in messages])
            for message in messages:
                parsed = parse_worker_message(message.body)
                yield from parsed.results if isinstance(parsed, Response) else (parsed,)

    def heartbeats(self) -> list[Heartbeat]:
        """Take everything out of the response queue; return the heartbeats."""
        return [message for message in self.left() if isinstance(message, Heartbeat)]

    def prediction(self, ref: ImageRef) -> Prediction:
        return Prediction.from_json(self.outputs.get(output_key(ref)))

    def predictions_of_pack(self, refs: Sequence[ImageRef]) -> list[Prediction]:
        lines = self.outputs.get(outputs_key(refs[0].job_id, refs[0].image_id)).splitlines()
        return [Prediction.from_json(line) for line in lines]

    def end(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()


SiteMaker = Callable[..., Site]


@pytest.fixture
def make_site(cloud: LocalCloud, clients: Clients, make_config: ConfigMaker, tmp_path: Path) -> Iterator[SiteMaker]:
    """Make this test's site, with changes of its configuration; its workers end with the test."""
    made: list[Site] = []

    def make(**changes: dict[str, Any]) -> Site:
        config = make_config(**{**changes, "worker": {"idle_seconds": 1, **changes.get("worker", {})}})
        provision(clients, config)
        made.append(Site(cloud, clients, config, tmp_path))
        return made[-1]

    yield make
    for site in made:
        site.end()
