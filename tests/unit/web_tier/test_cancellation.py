"""Cancelling a job keeps what is done, gives the other images a result, and a retry goes on with them."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from unittest.mock import Mock

import pytest
from botocore.exceptions import HTTPClientError
from flask.testing import FlaskClient
from markupsafe import escape

from core.ids import ImageRef
from core.jobs.buckets import UNKEPT, InputBucket, OutputBucket
from core.jobs.keys import cancelled_key
from core.jobs.lifecycle import Cancellations, DeletedJobs, OpenJobs
from core.jobs.models import Counts, ImageRecord, Job, JobStatus
from core.jobs.store import JobStore
from core.messages import CANCELLED, ClassificationResult
from services.errors import NotFoundError
from services.lease import Tenure
from tests.support.api import AppMaker, problem, upload
from tests.support.jobs import NOW, UNKNOWN_ID, add_images, count_images, done, picture, put_results
from tests.support.jobs import failed as failed_result
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.results_site import ResultsSite, refused
from tests.support.results_site import done as labelled
from tests.support.unsandboxed import inspect
from web_tier.controller.cancellation import CHECK_SECONDS, PAGE
from web_tier.controller.cleanup import JobCleanup
from web_tier.results.progress import has_cost
from web_tier.results.query import images_per_second
from web_tier.uploads import retry
from web_tier.uploads.cancellation import cancel_job, resume_job
from web_tier.uploads.ingest import ImageIngest
from web_tier.uploads.retry import retry_all_failed, retry_failed

# The web tier


def cancel(client: FlaskClient, job: Job) -> dict[str, object]:
    answer = client.post(f"/api/v1/jobs/{job.job_id}/cancel")
    assert answer.status_code == 200
    return dict(answer.get_json())


def cancelled(image: ImageRecord, attempt: int = 0) -> ClassificationResult:
    return failed_result(image, CANCELLED.message, CANCELLED.code, attempt)


def test_a_running_job_is_cancelled_once_and_says_what_is_done(
    client: FlaskClient, store: JobStore, job: Job, input_bucket: MemoryBucket
) -> None:
    one, two, three = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    put_results(store, done(one))
    first, second = cancel(client, job), cancel(client, job)
    assert first == second, "the time of the first one stays"
    assert (first["state"], first["done"], first["failed"], first["waiting"]) == ("cancelled", 1, 0, 2)
    assert input_bucket.tags[cancelled_key(job.job_id)] == UNKEPT, "a lifecycle rule deletes what is left"
    assert [each.job_id for each in OpenJobs(store.table).find_all()] == [job.job_id], "the controller finds the job"
    put_results(store, done(one), cancelled(two), cancelled(three))
    page = client.get(f"/jobs/{job.job_id}").get_data(as_text=True)
    assert "Cancelled: 1 classified, 2 not." in page
    assert "Cancelling" not in page


@pytest.mark.parametrize("images", [[], ["a.jpg"]])
def test_a_finished_job_stays_as_it_is_and_an_empty_one_is_closed_for_images(
    client: FlaskClient, store: JobStore, job: Job, input_bucket: MemoryBucket, images: list[str]
) -> None:
    put_results(store, *map(done, add_images(store, job, *images)))
    assert cancel(client, job)["state"] == ("finished" if images else "cancelled")
    assert (cancelled_key(job.job_id) in input_bucket.objects) is not bool(images)


def test_a_cancelled_job_takes_no_images_and_says_what_to_do(
    client: FlaskClient, store: JobStore, job: Job, requests_queue: MemoryQueue
) -> None:
    add_images(store, job, "a.jpg")
    cancel(client, job)
    answer = upload(client, job, ("b.jpg", picture()))
    assert answer.get_json()["type"] == "urn:fleetsight:problem:job-cancelled"
    assert "retry its failed images to resume it" in problem(answer, 409)
    files = {"files": [{"name": "b.jpg", "bytes": 10, "content_type": "image/jpeg"}]}
    problem(client.post(f"/api/v1/jobs/{job.job_id}/uploads", json=files), 409)
    problem(client.post(f"/api/v1/jobs/{job.job_id}/uploads/{UNKNOWN_ID}/commit"), 409)
    assert count_images(store, job.job_id) == 1
    assert requests_queue.bodies == []


@pytest.mark.parametrize("is_failed", [True, False])
def test_a_retry_resumes_the_job_before_it_sends_requests(
    make_app: AppMaker, store: JobStore, job: Job, input_bucket: MemoryBucket, is_failed: bool
) -> None:
    seen: list[bool] = []

    def send(_messages: object) -> list[object]:
        seen.append(
            cancelled_key(job.job_id) in input_bucket.objects or bool(Cancellations(store.table).find([job.job_id]))
        )
        return []

    client = make_app(queue=MemoryQueue(send)).test_client()  # type: ignore[arg-type]
    [image] = add_images(store, job, "a.jpg")
    input_bucket.objects[image.key] = picture()
    cancel(client, job)
    if is_failed:
        put_results(store, cancelled(image))
    outcome = client.post(f"/api/v1/jobs/{job.job_id}/retry").get_json()
    assert outcome["sent"] == len(seen) == int(is_failed)
    assert not any(seen)
    assert cancelled_key(job.job_id) not in input_bucket.objects
    assert client.get(f"/api/v1/jobs/{job.job_id}").get_json()["state"] != "cancelled"
    assert upload(client, job, ("b.jpg", picture())).status_code == 200


@pytest.mark.parametrize(("portions", "sent"), [(0, 1), (1, 2), (9, 3)])
def test_a_retry_on_the_page_goes_on_portion_by_portion_while_there_is_time(
    ingest: ImageIngest,
    store: JobStore,
    job: Job,
    input_bucket: MemoryBucket,
    monkeypatch: pytest.MonkeyPatch,
    portions: int,
    sent: int,
) -> None:
    monkeypatch.setattr(retry, "retry_failed", partial(retry_failed, max_images=1))
    images = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    input_bucket.objects.update({image.key: b"pixels" for image in images})
    put_results(store, *map(cancelled, images))
    times = iter([True] * portions + [False])
    retried = retry_all_failed(ingest, job, may_continue=lambda: next(times))
    assert (retried.sent, retried.next_after is None) == (sent, sent == 3)


# A cancelling and a retry at the same time


@pytest.fixture
def ingest(store: JobStore, input_bucket: MemoryBucket, requests_queue: MemoryQueue) -> ImageIngest:
    return ImageIngest(Mock(), InputBucket(input_bucket), store, requests_queue, inspect)


def between_the_calls_of(bucket: MemoryBucket, operation: str, act: Callable[[], None]) -> None:
    """Let another process act before the next `operation` of the bucket."""

    def call(called: str, effect: Callable[[], object]) -> object:
        if called == operation:
            bucket.call = lambda _operation, effect: effect()
            act()
        return effect()

    bucket.call = call


def test_a_job_that_is_resumed_while_it_is_cancelled_keeps_no_tombstone(
    ingest: ImageIngest, store: JobStore, job: Job, input_bucket: MemoryBucket
) -> None:
    add_images(store, job, "a.jpg")
    between_the_calls_of(input_bucket, "put", lambda: resume_job(ingest, job, ""))
    cancel_job(ingest, store.status(job.job_id))
    assert (store.status(job.job_id).state, list(input_bucket.objects)) == ("running", [])


def test_a_job_cancelled_while_it_is_resumed_keeps_no_tombstone_without_a_mark(
    ingest: ImageIngest, store: JobStore, job: Job, input_bucket: MemoryBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_images(store, job, "a.jpg")
    cancel_job(ingest, store.status(job.job_id))
    remove = Cancellations.remove

    def remove_late(cancellations: Cancellations, job_id: str) -> None:
        cancel_job(ingest, store.status(job_id))
        remove(cancellations, job_id)

    monkeypatch.setattr(Cancellations, "remove", remove_late)
    resume_job(ingest, job, "")
    assert (store.status(job.job_id).state, list(input_bucket.objects)) == ("running", [])


# The controller


@pytest.fixture
def site() -> ResultsSite:
    return ResultsSite()


def cancel_on(site: ResultsSite, job_id: str, after: float = 1.0) -> None:
    """Cancel a job so many seconds after the epoch."""
    Cancellations(site.store.table).cancel(job_id, EPOCH + timedelta(seconds=after))
    site.inputs.put(cancelled_key(job_id), b"", "text/plain")


def test_each_image_without_a_result_fails_and_the_others_keep_theirs(site: ResultsSite) -> None:
    one, two, three = site.add_job(3)
    site.respond(labelled(one))
    site.store_output(labelled(two))  # its response is on its way
    cancel_on(site, one.job_id)
    assert site.canceller.tick() == CHECK_SECONDS
    assert [site.result(ref).status for ref in (one, two, three)] == ["done", "done", "failed"]
    assert site.result(three).error == site.stored(three).error == CANCELLED
    counts = site.store.status(one.job_id).counts
    assert (counts.done, counts.failed, counts.cancelled) == (2, 1, 1)
    assert site.inputs.exists(f"{three.job_id}/{three.image_id}.jpg"), "it can be retried"


def test_other_jobs_are_left_alone_and_have_their_turn(site: ResultsSite) -> None:
    [other] = site.add_job(1)
    many, [last] = site.add_job(PAGE + 1), site.add_job(1)
    for ref in (many[0], last):
        cancel_on(site, ref.job_id)
    assert site.canceller.tick() == 0, "some images are left"
    assert site.store.status(many[0].job_id).counts.cancelled == PAGE
    assert site.store.status(last.job_id).counts.cancelled == 1
    assert site.canceller.tick() == CHECK_SECONDS
    assert site.store.status(many[0].job_id).counts.cancelled == PAGE + 1
    assert site.store.result(other) is None


def test_a_job_that_cannot_be_read_delays_no_other(site: ResultsSite, monkeypatch: pytest.MonkeyPatch) -> None:
    [bad], [good] = site.add_job(1), site.add_job(1)
    missing_after = JobStore.missing_after

    def fail_for_one(store: JobStore, job_id: str, after: str, limit: int) -> tuple[list[ImageRecord], str | None]:
        if job_id == bad.job_id:
            raise TimeoutError
        return missing_after(store, job_id, after, limit)

    monkeypatch.setattr(JobStore, "missing_after", fail_for_one)
    for ref in (bad, good):
        cancel_on(site, ref.job_id)
    site.canceller.tick()
    assert (site.store.result(bad), site.result(good).error) == (None, CANCELLED)


def test_a_retried_image_fails_with_its_attempt_if_the_job_is_cancelled_again(site: ResultsSite) -> None:
    [ref] = site.add_job(1)
    cancel_on(site, ref.job_id)
    site.canceller.tick()
    Cancellations(site.store.table).remove(ref.job_id)
    site.retry(ref)
    site.canceller.tick()
    assert site.result(ref).attempt == 0, "it is being retried"
    cancel_on(site, ref.job_id, after=2)
    site.canceller.tick()
    assert (site.result(ref).attempt, site.result(ref).error) == (1, CANCELLED)


def test_an_image_that_is_retried_at_that_moment_does_not_fail(
    site: ResultsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ref] = site.add_job(1)
    cancel_on(site, ref.job_id)
    missing_after = JobStore.missing_after

    def resume_afterwards(
        store: JobStore, job_id: str, after: str, limit: int
    ) -> tuple[list[ImageRecord], str | None]:
        found = missing_after(store, job_id, after, limit)
        Cancellations(site.store.table).remove(job_id)
        return found

    monkeypatch.setattr(JobStore, "missing_after", resume_afterwards)
    site.canceller.tick()
    assert site.store.result(ref) is None


# Jobs that the controller stops


def answer(site: ResultsSite, results: Iterable[ClassificationResult]) -> None:
    """Send responses and record all of them: a collector receives ten at a time."""
    site.respond(*results)
    while site.responses.counts().total:
        site.collector.tick()


@pytest.mark.parametrize(
    ("failures", "answered", "missing", "limit", "is_stopped"),
    [
        (6, 100, 1, 5, True),
        (5, 100, 1, 5, False),
        (99, 99, 1, 5, False),
        (6, 100, 0, 5, False),
        (99, 100, 1, None, False),
    ],
)
def test_a_job_is_stopped_when_more_of_its_results_are_failures_than_it_allows_and_images_are_missing(
    site: ResultsSite, failures: int, answered: int, missing: int, limit: float | None, is_stopped: bool
) -> None:
    refs, [other] = site.add_job(answered + missing, max_failed_percent=limit), site.add_job(1)
    answer(site, [*map(refused, refs[:failures]), *map(labelled, refs[failures:answered])])
    for _ in range(3):
        site.canceller.tick()
    status = site.store.status(refs[0].job_id)
    assert (status.state == "cancelled", site.inputs.exists(cancelled_key(refs[0].job_id))) == (is_stopped,) * 2
    stopped = "6 of 100 images failed, more than 5%, most as crashed_worker"
    assert (status.stopped, status.counts.cancelled) == ((stopped, missing) if is_stopped else ("", 0))
    assert not Cancellations(site.store.table).find([other.job_id])


def stop_on(site: ResultsSite, missing: int = 2) -> list[ImageRef]:
    """Let the controller stop a job with 50 labels, 50 failures and missing images; return its images."""
    refs = site.add_job(100 + missing, max_failed_percent=5)
    answer(site, [*map(refused, refs[:50]), *map(labelled, refs[50:100])])
    for _ in range(3):
        site.canceller.tick()
    assert site.store.status(refs[0].job_id).stopped
    return refs


@pytest.mark.parametrize("restarts", [False, True])
def test_a_stopped_job_goes_on_after_a_retry_and_is_not_stopped_again(site: ResultsSite, restarts: bool) -> None:
    refs = stop_on(site)
    ingest = ImageIngest(Mock(), InputBucket(site.inputs), site.store, site.requests, inspect)
    job = site.store.job(refs[0].job_id)
    assert retry_failed(ingest, job).sent == 52, "also the images that a worker has not answered"
    if restarts:
        site.start()
    site.reconciler.tick()
    for _ in range(3):
        site.canceller.tick()
    status = site.store.status(job.job_id)
    assert (status.stopped, status.state, site.inputs.exists(cancelled_key(job.job_id))) == ("", "finished", False)
    more = site.add_images(job.job_id, 200)
    answer(site, map(refused, more[:199]))
    site.canceller.tick()
    assert site.store.status(job.job_id).state == "running"
    cancel_on(site, job.job_id)
    site.canceller.tick()
    assert site.result(more[-1]).error == CANCELLED, "its user may still cancel it"


def test_a_stop_that_ends_between_two_writes_is_whole_in_the_next_round(
    site: ResultsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = site.add_job(101, max_failed_percent=5)
    answer(site, map(refused, refs[:100]))
    with monkeypatch.context() as patched:
        patched.setattr(Cancellations, "cancel", Mock(side_effect=TimeoutError))
        site.canceller.tick()
    assert site.store.status(refs[0].job_id).state == "running"
    site.inputs.fails = lambda _body: HTTPClientError(error="lost")
    site.canceller.tick()
    site.inputs.fails = lambda _body: None
    site.canceller.tick()
    assert site.store.status(refs[0].job_id).stopped
    assert site.result(refs[-1]).error == CANCELLED


def test_a_stopped_job_says_why_in_its_status_on_its_page_and_to_those_who_send_more(
    client: FlaskClient, store: JobStore, job: Job
) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    reason = "6 of 100 images failed, more than 5%, most as <bad>"
    Cancellations(store.table).cancel(job.job_id, NOW, reason)
    put_results(store, done(one), cancelled(two))
    status = client.get(f"/api/v1/jobs/{job.job_id}").get_json()
    assert (status["state"], status["stopped"]) == ("cancelled", reason)
    page = client.get(f"/jobs/{job.job_id}").get_data(as_text=True)
    shown = f"Stopped: {escape(reason)}. 1 classified, 1 not. A retry resumes the job."
    assert shown in page
    assert ">cancelled</span>" in page
    assert f"stopped: {reason}; retry its failed images" in problem(upload(client, job, ("c.jpg", picture())), 409)
    client.post(f"/api/v1/jobs/{job.job_id}/retry")
    assert client.get(f"/api/v1/jobs/{job.job_id}").get_json()["stopped"] is None
    assert Cancellations(store.table).is_resumed(job.job_id)


def test_cancelled_images_do_not_count_in_the_rate_or_the_cost(store: JobStore, job: Job) -> None:
    counts = Counts(100, 50, 150, NOW, NOW + timedelta(seconds=9), cancelled=50)
    assert images_per_second(JobStatus(job, 151, counts)) == 11
    assert [has_cost(replace(counts, done=done)) for done in (0, 1)] == [False, True]


def test_a_controller_that_may_not_act_fails_nothing(site: ResultsSite) -> None:
    [ref] = site.add_job(1)
    cancel_on(site, ref.job_id)
    site.active = False
    site.canceller.tick()
    assert site.store.result(ref) is None
    assert not site.outputs.objects


def test_a_deleted_job_is_not_cancelled_and_leaves_no_tombstone(site: ResultsSite) -> None:
    [ref] = site.add_job(1)
    cancel_on(site, ref.job_id)
    DeletedJobs(site.store.table).delete(site.store.job(ref.job_id))
    with pytest.raises(NotFoundError):
        Cancellations(site.store.table).cancel(ref.job_id, EPOCH)
    JobCleanup(site.store, InputBucket(site.inputs), OutputBucket(site.outputs), 1.0, Tenure()).tick()
    assert not site.inputs.objects
    assert not Cancellations(site.store.table).find([ref.job_id])
