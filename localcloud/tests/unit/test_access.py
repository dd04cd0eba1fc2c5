"""What botocore signs is accepted, and web pages get nothing: finding S1 of the security review."""

import io
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import product
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from localcloud.access_keys import AccessKey, instance_key, owner_key, secret_of
from localcloud.page_guard import PageGuard
from localcloud.signatures import MAX_SKEW_SECONDS, SignedCalls

SDK = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "HTTP_HOST": "127.0.0.1:5000"}
FORM = {**SDK, "PATH_INFO": "/uploads", "CONTENT_TYPE": "multipart/form-data; boundary=b"}
OWN, FOREIGN = "http://127.0.0.1:8080", "https://evil.example"


class GuardedCloud:
    """A guard before a cloud that answers every request and has a bucket that accepts forms of `OWN`."""

    def __init__(self) -> None:
        self.passed = 0
        self.guard = PageGuard(self._cloud, lambda bucket, origin: (bucket, origin) == ("uploads", OWN))

    def __call__(self, environ: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Return status and headers of the answer."""
        found: list[tuple[str, list[tuple[str, str]]]] = []
        list(self.guard(environ, lambda status, headers: found.append((status, headers))))
        [(status, headers)] = found
        return int(status.split()[0]), dict(headers)

    def _cloud(self, _environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.passed += 1
        start_response("200 OK", [])
        return (b"secret",)


@pytest.fixture
def guarded() -> GuardedCloud:
    return GuardedCloud()


@pytest.mark.parametrize(
    "page",
    [
        {"HTTP_ORIGIN": FOREIGN},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_SEC_FETCH_SITE": "same-origin"},
        {"HTTP_SEC_FETCH_SITE": "none", "HTTP_ORIGIN": FOREIGN},
    ],
)
def test_s1_requests_of_pages_are_refused(guarded: GuardedCloud, page: dict[str, str]) -> None:
    paths = ("/", "/uploads", "/uploads/key", "/_embedded/calls", "/_embedded/switches")
    for method, path in product(("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"), paths):
        status, headers = guarded({**SDK, "REQUEST_METHOD": method, "PATH_INFO": path, **page})
        assert (status, guarded.passed) == (403, 0), (method, path)
        assert not [name for name in headers if name.startswith("Access-Control")], (method, path)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "", "[", "192.0.2.1"]
)
def test_s1_requests_to_another_host_name_are_refused(guarded: GuardedCloud, host: str) -> None:
    assert guarded({**SDK, "HTTP_HOST": host})[0] == 403
    assert guarded.passed == 0


@pytest.mark.parametrize(
    "change",
    [
        {"HTTP_ORIGIN": FOREIGN},
        {"PATH_INFO": "/results"},
        {"PATH_INFO": "/uploads/key"},
        {"CONTENT_TYPE": "application/x-www-form-urlencoded"},
        {"CONTENT_TYPE": "multipart/form-data-of-another-kind"},
        {"REQUEST_METHOD": "PUT"},
    ],
)
def test_s1_nothing_but_a_form_of_an_allowed_origin_to_its_bucket_passes(
    guarded: GuardedCloud, change: dict[str, str]
) -> None:
    assert guarded({**FORM, "HTTP_ORIGIN": OWN, **change})[0] == 403
    assert guarded.passed == 0


URL, REGION = "http://127.0.0.1:5000", "eu-central-1"
SEGMENT = st.text("abcXYZ019-_.~ /=&+%äß", min_size=1, max_size=12)
Request = dict[str, Any]


class Cloud:
    """Signed calls before a cloud that reads the body and answers 200."""

    def __init__(self, *, seconds_later: float = 0) -> None:
        self.bodies: list[bytes] = []
        self.signed_calls = SignedCalls(self._aws, lambda: datetime.now(UTC).timestamp() + seconds_later)

    def __call__(self, request: Request) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        statuses: list[str] = []
        environ = {**request, "wsgi.input": io.BytesIO(request["wsgi.input"].getvalue())}
        content = b"".join(self.signed_calls(environ, lambda status, _headers: statuses.append(status)))
        return int(statuses[0].split()[0]), content

    def _aws(self, environ: Request, start_response: Any) -> Iterable[bytes]:
        self.bodies.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return (b"",)


def sent(made: AWSRequest) -> Request:
    """Return a request as gunicorn hands it to the application."""
    prepared = made.prepare()
    address = urlsplit(prepared.url)
    raw = address.path + (f"?{address.query}" if address.query else "")
    body: Any = prepared.body or b""
    headers: dict[str, Any] = {name.upper().replace("-", "_"): value for name, value in prepared.headers.items()}
    known: dict[str, Any] = {
        name: headers.pop(name) for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if name in headers
    }
    return {
        "REQUEST_METHOD": prepared.method,
        "RAW_URI": raw,
        "PATH_INFO": unquote(address.path),
        "QUERY_STRING": address.query,
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_HOST": address.netloc,
        "wsgi.input": io.BytesIO(body),
        **known,
        **{f"HTTP_{name}": value.decode() if isinstance(value, bytes) else value for name, value in headers.items()},
    }


def signed(
    service: str,
    method: str = "POST",
    path: str = "/",
    body: bytes = b"",
    *,
    key: AccessKey | None = None,
    parameters: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Request:
    """Return a request that botocore has signed."""
    key = key or owner_key()
    made = AWSRequest(method, f"{URL}{path}", dict(headers or {}), body, params=dict(parameters or {}))
    auth = S3SigV4Auth if service == "s3" else SigV4Auth
    auth(Credentials(key.id, key.secret), service, REGION).add_auth(made)
    return sent(made)


def presigned(seconds: int = 60, path: str = "/bucket/key") -> Request:
    """Return a request for an address that botocore has presigned."""
    made = AWSRequest("GET", f"{URL}{path}")
    credentials = Credentials(owner_key().id, owner_key().secret)
    S3SigV4QueryAuth(credentials, "s3", REGION, expires=seconds).add_auth(made)
    return sent(made)


def code_of(answer: tuple[int, bytes]) -> tuple[int, str]:
    """Return status and error code of a refusal in XML."""
    status, body = answer
    return status, body.decode().partition("<Code>")[2].partition("</Code>")[0]


@given(
    service=st.sampled_from(["s3", "sqs", "cloudfront"]),
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE"]),
    segments=st.lists(SEGMENT.filter(lambda text: set(text) - {".", "/"} != set()), max_size=3),
    parameters=st.dictionaries(SEGMENT, SEGMENT, max_size=3),
    body=st.binary(max_size=50),
    kind=st.sampled_from(["", "application/json", "text/plain;  charset=utf-8"]),
)
def test_s1_every_request_that_botocore_signs_is_accepted_with_its_body(
    service: str, method: str, segments: list[str], parameters: dict[str, str], body: bytes, kind: str
) -> None:
    path = "/" + "/".join(quote(segment, safe="~") for segment in segments)
    cloud = Cloud()
    request = signed(
        service, method, path, body, parameters=parameters, headers={"Content-Type": kind} if kind else {}
    )
    assert cloud(request) == (200, b"")
    assert cloud.bodies == [body]


@pytest.mark.parametrize("service", ["s3", "sqs", "ec2"])
@pytest.mark.parametrize(
    "change",
    [
        {"REQUEST_METHOD": "DELETE"},
        {"RAW_URI": "/other"},
        {"QUERY_STRING": "delete"},
        {"HTTP_HOST": "localhost:5000"},
        {"wsgi.input": io.BytesIO(b"bodY")},
        {"HTTP_X_AMZ_DATE": "20260101T000000Z"},
    ],
    ids=["method", "path", "query", "host", "body", "date"],
)
def test_s1_a_request_that_was_changed_is_refused(service: str, change: Request) -> None:
    request = signed(service, "PUT", "/a/b", b"body")
    assert Cloud()(request)[0] == 200
    assert Cloud()({**request, **change})[0] == 403


def test_s1_a_wrong_secret_and_an_unknown_key_are_refused() -> None:
    wrong, unknown = AccessKey(owner_key().id, "guessed"), AccessKey("AKIAUNKNOWN", "guessed")
    assert code_of(Cloud()(signed("s3", key=wrong))) == (403, "SignatureDoesNotMatch")
    assert code_of(Cloud()(signed("s3", key=unknown))) == (403, "InvalidAccessKeyId")
    assert code_of(Cloud()(signed("ec2", key=unknown))) == (403, "AuthFailure")
    assert code_of(Cloud()(signed("iam", key=unknown))) == (403, "InvalidClientTokenId")
    status, body = Cloud()(signed("dynamodb", key=unknown, headers={"X-Amz-Target": "DynamoDB_20120810.ListTables"}))
    assert (status, b"UnrecognizedClientException" in body) == (400, True)


@pytest.mark.parametrize(
    "header",
    ["AWS AKIAONE:c2lnbmVk", "Bearer token", "AWS4-HMAC-SHA256 Credential=k/20260101/r/s3/aws4_request, Signature=0"],
)
def test_s1_another_kind_of_signature_is_refused(header: str) -> None:
    request = {**signed("s3"), "HTTP_AUTHORIZATION": header}
    assert code_of(Cloud()(request)) == (403, "SignatureDoesNotMatch")


def test_s1_a_request_without_a_signature_is_refused() -> None:
    request = signed("s3", "GET", "/bucket/key")
    del request["HTTP_AUTHORIZATION"]
    assert code_of(Cloud()(request)) == (403, "AccessDenied")


@pytest.mark.parametrize("seconds", [-MAX_SKEW_SECONDS - 5, MAX_SKEW_SECONDS + 5])
def test_s1_a_signature_is_accepted_for_a_quarter_of_an_hour(seconds: float) -> None:
    request = signed("s3")
    assert Cloud(seconds_later=seconds * 0.9)(request)[0] == 200
    assert code_of(Cloud(seconds_later=seconds)(request)) == (403, "RequestTimeTooSkewed")


def test_s1_a_presigned_address_is_accepted_until_it_expires() -> None:
    request = presigned(60, "/bucket/a%20key")
    assert Cloud(seconds_later=50)(request)[0] == 200
    assert code_of(Cloud(seconds_later=61)(request)) == (403, "AccessDenied")


def test_s1_a_presigned_address_is_for_its_object_alone() -> None:
    request = presigned()
    longer = request["QUERY_STRING"].replace("X-Amz-Expires=60", "X-Amz-Expires=6000")
    assert code_of(Cloud()({**request, "RAW_URI": "/bucket/other"})) == (403, "SignatureDoesNotMatch")
    assert code_of(Cloud()({**request, "QUERY_STRING": longer})) == (403, "SignatureDoesNotMatch")
    assert code_of(Cloud()({**request, "REQUEST_METHOD": "PUT"})) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Amz-Signature", "%C3%A9"),
        ("X-Amz-Signature", ""),
        ("X-Amz-Expires", "%C2%B2"),
        ("X-Amz-Expires", "9" * 5_000),
        ("X-Amz-Expires", "-1"),
        ("X-Amz-Date", "yesterday"),
        ("X-Amz-SignedHeaders", "%C3%A9"),
        ("X-Amz-Credential", "malformed"),
    ],
)
def test_s1_a_malformed_presigned_address_is_refused(name: str, value: str) -> None:
    request = presigned()
    query = re.sub(f"{name}=[^&]*", f"{name}={value}", request["QUERY_STRING"])
    assert query != request["QUERY_STRING"]
    assert code_of(Cloud()({**request, "QUERY_STRING": query})) == (403, "SignatureDoesNotMatch")


def test_an_instance_without_a_role_has_a_key_of_its_own() -> None:
    key = instance_key("i-0123456789abcdef0")
    assert key == instance_key("i-0123456789abcdef0")
    assert key.secret == secret_of(key.id) != owner_key().secret
    assert Cloud()(signed("sqs", key=key))[0] == 200
    assert instance_key("i-0123456789abcdef1").secret != key.secret


def test_the_control_token_does_not_reveal_the_secret() -> None:
    assert owner_key().secret not in owner_key().control_authorization
    assert owner_key().secret not in repr(owner_key())
