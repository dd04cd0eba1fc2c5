"""API v1: jobs, images, results and the fleet."""

import json
from datetime import datetime
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from core.config import WebSettings
from core.fleet.models import FleetSnapshot
from core.fleet.store import FleetStore
from core.ids import ImageRef, is_id, pack_of
from core.jobs.figures import JobFigures
from core.jobs.lifecycle import OpenJobs
from core.jobs.listings import ListingStore
from core.jobs.models import Job, MergedFile, ResultsCopy
from core.jobs.store import JobStore
from tests.support.api import AppMaker, problem, upload
from tests.support.autoscaler import fleet_snapshot
from tests.support.jobs import (
    NOW,
    add_images,
    client_error,
    count_images,
    done,
    failed,
    picture,
    put_results,
    send_again,
)
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from web_tier.api.schemas import CreateJob

# Jobs


@pytest.mark.parametrize(
    ("wanted", "digest"),
    [
        ({"name": "\u00e9"}, "8d162b8174c123a0a32bc2e1ee62400bead0b0ca0fd789bd138fab2a7bbb16ac"),
        ({"min_score": 0.8, "name": "a"}, "4098763a4b34384eac1eec7b4749b6c4391598b5916d747c7bc3a456dab06feb"),
        (
            {"max_failed_percent": 5, "finish_by": "2026-11-29T08:00:00+01:00", "model": "m", "keep": True}
            | {"source": "s3://b/p", "source_pattern": "*.jpg", "results": "s3://b/r"}
            | {"min_score": 0.8, "label_min_scores": {"stop": 0.3, "a": 1}},
            "1fa07f4fee3b17ada9798182158aa01f2700c2fedd3d16871e77a67bd55fdf2a",
        ),
    ],
)
def test_a_request_for_a_job_keeps_its_digest(wanted: dict[str, Any], digest: str) -> None:
    # An Idempotency-Key is kept with it: after a deployment the same request must make the same job.
    assert CreateJob.model_validate_json(json.dumps(wanted)).digest == digest


SOURCES = {
    "sources": [{"location": "s3://photos/incoming"}, {"location": "s3://archive", "users": "operators"}],
    "destinations": [{"location": "s3://photos/labels"}],
}


@pytest.mark.parametrize(
    ("limit", "status"), [(0.5, 201), (99, 201), (None, 201), (0, 422), (100, 422), ("NaN", 422)]
)
def test_a_job_has_the_limit_of_its_failures_that_was_wanted(
    make_app: AppMaker, store: JobStore, limit: float | str | None, status: int
) -> None:
    client = make_app().test_client()
    made = client.post("/api/v1/jobs", json={"max_failed_percent": limit})
    assert made.status_code == status
    if status == 201:
        job_id = made.get_json()["job_id"]
        assert store.job(job_id).max_failed_percent == limit
        assert client.get(f"/api/v1/jobs/{job_id}").get_json()["max_failed_percent"] == limit


def test_a_job_from_s3_says_how_far_its_source_is_listed_and_takes_no_uploads(
    make_app: AppMaker, store: JobStore
) -> None:
    client = make_app(imports=SOURCES).test_client()
    wanted = {"name": "day 1", "source": "s3://photos/incoming/day1/", "source_pattern": "<b>/*.jpg"}
    answers = [client.post("/api/v1/jobs", json=wanted, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].get_json() == answers[1].get_json()
    job = store.job(answers[0].get_json()["job_id"])
    status = client.get(f"/api/v1/jobs/{job.job_id}").get_json()
    assert (status["state"], status["accepted"]) == ("running", 0)
    assert status["source"] == {
        "uri": "s3://photos/incoming/day1",
        "pattern": "<b>/*.jpg",
        "state": "listing",
        "listed": 0,
        "accepted": 0,
        "skipped": {},
        "error": None,
        "paused_until": None,
    }
    assert [each.job_id for each in ListingStore(store).pending()] == [job.job_id]
    assert OpenJobs(store.table).is_open(job.job_id)
    sentence = "Listing s3://photos/incoming/day1/&lt;b&gt;/*.jpg: 0 objects so far."
    assert sentence in client.get(f"/jobs/{job.job_id}").text
    answer = upload(client, job, ("a.jpg", picture()))
    assert "come from S3" in problem(answer, 409)
    assert answer.get_json()["type"] == "urn:fleetsight:problem:job-takes-no-images"


@pytest.mark.parametrize(
    ("wanted", "status", "words"),
    [
        *(({"source": f"s3://{place}"}, 403, "imports.sources") for place in ("photos/incoming2", "photos", "other")),
        ({"source": "s3://photos/incoming/../secret"}, 422, "source: the prefix"),
        *(({"source": place}, 422, "source: ") for place in ("https://photos/incoming", "s3://Photos/incoming", "")),
        *(
            ({"results": f"s3://photos{place}"}, 403, "imports.destinations")
            for place in ("/labels2", "/incoming", "")
        ),
        ({"results": "s3://photos/labels/../secret"}, 422, "results: the prefix"),
        *(({"results": place}, 422, "results: ") for place in ("https://photos/labels", "")),
        ({"source": None, "source_pattern": "*.jpg"}, 422, "source_pattern goes with source"),
        *(({"source_pattern": text}, 422, "source_pattern") for text in ("a\n.jpg", "*" * 201, "")),
    ],
)
def test_a_location_that_is_not_allowed_makes_no_job(
    make_app: AppMaker, store: JobStore, wanted: dict[str, str | None], status: int, words: str
) -> None:
    client = make_app(imports=SOURCES).test_client()
    body = {"source": "s3://photos/incoming", **wanted}
    assert words in problem(client.post("/api/v1/jobs", json=body), status)
    assert store.jobs(10) == []
    assert ListingStore(store).pending() == []


def test_without_an_allowed_source_the_answer_names_the_key(client: FlaskClient) -> None:
    answer = client.post("/api/v1/jobs", json={"source": "s3://photos/incoming"})
    assert "imports.sources in config.yaml" in problem(answer, 403)


@pytest.mark.parametrize("more", [{}, {"source": "s3://photos/incoming/day1"}])
def test_a_job_says_whether_its_results_are_copied_to_s3(
    make_app: AppMaker, store: JobStore, more: dict[str, str]
) -> None:
    client = make_app(imports=SOURCES).test_client()
    wanted = {"name": "day 1", "results": "s3://photos/labels/day1/", **more}
    answers = [client.post("/api/v1/jobs", json=wanted, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].get_json() == answers[1].get_json()
    job = store.job(answers[0].get_json()["job_id"])
    assert job.results == "s3://photos/labels/day1"

    def results() -> object:
        return client.get(f"/api/v1/jobs/{job.job_id}").get_json()["results"]

    uri = f"s3://photos/labels/day1/{job.job_id}.jsonl"
    assert results() == {"uri": uri, "state": "waiting", "error": None}
    file = MergedFile("key", store.status(job.job_id).edition, NOW)
    JobFigures(store.table).put_merged(job.job_id, file)
    JobFigures(store.table).put_copy(job.job_id, ResultsCopy(file.version, "no such bucket"))
    assert results() == {"uri": uri, "state": "failed", "error": "no such bucket"}
    JobFigures(store.table).put_copy(job.job_id, ResultsCopy(file.version))
    assert results() == {"uri": uri, "state": "written", "error": None}
    store.put_retried(job.job_id, NOW, [])
    assert results() == {"uri": uri, "state": "waiting", "error": None}
    other = client.post("/api/v1/jobs", json={**wanted, "results": None}).get_json()
    assert client.get(other["links"]["self"]).get_json()["results"] is None


def test_a_job_without_a_name_is_named_after_the_time_of_its_creation(client: FlaskClient) -> None:
    body = client.post("/api/v1/jobs").get_json()
    at = datetime.fromisoformat(body["created_at"])
    assert body["name"] == f"{at.day} {at:%B %Y, %H:%M} UTC"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_json_body_is_read_in_each_unicode_encoding(client: FlaskClient, encoding: str) -> None:
    answer = client.post("/api/v1/jobs", data='{"name": "Fähre"}'.encode(encoding))
    assert (answer.status_code, answer.get_json()["name"]) == (201, "Fähre")


@pytest.mark.parametrize("body", ["[]", "{", '{"name": 1}', '{"naem": "x"}', json.dumps({"name": "x" * 101})])
def test_an_invalid_body_gets_422_with_an_example(client: FlaskClient, body: str) -> None:
    assert '{"name": "..."}' in problem(client.post("/api/v1/jobs", data=body), 422)


# Images


def test_each_file_has_its_outcome_and_index(client: FlaskClient, job: Job) -> None:
    answer = upload(
        client, job, ("a.jpg", picture()), ("a.jpg", b"text"), ("../x/a.jpg", picture("PNG")), ("e.jpg", b"")
    )
    body = answer.get_json()
    assert (answer.status_code, body["job_id"]) == (200, job.job_id)
    assert [(image["index"], image["filename"]) for image in body["accepted"]] == [(0, "a.jpg"), (2, "a.jpg")]
    assert len({image["image_id"] for image in body["accepted"]}) == 2
    assert [(file["index"], file["code"]) for file in body["rejected"]] == [(1, "not_an_image"), (3, "empty")]


@pytest.mark.parametrize("keys", [(None, None), ("first", "second")])
def test_images_with_positions_are_in_their_order_and_before_those_without(
    client: FlaskClient, job: Job, keys: tuple[str | None, str | None]
) -> None:
    upload(client, job, ("last.jpg", picture(shade=9)))
    for positions, names, key in (("3,1", ("d.jpg", "day/b.jpg"), keys[0]), ("2,0", ("c.jpg", "a.jpg"), keys[1])):
        files = [(BytesIO(picture(shade=len(name))), name) for name in names]
        data = {"positions": positions, "images": files}
        headers = {} if key is None else {"Idempotency-Key": key}
        answer = client.post(f"/api/v1/jobs/{job.job_id}/images", data=data, headers=headers)
        assert [image["filename"] for image in answer.get_json()["accepted"]] == list(names)
    shown = ["a.jpg", "day/b.jpg", "c.jpg", "d.jpg", "last.jpg"]
    path = f"/api/v1/jobs/{job.job_id}/results"
    assert [image["filename"] for image in client.get(path).get_json()["results"]] == shown
    assert [row.split(",")[1] for row in client.get(f"{path}.csv").text.splitlines()[1:]] == shown
    found = client.get(f"{path}?filename=DAY/").get_json()["results"]
    assert [image["filename"] for image in found] == ["day/b.jpg"]


@pytest.mark.parametrize(
    ("remaining", "image_seconds", "sizes"),
    [
        (None, 0.01, [10]),
        (1_000, 0.01, [10]),
        (40, 0.01, [3, 2, 2, 2, 1]),
        (None, None, [8, 2]),
        (None, 0.5, [4, 4, 2]),
    ],
)
def test_images_of_a_large_job_are_in_packs_as_its_sender_and_the_workers_allow(
    make_app: AppMaker,
    job: Job,
    store: JobStore,
    remaining: int | None,
    image_seconds: float | None,
    sizes: list[int],
) -> None:
    FleetStore(store.table).put_snapshot(fleet_snapshot(NOW, image_seconds=image_seconds))
    add_images(store, job, *("before.jpg" for _ in range(200)))
    fields = {"positions": ",".join(map(str, range(200, 210)))}
    fields |= {} if remaining is None else {"remaining": f"{remaining}"}
    files = [(BytesIO(picture(shade=number)), f"{number}.jpg") for number in range(10)]
    client = make_app(packs={"max_images": 50}).test_client()
    answer = client.post(f"/api/v1/jobs/{job.job_id}/images", data={**fields, "images": files})
    ids = [image["image_id"] for image in answer.get_json()["accepted"]]
    packs = {pack_of(each): store.image(ImageRef(job.job_id, each)).sizes for each in ids}
    assert [len(each) for each in packs.values()] == sizes


def test_an_upload_without_an_accepted_file_gets_422_with_reasons(client: FlaskClient, job: Job) -> None:
    answer = upload(client, job, ("a.jpg", b"text"))
    assert (answer.status_code, answer.get_json()["rejected"][0]["code"]) == (422, "not_an_image")


def test_an_upload_that_the_system_could_not_store_gets_503(make_app: AppMaker, job: Job) -> None:
    client = make_app(bucket=MemoryBucket(fails=lambda _: client_error(403))).test_client()
    answer = upload(client, job, ("a.jpg", picture()))
    assert (answer.status_code, answer.get_json()["rejected"][0]["code"]) == (503, "unavailable")


def test_limits_are_those_of_the_configuration_and_what_exceeds_them_stores_nothing(
    make_app: AppMaker,
    store: JobStore,
    job: Job,
    input_bucket: MemoryBucket,
    requests_queue: MemoryQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WebSettings, "max_files_per_request", 2)
    limits = {"max_image_bytes": 1024, "max_image_pixels": 200, "max_request_bytes": 10_000}
    client = make_app(web=limits).test_client()
    answer = upload(client, job, ("large.jpg", b"\xff\xd8\xff" + b"x" * 2000), ("wide.jpg", picture(size=(30, 30))))
    assert [file["code"] for file in answer.get_json()["rejected"]] == ["too_large", "too_many_pixels"]
    assert "at most 2 files" in problem(upload(client, job, *[("a.jpg", picture())] * 3), 413)
    assert "0.009537 MB" in problem(upload(client, job, ("a.jpg", b"x" * 20_000)), 413)
    assert (input_bucket.objects, count_images(store, job.job_id), requests_queue.bodies) == ({}, 0, [])


@pytest.mark.parametrize(
    ("content_type", "data", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"--x\r\n", 400),
        ("multipart/form-data; boundary=x", b"--x\r\n", 400),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 422),
    ],
    ids=["not a form", "no boundary", "cut", "no file"],
)
def test_a_body_that_is_not_a_form_of_files_is_rejected(
    client: FlaskClient, job: Job, content_type: str, data: bytes, status: int
) -> None:
    problem(client.post(f"/api/v1/jobs/{job.job_id}/images", data=data, content_type=content_type), status)


# Results


def test_one_image_is_returned_with_its_result(client: FlaskClient, store: JobStore, job: Job) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, failed(one))
    body = client.get(f"/api/v1/jobs/{job.job_id}/images/{one.ref.image_id}").get_json()
    assert (body["status"], body["error"]["code"], body["bytes"]) == ("failed", "crashed_worker", 1234)
    assert client.get(f"/api/v1/jobs/{job.job_id}/images/{two.ref.image_id}").get_json()["status"] == "waiting"


def test_images_that_the_system_retried_are_marked(client: FlaskClient, store: JobStore, job: Job) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, done(one).model_copy(update={"attempts": 3}))
    send_again(store, two)
    body = client.get(f"/api/v1/jobs/{job.job_id}/results").get_json()
    at = NOW.isoformat().replace("+00:00", "Z")
    again = {"times": 1, "first_at": at, "last_at": at}
    assert [(image["attempts"], image["requested_again"]) for image in body["results"]] == [(3, None), (None, again)]
    address = f"/api/v1/jobs/{job.job_id}/images/{two.ref.image_id}"
    assert client.get(address).get_json()["requested_again"] == again
    assert client.get(f"/api/v1/jobs/{job.job_id}").get_json()["system_retried"] == 2


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=1001", "limit=x", "limit=²", "after=x", "after="])
def test_an_invalid_parameter_is_named(client: FlaskClient, job: Job, query: str) -> None:
    assert query.split("=", maxsplit=1)[0] in problem(client.get(f"/api/v1/jobs/{job.job_id}/results?{query}"), 400)


# Fleet


def test_the_fleet_has_the_cost_of_a_thousand_images(client: FlaskClient, store: JobStore) -> None:
    snapshot = FleetSnapshot(
        at=NOW, running=0, pending=0, visible=0, in_flight=0, min_workers=0, max_workers=5, peak_workers=3,
        billed_seconds=600, cost=0.02, images=2_000, requests_cost=0.003, reason="none",
    )  # fmt: skip
    FleetStore(store.table).put_snapshot(snapshot)
    body = client.get("/api/v1/fleet").get_json()
    assert (body["billed_seconds"], body["cost"]) == (600, 0.02)
    assert body["instances_dollars_per_1000_images"] == pytest.approx(0.01)
    assert body["requests_dollars_per_1000_images"] == pytest.approx(0.0015)
    FleetStore(store.table).put_snapshot(snapshot.model_copy(update={"images": 0}))
    assert client.get("/api/v1/fleet").get_json()["instances_dollars_per_1000_images"] is None


def test_the_index_links_to_the_other_resources(client: FlaskClient) -> None:
    links = client.get("/api/v1").get_json()
    assert client.get(links["jobs"]).status_code == 200
    assert is_id(client.get("/api/v1/").headers["X-Request-Id"])
