"""What the web tier signs for a direct upload: one object of one job, as declared, for a while.

Row 41 of the faults, with `tests/unit/services/test_forms.py` and what arrived in another form, or twice, in
`tests/integration/web_tier/test_direct_uploads.py`. That S3 holds a form to its policy is S3's affair; these tests
look at the signed policy itself.
"""

import base64
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from core.config import Config
from core.ids import parse_key
from core.jobs.store import JobStore
from localcloud.access_keys import secret_of
from localcloud.post_policy import Form, RefusedError, check_policy, signer_of
from services.s3 import Bucket
from tests.support.pictures import picture

PICTURE = picture()
FILE = {"name": "../../other.jpg", "bytes": len(PICTURE), "content_type": "image/jpeg"}
UNKEPT_TAGS = "<Tagging><TagSet><Tag><Key>kept</Key><Value>no</Value></Tag></TagSet></Tagging>"


@dataclass(frozen=True)
class HandedOut:
    """An offer of one upload, as a program gets it."""

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


def hand_out(client: FlaskClient, *, keep: bool = False) -> HandedOut:
    job_id = client.post("/api/v1/jobs", json={"keep": keep}).get_json()["job_id"]
    answer = client.post(f"/api/v1/jobs/{job_id}/uploads", json={"files": [FILE]})
    assert answer.status_code == 200, answer.text
    return HandedOut(answer.get_json())


@pytest.mark.parametrize("keep", [False, True], ids=["unkept", "kept"])
def test_the_policy_is_about_one_object_of_this_job_and_nothing_else(
    client: FlaskClient, config: Config, *, keep: bool
) -> None:
    handed = hand_out(client, keep=keep)
    image_id = handed.offer["uploads"][0]["image_id"]
    assert handed.fields["key"] == f"{handed.offer['job_id']}/{image_id}.jpg"
    assert parse_key(handed.fields["key"]).image_id == image_id
    ours = [each for each in handed.policy["conditions"] if not str(next(iter(each))).startswith("x-amz-")]
    assert sorted(map(str, ours)) == sorted(
        map(
            str,
            [
                {"bucket": config.names.input_bucket},
                {"key": handed.fields["key"]},
                {"Content-Type": "image/jpeg"},
                {"Content-Disposition": "attachment"},
                ["content-length-range", 1, len(PICTURE)],
                {"tagging": UNKEPT_TAGS},
            ],
        )
    )


def test_the_policy_ends_as_early_as_configured_and_as_said(client: FlaskClient, config: Config) -> None:
    handed = hand_out(client)
    longest = timedelta(seconds=config.web.direct_upload_seconds)
    ends = datetime.fromisoformat(handed.policy["expiration"])
    assert datetime.now(UTC) < ends <= datetime.now(UTC) + longest
    assert timedelta(0) <= ends - datetime.fromisoformat(handed.offer["expires_at"]) < timedelta(seconds=60)


def test_the_form_is_signed_as_it_is_and_so_is_no_other(client: FlaskClient, config: Config) -> None:
    handed = hand_out(client)
    sent = handed.sent(config.names.input_bucket)
    assert signer_of(sent, secret_of).region == config.aws.region
    check_policy(sent, datetime.now(UTC))
    forged = json.dumps({**handed.policy, "expiration": "2099-01-01T00:00:00Z"}).encode()
    longer = replace(sent, fields={**sent.fields, "policy": base64.b64encode(forged).decode()})
    with pytest.raises(RefusedError):
        signer_of(longer, secret_of)


@pytest.mark.parametrize(
    "change",
    [
        {"key": "01KAH8Z9M5J6C0Q2V4T7W1X3YD/01KAH8Z9M5J6C0Q2V4T7W1X3YD.jpg"},
        {"content-type": "text/html"},
        {"content-disposition": "inline"},
        {"tagging": ""},
        {"acl": "public-read"},
        {"success_action_redirect": "https://elsewhere.example"},
        {"x-amz-meta-who": "me"},
        {"x-amz-storage-class": "GLACIER"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_form_with_another_field_breaks_the_policy(
    client: FlaskClient, config: Config, change: dict[str, str]
) -> None:
    sent = hand_out(client).sent(config.names.input_bucket)
    with pytest.raises(RefusedError):
        check_policy(replace(sent, fields={**sent.fields, **change}), datetime.now(UTC))


def test_a_form_sent_later_elsewhere_larger_or_empty_breaks_the_policy(client: FlaskClient, config: Config) -> None:
    sent, now = hand_out(client).sent(config.names.input_bucket), datetime.now(UTC)
    later = now + timedelta(seconds=config.web.direct_upload_seconds)
    for form, at in (
        (sent, later),
        (replace(sent, bucket=config.names.output_bucket), now),
        (replace(sent, size=sent.size + 1), now),
        (replace(sent, size=0), now),
    ):
        with pytest.raises(RefusedError):
            check_policy(form, at)


def test_what_was_put_beside_an_offer_is_committed_by_nobody(
    client: FlaskClient, input_bucket: Bucket, store: JobStore
) -> None:
    handed, other = hand_out(client), hand_out(client)
    job_id = handed.offer["job_id"]
    beside = f"{job_id}/01KAH8Z9M5J6C0Q2V4T7W1X3YD.jpg"
    for key in (beside, other.fields["key"]):
        input_bucket.put(key, PICTURE, "image/jpeg")
    answer = client.post(handed.offer["links"]["commit"])
    assert (answer.status_code, [each["code"] for each in answer.get_json()["rejected"]]) == (422, ["missing"])
    swapped = client.post(f"/api/v1/jobs/{job_id}/uploads/{other.offer['upload_id']}/commit")
    assert swapped.status_code == 404
    assert store.count_images(job_id) == store.count_images(other.offer["job_id"]) == 0
