"""moto is pinned and patched, calls are counted, and a request reaches the application that stock moto chooses."""

import io
import weakref
from typing import Any

import pytest
from moto.sqs.models import Message

from localcloud import patches
from localcloud.dispatch import CallCounter, CountedCalls
from localcloud.patches import MODULES, MotoChangedError, apply_patches, patches_of
from localcloud.tests.support.wsgi_clients import ClientPair


@pytest.mark.parametrize("service", [*MODULES, "kms"])
def test_patches_fit_the_installed_moto(service: str) -> None:
    assert all(patch.why for patch in patches_of(service))
    apply_patches(service)
    apply_patches(service)


def test_another_version_of_moto_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "version", lambda _name: "5.3.0")
    with pytest.raises(MotoChangedError, match=r"moto 5\.3\.0 is installed, 5\.2\.5 expected"):
        apply_patches("of another version")


def test_unused_models_are_freed() -> None:
    """Stock moto never frees a model: its dashboard refers to every message and every overwritten object."""
    apply_patches("core")
    message = Message("id", "body")
    seen = weakref.ref(message)
    del message
    assert seen() is None


def signed(service: str, **environ: str) -> dict[str, str]:
    scope = f"AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/{service}/aws4_request, SignedHeaders=host"
    return {"HTTP_AUTHORIZATION": scope, "PATH_INFO": "/", "HTTP_HOST": "127.0.0.1:5000", **environ}


def ask(service: str, method: str = "POST", body: bytes = b"", **environ: str) -> tuple[dict[str, int], bytes]:
    """Send one request through a counter; return its figures, and what arrived behind it."""
    arrived: list[bytes] = []

    def aws(environ: dict[str, Any], _start: Any) -> list[bytes]:
        arrived.append(environ["wsgi.input"].read())
        return [b""]

    counted = CallCounter()
    request = {"REQUEST_METHOD": method, "CONTENT_LENGTH": str(len(body)), **signed(service), **environ}
    CountedCalls(aws, counted)({**request, "wsgi.input": io.BytesIO(body)}, None)
    return counted.figures(), arrived[0]


@pytest.mark.parametrize(
    ("service", "method", "environ", "calls"),
    [
        ("s3", "PUT", {}, {"s3 PUT": 1}),
        ("s3", "GET", {"QUERY_STRING": "list-type=2&prefix=a"}, {"s3 LIST": 1}),
        ("s3", "GET", {"QUERY_STRING": "x-id=GetObject"}, {"s3 GET": 1}),
        ("s3", "GET", {"HTTP_AUTHORIZATION": ""}, {}),
        ("sqs", "POST", {"HTTP_X_AMZ_TARGET": "AmazonSQS.ReceiveMessage"}, {"sqs ReceiveMessage": 1}),
        ("ec2", "POST", {}, {"ec2 POST": 1}),
        ("dynamodb", "POST", {"CONTENT_LENGTH": "", "HTTP_X_AMZ_TARGET": "D.Query"}, {"dynamodb Query": 1}),
    ],
)
def test_signed_calls_count_by_service_and_operation(
    service: str, method: str, environ: dict[str, str], calls: dict[str, int]
) -> None:
    assert ask(service, method, b"body", **environ) == (calls, b"body")


@pytest.mark.parametrize("path", ["/moto-api/reset", "/moto-api/data.json", "/latest/meta-data/", "/favicon.ico"])
def test_s1_a_path_of_stock_motos_own_pages_is_that_of_an_object(moto: ClientPair, path: str) -> None:
    reply = moto.direct.request("s3", "GET", path)
    assert (reply.status, b"NoSuchBucket" in reply.body) == (404, True)


def test_a_service_that_moto_lacks_is_refused_by_its_name(moto: ClientPair) -> None:
    reply = moto.direct.request("braket", "POST", "/")
    assert (reply.status, b"The service braket is not available in the local cloud" in reply.body) == (501, True)
