"""Uploads through real gunicorn processes into the local cloud."""

import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from gunicorn.arbiter import Arbiter

from core.jobs.store import JobStore
from core.messages import RequestMessage
from services.clients import Clients
from services.s3 import Bucket
from services.sqs import Queue
from tests.conftest import keys_in
from tests.integration.web_tier.conftest import WebTier
from tests.support.pictures import picture
from tests.support.processes import take_memory
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.uploads.ingest import GROUP_IMAGES
from web_tier.uploads.multipart import CHUNK_BYTES

pytestmark = pytest.mark.processes

Form = list[tuple[str, tuple[str, bytes]]]


def images(count: int) -> Form:
    return [("f", ("same.jpg", picture(size=(8, index + 1)))) for index in range(count)]


def received_images(web: WebTier, clients: Clients) -> list[str]:
    """Return the image ids of all messages in the request queue."""
    queue = Queue.named(clients.sqs, web.config.queue_name(web.config.names.request_queue))
    found = []
    while batch := queue.receive(wait_seconds=0):
        found += [RequestMessage.from_json(message.body).image_id for message in batch]
    return found


def upload(
    web: WebTier, job: str, files: Form, key: str | None = None, timeout_seconds: float = 60
) -> requests.Response:
    headers = {"Idempotency-Key": key} if key else None
    url = f"{web.url}/api/v1/jobs/{job}/images"
    return requests.post(url, files=files, headers=headers, timeout=timeout_seconds)


def test_a_hundred_files_in_one_request_are_each_stored_recorded_and_asked_for(
    web_tier: WebTier, provisioned: Clients, store: JobStore
) -> None:
    job, files = web_tier.create_job(), images(100)
    files.insert(7, ("f", ("broken.jpg", b"text")))
    body = upload(web_tier, job, files).json()
    ids = [image["image_id"] for image in body["accepted"]]
    assert (len(set(ids)), [file["index"] for file in body["rejected"]]) == (100, [7])
    assert sorted(received_images(web_tier, provisioned)) == sorted(ids)
    bucket = Bucket.named(provisioned, web_tier.config.names.input_bucket)
    sent = [content for _, (name, content) in files if name == "same.jpg"]
    records = {image.ref.image_id: image for image in store.images(job)}
    assert [bucket.get(records[image_id].key) for image_id in ids] == sent
    assert store.status(job).accepted == 100


def test_a_hundred_requests_at_once_with_one_file_each_are_all_accepted(
    web_tier: WebTier, provisioned: Clients, store: JobStore
) -> None:
    job = web_tier.create_job()
    with ThreadPoolExecutor(100) as clients:
        answers = list(clients.map(lambda file: upload(web_tier, job, [file]).json(), images(100)))
    ids = [image["image_id"] for answer in answers for image in answer["accepted"]]
    assert len(set(ids)) == 100
    assert sorted(received_images(web_tier, provisioned)) == sorted(ids)
    assert store.status(job).accepted == store.count_images(job) == 100


def test_a_body_that_is_too_large_gets_a_413_that_the_client_can_read(web_tier: WebTier) -> None:
    job = web_tier.create_job()
    answer = upload(web_tier, job, [("f", ("a.jpg", b"x" * 25_000_000))])
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")
    assert "several requests" in answer.json()["detail"]


def test_a_process_without_memory_is_replaced(web_tier: WebTier) -> None:
    job, before = web_tier.create_job(), set(web_tier.workers())
    take_memory(before)

    def is_replaced() -> bool:
        with suppress(requests.RequestException):
            upload(web_tier, job, images(20), timeout_seconds=5)
        return not before & set(web_tier.workers())

    wait_until(is_replaced, "both processes are replaced", details=web_tier.log.read_text)
    assert upload(web_tier, job, images(20)).status_code == 200


def test_a_web_tier_without_memory_ends_so_that_its_supervisor_starts_it_anew(web_tier: WebTier) -> None:
    take_memory([web_tier.process.pid])
    os.kill(web_tier.workers()[0], signal.SIGKILL)
    assert web_tier.process.wait(DEADLINE_SECONDS) == Arbiter.WORKER_BOOT_ERROR


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


def test_an_upload_that_breaks_off_leaves_nothing(web_tier: WebTier, provisioned: Clients, store: JobStore) -> None:
    job = web_tier.create_job()
    bucket = Bucket.named(provisioned, web_tier.config.names.input_bucket)
    with half_an_upload(web_tier, job, GROUP_IMAGES):
        wait_for_keys(bucket, job, GROUP_IMAGES)
    wait_until(lambda: keys_in(bucket, job) == [], "no object of the job is left")
    assert (store.count_images(job), received_images(web_tier, provisioned)) == (0, [])


def test_a_worker_killed_in_the_middle_of_an_upload_has_acknowledged_nothing_and_asked_for_nothing(
    web_tier: WebTier, provisioned: Clients, store: JobStore
) -> None:
    job = web_tier.create_job()
    with half_an_upload(web_tier, job, GROUP_IMAGES) as connection:
        wait_for_keys(Bucket.named(provisioned, web_tier.config.names.input_bucket), job, GROUP_IMAGES)
        for worker in web_tier.workers():
            os.kill(worker, signal.SIGKILL)
        assert connection.recv(100) == b""
    assert (store.count_images(job), received_images(web_tier, provisioned)) == (0, [])
    assert upload(web_tier, job, images(3)).status_code == 200  # gunicorn has started new workers


def test_whatever_was_acknowledged_before_a_kill_is_there_after_it(
    web_tier: WebTier, provisioned: Clients, store: JobStore
) -> None:
    job, enough, stop = web_tier.create_job(), threading.Event(), threading.Event()
    acknowledged: list[str] = []

    def keep_uploading() -> None:
        while not stop.is_set():
            try:
                answer = upload(web_tier, job, images(5))
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                continue
            acknowledged.extend(image["image_id"] for image in answer.json()["accepted"])
            if len(acknowledged) > 30:
                enough.set()

    uploaders = [threading.Thread(target=keep_uploading) for _ in range(4)]
    for uploader in uploaders:
        uploader.start()
    try:
        for _ in range(2):
            assert enough.wait(DEADLINE_SECONDS)
            os.kill(web_tier.workers()[0], signal.SIGKILL)
            enough.clear()
        assert enough.wait(DEADLINE_SECONDS)
    finally:
        stop.set()
        for uploader in uploaders:
            uploader.join(DEADLINE_SECONDS)
    bucket = Bucket.named(provisioned, web_tier.config.names.input_bucket)
    stored, messages = set(keys_in(bucket, job)), received_images(web_tier, provisioned)
    records = {image.ref.image_id: image.key for image in store.images(job)}
    assert set(acknowledged) <= set(records)
    assert {records[image_id] for image_id in acknowledged} <= stored
    assert set(acknowledged) <= set(messages) <= set(records)
    assert len(messages) == len(set(messages))


def test_uploads_that_are_repeated_with_their_key_after_a_kill_become_each_image_once(
    web_tier: WebTier, provisioned: Clients, store: JobStore
) -> None:
    job, acknowledged = web_tier.create_job(), list[str]()

    def upload_until_answered(number: int) -> None:
        while True:
            try:
                answer = upload(web_tier, job, images(5), key=f"upload-{number}")
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                continue
            acknowledged.extend(image["image_id"] for image in answer.json()["accepted"])
            return

    with ThreadPoolExecutor(4) as uploaders:
        sent = [uploaders.submit(upload_until_answered, number) for number in range(40)]
        for enough in (30, 90):
            wait_until(lambda enough=enough: len(acknowledged) > enough, "some uploads are acknowledged")  # type: ignore[misc]
            os.kill(web_tier.workers()[0], signal.SIGKILL)
        for each in sent:
            each.result(DEADLINE_SECONDS)
    records = {image.ref.image_id: image.key for image in store.images(job)}
    assert len(acknowledged) == len(set(acknowledged)) == 200
    assert set(acknowledged) == set(records) == set(received_images(web_tier, provisioned))
    bucket = Bucket.named(provisioned, web_tier.config.names.input_bucket)
    assert set(records.values()) <= set(keys_in(bucket, job))


def test_a_stop_lets_an_upload_finish(web_tier: WebTier, store: JobStore) -> None:
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
    assert store.status(job).accepted == 1


def test_as_many_processes_serve_as_are_configured(web_tier: WebTier) -> None:
    assert len(web_tier.workers()) == web_tier.config.web.processes == 2


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
