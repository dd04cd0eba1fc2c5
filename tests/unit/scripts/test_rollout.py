"""Replacing the web instance, against answers as AWS documents them.

Statuses and their order: https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeInstanceRefreshes.html
The answers are the examples of that page and of API_StartInstanceRefresh.html, with our names.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from scripts.aws.deploy.auth import session_keys_parameter
from scripts.aws.rollout import RolloutError, WebGroup, refresh_web_group, roll_session_keys, web_groups
from tests.support.aws_stage import stubbed, stubbed_stage

GROUP = WebGroup("fs-web", "2", ("i-old",))
REFRESH = "08b91cf7-8fa6-48af-b6a6-d227f40f1b9b"
WARMING = "Waiting for instances to warm up before continuing. For example: i-0645704820a8e83ff is warming up."


@pytest.fixture
def autoscaling() -> Iterator[Stubber]:
    with stubbed("autoscaling") as stub:
        yield stub


@pytest.fixture
def ssm() -> Iterator[Stubber]:
    with stubbed("ssm") as stub:
        yield stub


def add_start(stub: Stubber, *, skips_matching: bool = True) -> None:
    preferences = {"MinHealthyPercentage": 100, "MaxHealthyPercentage": 200, "SkipMatching": skips_matching}
    request = {"AutoScalingGroupName": "fs-web", "Preferences": preferences}
    stub.add_response("start_instance_refresh", {"InstanceRefreshId": REFRESH}, request)


def add_statuses(stub: Stubber, *statuses: str, reason: str = WARMING) -> None:
    """Let each poll of the refreshes find the newest one in the next status, and an older one that has succeeded."""
    older = {"InstanceRefreshId": "0e151305-1e57-4a32-a256-1fd14157c5ec", "Status": "Successful"}
    for status in statuses:
        stub.add_response("describe_scaling_activities", {"Activities": []})
        newest = {"InstanceRefreshId": REFRESH, "Status": status, "StatusReason": reason}
        stub.add_response("describe_instance_refreshes", {"InstanceRefreshes": [newest, older]})


def test_a_new_instance_is_in_service_before_the_old_one_ends(autoscaling: Stubber) -> None:
    add_start(autoscaling)
    add_statuses(autoscaling, "Pending", "InProgress", "Baking", "Successful")
    on = stubbed_stage(autoscaling=autoscaling)
    refresh_web_group(on.context, GROUP)
    assert on.steps == ["started an instance refresh of fs-web: version 2 replaces i-old"]
    assert "fs-web runs version 2" in on.seen


@pytest.mark.parametrize(
    "statuses",
    [
        ["InProgress", "Failed"],
        ["Cancelling", "Cancelled"],
        ["RollbackInProgress", "RollbackFailed"],
        ["RollbackInProgress", "RollbackSuccessful"],
    ],
    ids=lambda statuses: statuses[-1],
)
def test_a_refresh_that_fails_or_rolls_back_is_an_error_at_its_end(autoscaling: Stubber, statuses: list[str]) -> None:
    add_start(autoscaling)
    add_statuses(autoscaling, *statuses, reason="i-new was not healthy")
    reason = rf"fs-web was not replaced \({statuses[-1]}\): i-new was not healthy"
    with pytest.raises(RolloutError, match=reason):
        refresh_web_group(stubbed_stage(autoscaling=autoscaling).context, GROUP)


def described(version: str, *launched: str) -> dict[str, Any]:
    """Return an answer of DescribeAutoScalingGroups: what the group launches, and what its instances were."""

    def template(of: str) -> dict[str, str]:
        return {"LaunchTemplateId": "lt-1", "LaunchTemplateName": "fs-web", "Version": of}

    state: dict[str, Any] = {"LifecycleState": "InService", "HealthStatus": "Healthy", "ProtectedFromScaleIn": False}
    instances = [
        {"InstanceId": f"i-{number}", "AvailabilityZone": "us-east-1a", **state, "LaunchTemplate": template(of)}
        for number, of in enumerate(launched)
    ]
    group = {
        "AutoScalingGroupName": "fs-web", "LaunchTemplate": template(version), "Instances": instances,
        "MinSize": 1, "MaxSize": 2, "DesiredCapacity": 1, "DefaultCooldown": 300, "HealthCheckType": "EC2",
        "AvailabilityZones": ["us-east-1a"], "CreatedTime": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    return {"AutoScalingGroups": [group]}


def add_groups(stub: Stubber, answer: dict[str, Any]) -> None:
    request = {"Filters": [{"Name": "tag:fleetsight", "Values": ["fs"]}]}
    stub.add_response("describe_auto_scaling_groups", answer, request)


def test_instances_of_other_versions_are_old(autoscaling: Stubber) -> None:
    add_groups(autoscaling, described("2", "1", "2"))
    assert web_groups(stubbed_stage(autoscaling=autoscaling).context) == [WebGroup("fs-web", "2", ("i-0",))]


def test_a_new_key_of_sessions_is_stored_before_every_web_instance_is_replaced(
    autoscaling: Stubber, ssm: Stubber
) -> None:
    name = session_keys_parameter("fs")
    add_groups(autoscaling, described("2", "2"))
    ssm.add_client_error("put_parameter", "ParameterAlreadyExists")
    ssm.add_response("get_parameter", {"Parameter": {"Value": "last\nolder"}}, {"Name": name, "WithDecryption": True})
    stored = {"Name": name, "Value": ANY, "Type": "SecureString", "Overwrite": True}
    ssm.add_response("put_parameter", {"Version": 2}, stored)
    add_start(autoscaling, skips_matching=False)
    add_statuses(autoscaling, "Successful")
    with stubbed("ec2") as ec2:
        ec2.add_response("describe_instances", {"Reservations": []})
        on = stubbed_stage(autoscaling=autoscaling, ssm=ssm, ec2=ec2)
        roll_session_keys(on.context, dry_run=False)
    assert [step.split(",")[0] for step in on.steps] == [
        "put a new key for sessions first",
        "started an instance refresh of fs-web: version 2 replaces every instance",
    ]


def test_a_dry_run_stores_no_key_and_replaces_nothing(autoscaling: Stubber, ssm: Stubber) -> None:
    add_groups(autoscaling, described("2", "2"))
    on = stubbed_stage(autoscaling=autoscaling, ssm=ssm)
    roll_session_keys(on.context, dry_run=True)
    assert not on.steps
