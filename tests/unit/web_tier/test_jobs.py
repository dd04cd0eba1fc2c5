"""Jobs through the API: created once, bounded, found, retried, deleted."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import count
from threading import Barrier
from typing import Any
from zipfile import ZipFile

import pytest
from flask.testing import FlaskClient

from core.config import Config
from core.ids import ImageRef, image_id_at, new_id
from core.images import CODES, ImageLimits
from core.jobs.buckets import InputBucket
from core.jobs.figures import JobFigures
from core.jobs.keys import merged_key
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import ImageRecord, Job, MergedFile
from core.jobs.store import JobStore
from core.jobs.uploads import CLAIM_LIFETIME, Claim, Claims
from core.messages import RequestMessage, SourceObjects
from core.model_catalog import JobModel
from services.s3 import Bucket
from services.sqs import OutgoingMessage
from tests.support.api import AppMaker, problem, upload
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, add_images, client_error, done, failed, picture, put_results, request_again
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.unsandboxed import inspect
from tests.support.waiting import DEADLINE_SECONDS
from tests.support.worker import key_of
from web_tier.results.query import is_retrying
from web_tier.uploads.ingest import ImageIngest
from web_tier.uploads.retry import retry_failed, retry_image, retry_images

# Idempotency


def create(client: FlaskClient, key: str, name: str = "a") -> Any:
    return client.post("/api/v1/jobs", json={"name": name}, headers={"Idempotency-Key": key})


def test_the_deleted_job_of_a_key_is_not_created_again(client: FlaskClient) -> None:
    job_id = create(client, "k").get_json()["job_id"]
    client.delete(f"/api/v1/jobs/{job_id}")
    assert "deleted" in problem(create(client, "k"), 404)


def test_a_key_is_free_again_after_a_day(store: JobStore) -> None:
    claims, now = Claims(store.table), datetime(2026, 3, 1, tzinfo=UTC)
    first, second = Claim(new_id(), "r", now), Claim(new_id(), "r", now + CLAIM_LIFETIME)
    assert claims.acquire("k", first) == first
    assert claims.acquire("k", Claim(new_id(), "r", now + CLAIM_LIFETIME - timedelta(seconds=1))) == first
    assert claims.acquire("k", second) == second


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "\x7f"])
def test_an_invalid_key_is_rejected(client: FlaskClient, key: str) -> None:
    assert "Idempotency-Key" in problem(create(client, key), 400)


# Bounds


def test_no_more_jobs_are_open_than_allowed(make_app: AppMaker, store: JobStore) -> None:
    client = make_app(web={"max_open_jobs": 1}).test_client()
    first = create(client, "k").get_json()
    add_images(store, store.job(first["job_id"]), "a.jpg")
    for answer in (client.post("/api/v1/jobs"), create(client, "new")):
        assert "1 jobs are open" in problem(answer, 429)
        assert answer.get_json()["type"] == "urn:fleetsight:problem:too-many-open-jobs"
        assert int(answer.headers["Retry-After"]) > 0
    assert create(client, "k").get_json() == first  # a repeat opens nothing
    DeletedJobs(store.table).delete(store.job(first["job_id"]))
    assert client.post("/api/v1/jobs").status_code == 201


# Search


def test_jobs_are_found_by_a_part_of_their_name(client: FlaskClient) -> None:
    made = [client.post("/api/v1/jobs", json={"name": name}).get_json()["job_id"] for name in ("Rom 1", "x", "rom 2")]
    found = client.get("/api/v1/jobs?name=ROM&limit=1").get_json()
    assert [job["job_id"] for job in found["jobs"]] == [made[2]]
    rest = client.get(f"/api/v1/jobs?name=ROM&limit=1&before={found['next']}").get_json()
    assert [job["job_id"] for job in rest["jobs"]] == [made[0]]
    assert rest["next"] is None


# Results


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("state=done", ["a.jpg", "B.jpg"]),
        ("state=failed", ["c.jpg"]),
        ("state=waiting", ["d.jpg"]),
        ("label=cat", ["a.jpg"]),
        ("min_score=0.5", ["B.jpg"]),
        ("filename=b", ["B.jpg"]),
        ("label=cat&state=failed", []),
    ],
)
def test_every_format_of_results_has_the_same_filter(
    client: FlaskClient, store: JobStore, job: Job, query: str, names: list[str]
) -> None:
    a, b, c, _ = add_images(store, job, "a.jpg", "B.jpg", "c.jpg", "d.jpg")
    put_results(store, done(a, "cat", 0.4), done(b, "dog", 0.6), failed(c))
    base = f"/api/v1/jobs/{job.job_id}/results"
    page = client.get(f"{base}?{query}").get_json()
    assert ([image["filename"] for image in page["results"]], page["next"]) == (names, None)
    lines = client.get(f"{base}.jsonl?{query}").text.splitlines()
    assert [json.loads(line) for line in lines] == page["results"]
    rows = client.get(f"{base}.csv?{query}").text.splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == names


def test_filtered_pages_have_every_match_once(client: FlaskClient, store: JobStore, job: Job) -> None:
    images = add_images(store, job, *["a.jpg"] * 7)
    put_results(store, *[done(image, "cat" if index % 2 else "dog") for index, image in enumerate(images)])
    seen, after = [], ""
    while True:
        page = client.get(f"/api/v1/jobs/{job.job_id}/results?label=dog&limit=2{after}").get_json()
        seen += [image["image_id"] for image in page["results"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == [image.ref.image_id for image in images[::2]]


@pytest.mark.parametrize("query", ["state=x", "min_score=2", "min_score=nan", "max_score=-1", "label="])
@pytest.mark.parametrize("form", ["", ".csv", ".jsonl"])
def test_an_invalid_filter_is_named(client: FlaskClient, job: Job, form: str, query: str) -> None:
    answer = client.get(f"/api/v1/jobs/{job.job_id}/results{form}?{query}")
    assert query.split("=", maxsplit=1)[0] in problem(answer, 400)


def test_a_csv_has_a_byte_order_mark_only_on_request(client: FlaskClient, store: JobStore, job: Job) -> None:
    add_images(store, job, "a.jpg")
    address = f"/api/v1/jobs/{job.job_id}/results.csv"
    answers = [client.get(f"{address}{query}") for query in ("", "?bom=true")]
    assert answers[0].data.startswith(b"image_id,filename")
    assert answers[1].data == b"\xef\xbb\xbf" + answers[0].data
    assert "bom" in problem(client.get(f"{address}?bom=perhaps"), 400)


def test_a_zip_has_the_kept_images_that_match(
    make_app: AppMaker, store: JobStore, input_bucket: MemoryBucket
) -> None:
    client = make_app().test_client()
    job = Job(new_id(), "holiday", datetime.now(UTC), keep=True)
    store.create(job)
    images = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    input_bucket.objects.update({image.key: image.filename.encode() for image in images})
    put_results(store, done(images[0], "cat"), done(images[1], "dog"), failed(images[2]))
    address = f"/api/v1/jobs/{job.job_id}/images.zip"

    def names(query: str) -> list[str]:
        answer = client.get(f"{address}?{query}")
        assert (answer.status_code, answer.content_type) == (200, "application/zip")
        return ZipFile(BytesIO(answer.data)).namelist()

    assert names("") == ["cat/a.jpg", "dog/b.jpg", "_failed/c.jpg"]
    assert names("label=dog") == ["dog/b.jpg"]
    del input_bucket.objects[images[1].key]
    assert names("state=done") == ["cat/a.jpg", "missing.txt"]
    problem(client.get(f"{address}?state=lost"), 400)


def test_a_zip_has_images_that_were_accepted_under_a_higher_limit(
    make_app: AppMaker, store: JobStore, input_bucket: MemoryBucket
) -> None:
    client = make_app(web={"max_image_bytes": 1_024}).test_client()
    job = Job(new_id(), "holiday", datetime.now(UTC), keep=True)
    store.create(job)
    [image] = add_images(store, job, "a.jpg")
    input_bucket.objects[image.key] = bytes(image.size)
    answer = client.get(f"/api/v1/jobs/{job.job_id}/images.zip")
    assert [entry.file_size for entry in ZipFile(BytesIO(answer.data)).infolist()] == [image.size]


def test_a_job_that_keeps_no_images_has_no_zip(client: FlaskClient, job: Job) -> None:
    assert "not kept" in problem(client.get(f"/api/v1/jobs/{job.job_id}/images.zip"), 404)


# Retry


@dataclass
class Shop:
    """A web tier with a bucket and a queue in memory, and a job with stored images that failed."""

    client: FlaskClient
    queue: MemoryQueue
    bucket: MemoryBucket
    job: Job
    images: Sequence[ImageRecord]

    def retry(self, query: str = "") -> Any:
        return self.client.post(f"/api/v1/jobs/{self.job.job_id}/retry{query}")


@pytest.fixture
def shop(
    client: FlaskClient, store: JobStore, job: Job, input_bucket: MemoryBucket, requests_queue: MemoryQueue
) -> Shop:
    images = add_images(store, job, *[f"{number}.jpg" for number in range(4)])
    input_bucket.objects.update({image.key: b"pixels" for image in images})
    put_results(store, done(images[0]), *map(failed, images[1:]))
    return Shop(client, requests_queue, input_bucket, job, images)


def test_failed_images_are_requested_again_and_no_others(shop: Shop) -> None:
    body = shop.retry().get_json()
    assert (body["sent"], body["refused"], body["gone"], body["next"]) == (3, 0, [], None)
    asked = [RequestMessage.from_json(message) for message in shop.queue.bodies]
    assert [(each.refs, key_of(each)) for each in asked] == [([i.ref], i.key) for i in shop.images[1:]]


def test_a_retry_of_a_pack_is_one_item_and_one_request_and_other_images_keep_their_model(
    shop: Shop, store: JobStore
) -> None:
    job_id, pack_id = shop.job.job_id, new_id()
    refs = [ImageRef(job_id, image_id_at(pack_id, place)) for place in range(4)]
    images = [ImageRecord(ref, "a.jpg", "jpg", (1,) * 4, NOW) for ref in refs]
    store.record_images(images, NOW)
    put_results(store, done(images[0]), *map(failed, images[1:]))
    shop.bucket.objects[images[0].key] = b"pixels"
    job, calls = replace(shop.job, model=JobModel("other", "1" * 64, "s3://models/other")), Counter[str]()

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        calls[operation] += 1
        return effect()

    shop.bucket.call = call
    intake = ImageIngest(ImageLimits(1, 1), InputBucket(shop.bucket), store, shop.queue, inspect)
    shop.queue.fails = list
    found = [(store.image(image.ref), failed(image)) for image in images[1:]]
    assert retry_images(intake, job, found).rejected == 3
    assert [store.image(ref) for ref in refs] == images, "they are as before"
    shop.queue.fails = lambda _: []
    assert retry_images(intake, job, found).sent == 3
    assert calls["head"] == 2, "one a retry"
    [request] = map(RequestMessage.from_json, shop.queue.bodies)
    assert (request.places, request.attempt, request.model) == ((1, 2, 3), 1, job.requested_model)
    assert [store.image(ref).model for ref in refs] == [None, *[job.requested_model] * 3]
    assert retry_images(intake, job, found).running == 3


def test_an_image_of_a_source_is_requested_again_where_it_is_and_shown_by_its_thumbnail(
    shop: Shop, store: JobStore
) -> None:
    job_id, pack_id = shop.job.job_id, new_id()
    objects = (("a.jpg", "e0"), ("\x01.jpg", "e1"), ("<c>.jpg", "e2"))
    source = SourceObjects(bucket="photos", prefix="day1/", objects=objects)
    refs = [ImageRef(job_id, image_id_at(pack_id, place)) for place in range(3)]
    names = ["a.jpg", ".jpg", "<c>.jpg"]
    images = [
        ImageRecord(ref, name, "jpg", (1, 2, 3), NOW, source=source) for ref, name in zip(refs, names, strict=True)
    ]
    store.record_images(images, NOW)
    assert [store.image(ref) for ref in refs] == images
    put_results(store, done(images[0]), *map(failed, images[1:]))
    intake = ImageIngest(ImageLimits(1, 1), InputBucket(shop.bucket), store, shop.queue, inspect)
    before = dict(shop.bucket.objects)
    assert (
        retry_images(intake, shop.job, [(store.image(ref), failed(store.image(ref))) for ref in refs[1:]]).sent == 2
    )
    [request] = map(RequestMessage.from_json, shop.queue.bodies)
    assert (request.places, request.attempt, request.source) == ((1, 2), 1, source)
    assert [store.image(ref).source for ref in refs] == [source] * 3
    calls = count()
    shop.bucket.call = lambda _, effect: (next(calls), effect())[1]
    InputBucket(shop.bucket).delete(images)
    assert (shop.bucket.objects, next(calls)) == (before, 0)
    address = f"/jobs/{job_id}/images/{refs[2].image_id}"
    assert "s3://photos/day1/&lt;c&gt;.jpg" in shop.client.get(address).text
    assert shop.client.get(f"{address}/thumbnail").location.endswith("no-picture.svg")


def test_a_failed_result_stays_until_a_better_one_comes(shop: Shop, store: JobStore) -> None:
    shop.retry()
    assert store.status(shop.job.job_id).counts.failed == 3
    put_results(store, done(shop.images[1]))
    body = shop.retry().get_json()
    assert (body["sent"], body["running"]) == (0, 2)


def test_s2_a_retry_is_sent_once_until_its_result_comes(shop: Shop, store: JobStore) -> None:
    image = shop.images[1]
    one = f"/api/v1/jobs/{shop.job.job_id}/images/{image.ref.image_id}/retry"
    sent = [shop.retry().get_json()["sent"] for _ in range(30)]
    assert (sent[0], sum(sent), len(shop.queue.bodies)) == (3, 3, 3)
    assert shop.client.post(one).get_json()["outcome"] == "running"
    put_results(store, failed(image, attempt=1))
    assert shop.client.post(one).get_json()["outcome"] == "sent"
    assert len(shop.queue.bodies) == 4


def test_s2_of_many_retries_at_once_one_is_sent(shop: Shop) -> None:
    together = Barrier(8)

    def retry(_: int) -> int:
        client = shop.client.application.test_client()
        together.wait(DEADLINE_SECONDS)
        return int(client.post(f"/api/v1/jobs/{shop.job.job_id}/retry").get_json()["sent"])

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(retry, range(8))) == 3
    assert len(shop.queue.image_ids) == len(shop.queue.bodies) == 3


@pytest.mark.parametrize("code", CODES)
def test_s2_an_image_that_would_fail_again_is_not_retried(shop: Shop, store: JobStore, code: str) -> None:
    image = shop.images[1]
    request_again(store, [image], NOW)
    put_results(store, failed(image, code=code, attempt=1))
    body = shop.retry().get_json()
    assert (body["sent"], body["final"]) == (2, 1)
    address = f"/jobs/{shop.job.job_id}/images/{image.ref.image_id}"
    assert shop.client.post(f"/api/v1{address}/retry").get_json()["outcome"] == "final"
    assert image.ref.image_id not in shop.queue.image_ids
    assert f'action="{address}/retry"' not in shop.client.get(address).text
    assert f'action="{address}/retry"' not in shop.client.get(f"/jobs/{shop.job.job_id}").text


def test_row_53_a_retry_has_its_attempt_for_any_clocks(shop: Shop, store: JobStore) -> None:
    """Row 53: the web tier's clock may be ten minutes ahead of, or behind, the controller's."""
    image, attempts = shop.images[1], list[int]()
    for skew in (timedelta(minutes=-10), timedelta(minutes=10), timedelta(0)):
        intake = ImageIngest(
            ImageLimits(1, 1),
            InputBucket(shop.bucket),
            store,
            shop.queue,
            inspect,
            clock=PlayedClock(utc_now=lambda: datetime.now(UTC) + skew),  # noqa: B023
        )
        assert retry_image(intake, shop.job, store.image(image.ref), store.result(image.ref)).sent == 1
        assert retry_image(intake, shop.job, store.image(image.ref), store.result(image.ref)).running == 1
        attempts.append(RequestMessage.from_json(shop.queue.bodies[-1]).attempt)
        again = failed(image, attempt=attempts[-1]).model_copy(update={"recorded_at": datetime.now(UTC)})
        put_results(store, again)
        assert not is_retrying(store.image(image.ref), again)
    assert attempts == [1, 2, 3]


def test_a_retry_of_a_job_that_is_being_deleted_is_rejected(shop: Shop, store: JobStore) -> None:
    store.table.put_all([{"pk": "DELETED", "sk": shop.job.job_id}])
    problem(shop.retry(), 404)
    assert shop.queue.bodies == []


def test_an_image_that_is_no_longer_stored_is_listed_and_not_requested(shop: Shop) -> None:
    del shop.bucket.objects[shop.images[2].key]
    body = shop.retry().get_json()
    assert (body["sent"], [gone["filename"] for gone in body["gone"]]) == (2, ["2.jpg"])


def test_many_failed_images_are_retried_in_portions(shop: Shop, store: JobStore) -> None:
    intake = ImageIngest(ImageLimits(1, 1), InputBucket(shop.bucket), store, shop.queue, inspect)
    first = retry_failed(intake, shop.job, max_images=2)
    second = retry_failed(intake, shop.job, after=first.next_after, max_images=2)
    assert (first.sent, second.sent, second.next_after) == (2, 1, None)
    assert next(iter(intake.metrics.retried.collect())).samples[0].value == 3
    assert len(shop.queue.image_ids) == 3


def test_images_that_the_queue_rejects_are_counted_and_an_outage_gets_503(shop: Shop) -> None:
    shop.queue.fails = lambda messages: list(messages)[:1]
    assert shop.retry().get_json()["refused"] == 1

    def fail(_: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        raise client_error(500)

    shop.queue.fails = fail
    problem(shop.retry(), 503)


def test_an_image_that_the_queue_rejects_is_not_retrying(shop: Shop, store: JobStore) -> None:
    shop.queue.fails = list
    address = f"/api/v1/jobs/{shop.job.job_id}/images/{shop.images[1].ref.image_id}"
    assert shop.client.post(f"{address}/retry").get_json()["outcome"] == "refused"
    assert store.image(shop.images[1].ref).retried_at is None


def test_the_outcome_of_a_retry_that_is_not_possible_has_the_reason(shop: Shop) -> None:
    base = f"/api/v1/jobs/{shop.job.job_id}/images"
    del shop.bucket.objects[shop.images[2].key]
    assert shop.client.post(f"{base}/{shop.images[0].ref.image_id}/retry").get_json()["outcome"] == "not_failed"
    assert shop.client.post(f"{base}/{shop.images[2].ref.image_id}/retry").get_json()["outcome"] == "gone"
    problem(shop.client.post(f"{base}/{new_id()}/retry"), 404)
    assert shop.queue.bodies == []


# One file


def test_the_results_file_is_linked_and_downloaded_once_it_exists(
    client: FlaskClient, store: JobStore, job: Job, config: Config, output_bucket: Bucket
) -> None:
    address = f"/api/v1/jobs/{job.job_id}"
    [image] = add_images(store, job, "a.jpg")
    put_results(store, done(image))
    assert client.get(address).get_json()["results_file"] is None
    problem(client.get(f"{address}/results/file"), 404)
    key, bucket = merged_key(job.job_id), config.names.output_bucket
    output_bucket.put(key, b"{}\n", "application/x-ndjson")
    JobFigures(store.table).put_merged(
        job.job_id, MergedFile(key, store.status(job.job_id).edition, datetime.now(UTC))
    )
    results_file = client.get(address).get_json()["results_file"]
    assert (results_file["address"], results_file["current"]) == (f"s3://{bucket}/{key}", True)
    answer = client.get(f"{address}/results/file")
    assert (answer.data, answer.content_type) == (b"{}\n", "application/x-ndjson")
    assert answer.headers["Content-Disposition"] == "attachment; filename=holiday.jsonl"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    JobFigures(store.table).put_merged(job.job_id, MergedFile(key, "other", datetime.now(UTC)))
    assert client.get(address).get_json()["results_file"]["current"] is False


# Deletion


def test_a_deleted_job_gets_404_everywhere_at_once(client: FlaskClient, job: Job) -> None:
    [image] = upload(client, job, ("a.jpg", picture())).get_json()["accepted"]
    base = f"/api/v1/jobs/{job.job_id}"
    assert client.delete(base).status_code == 204
    for path in ("", "/results", "/results.csv", "/results.jsonl", "/results/file"):
        problem(client.get(base + path), 404)
    problem(client.get(f"{base}/images/{image['image_id']}"), 404)
    problem(client.delete(base), 404)
    problem(client.post(f"{base}/retry"), 404)
    assert client.get("/api/v1/jobs").get_json()["jobs"] == []
