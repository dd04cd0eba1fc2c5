"""EC2: refusals of launches, consoles, and the instance metadata service."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from services.ec2 import Fleet, LaunchSpec, console_of
from services.errors import LaunchError, MetadataError
from services.metadata import Metadata
from tests.support.aws_stage import stubbed
from tests.support.clocks import ManualClock
from tests.support.servers import INSTANCE_ID, SPOT_ACTION, SPOT_NOTICE, MetadataService

LAUNCHED_AT = datetime(2026, 1, 1, tzinfo=UTC)


class Client:
    """Keeps the last call; answers with an instance, or refuses."""

    def __init__(self, error: ClientError | None = None, **described: Any) -> None:
        self.call: dict[str, Any] = {}
        self.error = error
        self.described = described

    def run_instances(self, **call: Any) -> dict[str, Any]:
        self.call = call
        if self.error:
            raise self.error
        known = {"InstanceId": "i-1", "State": {"Name": "pending"}, "InstanceType": "c7a.large"}
        return {"Instances": [{**known, "LaunchTime": LAUNCHED_AT, **self.described}]}


def test_a_refusal_says_how_often_the_call_was_made_again() -> None:
    error = {"Error": {"Code": "RequestLimitExceeded", "Message": "slow"}, "ResponseMetadata": {"RetryAttempts": 2}}
    client = Client(ClientError(cast(Any, error), "RunInstances"))
    with pytest.raises(LaunchError, match="RequestLimitExceeded: slow") as caught:
        Fleet(cast(Any, client), "worker").launch(LaunchSpec("c7a.large", "terminate", "ami-1", "#!"), 1, "t")
    assert caught.value.retries == 2


def test_a_denied_launch_has_the_words_of_its_reason_without_the_encoded_ones() -> None:
    """The Fleet page names them for several offerings: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"""
    message = f"You may not. Encoded authorization failure message: {'x' * 1_000}"
    client = Client(ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": message}}, "RunInstances"))
    with pytest.raises(LaunchError, match=r"^UnauthorizedOperation: You may not\.$"):
        Fleet(cast(Any, client), "worker").launch(LaunchSpec("c7a.large", "terminate", "ami-1", "#!"), 1, "t")


def test_the_console_output_is_the_boot_output_if_the_type_supports_no_latest_output() -> None:
    with stubbed("ec2") as stub:
        output = {"InstanceId": "i-1", "Output": base64.b64encode(b"at its boot").decode()}
        stub.add_client_error(
            "get_console_output", "UnsupportedOperation", expected_params={"InstanceId": "i-1", "Latest": True}
        )
        stub.add_response("get_console_output", output, {"InstanceId": "i-1"})
        assert console_of(cast(Any, stub.client), "i-1") == "at its boot"
    with stubbed("ec2") as stub:
        stub.add_client_error("get_console_output", "InvalidInstanceID.NotFound")
        with pytest.raises(ClientError, match="NotFound"):
            console_of(cast(Any, stub.client), "i-1")


@pytest.fixture
def service() -> Iterator[MetadataService]:
    with MetadataService.serve() as started:
        started.answers["placement/region"] = [(200, "eu-west-1")]
        yield started


def metadata(service: MetadataService, clock: ManualClock) -> Metadata:
    return Metadata(service.url, clock=clock)


def test_identity_is_read_with_one_token_that_is_renewed_when_it_ages(service: MetadataService) -> None:
    clock = ManualClock(0.0)
    client = metadata(service, clock)
    assert (client.instance_id(), client.region()) == (INSTANCE_ID, "eu-west-1")
    assert service.tokens == 1
    clock.now = 20_000
    assert client.instance_id() == INSTANCE_ID
    assert service.tokens == 2


def test_there_is_no_spot_notice_until_there_is_one(service: MetadataService) -> None:
    client = metadata(service, ManualClock(0.0))
    assert client.spot_action() is None
    service.answers[SPOT_ACTION] = [(200, SPOT_NOTICE)]
    assert client.spot_action() == "terminate"


@pytest.mark.parametrize("notice", ["", "soon", "[]", "{}"])
def test_a_spot_notice_that_cannot_be_read_is_reported(service: MetadataService, notice: str) -> None:
    service.answers[SPOT_ACTION] = [(200, notice)]
    with pytest.raises(MetadataError, match="has no action"):
        metadata(service, ManualClock(0.0)).spot_action()


def test_what_is_missing_is_named(service: MetadataService) -> None:
    del service.answers["placement/region"]
    with pytest.raises(MetadataError, match="has no meta-data/placement/region"):
        metadata(service, ManualClock(0.0)).region()


def test_a_service_that_refuses_is_reported(service: MetadataService) -> None:
    service.token_status = 403
    with pytest.raises(MetadataError, match="answered 403"):
        metadata(service, ManualClock(0.0)).instance_id()


def test_a_machine_that_is_no_instance_gets_an_error() -> None:
    with pytest.raises(MetadataError, match="this is no EC2 instance"):
        Metadata("http://127.0.0.1:9", timeout_seconds=0.5).instance_id()


def test_the_address_is_that_which_boto3_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1234/")
    assert Metadata().endpoint == "http://127.0.0.1:1234"
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    assert Metadata().endpoint == "http://169.254.169.254"
