"""A request reaches the application that stock moto would choose, without asking it again."""

from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from localcloud.dispatch import RememberingDispatcher, memory_key


def signed(service: str, **environ: str) -> dict[str, str]:
    scope = f"AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/{service}/aws4_request, SignedHeaders=host"
    return {"HTTP_AUTHORIZATION": scope, "PATH_INFO": "/", "HTTP_HOST": "127.0.0.1:5000", **environ}


class Stock:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def get_application(self, environ: dict[str, Any]) -> Any:
        self.asked.append(environ)
        return lambda _environ, _start: [str(memory_key(environ)).encode()]


@pytest.mark.parametrize("service", ["sqs", "s3", "ec2", "sts", "iam", "ssm", "cognito-idp"])
def test_the_answer_for_a_signed_request_is_asked_for_once(service: str) -> None:
    stock = Stock()
    dispatcher = RememberingDispatcher(stock)
    for _ in range(3):
        dispatcher(signed(service), None)
    assert len(stock.asked) == 1


def test_services_are_told_apart() -> None:
    dispatcher = RememberingDispatcher(Stock())
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
def test_what_the_scope_does_not_decide_is_asked_each_time(environ: dict[str, str]) -> None:
    stock = Stock()
    dispatcher = RememberingDispatcher(stock)
    dispatcher(environ, None)
    dispatcher(environ, None)
    assert len(stock.asked) == 2


def test_what_people_ask_of_user_pools_unsigned_is_remembered_and_told_from_the_rest() -> None:
    signing_in = {"HTTP_X_AMZ_TARGET": "AWSCognitoIdentityProviderService.InitiateAuth", "PATH_INFO": "/"}
    assert memory_key(signing_in) == memory_key(signed("cognito-idp"))
    assert memory_key({**signing_in, "HTTP_X_AMZ_TARGET": "AWSCognitoIdentityService.GetId"}) is None
    assert memory_key({**signing_in, "PATH_INFO": "/bucket/key"}) is None
    assert memory_key({**signing_in, **signed("s3")}) == "s3"


def test_dynamodb_and_its_streams_are_told_apart() -> None:
    table = memory_key(signed("dynamodb", HTTP_X_AMZ_TARGET="DynamoDB_20120810.PutItem"))
    stream = memory_key(signed("dynamodb", HTTP_X_AMZ_TARGET="DynamoDBStreams_20120810.GetRecords"))
    assert table != stream
    assert table == memory_key(signed("dynamodb", HTTP_X_AMZ_TARGET="DynamoDB_20120810.Query"))


@pytest.mark.parametrize("service", ["sqs", "s3", "sts"])
def test_the_remembered_application_is_the_one_that_stock_moto_chooses(service: str) -> None:
    stock = DomainDispatcherApplication(create_backend_app)
    dispatcher = RememberingDispatcher(stock)
    remembered = dispatcher.application_for(signed(service))
    assert remembered is stock.get_application(signed(service))
