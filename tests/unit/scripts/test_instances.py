"""Instances of a stack: failed launches, and sessions on them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from scripts.aws.account import Account
from scripts.aws.deploy.stack import AUTO_SCALING_GROUP, LaunchFailureReporter, Stack, failed_launch
from scripts.aws.instances import SessionError, StackInstance, check_programs, select_instance, session_command
from tests.support.aws_stage import Stage
from tests.support.stubs import stubbed

STACK = Stack("fs", "arn:aws:cloudformation:us-east-1:123456789012:stack/fs/1", "CREATE_COMPLETE")
QUOTA = (
    "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket that the "
    "specified instance type belongs to. Launching EC2 instance failed."
)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def activity(status: str, message: str = "") -> dict[str, Any]:
    reported = {"ActivityId": "1", "AutoScalingGroupName": "fs-web", "Cause": "capacity", "StartTime": AT}
    return {**reported, "StatusCode": status, **({"StatusMessage": message} if message else {})}


def request(activities: Sequence[dict[str, Any]], kind: str = AUTO_SCALING_GROUP) -> str:
    with on_a_stack([activities], kind) as account:
        return failed_launch(account, STACK)


@contextmanager
def on_a_stack(answers: Sequence[Sequence[dict[str, Any]]], kind: str = AUTO_SCALING_GROUP) -> Iterator[Account]:
    """Yield an account that answers each question for the group's activities with the next of `answers`."""
    with ExitStack() as stubs:
        cloudformation, autoscaling = (
            stubs.enter_context(stubbed(each)) for each in ("cloudformation", "autoscaling")
        )
        resource = {
            "LogicalResourceId": "Web",
            "ResourceType": kind,
            "PhysicalResourceId": "fs-web",
            "ResourceStatus": "CREATE_COMPLETE",
            "LastUpdatedTimestamp": AT,
        }
        for activities in answers:
            answer = {"StackResourceSummaries": [resource]}
            cloudformation.add_response("list_stack_resources", answer, {"StackName": STACK.stack_id})
            if kind == AUTO_SCALING_GROUP:
                wanted = {"AutoScalingGroupName": "fs-web", "MaxRecords": 10}
                autoscaling.add_response("describe_scaling_activities", {"Activities": list(activities)}, wanted)
        clients = {"cloudformation": cloudformation.client, "autoscaling": autoscaling.client}
        yield Account("us-east-1", _clients=clients)


@pytest.mark.parametrize(
    ("activities", "reason"),
    [
        ([activity("Failed", QUOTA)], QUOTA),
        ([activity("PreInService"), activity("Failed", QUOTA), activity("Successful")], QUOTA),
        ([activity("Failed")], "Auto Scaling gives no reason"),
        ([activity("Successful"), activity("Failed", QUOTA)], ""),
        ([activity("InProgress")], ""),
        ([], ""),
    ],
)
def test_the_newest_complete_activity_determines_the_failed_launch(
    activities: list[dict[str, Any]], reason: str
) -> None:
    assert request(activities) == reason


def test_a_stack_without_a_group_has_no_failed_launch() -> None:
    assert request([], kind="AWS::S3::Bucket") == ""


def test_a_launch_failure_is_reported_once() -> None:
    failed = [activity("Failed", QUOTA)]
    with on_a_stack([failed, failed, [], [activity("Failed", "no default VPC")]]) as account:
        stage = Stage(account, "fs")
        report = LaunchFailureReporter(stage.context)
        for _ in range(4):
            report.report(STACK)
    reported = stage.seen
    assert reported.count("vCPU limit of 0") == 1
    assert "no default VPC" in reported


WEB, ONE, TWO = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2", "i-0bbcccccccccccccc"


def machine(instance_id: str, name: str) -> StackInstance:
    return StackInstance(instance_id, name, "running", "c7a.large", "ami-1", datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def fleet() -> list[StackInstance]:
    return [machine(WEB, "fs-web"), machine(ONE, "fs-worker"), machine(TWO, "fs-worker")]


@pytest.mark.parametrize(("wanted", "found"), [("web", WEB), (ONE, ONE), ("i-0bbc", TWO)])
def test_an_instance_is_selected_by_id_prefix_or_role(fleet: list[StackInstance], wanted: str, found: str) -> None:
    assert select_instance(fleet, "fs", wanted).instance_id == found


@pytest.mark.parametrize("wanted", [None, "i-0bb"])
def test_several_instances_are_listed_and_need_a_selection(fleet: list[StackInstance], wanted: str | None) -> None:
    with pytest.raises(SessionError, match=f"name one:(.|\n)*{ONE}  fs-worker\n  {TWO}"):
        select_instance(fleet, "fs", wanted)


def test_the_only_instance_needs_no_selection(fleet: list[StackInstance]) -> None:
    del fleet[1:]
    assert select_instance(fleet, "fs", None).instance_id == WEB


def test_an_unknown_instance_lists_the_running_ones(fleet: list[StackInstance]) -> None:
    with pytest.raises(SessionError, match=f"is i-9; there are:\n  {WEB}"):
        select_instance(fleet, "fs", "i-9")
    fleet.clear()
    with pytest.raises(SessionError, match="there are: none"):
        select_instance(fleet, "fs", None)


def test_the_session_is_for_the_region_and_the_profile_of_the_account() -> None:
    words = ["aws", "ssm", "start-session", "--target", WEB, "--region", "eu-central-1"]
    assert session_command(Account("eu-central-1"), machine(WEB, "fs-web")) == words
    assert session_command(Account("eu-central-1", "ops"), machine(WEB, "fs-web")) == [*words, "--profile", "ops"]


def test_missing_programs_are_named_with_their_source() -> None:
    check_programs(lambda name: f"/bin/{name}")
    with pytest.raises(SessionError, match=r"session-manager-plugin: install its plugin: https://docs"):
        check_programs(lambda name: "/bin/aws" if name == "aws" else None)
