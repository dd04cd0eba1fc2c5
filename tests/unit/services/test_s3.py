"""S3: objects over the wire when the service is slow, refuses, or is not there, and presigned forms (row 41)."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError

from services import clients
from services.clients import Clients
from services.endpoint import Endpoint
from services.errors import ListingError, ObjectRefusedError
from services.s3 import (
    MAX_EMPTY_PAGES,
    Bucket,
    Forms,
    ListedObject,
    SourceBuckets,
    UploadForm,
    as_botocore,
    is_refusal,
)
from tests.support.jobs import client_error
from tests.support.servers import ScriptedServer, serving

ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{}</Message></Error>"


class FakeS3(ScriptedServer):
    """S3 with the answers of a test."""

    def clients(self, **settings: Any) -> Clients:
        """Return clients of this server that try a call twice."""
        url = f"http://127.0.0.1:{self.server_port}"
        return Clients(Endpoint("eu-central-1", url, **{"max_attempts": 2, **settings}))

    def bucket(self, name: str = "photos", **settings: Any) -> Bucket:
        """Return a bucket of this server."""
        return Bucket.named(self.clients(**settings), name)


@pytest.fixture
def s3() -> Iterator[FakeS3]:
    server = FakeS3()
    with serving(server):
        yield server


def test_a_put_is_signed_with_the_credentials_that_botocore_has(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-a-role")
    s3.bucket().put("job/image.jpg", b"pixels", "image/jpeg")
    ((method, path, headers, body),) = s3.received
    assert (method, path, body, headers["content-type"]) == ("PUT", "/photos/job/image.jpg", b"pixels", "image/jpeg")
    assert "Credential=AKIATEST/" in headers["authorization"]
    assert "/eu-central-1/s3/aws4_request" in headers["authorization"]
    assert headers["x-amz-security-token"] == "of-a-role"
    assert headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD", "no digest of the content is computed"


DELETED = "<DeleteResult><Deleted><Key>a</Key></Deleted>{}</DeleteResult>"


def test_many_objects_are_deleted_in_calls_of_a_thousand(s3: FakeS3) -> None:
    s3.answers = [(200, DELETED.format(""))] * 3
    s3.bucket().delete_all([f"job/{number}" for number in range(2_500)])
    assert [(method, path) for method, path, _, _ in s3.received] == [("POST", "/photos?delete")] * 3
    assert sorted(body.count(b"<Key>") for _, _, _, body in s3.received) == [500, 1_000, 1_000]


LISTING = "<ListBucketResult><IsTruncated>{}</IsTruncated>{}</ListBucketResult>"
EMPTY = LISTING.format("true", "<NextContinuationToken>{}</NextContinuationToken>")


def test_pages_without_an_object_are_followed_to_one_that_has_some_but_not_for_ever(s3: FakeS3) -> None:
    sources, found = (
        SourceBuckets(s3.clients().s3),
        '<Contents><Key>c.jpg</Key><Size>3</Size><ETag>"c3"</ETag></Contents>',
    )
    s3.answers = [(200, EMPTY.format("one")), (200, EMPTY.format("two")), (200, LISTING.format("true", found))]
    assert sources.page("photos", "", "a.jpg", 5) == ([ListedObject("c.jpg", 3, etag="c3")], True)
    asked = [parse_qs(urlsplit(path).query) for _, path, _, _ in s3.received]
    assert [each.get("start-after", each.get("continuation-token")) for each in asked] == [
        ["a.jpg"],
        ["one"],
        ["two"],
    ]
    s3.answers = [(200, EMPTY.format("again"))] * (MAX_EMPTY_PAGES + 1)
    with pytest.raises(ListingError, match=r"s3://photos/in/ after 'a\.jpg' list no object"):
        sources.page("photos", "in/", "a.jpg", 5)
    assert len(s3.answers) == 1


class EndingCredentials:
    """Credentials of a role that end in a minute, so that botocore fetches the next ones before each call."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def load_credentials(self) -> RefreshableCredentials:
        """Return the credentials, as botocore's own provider does."""
        return RefreshableCredentials.create_from_metadata(self._fetch(), self._fetch, "test")

    def _fetch(self) -> dict[str, str]:
        number = next(self._numbers)
        end = datetime.now(UTC) + timedelta(minutes=1)
        keys = {"access_key": f"AKIA{number}", "secret_key": f"secret-{number}", "token": f"token-{number}"}
        return {**keys, "expiry_time": end.isoformat()}


def test_credentials_that_end_are_replaced_in_a_client_that_is_in_use(
    s3: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    # botocore renews credentials that have less time left, so obstore uses none beyond their end.
    assert clients.CREDENTIALS_KEPT.total_seconds() <= RefreshableCredentials._mandatory_refresh_timeout  # type: ignore[attr-defined]
    # obstore then asks before each call.
    monkeypatch.setattr(clients, "CREDENTIALS_KEPT", timedelta(0))
    made = s3.clients()
    made.session.register_component("credential_provider", EndingCredentials())
    bucket = Bucket.named(made, "photos")
    s3.answers = [(200, ""), (400, ERROR.format("ExpiredToken", "The provided token has expired.")), (200, "")]
    bucket.put("first", b"", "text/plain")
    with pytest.raises(ClientError, match="ExpiredToken"):
        bucket.put("refused", b"", "text/plain")
    bucket.put("first", b"", "text/plain")
    made.sqs.list_queues()
    made.sqs.list_queues()
    signed = [(headers["authorization"], headers["x-amz-security-token"]) for _, _, headers, _ in s3.received]
    numbers = [token.removeprefix("token-") for _, token in signed]
    assert len(set(numbers)) == 5
    assert all(f"Credential=AKIA{number}/" in by for (by, _), number in zip(signed, numbers, strict=True))


@pytest.mark.parametrize(
    ("tags", "header"), [(None, None), ({"kept": "no"}, "kept=no"), ({"a b": "c&d"}, "a+b=c%26d")]
)
def test_a_put_says_the_tags_of_the_object_and_only_them(
    s3: FakeS3, tags: dict[str, str] | None, header: str | None
) -> None:
    s3.bucket().put("a", b"1", "text/plain", tags)
    ((_, _, headers, _),) = s3.received
    assert headers.get("x-amz-tagging") == header


def test_tries_are_limited_and_the_last_refusal_is_said(s3: FakeS3) -> None:
    s3.answers = [(503, ERROR.format("SlowDown", "less &amp; later"))] * 9
    with pytest.raises(ClientError) as raised:
        s3.bucket().get("a")
    assert len(s3.received) == 2
    assert raised.value.response["Error"] == {"Code": "SlowDown", "Message": "less & later"}
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503


def test_a_refusal_without_a_body_has_its_status_as_code(s3: FakeS3) -> None:
    s3.answers = [(403, "")]
    with pytest.raises(ClientError) as raised:
        s3.bucket().get("a")
    assert raised.value.response["Error"]["Code"] == "403"


def test_a_refused_head_raises_and_a_head_of_no_object_checks_that_the_bucket_exists(s3: FakeS3) -> None:
    bucket = s3.bucket()
    s3.answers = [(403, "")]
    with pytest.raises(ClientError, match="403"):
        bucket.head("a")
    s3.answers = [(404, ""), (404, ERROR.format("NoSuchKey", ""))]
    assert bucket.head("a") is None
    assert [method for method, *_ in s3.received] == ["HEAD", "HEAD", "GET"]


def test_no_server_at_the_address_is_an_error_of_botocores_family() -> None:
    server = FakeS3()
    server.server_close()
    with pytest.raises(HTTPClientError, match="error sending request"):
        server.bucket(max_attempts=1).get("a")


def test_no_credentials_is_said_as_botocore_says_it(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(NoCredentialsError):
        s3.bucket().get("a")
    assert s3.received == []


def test_credentials_that_cannot_be_fetched_name_the_reason() -> None:
    text = (
        "Generic: External AWS credential provider: ReadTimeoutError: the metadata service is slow\n\nDebug source: x"
    )
    error = as_botocore(text, "GetObject")
    assert isinstance(error, BotoCoreError)
    assert "ReadTimeoutError: the metadata service is slow" in str(error)
    assert "Debug" not in str(error)


def test_on_aws_a_bucket_is_a_host_unless_its_name_has_dots() -> None:
    clients = Clients(Endpoint("eu-central-1"))
    styles = {name: dict(clients.object_store(name).config) for name in ("photos", "my.photos")}
    assert styles["photos"]["virtual_hosted_style_request"] != styles["my.photos"]["virtual_hosted_style_request"]


def form(
    region: str = "eu-central-1",
    bucket: str = "photos",
    url: str | None = None,
    tags: dict[str, str] | None = None,
) -> UploadForm:
    forms = Forms.for_bucket(Clients(Endpoint(region, url)), bucket)
    return forms.form("job/image.png", "image/png", sizes=range(100, 48_214), seconds=600, tags=tags)


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
    wanted += [{"bucket": "photos"}, ["content-length-range", 100, 48_213]]
    assert sorted(map(str, policy(made)["conditions"])) == sorted(map(str, wanted))
    assert set(made.fields) == {*said, "policy", "x-amz-signature"}
    assert made.fields.get("x-amz-security-token", "") == token


def test_the_policy_fixes_the_tags_and_the_form_says_them_as_s3_reads_them() -> None:
    made = form(tags={"kept": "no", "a": "<&>"})
    tags = "<Tag><Key>kept</Key><Value>no</Value></Tag><Tag><Key>a</Key><Value>&lt;&amp;&gt;</Value></Tag>"
    assert made.fields["tagging"] == f"<Tagging><TagSet>{tags}</TagSet></Tagging>"
    assert {"tagging": made.fields["tagging"]} in policy(made)["conditions"]


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


@pytest.mark.parametrize(
    ("status", "code", "is_final"),
    [
        (403, "AccessDenied", True),
        (404, "NoSuchBucket", True),
        (403, "InvalidObjectState", True),
        (400, "KMS.DisabledException", True),
        (400, "KMS.ThrottlingException", False),
        (403, "ExpiredToken", False),
        (400, "ThrottlingException", False),
        (403, "RequestTimeTooSkewed", False),
        (503, "SlowDown", False),
    ],
)
def test_credentials_that_are_refused_are_no_fault_of_an_object(status: int, code: str, is_final: bool) -> None:
    class Client:
        def get_object(self, **_: Any) -> None:
            raise client_error(status, code)

    source: Any = Client()
    assert is_refusal(client_error(status, code)) is is_final
    if is_final:
        assert not SourceBuckets(source).is_readable("photos", "a.jpg")
    else:
        with pytest.raises(ClientError, match=code):
            SourceBuckets(source).is_readable("photos", "a.jpg")
    with pytest.raises(ObjectRefusedError if is_final else ClientError, match=code):
        SourceBuckets(source).read("photos", "a.jpg", "e", 3)
