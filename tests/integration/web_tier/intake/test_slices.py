"""Uploads that may be repeated."""

from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from services.images import ImageLimits
from services.job_records import ImageRecord, Job
from services.jobs import JobStore
from services.s3 import Bucket
from services.slices import MOST_FILES
from services.table import TableBusyError
from tests.conftest import keys_in
from tests.support.jobs import MemoryBucket, MemoryQueue
from tests.support.pictures import picture
from web_tier.intake.multipart import Upload
from web_tier.intake.slices import take_once
from web_tier.intake.store import Intake


def files(*shades: int) -> list[Upload]:
    return [Upload(f"{shade}.jpg", body := picture(shade=shade), len(body)) for shade in shades]


@pytest.fixture
def intake(store: JobStore, bucket: MemoryBucket, queue: MemoryQueue) -> Intake:
    return Intake(ImageLimits(), bucket, store, queue)


def ids(outcomes: list[Any]) -> list[str]:
    return [outcome.ref.image_id for outcome in outcomes if isinstance(outcome, ImageRecord)]


def test_a_repeated_slice_becomes_the_same_images_once(
    intake: Intake, job: Job, store: JobStore, bucket: MemoryBucket
) -> None:
    uploads = [*files(1, 2), Upload("text.jpg", b"text", 4), *files(3)]
    first = take_once(intake, job, "key", uploads)
    again = take_once(intake, job, "key", uploads)
    assert first == again
    assert len(ids(first)) == 3
    assert store.count_images(job.job_id) == store.status(job.job_id).accepted == len(bucket.objects) == 3


def test_the_same_files_under_another_key_are_other_images(intake: Intake, job: Job, store: JobStore) -> None:
    take_once(intake, job, "one", files(1))
    take_once(intake, job, "two", files(1))
    assert store.status(job.job_id).accepted == 2


def test_a_repeat_finishes_what_the_first_request_died_over(
    intake: Intake, job: Job, store: JobStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise TableBusyError("the table is busy")

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "record_images", dies)
        with pytest.raises(TableBusyError):
            take_once(intake, job, "key", files(1, 2))
    assert store.count_images(job.job_id) == 0
    accepted = take_once(intake, job, "key", files(1, 2))
    assert {image.ref.image_id for image in store.images(job.job_id)} == set(ids(accepted)) == queue.image_ids


def test_a_repeat_never_deletes_what_the_first_request_has_put(
    intake: Intake, job: Job, bucket: MemoryBucket, store: JobStore
) -> None:
    take_once(intake, job, "key", files(1, 2))
    take_once(intake, job, "key", files(1, 2))
    assert {image.key for image in store.images(job.job_id)} == set(bucket.objects)


def test_more_files_than_can_be_remembered_are_refused_whole(
    intake: Intake, job: Job, bucket: MemoryBucket, store: JobStore
) -> None:
    with pytest.raises(Exception, match="under other keys"):
        take_once(intake, job, "key", files(*range(MOST_FILES + 1)))
    assert (bucket.objects, store.count_images(job.job_id)) == ({}, 0)


def post(client: FlaskClient, job: Job, key: str) -> TestResponse:
    return client.post(
        f"/api/v1/jobs/{job.job_id}/images",
        data={"f": (BytesIO(picture()), "a.jpg")},
        headers={"Idempotency-Key": key},
    )


def test_the_api_takes_a_repeated_request_once(
    client: FlaskClient, job: Job, store: JobStore, input_bucket: Bucket
) -> None:
    first, again = (post(client, job, "k-1").json for _ in range(2))
    assert first == again
    assert store.status(job.job_id).accepted == len(keys_in(input_bucket)) == 1


@pytest.mark.parametrize("key", ["", "two words", "k" * 256])
def test_a_key_that_is_none_is_refused(client: FlaskClient, job: Job, key: str) -> None:
    assert post(client, job, key).status_code == 400
