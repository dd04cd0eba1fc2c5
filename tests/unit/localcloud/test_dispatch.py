"""Calls are counted, and a request reaches the application that stock moto would choose."""

import io
import json
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from localcloud.dispatch import CachedDispatcher, CallCounter, CountedCalls, cache_key


def signed(service: str, **environ: str) -> dict[str, str]:
    scope = f"AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/{service}/aws4_request, SignedHeaders=host"
    return {"HTTP_AUTHORIZATION": scope, "PATH_INFO": "/", "HTTP_HOST": "127.0.0.1:5000", **environ}


class Stock:
    def __init__(self) -> None:
        self.lookups: list[dict[str, Any]] = []

    def get_application(self, environ: dict[str, Any]) -> Any:
        self.lookups.append(environ)
        return lambda _environ, _start: [str(cache_key(environ)).encode()]


@pytest.mark.parametrize("service", ["sqs", "s3", "ec2", "sts", "iam", "ssm", "cognito-idp"])
def test_application_of_signed_requests_is_looked_up_once(service: str) -> None:
    stock = Stock()
    dispatcher = CachedDispatcher(stock)
    for _ in range(3):
        dispatcher(signed(service), None)
    assert len(stock.lookups) == 1


def test_services_have_different_applications() -> None:
    dispatcher = CachedDispatcher(Stock())
    assert list(dispatcher(signed("sqs"), None)) == [b"sqs"]
    assert list(dispatcher(signed("s3"), None)) == [b"s3"]


@pytest.mark.parametrize(
    "environ",
    [
        {"PATH_INFO": "/bucket/key"},
        signed("bedrock"),
        signed("s3", PATH_INFO="/v20180820/tags"),
        signed("s3", HTTP_HOST="123.s3-control.localhost"),
        signed("sqs", PATH_INFO="/moto-api/reset"),
        signed("ec2", HTTP_AUTHORIZATION="AWS key:signature"),
    ],
    ids=["unsigned", "shared signing name", "s3 control path", "s3 control host", "moto's own", "sigv2"],
)
def test_application_is_looked_up_each_time_without_a_cache_key(environ: dict[str, str]) -> None:
    stock = Stock()
    dispatcher = CachedDispatcher(stock)
    dispatcher(environ, None)
    dispatcher(environ, None)
    assert len(stock.lookups) == 2


def test_unsigned_calls_of_user_pools_have_the_key_of_the_service() -> None:
    signing_in = {"HTTP_X_AMZ_TARGET": "AWSCognitoIdentityProviderService.InitiateAuth", "PATH_INFO": "/"}
    assert cache_key(signing_in) == cache_key(signed("cognito-idp"))
    assert cache_key({**signing_in, "HTTP_X_AMZ_TARGET": "AWSCognitoIdentityService.GetId"}) is None
    assert cache_key({**signing_in, "PATH_INFO": "/bucket/key"}) is None
    assert cache_key({**signing_in, **signed("s3")}) == "s3"


def test_dynamodb_and_its_streams_have_different_keys() -> None:
    table = cache_key(signed("dynamodb", HTTP_X_AMZ_TARGET="DynamoDB_20120810.PutItem"))
    stream = cache_key(signed("dynamodb", HTTP_X_AMZ_TARGET="DynamoDBStreams_20120810.GetRecords"))
    assert table != stream
    assert table == cache_key(signed("dynamodb", HTTP_X_AMZ_TARGET="DynamoDB_20120810.Query"))


@pytest.mark.parametrize("service", ["sqs", "s3", "sts"])
def test_cached_application_is_the_one_that_stock_moto_chooses(service: str) -> None:
    stock = DomainDispatcherApplication(create_backend_app)
    dispatcher = CachedDispatcher(stock)
    remembered = dispatcher.application_for(signed(service))
    assert remembered is stock.get_application(signed(service))


def ask(service: str, method: str = "POST", body: bytes = b"", **environ: str) -> tuple[dict[str, Any], bytes]:
    """Send one request through a counter; return its figures, and what arrived behind it."""
    scope = f"AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host"
    arrived: list[bytes] = []

    def aws(environ: dict[str, Any], _start: Any) -> list[bytes]:
        arrived.append(environ["wsgi.input"].read())
        return [b""]

    counted = CallCounter()
    request: dict[str, Any] = {
        "HTTP_AUTHORIZATION": scope,
        "REQUEST_METHOD": method,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **environ,
    }
    CountedCalls(aws, counted)(request, None)
    return counted.figures(), arrived[0]


@pytest.mark.parametrize(
    ("service", "method", "environ", "call"),
    [
        ("s3", "PUT", {}, "s3 PUT"),
        ("s3", "GET", {"QUERY_STRING": "list-type=2&prefix=a"}, "s3 LIST"),
        ("s3", "GET", {"QUERY_STRING": "x-id=GetObject"}, "s3 GET"),
        ("sqs", "POST", {"HTTP_X_AMZ_TARGET": "AmazonSQS.ReceiveMessage"}, "sqs ReceiveMessage"),
        ("ec2", "POST", {}, "ec2 POST"),
    ],
)
def test_a_call_counts_by_service_and_operation(
    service: str, method: str, environ: dict[str, str], call: str
) -> None:
    figures, arrived = ask(service, method, b"body", **environ)
    assert (figures, arrived) == ({"calls": {call: 1}, "items": {}}, b"body")


def test_table_items_count_by_kind_whatever_users_write() -> None:
    trap = 'x.jpg"}, "pk": {"S": "FLEET'
    items = [
        {"PutRequest": {"Item": {"pk": {"S": pk}, "filename": {"S": trap}}}} for pk in ("JOB#1", "JOB#1", "CACHE#2")
    ]
    body = json.dumps({"RequestItems": {"jobs": items}}).encode()
    target = "DynamoDB_20120810.BatchWriteItem"
    figures, arrived = ask("dynamodb", body=body, HTTP_X_AMZ_TARGET=target)
    call = "dynamodb BatchWriteItem"
    assert figures == {"calls": {call: 1}, "items": {f"{call} JOB": 2, f"{call} CACHE": 1}}
    assert arrived == body


def test_a_body_of_unknown_length_is_left_alone() -> None:
    figures, arrived = ask("dynamodb", body=b"in chunks", CONTENT_LENGTH="", HTTP_X_AMZ_TARGET="D.Query")
    assert (figures["calls"], arrived) == ({"dynamodb Query": 1}, b"in chunks")


def test_unsigned_requests_are_not_counted() -> None:
    figures, _ = ask("s3", HTTP_AUTHORIZATION="")
    assert figures == {"calls": {}, "items": {}}
