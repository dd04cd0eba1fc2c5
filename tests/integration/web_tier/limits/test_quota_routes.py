"""A day's images and bytes, by every way in: what is too much is refused whole, and nothing of it stays."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO

import pytest
import requests
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.jobs import JobStore
from services.clients import Clients
from services.s3 import Bucket
from tests.conftest import ConfigMaker
from tests.integration.web_tier.limits.conftest import HouseMaker
from tests.support.dead_letters import give_up
from tests.support.jobs import MemoryBucket, MemoryQueue, client_error, failed
from tests.support.people import BROWSER
from tests.support.pictures import picture
from web_tier.app import create_app

A_DAY = {"images_per_day": 3, "requests_per_minute": 0}


@dataclass
class Door:
    """A web tier that is open to everybody, so that addresses count, and what it has put and sent."""

    client: FlaskClient
    store: JobStore
    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    queue: MemoryQueue = field(default_factory=MemoryQueue)

    def left(self) -> int:
        """Return how many images may still be sent today."""
        return int(self.client.get("/api/v1/limits").get_json()["images_left"])

    def new_job(self) -> str:
        return str(self.client.post("/api/v1/jobs").get_json()["job_id"])

    def add(self, job_id: str, *shades: int, **headers: str) -> TestResponse:
        return self.client.post(f"/api/v1/jobs/{job_id}/images", data=form(*shades), headers=headers)


@pytest.fixture
def door(provisioned: Clients, make_config: ConfigMaker, store: JobStore) -> Door:
    bucket, queue = MemoryBucket(), MemoryQueue()
    app = create_app(make_config(auth={"open": True}, limits=A_DAY), input_bucket=bucket, request_queue=queue)
    return Door(app.test_client(), store, bucket, queue)


def form(*shades: int) -> dict[str, list[tuple[BytesIO, str]]]:
    """Return a form with pictures of these shades."""
    return {"images": [(BytesIO(picture(shade=shade)), f"{shade}.jpg") for shade in shades]}


def by_page(door: Door, *shades: int) -> TestResponse:
    return door.client.post("/", data=form(*shades))


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


def test_a_form_that_is_too_much_makes_no_job(door: Door) -> None:
    by_page(door, 1, 2, 3)
    assert by_page(door, 4).status_code == 429
    assert len(door.client.get("/api/v1/jobs").get_json()["jobs"]) == 1


def test_the_refusal_is_a_problem_of_its_own_kind(door: Door) -> None:
    answer = by_api(door, 1, 2, 3, 4)
    assert json.loads(answer.data)["type"] == "urn:fleetsight:problem:quota-exceeded"


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


def test_what_is_not_accepted_after_all_is_given_back(door: Door) -> None:
    door.bucket.fails = lambda body: client_error(503) if body == picture(shade=2) else None
    assert len(by_api(door, 1, 2, 3).get_json()["rejected"]) == 1
    assert door.left() == 1
    door.bucket.fails = lambda body: client_error(503)
    assert by_api(door, 4).status_code == 503
    assert door.left() == 1


def test_what_fails_in_the_middle_is_given_back(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("web_tier.intake.store.ImageIngest.commit", fail)
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


def test_s9_forms_for_direct_uploads_are_charged_when_they_are_handed_out(
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


def test_s9_new_jobs_are_charged(make_house: HouseMaker) -> None:
    house = make_house(requests_per_minute=0, jobs_per_day=2)
    ann, client = house.with_token("ann", "classify", "read"), house.stranger()

    def make(**headers: str) -> int:
        return client.post("/api/v1/jobs", headers=ann | headers).status_code

    assert [make(), make(**{"Idempotency-Key": "k"}), make(**{"Idempotency-Key": "k"})] == [201] * 3
    assert [make(), make(**{"Idempotency-Key": "other"}), make(**{"Idempotency-Key": "k"})] == [429, 429, 201]
    assert client.get("/api/v1/limits", headers=ann).get_json()["jobs_left"] == 0


def test_s2_retries_are_charged(door: Door) -> None:
    job_id = door.new_job()
    accepted = door.add(job_id, 1, 2).get_json()["accepted"]
    for image in door.store.images(job_id):
        door.store.put_failed(failed(image))
    assert door.client.post(f"/api/v1/jobs/{job_id}/retry").status_code == 429, "two more than the day has"
    assert (door.left(), len(door.queue.bodies)) == (1, 2)
    one = f"/api/v1/jobs/{job_id}/images/{accepted[0]['image_id']}/retry"
    outcomes = [door.client.post(one).get_json()["outcome"] for _ in range(2)]
    assert (outcomes, door.left(), len(door.queue.bodies)) == (["sent", "running"], 0, 3)


def test_a_redrive_is_not_charged(door: Door) -> None:
    job_id = door.new_job()
    door.add(job_id, 1, 2)
    for image in door.store.images(job_id):
        give_up(door.store, image)
    [first] = door.store.images(job_id, limit=1)
    one = f"/api/v1/dead-letters/{job_id}/{first.ref.image_id}/redrive"
    assert door.client.post(one).get_json()["outcome"] == "sent"
    assert door.client.post("/api/v1/dead-letters/redrive").get_json()["sent"] == 1
    assert (door.left(), len(door.queue.bodies)) == (1, 4)


def test_each_user_has_a_day_of_their_own(make_house: HouseMaker) -> None:
    house = make_house(requests_per_minute=0)
    ann, bob = house.with_token("ann", "classify", "read"), house.with_token("bob", "classify", "read")
    client = house.stranger()

    def send(whose: dict[str, str], *shades: int) -> int:
        job_id = client.post("/api/v1/jobs", headers=whose).get_json()["job_id"]
        return client.post(f"/api/v1/jobs/{job_id}/images", data=form(*shades), headers=whose).status_code

    assert [send(ann, 1, 2, 3), send(ann, 4), send(bob, 5)] == [200, 429, 200]
    assert client.get("/api/v1/limits", headers=ann).get_json()["images_left"] == 0
    left = house.signed_in("bob").get("/api/v1/limits", headers=BROWSER).get_json()
    assert (left["images_left"], left["images_per_day"], left["bytes_left"]) == (2, 3, None)
