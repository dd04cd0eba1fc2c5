"""Presigned uploads by the API: forms, their policies, and the commit."""

import base64
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.config import Config
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from localcloud.s3.posts import Form, RefusedError, check_policy
from services.clients import Clients
from services.s3 import Bucket
from tests.conftest import ConfigMaker
from tests.support.forms import content_of
from tests.support.jobs import add_images, count_images, picture
from web_tier.app import create_app

PICTURE = picture()
FILE = {"name": "a.jpg", "bytes": len(PICTURE), "content_type": "image/jpeg"}


def request_forms(client: FlaskClient, job: Job, *files: object, **headers: str) -> TestResponse:
    return client.post(f"/api/v1/jobs/{job.job_id}/uploads", json={"files": files}, headers=headers)


def body(answer: TestResponse, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.get_json()
    return found


def post(form: dict[str, Any], content: bytes = PICTURE) -> None:
    assert requests.post(form["url"], data=form["fields"], files={"file": content}, timeout=120).status_code == 204


def test_forms_are_requested_sent_and_committed(client: FlaskClient, job: Job, store: JobStore) -> None:
    offer = body(request_forms(client, job, FILE, {**FILE, "content_type": "text/plain"}, {**FILE, "name": "b.jpg"}))
    [first], [second] = (each["images"] for each in offer["uploads"])
    assert [(each["index"], each["filename"], each["member"]) for each in (first, second)] == [
        (0, "a.jpg", None), (2, "b.jpg", None),
    ]  # fmt: skip
    assert [(each["index"], each["code"]) for each in offer["rejected"]] == [(1, "format_not_allowed")]
    post(offer["uploads"][1]["upload"])
    outcome = body(client.post(offer["links"]["commit"]))
    assert [(each["index"], each["image_id"]) for each in outcome["accepted"]] == [(2, second["image_id"])]
    assert [(each["index"], each["code"]) for each in outcome["rejected"]] == [(0, "missing")]
    assert store.status(job.job_id).accepted == 1
    post(offer["uploads"][0]["upload"])
    assert len(body(client.post(offer["links"]["commit"]))["accepted"]) == 2
    assert body(client.get(offer["links"]["job"]))["accepted"] == 2


def test_a_form_for_several_images_takes_their_tar_and_no_other_size(
    provisioned: Clients, make_config: ConfigMaker, store: JobStore, job: Job
) -> None:
    client = create_app(make_config(packs={"max_images": 50}), store=store).test_client()
    others = [{**FILE, "position": 800 + number} for number in range(4)]
    offer = body(request_forms(client, job, {**FILE, "content_type": "text/plain"}, *others))
    [upload] = offer["uploads"]
    assert [(each["index"], each["member"]) for each in upload["images"]] == [
        (number, f"{number - 1:02}.jpg") for number in range(1, 5)
    ]
    whole = content_of(upload, [b"", *[PICTURE] * 4])
    for content in (whole + b"\0", whole[:2_000]):
        refused = requests.post(
            upload["upload"]["url"], data=upload["upload"]["fields"], files={"file": content}, timeout=120
        )
        assert refused.status_code == 400
    post(upload["upload"], whole)
    accepted = body(client.post(offer["links"]["commit"]))["accepted"]
    assert [each["image_id"] for each in accepted] == [each["image_id"] for each in upload["images"]]
    assert [each.size for each in store.images(job.job_id)] == [len(PICTURE)] * 4


def test_packs_are_as_large_as_what_the_job_has_and_what_remains_allow(
    provisioned: Clients, make_config: ConfigMaker, store: JobStore, job: Job
) -> None:
    client = create_app(make_config(packs={"max_images": 50}), store=store).test_client()

    def forms(**rest: int) -> int:
        answer = client.post(f"/api/v1/jobs/{job.job_id}/uploads", json={"files": [FILE] * 8, **rest})
        return len(body(answer)["uploads"])

    assert forms() == 8
    add_images(store, job, *[f"{number}.jpg" for number in range(64)])
    assert [forms(), forms(remaining=1_000), forms(remaining=0)] == [1, 1, 8]


def test_an_offer_or_commit_without_an_accepted_file_gets_422_with_reasons(client: FlaskClient, job: Job) -> None:
    refused = body(request_forms(client, job, {**FILE, "bytes": 2**40}), 422)
    assert (refused["accepted"], [each["code"] for each in refused["rejected"]]) == ([], ["too_large"])
    offer = body(request_forms(client, job, FILE))
    missing = body(client.post(offer["links"]["commit"]), 422)
    assert [each["code"] for each in missing["rejected"]] == ["missing"]


def test_an_unknown_job_or_upload_gets_404(client: FlaskClient, job: Job) -> None:
    gone = Job(new_id(), "gone", job.created_at)
    assert request_forms(client, gone, FILE).status_code == 404
    for upload_id in (new_id(), "nonsense"):
        body(client.post(f"/api/v1/jobs/{job.job_id}/uploads/{upload_id}/commit"), 404)
    offer = body(request_forms(client, job, FILE))
    client.delete(f"/api/v1/jobs/{job.job_id}")
    body(client.post(offer["links"]["commit"]), 404)


PATH_FILE = {"name": "../../other.jpg", "bytes": len(PICTURE), "content_type": "image/jpeg"}


@dataclass(frozen=True)
class OfferedForm:
    """The form of one upload in the response of the API."""

    offer: dict[str, Any]

    @property
    def fields(self) -> dict[str, str]:
        fields: dict[str, str] = self.offer["uploads"][0]["upload"]["fields"]
        return fields

    @property
    def policy(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(base64.b64decode(self.fields["policy"]))
        return document

    def sent(self, bucket: str) -> Form:
        """Return the form as S3 gets it."""
        return Form(bucket, {name.lower(): value for name, value in self.fields.items()}, len(PICTURE))


def offer_form(client: FlaskClient) -> OfferedForm:
    job_id = client.post("/api/v1/jobs").get_json()["job_id"]
    answer = client.post(f"/api/v1/jobs/{job_id}/uploads", json={"files": [PATH_FILE]})
    assert answer.status_code == 200, answer.text
    return OfferedForm(answer.get_json())


def test_the_policy_expires_as_configured_and_as_returned(client: FlaskClient, config: Config) -> None:
    handed = offer_form(client)
    longest = timedelta(seconds=config.web.direct_upload_seconds)
    ends = datetime.fromisoformat(handed.policy["expiration"])
    assert datetime.now(UTC) + longest - timedelta(seconds=60) < ends <= datetime.now(UTC) + longest
    assert timedelta(0) <= ends - datetime.fromisoformat(handed.offer["expires_at"]) < timedelta(seconds=60)


def test_a_form_sent_later_elsewhere_of_another_size_or_untagged_violates_the_policy(
    client: FlaskClient, config: Config
) -> None:
    sent, now = offer_form(client).sent(config.names.input_bucket), datetime.now(UTC)
    later = now + timedelta(seconds=config.web.direct_upload_seconds)
    untagged = {name: value for name, value in sent.fields.items() if name != "tagging"}
    for form, at in (
        (sent, later),
        (replace(sent, fields=untagged), now),
        (replace(sent, bucket=config.names.output_bucket), now),
        (replace(sent, size=sent.size + 1), now),
        (replace(sent, size=sent.size - 1), now),
    ):
        with pytest.raises(RefusedError):
            check_policy(form, at)


def test_an_object_outside_of_an_offer_is_never_committed(
    client: FlaskClient, input_bucket: Bucket, store: JobStore
) -> None:
    handed, other = offer_form(client), offer_form(client)
    job_id = handed.offer["job_id"]
    beside = f"{job_id}/01KAH8Z9M5J6C0Q2V4T7W1X3YD.jpg"
    for key in (beside, other.fields["key"]):
        input_bucket.put(key, PICTURE, "image/jpeg")
    answer = client.post(handed.offer["links"]["commit"])
    assert (answer.status_code, [each["code"] for each in answer.get_json()["rejected"]]) == (422, ["missing"])
    swapped = client.post(f"/api/v1/jobs/{job_id}/uploads/{other.offer['upload_id']}/commit")
    assert swapped.status_code == 404
    assert count_images(store, job_id) == count_images(store, other.offer["job_id"]) == 0
