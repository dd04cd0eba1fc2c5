"""Quotas of a day: a request that exceeds them is refused as a whole, on every route."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from threading import Barrier

import pytest
import requests
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.config import LimitSettings, parse_config
from core.jobs.store import JobStore
from services.clients import Clients
from services.s3 import Bucket
from services.table import EXPIRES_AT, Table
from tests.conftest import ConfigMaker, shipped_values
from tests.support.clocks import ManualClock, PlayedClock
from tests.support.jobs import client_error, failed, picture, put_results
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.people import BROWSER, SignInSiteMaker
from web_tier.app import create_app
from web_tier.http.quotas import Amount, QuotaExceededError, Quotas, RemainingQuota

EVENING = datetime(2026, 3, 1, 23, 59, 30, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)


def limits(images: int = 0, size: int = 0, jobs: int = 0) -> LimitSettings:
    """Return limits of so many images, bytes and jobs a day."""
    update = {"images_per_day": images, "bytes_per_day": size, "jobs_per_day": jobs}
    return parse_config(shipped_values()).limits.model_copy(update=update)


def test_a_day_takes_so_many_images_and_no_more_and_a_new_day_begins_at_midnight(table: Table) -> None:
    now = EVENING
    quotas = Quotas(table, limits(images=10), PlayedClock(utc_now=lambda: now))
    quotas.charge("ann", Amount(7, 700))
    assert quotas.remaining("ann") == RemainingQuota(images=3, bytes=None, jobs=None, renewed_at=MIDNIGHT)
    with pytest.raises(QuotaExceededError, match="10 images a day are taken, and 3 of them are left") as caught:
        quotas.charge("ann", Amount(4, 1))
    assert caught.value.retry_after == 30
    quotas.charge("ann", Amount(3, 1))
    quotas.charge("bob", Amount(10, 1))
    assert quotas.remaining("ann").images == 0
    now = MIDNIGHT
    assert quotas.remaining("ann").images == 10


def test_a_day_takes_so_many_bytes(table: Table) -> None:
    quotas = Quotas(table, limits(images=10, size=3 * 2**20), ManualClock(0.0, EVENING))
    quotas.charge("ann", Amount(1, 2**20))
    with pytest.raises(QuotaExceededError, match="3 MB a day are taken, and 2 MB of them are left"):
        quotas.charge("ann", Amount(1, 2**21 + 1))
    quotas.charge("ann", Amount(1, 2**21))
    assert quotas.remaining("ann") == RemainingQuota(images=8, bytes=0, jobs=None, renewed_at=MIDNIGHT)


def test_concurrent_requests_cannot_exceed_the_quota(table: Table) -> None:
    quotas, together = Quotas(table, limits(images=5), ManualClock(0.0, EVENING)), Barrier(10)

    def charge(_: int) -> bool:
        together.wait()
        try:
            quotas.charge("ann", Amount(1, 1))
        except QuotaExceededError:
            return False
        return True

    with ThreadPoolExecutor(10) as threads:
        assert sum(threads.map(charge, range(10))) == 5


def test_a_refund_counts_for_the_day_of_its_charge(table: Table) -> None:
    now = EVENING
    quotas = Quotas(table, limits(images=10), PlayedClock(utc_now=lambda: now))
    at = quotas.charge("ann", Amount(4, 400))
    now = MIDNIGHT
    quotas.refund("ann", Amount(4, 400), at)
    assert quotas.remaining("ann").images == 10
    now = EVENING
    assert quotas.remaining("ann").images == 10


def test_counts_expire_after_their_day(table: Table) -> None:
    Quotas(table, limits(images=10), ManualClock(0.0, EVENING)).charge("ann", Amount(1, 1))
    [item] = table.query("QUOTA#ann", "0", "9")
    assert item["sk"] == "2026-03-01"
    assert int(item[EXPIRES_AT]) > (MIDNIGHT + timedelta(days=1)).timestamp()


A_DAY = {"images_per_day": 3, "requests_per_minute": 0}


@dataclass
class Door:
    """A web tier that is open to everybody, so that addresses count, and what it has put and sent."""

    client: FlaskClient
    store: JobStore
    bucket: MemoryBucket
    queue: MemoryQueue

    def left(self) -> int:
        """Return how many images may still be sent today."""
        return int(self.client.get("/api/v1/limits").get_json()["images_left"])

    def new_job(self) -> str:
        return str(self.client.post("/api/v1/jobs").get_json()["job_id"])

    def add(self, job_id: str, *shades: int, **headers: str) -> TestResponse:
        return self.client.post(f"/api/v1/jobs/{job_id}/images", data=form(*shades), headers=headers)


@pytest.fixture
def door(noon: None, make_config: ConfigMaker) -> Door:
    store, bucket, queue = JobStore(MemoryTable()), MemoryBucket(), MemoryQueue()
    config = make_config(auth={"open": True}, limits=A_DAY)
    app = create_app(config, store=store, input_bucket=bucket, request_queue=queue)
    return Door(app.test_client(), store, bucket, queue)


def form(*shades: int) -> dict[str, list[tuple[BytesIO, str]]]:
    """Return a form with pictures of these shades."""
    return {"images": [(BytesIO(picture(shade=shade)), f"{shade}.jpg") for shade in shades]}


def by_page(door: Door, *shades: int) -> TestResponse:
    return door.client.post("/", data=form(*shades), headers=BROWSER)


def by_api(door: Door, *shades: int) -> TestResponse:
    return door.add(door.new_job(), *shades)


def by_api_once(door: Door, *shades: int) -> TestResponse:
    return door.add(door.new_job(), *shades, **{"Idempotency-Key": "k"})


Way = Callable[..., TestResponse]


@pytest.mark.parametrize("way", [by_page, by_api, by_api_once])
def test_more_than_a_day_takes_is_refused_whole_and_leaves_nothing(door: Door, way: Way) -> None:
    assert way(door, 1, 2).status_code in {200, 303}
    assert door.left() == 1
    kept = dict(door.bucket.objects)
    answer = way(door, 3, 4)
    assert answer.status_code == 429
    assert "3 images a day are taken, and 1 of them are left, so nothing of this request was accepted" in answer.text
    assert 1 <= int(answer.headers["Retry-After"]) <= 86_400
    assert (door.bucket.objects, len(door.queue.bodies), door.left()) == (kept, 2, 1)
    assert way(door, 5).status_code in {200, 303}
    assert door.left() == 0


def test_files_that_are_no_images_cost_nothing(door: Door) -> None:
    files = [(BytesIO(b"text"), "a.txt"), (BytesIO(picture()), "b.jpg")]
    answer = door.client.post(f"/api/v1/jobs/{door.new_job()}/images", data={"f": files})
    assert (answer.status_code, door.left()) == (200, 2)


def test_single_images_cost_one_each_whichever_way_they_come(door: Door) -> None:
    classify, data = "/api/v1/classify?wait=0", base64.b64encode(picture(shade=1)).decode()
    assert door.client.post(classify, json={"data": data}).status_code == 202
    assert door.client.post("/inference/image", json={"data": data}).status_code == 200
    assert door.client.post(classify, data=picture(shade=2), content_type="image/jpeg").status_code == 202
    for path, status in ((classify, 429), ("/inference/image", 429)):
        assert door.client.post(path, json={"data": data}).status_code == status
    plain = door.client.post("/classify-image", data={"myfile": (BytesIO(picture()), "a.jpg")})
    assert (plain.status_code, plain.mimetype) == (429, "text/plain")
    assert int(plain.headers["Retry-After"]) > 0
    assert (len(door.bucket.objects), len(door.queue.bodies)) == (3, 3)


def test_images_that_are_not_accepted_are_refunded(door: Door) -> None:
    door.bucket.fails = lambda body: client_error(503) if body == picture(shade=2) else None
    assert len(by_api(door, 1, 2, 3).get_json()["rejected"]) == 1
    assert door.left() == 1
    door.bucket.fails = lambda body: client_error(503)
    assert by_api(door, 4).status_code == 503
    assert door.left() == 1


def test_a_failed_request_is_refunded(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("web_tier.uploads.ingest.ImageIngest.commit", fail)
    assert by_api(door, 1, 2).status_code == 500
    assert door.left() == 3


def test_a_request_that_is_repeated_is_charged_once_also_when_nothing_is_left(door: Door) -> None:
    job_id, once = door.new_job(), {"Idempotency-Key": "k"}
    first = door.add(job_id, 1, 2, **once).get_json()
    assert door.add(job_id, 1, 2, **once).get_json() == first
    assert door.left() == 1
    door.add(job_id, 3)
    assert door.add(job_id, 1, 2, **once).get_json() == first
    assert (door.left(), len(door.bucket.objects)) == (0, 3)


def test_s9_presigned_forms_are_charged_when_they_are_offered(
    provisioned: Clients, make_config: ConfigMaker, input_bucket: Bucket
) -> None:
    client = create_app(make_config(auth={"open": True}, limits=A_DAY)).test_client()
    job, body = client.post("/api/v1/jobs").get_json(), picture()

    def ask(*names: str, key: str | None = None) -> TestResponse:
        files = [{"name": name, "bytes": len(body), "content_type": "image/jpeg"} for name in names]
        headers = {"Idempotency-Key": key} if key else {}
        return client.post(job["links"]["uploads"], json={"files": files}, headers=headers)

    def left() -> int:
        return int(client.get("/api/v1/limits").get_json()["images_left"])

    offer = ask("a.jpg", "b.jpg", key="k").get_json()
    assert ask("a.jpg", "b.jpg", key="k").get_json()["upload_id"] == offer["upload_id"]
    assert left() == 1, "a repeat is not charged again"
    assert (ask("c.jpg", "d.jpg").status_code, left()) == (429, 1)
    assert (ask("c.jpg").status_code, left()) == (200, 0)
    refused = ask("e.jpg")
    assert (refused.status_code, "3 images a day" in refused.text) == (429, True)
    assert ask("a.jpg", "b.jpg", key="k").status_code == 200, "nor refused when nothing is left"
    form = offer["uploads"][0]["upload"]
    requests.post(form["url"], data=form["fields"], files={"file": body}, timeout=120)
    assert client.post(offer["links"]["commit"]).status_code == 200
    assert (client.get(job["links"]["self"]).get_json()["accepted"], left()) == (1, 0)


@pytest.mark.usefixtures("provisioned")
def test_s9_new_jobs_are_charged(make_site: SignInSiteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitSettings, "jobs_per_day", 2)
    site = make_site(requests_per_minute=0)
    ann, client = site.with_token("ann", "classify", "read"), site.anonymous()

    def make(**headers: str) -> int:
        return client.post("/api/v1/jobs", headers=ann | headers).status_code

    assert [make(), make(**{"Idempotency-Key": "k"}), make(**{"Idempotency-Key": "k"})] == [201] * 3
    assert [make(), make(**{"Idempotency-Key": "other"}), make(**{"Idempotency-Key": "k"})] == [429, 429, 201]
    assert client.get("/api/v1/limits", headers=ann).get_json()["jobs_left"] == 0


def test_s2_retries_are_charged(door: Door) -> None:
    job_id = door.new_job()
    accepted = door.add(job_id, 1, 2).get_json()["accepted"]
    for image in door.store.images(job_id):
        put_results(door.store, failed(image))
    assert door.client.post(f"/api/v1/jobs/{job_id}/retry").status_code == 429, "two more than the day has"
    assert (door.left(), len(door.queue.bodies)) == (1, 2)
    one = f"/api/v1/jobs/{job_id}/images/{accepted[0]['image_id']}/retry"
    outcomes = [door.client.post(one).get_json()["outcome"] for _ in range(2)]
    assert (outcomes, door.left(), len(door.queue.bodies)) == (["sent", "running"], 0, 3)


@pytest.mark.usefixtures("provisioned")
def test_each_user_has_their_own_quota(make_site: SignInSiteMaker) -> None:
    site = make_site(requests_per_minute=0)
    ann, bob = site.with_token("ann", "classify", "read"), site.with_token("bob", "classify", "read")
    client = site.anonymous()

    def send(headers: dict[str, str], *shades: int) -> int:
        job_id = client.post("/api/v1/jobs", headers=headers).get_json()["job_id"]
        return client.post(f"/api/v1/jobs/{job_id}/images", data=form(*shades), headers=headers).status_code

    assert [send(ann, 1, 2, 3), send(ann, 4), send(bob, 5)] == [200, 429, 200]
    assert client.get("/api/v1/limits", headers=ann).get_json()["images_left"] == 0
    left = site.signed_in("bob").get("/api/v1/limits", headers=BROWSER).get_json()
    assert (left["images_left"], left["images_per_day"], left["bytes_left"]) == (2, 3, None)
