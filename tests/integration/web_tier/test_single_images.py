"""Hundreds of classic clients at once over the wire: each waits for its own image, and gets its own answer."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from core.config import Config
from core.jobs.store import JobStore
from core.messages import RequestMessage, Response
from scripts.load.drive import Load
from scripts.load.pictures import Pictures
from scripts.load.target import parse_target
from scripts.run.system import free_port
from services.clients import Clients
from services.s3 import Bucket
from services.sqs import Queue
from tests.conftest import ConfigMaker
from tests.integration.web_tier.conftest import WebTier, serving
from tests.support.pictures import picture
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

CLIENTS = 100


def label_of(data: bytes) -> str:
    """Return a label that only this image has."""
    return hashlib.sha256(data).hexdigest()[:12]


@dataclass
class Worker:
    """Answers requests with a label made of the image's content, once `begin` is set."""

    config: Config
    clients: Clients
    store: JobStore
    begin: threading.Event = field(default_factory=threading.Event)
    end: threading.Event = field(default_factory=threading.Event)
    seen: int = 0

    def run(self) -> None:
        self.begin.wait()
        queue = Queue.named(self.clients.sqs, self.config.queue_name(self.config.names.request_queue))
        bucket = Bucket.named(self.clients, self.config.names.input_bucket)
        while not self.end.is_set():
            messages = queue.receive(wait_seconds=1)
            self.store.put_done([self._answer(bucket, RequestMessage.from_json(each.body)) for each in messages])
            queue.delete([each.receipt for each in messages])
            self.seen += len(messages)

    def _answer(self, bucket: Bucket, message: RequestMessage) -> Response:
        label = label_of(bucket.get(message.key))
        return Response(
            job_id=message.job_id,
            image_id=message.image_id,
            status="done",
            label=label,
            score=1,
            worker="i-1",
            attempts=1,
        )


@pytest.fixture
def worker(config: Config, provisioned: Clients, store: JobStore) -> Iterator[Worker]:
    worker = Worker(config, provisioned, store)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    yield worker
    worker.end.set()
    worker.begin.set()
    thread.join(DEADLINE_SECONDS)


@pytest.fixture
def web(provisioned: Clients, make_config: ConfigMaker, tmp_path: Path) -> Iterator[WebTier]:
    """A web tier as it is configured by default, two processes with many threads."""
    with serving(make_config(web={"port": free_port()}), tmp_path) as web:
        yield web


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    files = [tmp_path / f"image-{number}.jpg" for number in range(CLIENTS)]
    for number, file in enumerate(files):
        file.write_bytes(picture(shade=number, size=(16, 12 + number // 50)))
    return Pictures(files, CLIENTS, {file.name: label_of(file.read_bytes()) for file in files})


@pytest.mark.parametrize("field_name", ["myfile", "inputFile"])
def test_a_hundred_that_wait_at_once_each_get_the_answer_to_their_own_image(
    web: WebTier, worker: Worker, pictures: Pictures, field_name: str
) -> None:
    load = Load(parse_target(web.url, anywhere=False), "classic", CLIENTS, "/", field_name, 60)

    def all_wait() -> None:
        # Nothing is answered before all are accepted, so that all of them wait at the same time.
        queue = Queue.named(worker.clients.sqs, web.config.queue_name(web.config.names.request_queue))
        wait_until(lambda: queue.counts().visible == CLIENTS or worker.end.is_set(), "all images are accepted")
        worker.begin.set()

    starter = threading.Thread(target=all_wait, daemon=True)
    starter.start()
    summary = load.run(pictures, threading.Event(), lambda images: None)
    assert summary.ok, summary
    assert summary.right == CLIENTS
    starter.join(DEADLINE_SECONDS)


def test_the_images_of_each_process_share_a_job(
    web: WebTier, worker: Worker, pictures: Pictures, store: JobStore
) -> None:
    worker.begin.set()
    load = Load(parse_target(web.url, anywhere=False), "classic", CLIENTS, "/file-upload", "myfile", 60)
    assert load.run(pictures, threading.Event(), lambda images: None).ok
    jobs = store.jobs(50)
    assert {job.name for job in jobs} == {"Single images"}
    assert len(jobs) <= 2 * web.config.web.processes, "one of each process, or two around the turn of its minute"
    assert sum(store.status(job.job_id).accepted for job in jobs) == CLIENTS


def test_an_answer_has_no_line_end_and_leads_nowhere_else(web: WebTier, worker: Worker) -> None:
    worker.begin.set()
    data = picture()
    files = {"inputFile": ("test.00.JPEG", data)}
    answer = requests.post(f"{web.url}/", files=files, timeout=120, allow_redirects=False)
    assert (answer.status_code, answer.content) == (200, f"test.00:{label_of(data)}".encode())
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_a_client_that_hangs_up_while_it_waits_disturbs_no_other(web: WebTier, worker: Worker) -> None:
    data = picture()
    body = b'--b\r\nContent-Disposition: form-data; name="myfile"; filename="a.jpg"\r\n\r\n' + data + b"\r\n--b--\r\n"
    head = (
        f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", web.port), timeout=120) as connection:
            connection.sendall(head.encode() + body)
    worker.begin.set()
    answer = requests.post(f"{web.url}/classify", files={"myfile": ("a.jpg", data)}, timeout=120)
    assert (answer.status_code, answer.text) == (200, label_of(data))
