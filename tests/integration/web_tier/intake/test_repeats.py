"""Repeated images: answered at once, without an object, a request or a worker."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from core.cache import ResultCache
from core.ids import ImageRef, input_key, new_id
from core.image_limits import ImageLimits
from core.job_records import ImageRecord, Job
from core.jobs import JobStore
from core.messages import Model, Response
from services.table import TableBusyError
from tests.support.jobs import NOW, MemoryBucket, MemoryQueue, client_error, done
from tests.support.pictures import picture
from web_tier.intake.accept import RejectedUpload
from web_tier.intake.budget import MemoryLimiter
from web_tier.intake.multipart import Upload
from web_tier.intake.repeats import Repeats
from web_tier.intake.slices import take_once
from web_tier.intake.store import GROUP, CachedImage, ImageIngest, Outcome


def files(*shades: int) -> list[Upload]:
    return [Upload(f"{shade}.jpg", body := picture(shade=shade), len(body)) for shade in shades]


def answer_of(upload: Upload, label: str = "cat") -> Response:
    """The result that a worker gave for the same bytes in another job."""
    response = done(ImageRecord(ImageRef(new_id(), new_id()), "other.jpg", "key", 1, NOW), label)
    return response.model_copy(
        update={
            "key": input_key(response.ref, "jpg"),
            "sha256": sha256(upload.data).hexdigest(),
            "model": Model(name="demo", digest="d1"),
        }
    )


def remember(cache: ResultCache, answers: list[Response], at: datetime = NOW, owner: str = "") -> None:
    """Remember results as the collector does, all of jobs of one user."""
    cache.put(answers, at, {answer.job_id: owner for answer in answers})


@pytest.fixture
def cache(store: JobStore) -> ResultCache:
    return ResultCache(store.table, timedelta(days=1))


@pytest.fixture
def intake(store: JobStore, bucket: MemoryBucket, queue: MemoryQueue, cache: ResultCache) -> Iterator[ImageIngest]:
    repeats = Repeats(cache, lambda: "d1", lambda: NOW)
    intake = ImageIngest(ImageLimits(), bucket, store, queue, repeats.find, clock=lambda: NOW)
    yield intake
    intake.pool.shutdown()


def cached(outcomes: list[Outcome]) -> list[bool | None]:
    return [None if isinstance(outcome, RejectedUpload) else outcome.cached for outcome in outcomes]


def test_a_known_image_has_its_result_at_once_and_no_object_and_no_request(
    intake: ImageIngest, cache: ResultCache, job: Job, store: JobStore, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    uploads = [*files(1, 2), Upload("text.jpg", b"text", 4), *files(3)]
    remember(cache, [answer_of(uploads[0], "stop"), answer_of(uploads[3], "parking")])
    outcomes = intake.take(job, uploads)
    assert cached(outcomes) == [True, False, None, True]
    assert len(bucket.objects) == len(queue.bodies) == 1
    results = store.results(job.job_id)
    labels = [results[outcome.ref.image_id].label for outcome in outcomes if isinstance(outcome, CachedImage)]
    assert labels == ["stop", "parking"]
    assert all(result.cached for result in results.values())
    assert [image.cached for image in store.images(job.job_id)] == [True, False, True]


def test_a_job_counts_what_was_answered_at_once_without_the_controller(
    intake: ImageIngest, cache: ResultCache, job: Job, store: JobStore
) -> None:
    uploads = files(*range(GROUP + 5))
    remember(cache, [answer_of(upload) for upload in uploads])
    intake.take(job, uploads)
    status = store.status(job.job_id)
    assert (status.state, status.accepted) == ("finished", GROUP + 5)
    assert status.counts.done == status.counts.cached == GROUP + 5
    assert status.counts.first_at == status.counts.last_at == NOW


def test_a_job_that_keeps_images_has_an_object_also_of_a_known_one(
    intake: ImageIngest, cache: ResultCache, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    (upload,) = files(1)
    remember(cache, [answer_of(upload)])
    (outcome,) = intake.take(replace(job, keep=True), [upload])
    assert isinstance(outcome, CachedImage)
    assert (bucket.objects, queue.bodies) == ({outcome.key: upload.data}, [])


def test_another_model_and_a_cache_that_fails_send_every_image_to_a_worker(
    intake: ImageIngest, cache: ResultCache, job: Job, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = files(1, 2)
    remember(cache, [answer_of(upload) for upload in uploads])
    for model in (None, "d2"):
        repeats = Repeats(cache, lambda model=model: model, lambda: NOW)  # type: ignore[misc]
        other = replace(intake, find_repeats=repeats.find)
        assert cached(other.take(job, uploads)) == [False, False]
    for error in (client_error(503), TableBusyError("busy")):

        def fails(*_: object, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(ResultCache, "find", fails)
            assert cached(intake.take(job, uploads)) == [False, False]
    assert len(queue.bodies) == 8


def test_a_known_image_that_cannot_be_recorded_is_not_accepted_and_leaves_no_result(
    intake: ImageIngest, cache: ResultCache, job: Job, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = files(1)
    remember(cache, [answer_of(uploads[0])])

    def busy(*_: object) -> None:
        raise TableBusyError("busy")

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "record_images", busy)
        (outcome,) = intake.take(job, uploads)
    assert isinstance(outcome, RejectedUpload)
    assert (store.statuses(job.job_id), store.count_images(job.job_id)) == ({}, 0)


def test_a_repeated_slice_with_known_images_becomes_the_same_images_once(
    intake: ImageIngest, cache: ResultCache, job: Job, store: JobStore
) -> None:
    uploads = files(1, 2, 3)
    remember(cache, [answer_of(uploads[1])])
    first = take_once(intake, job, "key", uploads)
    again = take_once(intake, job, "key", uploads)
    assert [outcome.ref for outcome in again] == [outcome.ref for outcome in first]  # type: ignore[union-attr]
    assert cached(first) == cached(again) == [False, True, False]
    assert store.count_images(job.job_id) == store.status(job.job_id).accepted == 3
    assert len(store.statuses(job.job_id)) == 1


@pytest.mark.parametrize("expired", [False, True])
def test_a_repeat_answers_known_images_that_the_first_request_died_over(
    intake: ImageIngest,
    cache: ResultCache,
    job: Job,
    store: JobStore,
    monkeypatch: pytest.MonkeyPatch,
    *,
    expired: bool,
) -> None:
    uploads = files(1, 2)
    remember(cache, [answer_of(uploads[0])])

    def busy(*_: object) -> None:
        raise TableBusyError("busy")

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "put_done", busy)
        with pytest.raises(TableBusyError):
            take_once(intake, job, "key", uploads)
    if expired:
        intake = replace(intake, find_repeats=lambda _owner, _digests: {})
    outcomes = take_once(intake, job, "key", uploads)
    # What has expired was never accepted, and has no object: its file is to come once more, under another key.
    assert cached(outcomes) == [None if expired else True, False]
    accepted = {outcome.ref.image_id for outcome in outcomes if isinstance(outcome, ImageRecord)}
    assert {image.ref.image_id for image in store.images(job.job_id)} == accepted
    assert set(store.statuses(job.job_id)) <= accepted


def test_a_group_that_waits_for_company_gives_way_to_the_bound_of_memory(
    intake: ImageIngest, job: Job, bucket: MemoryBucket
) -> None:
    uploads = files(*range(12))
    tight = replace(intake, budget=MemoryLimiter(2 * len(uploads[0].data)))
    assert len(tight.take(job, uploads)) == len(bucket.objects) == 12


def test_what_a_broken_request_held_of_the_memory_is_free_again(intake: ImageIngest, job: Job) -> None:
    budget = MemoryLimiter(10**6)

    def cut() -> Iterator[Upload]:
        yield from files(1, 2)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        replace(intake, budget=budget).put(job, cut())
    budget.take(10**6, wait_seconds=0)


def test_the_api_answers_a_repeated_image_at_once_and_says_so(client: FlaskClient, job: Job, store: JobStore) -> None:
    (upload,) = files(1)
    # The configured bundle is the demo; its path is relative to the working directory, as everywhere.
    digest = json.loads(Path("app_tier/demo/bundle/bundle.json").read_text(encoding="utf-8"))["digest"]
    known = answer_of(upload).model_copy(update={"model": Model(name="demo", digest=digest)})
    remember(ResultCache(store.table, timedelta(days=1)), [known], datetime.now(UTC))
    single = client.post("/api/v1/classify?wait=0", data=upload.data, content_type="image/jpeg")
    assert (single.status_code, single.get_json()["cached"], single.get_json()["label"]) == (200, True, "cat")
    form = {"f": (BytesIO(upload.data), "x.jpg")}
    (accepted,) = client.post(f"/api/v1/jobs/{job.job_id}/images", data=form).get_json()["accepted"]
    assert accepted["cached"]
    status = client.get(f"/api/v1/jobs/{job.job_id}").get_json()
    assert (status["state"], status["done"], status["cached"]) == ("finished", 1, 1)
    image = client.get(f"/api/v1/jobs/{job.job_id}/images/{accepted['image_id']}").get_json()
    assert (image["cached"], image["status"], image["model"]["digest"]) == (True, "done", digest)
