"""What a form for a direct upload allows, and how it is signed (row 41 of the faults)."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.clients import Clients
from services.endpoint import Endpoint
from services.s3 import Forms, UploadForm


def form(
    region: str = "eu-central-1",
    bucket: str = "photos",
    url: str | None = None,
    tags: dict[str, str] | None = None,
) -> UploadForm:
    forms = Forms.of(Clients(Endpoint(region, url)), bucket)
    return forms.form("job/image.png", "image/png", max_bytes=48_213, seconds=600, tags=tags)


def policy(made: UploadForm) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(base64.b64decode(made.fields["policy"]))
    return document


@pytest.mark.parametrize("token", ["", "of-a-role"])
@pytest.mark.parametrize("tags", [None, {"kept": "no"}])
def test_the_policy_fixes_bucket_key_type_size_and_tags_and_allows_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tags: dict[str, str] | None, token: str
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    made = form(tags=tags)
    signed = [name for name in made.fields if name.startswith("x-amz-") and name != "x-amz-signature"]
    said = ["key", "Content-Type", "Content-Disposition", *(["tagging"] if tags else []), *signed]
    wanted: list[Any] = [{name: made.fields[name]} for name in said]
    wanted += [{"bucket": "photos"}, ["content-length-range", 1, 48_213]]
    assert sorted(map(str, policy(made)["conditions"])) == sorted(map(str, wanted))
    assert set(made.fields) == {*said, "policy", "x-amz-signature"}
    assert ("x-amz-security-token" in signed) is bool(token)


def test_the_policy_ends_when_it_was_said() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    ends = datetime.fromisoformat(policy(form())["expiration"])
    assert before <= ends - timedelta(seconds=600) <= datetime.now(UTC)


def test_the_fields_are_those_of_the_policy() -> None:
    fields = form().fields
    assert (fields["key"], fields["Content-Type"]) == ("job/image.png", "image/png")
    assert fields["x-amz-algorithm"] == "AWS4-HMAC-SHA256"
    assert "/eu-central-1/s3/aws4_request" in fields["x-amz-credential"]


def test_the_policy_fixes_the_tags_and_the_form_says_them_as_s3_reads_them() -> None:
    made = form(tags={"kept": "no", "a": "<&>"})
    tags = "<Tag><Key>kept</Key><Value>no</Value></Tag><Tag><Key>a</Key><Value>&lt;&amp;&gt;</Value></Tag>"
    assert made.fields["tagging"] == f"<Tagging><TagSet>{tags}</TagSet></Tagging>"
    assert {"tagging": made.fields["tagging"]} in policy(made)["conditions"]


def test_a_form_without_tags_does_not_speak_of_them_so_that_s3_takes_none() -> None:
    made = form()
    assert "tagging" not in made.fields
    assert "tagging" not in json.dumps(policy(made)["conditions"])


def test_the_session_token_of_a_role_is_part_of_the_form_and_its_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-a-role")
    made = form()
    assert made.fields["x-amz-security-token"] == "of-a-role"
    assert {"x-amz-security-token": "of-a-role"} in policy(made)["conditions"]


@pytest.mark.parametrize(
    ("region", "bucket", "endpoint", "url"),
    [
        ("eu-central-1", "photos", None, "https://photos.s3.eu-central-1.amazonaws.com/"),
        ("eu-central-1", "my.photos", None, "https://s3.eu-central-1.amazonaws.com/my.photos"),
        ("us-east-1", "photos", "http://127.0.0.1:5000", "http://127.0.0.1:5000/photos"),
    ],
)
def test_the_form_goes_to_the_buckets_own_region_and_here_to_the_local_cloud(
    region: str, bucket: str, endpoint: str | None, url: str
) -> None:
    assert form(region, bucket, endpoint).url == url
