"""Uploads: through real gunicorn processes into the local cloud, and repeated by their key."""

import json
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from gunicorn.arbiter import Arbiter
from werkzeug.test import TestResponse

from core.config import Config
from core.images import ImageLimits
from core.jobs.buckets import InputBucket
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from core.jobs.uploads import MAX_FILES
from core.messages import RequestMessage
from core.provision import provision
from services.clients import Clients
from services.lease import Tenure
from services.s3 import Bucket
from services.sqs import Queue
from services.table import Table, TableBusyError
from tests.conftest import ConfigMaker, keys_in
from tests.integration.web_tier.conftest import WebTier, cloud_table, serving, two_processes
from tests.support.jobs import count_images, picture
from tests.support.later_buckets import LaterBuckets
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.processes import take_memory
from tests.support.unsandboxed import inspect
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.controller.orphans import OrphanSweep
from web_tier.uploads.idempotency import ReusedKeyError, ingest_idempotent
from web_tier.uploads.ingest import ImageIngest
from web_tier.uploads.multipart import CHUNK_BYTES, Upload

pytestmark = pytest.mark.processes

table = cloud_table

Form = list[tuple[str, tuple[str, bytes]]]


def images(count: int) -> Form:
    return [("f", ("same.jpg", picture(size=(8, index + 1)))) for index in range(count)]


@pytest.fixture
def config(shared_tier: WebTier) -> Config:
    """The configuration of the shared web tier, so that `store`, `client` and the like are of its table and queue."""
    return shared_tier.config


def received_images(web: WebTier, clients: Clients, job: str) -> list[str]:
    """Return the image ids of all messages of a job in the request queue."""
    queue = Queue.named(clients.sqs, web.config.queue_name(web.config.names.request_queue))
    found = []
    while batch := queue.receive(wait_seconds=0):
        found += [RequestMessage.from_json(message.body) for message in batch]
    return [ref.image_id for message in found for ref in message.refs if ref.job_id == job]


def upload(
    web: WebTier, job: str, files: Form, key: str | None = None, timeout_seconds: float = 60
) -> requests.Response:
    headers = {"Idempotency-Key": key} if key else None
    url = f"{web.url}/api/v1/jobs/{job}/images"
    return requests.post(url, files=files, headers=headers, timeout=timeout_seconds)


def test_a_process_without_memory_is_replaced(clients: Clients, make_config: ConfigMaker, tmp_path: Path) -> None:
    config, hurried = make_config(web=two_processes()), tmp_path / "configuration.py"
    provision(clients, config)
    hurried.write_text(HURRIED)
    with serving(config, tmp_path, "-c", str(hurried)) as web_tier:
        replace_processes(web_tier)


HURRIED = """
from services import threads
threads.BEGIN_SECONDS = 1.0
from web_tier.gunicorn import *
timeout = 5
"""
"""The configuration of production, with shorter times for a process that cannot do anything."""


def replace_processes(web_tier: WebTier) -> None:
    job, before = web_tier.create_job(), set(web_tier.workers())
    take_memory(before)

    def is_replaced() -> bool:
        with suppress(requests.RequestException):
            upload(web_tier, job, images(20), timeout_seconds=1)
        return not before & set(web_tier.workers())

    wait_until(is_replaced, "both processes are replaced", details=web_tier.log.read_text)
    assert upload(web_tier, job, images(20)).status_code == 200
    # A web tier without memory ends, so that its supervisor starts another.
    take_memory([web_tier.process.pid])
    os.kill(web_tier.workers()[0], signal.SIGKILL)
    assert web_tier.process.wait(DEADLINE_SECONDS) == Arbiter.WORKER_BOOT_ERROR


HALF_AN_UPLOAD = 50
"""Images of which the end of their request does not come."""

STORED_OBJECTS = 12
"""Objects that are put of them at least: the last images wait until their packs are full."""


def half_an_upload(web: WebTier, job: str, files: int) -> socket.socket:
    """Send a form of `files` images without its end; return the open connection."""
    # The last part is long enough for the server to read on and see what is before it.
    contents = [*(picture(size=(8, 1 + index)) for index in range(files)), bytes(2 * CHUNK_BYTES)]
    parts = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\n' + content + b"\r\n"
        for content in contents
    )
    head = (
        f"POST /api/v1/jobs/{job}/images HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(parts) + 1_000_000}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", web.port), timeout=120)
    connection.sendall(head.encode() + parts)
    return connection


def wait_for_keys(bucket: Bucket, job: str, count: int) -> None:
    wait_until(lambda: len(keys_in(bucket, job)) >= count, f"{count} objects of the job are stored")


def test_an_upload_that_breaks_off_leaves_nothing(
    shared_tier: WebTier, provisioned: Clients, store: JobStore
) -> None:
    job = shared_tier.create_job()
    bucket = Bucket.named(provisioned, shared_tier.config.names.input_bucket)
    with half_an_upload(shared_tier, job, HALF_AN_UPLOAD):
        wait_for_keys(bucket, job, STORED_OBJECTS)
    wait_until(lambda: keys_in(bucket, job) == [], "no object of the job is left")
    assert (count_images(store, job), received_images(shared_tier, provisioned, job)) == (0, [])


def test_a_process_killed_in_an_upload_acknowledges_nothing_and_leaves_no_object(
    shared_tier: WebTier, provisioned: Clients, store: JobStore
) -> None:
    job = shared_tier.create_job()
    bucket = Bucket.named(provisioned, shared_tier.config.names.input_bucket)
    with half_an_upload(shared_tier, job, HALF_AN_UPLOAD) as connection:
        wait_for_keys(bucket, job, STORED_OBJECTS)
        for worker in shared_tier.workers():
            os.kill(worker, signal.SIGKILL)
        assert connection.recv(100) == b""
    assert (count_images(store, job), received_images(shared_tier, provisioned, job)) == (0, [])
    strays = set(keys_in(bucket, job))
    assert upload(shared_tier, job, images(3)).status_code == 200  # gunicorn has started new workers
    objects = set(keys_in(bucket, job))
    for days, left in ((0, objects), (2, objects - strays)):
        sweep = OrphanSweep(store, InputBucket(bucket), LaterBuckets(provisioned.s3, days), Tenure(), page_keys=9)
        while not sweep.tick():
            pass
        assert set(keys_in(bucket, job)) == left
    assert objects - strays == {image.key for image in store.images(job)}


def test_uploads_repeated_with_their_key_after_a_kill_become_each_image_once(
    shared_tier: WebTier, provisioned: Clients, store: JobStore
) -> None:
    job, acknowledged = shared_tier.create_job(), list[str]()

    def upload_until_answered(number: int) -> None:
        while True:
            try:
                answer = upload(shared_tier, job, images(5), key=f"upload-{number}")
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                continue
            acknowledged.extend(image["image_id"] for image in answer.json()["accepted"])
            return

    with ThreadPoolExecutor(4) as uploaders:
        sent = [uploaders.submit(upload_until_answered, number) for number in range(40)]
        for enough in (30, 90):
            wait_until(lambda enough=enough: len(acknowledged) > enough, "some uploads are acknowledged")  # type: ignore[misc]
            os.kill(shared_tier.workers()[0], signal.SIGKILL)
        for each in sent:
            each.result(DEADLINE_SECONDS)
    records = {image.ref.image_id: image.key for image in store.images(job)}
    assert len(acknowledged) == len(set(acknowledged)) == 200
    assert set(acknowledged) == set(records) == set(received_images(shared_tier, provisioned, job))
    bucket = Bucket.named(provisioned, shared_tier.config.names.input_bucket)
    assert set(records.values()) <= set(keys_in(bucket, job))


def test_a_stop_lets_an_upload_finish(web_tier: WebTier, clients: Clients) -> None:
    assert len(web_tier.workers()) == web_tier.config.web.processes == 2
    job = web_tier.create_job()
    end = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\n' + picture() + b"\r\n--b--\r\n"
    head = (
        f"POST /api/v1/jobs/{job}/images HTTP/1.1\r\nHost: 127.0.0.1:{web_tier.port}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(end)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", web_tier.port), timeout=120) as connection:
        connection.sendall(head.encode() + end[:100])
        _wait_until_read(web_tier, connection)
        web_tier.process.send_signal(signal.SIGTERM)
        connection.sendall(end[100:])
        assert connection.recv(20).startswith(b"HTTP/1.1 200")
    assert web_tier.process.wait(DEADLINE_SECONDS) == 0
    store = JobStore(Table(clients.dynamodb, web_tier.config.names.job_table))
    assert store.status(job).accepted == 1


def _wait_until_read(web: WebTier, connection: socket.socket) -> None:
    """Wait until the server has taken what was sent on `connection`: its receive queue in the kernel is empty."""
    ours, theirs = connection.getsockname()[1], web.port

    def is_read() -> bool:
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return any(
            local.endswith(f":{theirs:04X}") and remote.endswith(f":{ours:04X}") and queues.endswith(":00000000")
            for _, local, remote, _, queues, *_ in sockets
        )

    wait_until(is_read, "the server has read what was sent")


def files(*shades: int) -> list[Upload]:
    return [Upload(f"{shade}.jpg", body := picture(shade=shade), len(body)) for shade in shades]


@pytest.fixture
def ingest(store: JobStore, bucket: MemoryBucket, queue: MemoryQueue) -> ImageIngest:
    return ImageIngest(ImageLimits(), InputBucket(bucket), store, queue, inspect)


def ids(outcomes: list[Any]) -> list[str]:
    return [outcome.ref.image_id for outcome in outcomes if isinstance(outcome, ImageRecord)]


def test_a_repeat_completes_a_request_whose_process_died(
    ingest: ImageIngest, job: Job, store: JobStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise TableBusyError("the table is busy")

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "record_images", dies)
        with pytest.raises(TableBusyError):
            ingest_idempotent(ingest, job, "key", files(1, 2))
    assert count_images(store, job.job_id) == 0
    accepted = ingest_idempotent(ingest, job, "key", files(1, 2))
    assert {image.ref.image_id for image in store.images(job.job_id)} == set(ids(accepted)) == queue.image_ids


def test_a_repeat_leaves_an_image_that_was_retried_since_as_it_is(
    ingest: ImageIngest, job: Job, store: JobStore, queue: MemoryQueue
) -> None:
    [accepted] = ingest_idempotent(ingest, job, "key", files(1))
    assert isinstance(accepted, ImageRecord)
    before = store.image(accepted.ref)
    assert store.replace_images([(before, retried := replace(before, attempt=1))])
    assert ingest_idempotent(ingest, job, "key", files(1)) == [accepted]
    assert (store.image(accepted.ref), len(queue.bodies)) == (retried, 1)
    assert OpenJobs(store.table).is_open(job.job_id)


def a_text(content: bytes) -> Upload:
    return Upload("text.jpg", content, len(content))


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(lambda: [*files(1, 3), a_text(b"text")], id="another image"),
        pytest.param(lambda: [*files(2, 1), a_text(b"text")], id="another order"),
        pytest.param(lambda: files(1, 2), id="fewer files"),
        pytest.param(
            lambda: [replace(files(1)[0], filename="other.jpg"), *files(2), a_text(b"text")], id="another name"
        ),
    ],
)
def test_a_key_that_is_reused_with_other_files_is_rejected_and_leaves_nothing(
    ingest: ImageIngest,
    job: Job,
    store: JobStore,
    bucket: MemoryBucket,
    queue: MemoryQueue,
    others: Callable[[], list[Upload]],
) -> None:
    first = ingest_idempotent(ingest, job, "key", [*files(1, 2), a_text(b"text")])
    kept = dict(bucket.objects)
    with pytest.raises(ReusedKeyError):
        ingest_idempotent(ingest, job, "key", others())
    assert (bucket.objects, len(queue.bodies), store.status(job.job_id).accepted) == (kept, 2, 2)
    assert ingest_idempotent(ingest, job, "key", [*files(1, 2), a_text(b"text")]) == first


def test_more_files_than_can_be_remembered_are_refused_whole(
    ingest: ImageIngest, job: Job, bucket: MemoryBucket, store: JobStore
) -> None:
    with pytest.raises(Exception, match="under other keys"):
        ingest_idempotent(ingest, job, "key", files(*range(MAX_FILES + 1)))
    assert (bucket.objects, count_images(store, job.job_id)) == ({}, 0)


def post(client: FlaskClient, job: Job, key: str, shade: int = 0) -> TestResponse:
    return client.post(
        f"/api/v1/jobs/{job.job_id}/images",
        data={"f": (BytesIO(picture(shade=shade)), "a.jpg")},
        headers={"Idempotency-Key": key},
    )


def test_the_api_refuses_a_key_that_comes_with_another_file(client: FlaskClient, job: Job, store: JobStore) -> None:
    assert post(client, job, "k-1").status_code == 200
    other = post(client, job, "k-1", shade=9)
    assert other.status_code == 422
    assert json.loads(other.data)["type"] == "urn:fleetsight:problem:idempotency-key-reused"
    assert store.status(job.job_id).accepted == 1
