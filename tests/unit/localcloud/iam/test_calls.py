"""Who signed a request, and what it calls, is read wherever AWS's clients put it."""

import pytest

from localcloud.iam.calls import Credential, UnknownCallError, credential_of
from tests.unit.localcloud.iam.requests_of import call, environ, json_call, query_call

SCOPE = "ASIAONE%2F20260101%2Feu-west-1%2Fs3%2Faws4_request"


@pytest.mark.parametrize(
    ("request_of", "found"),
    [
        (environ("sqs"), Credential("ASIANOBODY", "eu-central-1", "sqs")),
        (
            {"QUERY_STRING": f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={SCOPE}&X-Amz-Date=1"},
            Credential("ASIAONE", "eu-west-1", "s3"),
        ),
        ({"QUERY_STRING": "list-type=2"}, None),
        ({"HTTP_AUTHORIZATION": "Bearer token"}, None),
        ({}, None),
    ],
)
def test_the_signer_is_found_in_header_and_address(request_of: dict[str, str], found: Credential | None) -> None:
    assert credential_of(request_of) == found


def test_an_operation_is_named_by_header_or_field() -> None:
    assert json_call("dynamodb", "GetItem", {}).operation == "GetItem"
    assert query_call("ec2", "RunInstances").operation == "RunInstances"
    assert call("sns", "GET", QUERY_STRING="Action=Publish").operation == "Publish"


def test_a_request_that_names_no_operation_is_not_guessed() -> None:
    with pytest.raises(UnknownCallError, match="GET /2013-04-01/hostedzone of route53 names no operation"):
        _ = call("route53", "GET", "/2013-04-01/hostedzone").operation


def test_what_was_read_of_the_body_is_there_for_who_answers() -> None:
    asked = json_call("sqs", "SendMessage", {"QueueUrl": "q"})
    assert asked.parameters == {"QueueUrl": "q"}
    assert asked.environ["wsgi.input"].read() == b'{"QueueUrl": "q"}'


@pytest.mark.parametrize("body", [b"no JSON", b"[1]", b""])
def test_a_body_that_is_no_map_has_no_parameters(body: bytes) -> None:
    assert call("sqs", body=body, HTTP_X_AMZ_TARGET="AmazonSQS.SendMessage").parameters == {}
