"""What the local cloud is asked is counted, and passed on untouched."""

import io
import json
from typing import Any

import pytest

from localcloud.calls import Calls, CountedCalls


def ask(service: str, method: str = "POST", body: bytes = b"", **environ: str) -> tuple[dict[str, Any], bytes]:
    """Send one request through a counter; return its figures, and what arrived behind it."""
    scope = f"AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host"
    arrived: list[bytes] = []

    def aws(environ: dict[str, Any], _start: Any) -> list[bytes]:
        arrived.append(environ["wsgi.input"].read())
        return [b""]

    counted = Calls()
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


def test_items_of_the_table_count_by_what_they_are_about_whatever_users_write() -> None:
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


def test_what_is_not_signed_for_a_service_is_not_counted() -> None:
    figures, _ = ask("s3", HTTP_AUTHORIZATION="")
    assert figures == {"calls": {}, "items": {}}
