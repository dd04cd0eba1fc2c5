"""What is passed to EC2, and what is understood of its answers."""

import base64
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from services.ec2 import Fleet, LaunchSpec, console_of
from services.errors import LaunchError
from tests.support.stubs import stubbed

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


def launched(spec: LaunchSpec) -> dict[str, Any]:
    """Return what EC2 is asked for."""
    client = Client()
    Fleet(cast(Any, client), "mine-worker").launch(spec, 7, "token")
    return client.call


TAGS = [{"Key": "fleetsight", "Value": "mine"}, {"Key": "Name", "Value": "mine-worker"}]
TAGGED = [{"ResourceType": kind, "Tags": TAGS} for kind in ("instance", "volume")]
EVERY_CALL = {"MinCount": 1, "MaxCount": 7, "ClientToken": "token", "TagSpecifications": TAGGED}


def test_a_launch_passes_everything_that_is_configured() -> None:
    spec = LaunchSpec("c7a.large", "stop", "ami-1", "#!/bin/sh", "profile", "subnet-1", ("sg-1", "sg-2"))
    assert launched(spec) == EVERY_CALL | {
        "ImageId": "ami-1",
        "InstanceType": "c7a.large",
        "UserData": "#!/bin/sh",
        "InstanceInitiatedShutdownBehavior": "stop",
        "IamInstanceProfile": {"Name": "profile"},
        "SubnetId": "subnet-1",
        "SecurityGroupIds": ["sg-1", "sg-2"],
        "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
    }


def test_with_a_launch_template_only_type_subnet_market_and_shutdown_behaviour_are_passed_beside_it() -> None:
    spec = LaunchSpec("c7a.large", "terminate", subnet_id="subnet-1", market="spot", launch_template="workers")
    assert launched(spec) == EVERY_CALL | {
        "LaunchTemplate": {"LaunchTemplateName": "workers", "Version": "$Default"},
        "InstanceType": "c7a.large",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "SubnetId": "subnet-1",
        "InstanceMarketOptions": {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        },
    }


@pytest.mark.parametrize(("described", "spot"), [({"InstanceLifecycle": "spot"}, True), ({}, False)])
def test_a_spot_instance_is_known_as_one(described: dict[str, Any], spot: bool) -> None:
    client = Client(ClientToken="token", **described)
    [instance] = Fleet(cast(Any, client), "worker").launch(
        LaunchSpec("c7a.large", "terminate", "ami-1", "#!"), 1, "t"
    )
    assert (instance.spot, instance.client_token) == (spot, "token")


def test_a_refusal_says_how_often_the_call_was_made_again() -> None:
    told = {"Error": {"Code": "RequestLimitExceeded", "Message": "slow"}, "ResponseMetadata": {"RetryAttempts": 2}}
    client = Client(ClientError(cast(Any, told), "RunInstances"))
    with pytest.raises(LaunchError, match="RequestLimitExceeded: slow") as caught:
        Fleet(cast(Any, client), "worker").launch(LaunchSpec("c7a.large", "terminate", "ami-1", "#!"), 1, "t")
    assert caught.value.retries == 2


def test_the_latest_console_output_is_asked_for_and_what_there_is_where_the_type_has_none() -> None:
    with stubbed("ec2") as stub:
        told = {"InstanceId": "i-1", "Output": base64.b64encode(b"at its boot").decode()}
        stub.add_client_error(
            "get_console_output", "UnsupportedOperation", expected_params={"InstanceId": "i-1", "Latest": True}
        )
        stub.add_response("get_console_output", told, {"InstanceId": "i-1"})
        assert console_of(cast(Any, stub.client), "i-1") == "at its boot"
    with stubbed("ec2") as stub:
        stub.add_client_error("get_console_output", "InvalidInstanceID.NotFound")
        with pytest.raises(ClientError, match="NotFound"):
            console_of(cast(Any, stub.client), "i-1")
