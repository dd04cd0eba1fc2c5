"""The two calls of a direct upload, as a program sees them."""

from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.idempotency import MAX_FILES
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from tests.support.pictures import picture

PICTURE = picture()
FILE = {"name": "a.jpg", "bytes": len(PICTURE), "content_type": "image/jpeg"}


def ask(client: FlaskClient, job: Job, *files: object, **headers: str) -> TestResponse:
    return client.post(f"/api/v1/jobs/{job.job_id}/uploads", json={"files": files}, headers=headers)


def body(answer: TestResponse, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.get_json()
    return found


def post(form: dict[str, Any], content: bytes = PICTURE) -> None:
    assert requests.post(form["url"], data=form["fields"], files={"file": content}, timeout=120).status_code == 204


def test_forms_are_asked_for_sent_and_committed(client: FlaskClient, job: Job, store: JobStore) -> None:
    offer = body(ask(client, job, FILE, {**FILE, "content_type": "text/plain"}, {**FILE, "name": "b.jpg"}))
    assert [(each["index"], each["filename"]) for each in offer["uploads"]] == [(0, "a.jpg"), (2, "b.jpg")]
    assert [(each["index"], each["code"]) for each in offer["rejected"]] == [(1, "format_not_allowed")]
    post(offer["uploads"][1]["upload"])
    outcome = body(client.post(offer["links"]["commit"]))
    assert [(each["index"], each["image_id"]) for each in outcome["accepted"]] == [
        (2, offer["uploads"][1]["image_id"])
    ]
    assert [(each["index"], each["code"]) for each in outcome["rejected"]] == [(0, "missing")]
    assert store.status(job.job_id).accepted == 1
    post(offer["uploads"][0]["upload"])
    assert len(body(client.post(offer["links"]["commit"]))["accepted"]) == 2
    assert body(client.get(offer["links"]["job"]))["accepted"] == 2


def test_the_job_leads_to_its_uploads(client: FlaskClient) -> None:
    links = client.post("/api/v1/jobs").get_json()["links"]
    assert body(client.post(links["uploads"], json={"files": [FILE]}))["uploads"]


def test_nothing_that_may_come_and_nothing_that_has_come_is_422_with_the_reasons(
    client: FlaskClient, job: Job
) -> None:
    refused = body(ask(client, job, {**FILE, "bytes": 2**40}), 422)
    assert (refused["accepted"], [each["code"] for each in refused["rejected"]]) == ([], ["too_large"])
    offer = body(ask(client, job, FILE))
    missing = body(client.post(offer["links"]["commit"]), 422)
    assert [each["code"] for each in missing["rejected"]] == ["missing"]


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({}, "files: Field required; send"),
        ({"files": []}, "files: "),
        ({"files": [FILE] * (MAX_FILES + 1)}, "files: "),
        ({"files": [{**FILE, "bytes": -1}]}, "files.0.bytes: "),
        ({"files": [{**FILE, "bytes": 10**400}]}, "files.0.bytes: "),
        ({"files": [{**FILE, "key": "mine"}]}, "files.0.key: "),
        ({"files": [{"name": "a.jpg"}]}, "files.0.bytes: "),
    ],
)
def test_a_request_that_is_wrong_says_where(client: FlaskClient, job: Job, sent: object, says: str) -> None:
    problem = body(client.post(f"/api/v1/jobs/{job.job_id}/uploads", json=sent), 422)
    assert says in problem["detail"]
    assert '"content_type"' in problem["detail"]
    assert "nothing" not in problem["detail"]


def test_a_request_that_is_too_large_is_413(client: FlaskClient, job: Job) -> None:
    problem = body(ask(client, job, *[{**FILE, "name": "n" * 5_000}] * MAX_FILES), 413)
    assert "fewer files" in problem["detail"]


def test_what_is_not_there_is_404(client: FlaskClient, job: Job) -> None:
    gone = Job(new_id(), "gone", job.created_at)
    assert ask(client, gone, FILE).status_code == 404
    for upload_id in (new_id(), "nonsense"):
        body(client.post(f"/api/v1/jobs/{job.job_id}/uploads/{upload_id}/commit"), 404)
    offer = body(ask(client, job, FILE))
    client.delete(f"/api/v1/jobs/{job.job_id}")
    body(client.post(offer["links"]["commit"]), 404)


def test_a_repeated_request_is_offered_the_same_and_another_one_is_refused(client: FlaskClient, job: Job) -> None:
    key = {"Idempotency-Key": "k-1"}
    first, again = (body(ask(client, job, FILE, **key)) for _ in range(2))
    assert first["upload_id"] == again["upload_id"]
    assert [each["image_id"] for each in first["uploads"]] == [each["image_id"] for each in again["uploads"]]
    problem = body(ask(client, job, {**FILE, "name": "other.jpg"}, **key), 422)
    assert problem["type"] == "urn:fleetsight:problem:idempotency-key-reused"
