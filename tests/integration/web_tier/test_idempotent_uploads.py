"""Uploads that may be repeated."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.idempotency import MAX_FILES, ReusedKeyError, UploadManifests
from core.images import ImageLimits
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from services.s3 import Bucket
from services.table import TableBusyError
from tests.conftest import keys_in
from tests.support.jobs import MemoryBucket, MemoryQueue, record
from tests.support.pictures import picture
from web_tier.uploads.idempotency import ingest_idempotent
from web_tier.uploads.ingest import ImageIngest
from web_tier.uploads.multipart import Upload


def files(*shades: int) -> list[Upload]:
    return [Upload(f"{shade}.jpg", body := picture(shade=shade), len(body)) for shade in shades]


@pytest.fixture
def ingest(store: JobStore, bucket: MemoryBucket, queue: MemoryQueue) -> ImageIngest:
    return ImageIngest(ImageLimits(), bucket, store, queue)


def ids(outcomes: list[Any]) -> list[str]:
    return [outcome.ref.image_id for outcome in outcomes if isinstance(outcome, ImageRecord)]


def test_a_repeated_request_becomes_the_same_images_once(
    ingest: ImageIngest, job: Job, store: JobStore, bucket: MemoryBucket
) -> None:
    uploads = [*files(1, 2), Upload("text.jpg", b"text", 4), *files(3)]
    first = ingest_idempotent(ingest, job, "key", uploads)
    again = ingest_idempotent(ingest, job, "key", uploads)
    assert first == again
    assert len(ids(first)) == 3
    assert store.count_images(job.job_id) == store.status(job.job_id).accepted == len(bucket.objects) == 3


def test_the_same_files_under_another_key_are_other_images(ingest: ImageIngest, job: Job, store: JobStore) -> None:
    ingest_idempotent(ingest, job, "one", files(1))
    ingest_idempotent(ingest, job, "two", files(1))
    assert store.status(job.job_id).accepted == 2


def test_a_repeat_completes_a_request_whose_process_died(
    ingest: ImageIngest, job: Job, store: JobStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise TableBusyError("the table is busy")

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "record_images", dies)
        with pytest.raises(TableBusyError):
            ingest_idempotent(ingest, job, "key", files(1, 2))
    assert store.count_images(job.job_id) == 0
    accepted = ingest_idempotent(ingest, job, "key", files(1, 2))
    assert {image.ref.image_id for image in store.images(job.job_id)} == set(ids(accepted)) == queue.image_ids


def test_a_repeat_leaves_an_image_that_was_retried_since_as_it_is(
    ingest: ImageIngest, job: Job, store: JobStore, queue: MemoryQueue
) -> None:
    [accepted] = ingest_idempotent(ingest, job, "key", files(1))
    assert isinstance(accepted, ImageRecord)
    before = store.image(accepted.ref)
    assert store.replace_image(before, retried := replace(before, attempt=1))
    assert ingest_idempotent(ingest, job, "key", files(1)) == [accepted]
    assert (store.image(accepted.ref), len(queue.bodies)) == (retried, 1)
    assert store.is_open(job.job_id)


def test_a_repeat_never_deletes_what_the_first_request_has_put(
    ingest: ImageIngest, job: Job, bucket: MemoryBucket, store: JobStore
) -> None:
    ingest_idempotent(ingest, job, "key", files(1, 2))
    ingest_idempotent(ingest, job, "key", files(1, 2))
    assert {image.key for image in store.images(job.job_id)} == set(bucket.objects)


def a_text(content: bytes) -> Upload:
    return Upload("text.jpg", content, len(content))


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(lambda: [*files(1, 3), a_text(b"text")], id="another image"),
        pytest.param(lambda: [*files(1, 2), a_text(b"another text")], id="another file that is no image"),
        pytest.param(lambda: [*files(2, 1), a_text(b"text")], id="another order"),
        pytest.param(lambda: [*files(1, 2), a_text(b"text"), *files(3)], id="more files"),
        pytest.param(lambda: files(1, 2), id="fewer files"),
        pytest.param(lambda: [a_text(b"text")], id="no image"),
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


def test_a_repeat_accepts_a_manifest_without_a_digest(
    ingest: ImageIngest, job: Job, store: JobStore, queue: MemoryQueue
) -> None:
    image = record(job)
    assert UploadManifests(store.table).claim(job.job_id, "key", {0: image})  # as versions before 2026-11 did
    assert ingest_idempotent(ingest, job, "key", files(1)) == [image]
    assert (queue.image_ids, store.count_images(job.job_id)) == ({image.ref.image_id}, 1)


def test_a_job_that_is_deleted_while_files_arrive_accepts_none_of_them(
    ingest: ImageIngest, job: Job, bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UploadManifests, "claim", lambda *_: False)
    assert ids(ingest_idempotent(ingest, job, "key", files(1))) == []
    assert bucket.objects == {}


def test_more_files_than_can_be_remembered_are_refused_whole(
    ingest: ImageIngest, job: Job, bucket: MemoryBucket, store: JobStore
) -> None:
    with pytest.raises(Exception, match="under other keys"):
        ingest_idempotent(ingest, job, "key", files(*range(MAX_FILES + 1)))
    assert (bucket.objects, store.count_images(job.job_id)) == ({}, 0)


def post(client: FlaskClient, job: Job, key: str, shade: int = 0) -> TestResponse:
    return client.post(
        f"/api/v1/jobs/{job.job_id}/images",
        data={"f": (BytesIO(picture(shade=shade)), "a.jpg")},
        headers={"Idempotency-Key": key},
    )


def test_the_api_takes_a_repeated_request_once(
    client: FlaskClient, job: Job, store: JobStore, input_bucket: Bucket
) -> None:
    first, again = (post(client, job, "k-1").json for _ in range(2))
    assert first == again
    assert store.status(job.job_id).accepted == len(keys_in(input_bucket)) == 1


def test_the_api_refuses_a_key_that_comes_with_another_file(client: FlaskClient, job: Job, store: JobStore) -> None:
    assert post(client, job, "k-1").status_code == 200
    other = post(client, job, "k-1", shade=9)
    assert other.status_code == 422
    assert json.loads(other.data)["type"] == "urn:fleetsight:problem:idempotency-key-reused"
    assert store.status(job.job_id).accepted == 1


@pytest.mark.parametrize("key", ["", "two words", "k" * 256])
def test_an_invalid_key_is_rejected(client: FlaskClient, job: Job, key: str) -> None:
    assert post(client, job, key).status_code == 400
