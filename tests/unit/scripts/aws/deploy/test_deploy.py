"""From any state of a stack to a complete one, and what is told on the way."""

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from scripts.aws.account import TAG, Account
from scripts.aws.context import TimedOutError
from scripts.aws.deploy.change_set import ProposedChangeSet, ResourceChange, deploy, prepare_stack
from scripts.aws.deploy.stack import AUTO_SCALING_GROUP, StackError, is_failure
from tests.support.aws_stage import Stage, Time
from tests.support.stubs import stubbed


@dataclass
class CloudFormation:
    """One stack, whose status goes on with each look; at the end of the list it is gone."""

    statuses: list[str]
    deleted: int = 0
    resources: tuple[tuple[str, str], ...] = ()

    def describe_stacks(self, StackName: str) -> Any:  # noqa: N803 (CloudFormation's own name)
        if not self.statuses:
            told: Any = {"Error": {"Code": "ValidationError", "Message": f"Stack {StackName} does not exist"}}
            raise ClientError(told, "DescribeStacks")
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == "GONE":
            self.statuses = []
            status = "DELETE_COMPLETE"
        return {"Stacks": [{"StackName": "fs", "StackId": "arn", "StackStatus": status, "StackStatusReason": "no"}]}

    def delete_stack(self, StackName: str) -> None:  # noqa: N803
        self.deleted += 1
        self.statuses = ["DELETE_IN_PROGRESS", "GONE"]

    def get_paginator(self, name: str) -> Any:
        assert name in {"describe_stack_events", "list_stack_resources"}
        return self

    def paginate(self, **_: str) -> Any:
        left = [
            {"LogicalResourceId": "One", "ResourceType": kind, "PhysicalResourceId": name, "ResourceStatus": "X"}
            for kind, name in self.resources
        ]
        return [{"StackEvents": [], "StackResourceSummaries": left}]


def stage(*statuses: str) -> tuple[Stage, CloudFormation]:
    cloud = CloudFormation(list(statuses))
    return Stage(Account("us-east-1", _clients={"cloudformation": cloud}), "fs", time=Time(pause=0)), cloud


def test_where_there_is_none_it_is_made() -> None:
    assert prepare_stack(stage()[0].context) == "CREATE"


@pytest.mark.parametrize("status", ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"])
def test_a_complete_one_is_updated(status: str) -> None:
    assert prepare_stack(stage(status)[0].context) == "UPDATE"


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "REVIEW_IN_PROGRESS"])
def test_one_that_was_never_complete_is_deleted_and_made_again(status: str) -> None:
    on, cloud = stage(status)
    assert prepare_stack(on.context) == "CREATE"
    assert cloud.deleted == 1
    assert status in on.seen
    assert on.steps == ["the stack fs is deleted"]


@pytest.mark.parametrize("has_accounts", [False, True])
def test_the_user_pool_of_a_stack_that_was_never_complete_goes_unless_it_has_accounts(has_accounts: bool) -> None:
    cloud = CloudFormation(["ROLLBACK_FAILED"], resources=(("AWS::Cognito::UserPool", "us-east-1_a"),))
    pool = {"Id": "us-east-1_a", "Name": "fs", "UserPoolTags": {TAG: "fs"}}
    with stubbed("cognito-idp") as cognito:
        one = {"UserPoolId": "us-east-1_a"}
        cognito.add_response("list_user_pools", {"UserPools": [{"Id": "us-east-1_a", "Name": "fs"}]})
        cognito.add_response("describe_user_pool", {"UserPool": pool}, one)
        users = [{"Username": "someone"}] if has_accounts else []
        cognito.add_response("list_users", {"Users": users}, one | {"Limit": 1})
        if not has_accounts:
            cognito.add_response("describe_user_pool", {"UserPool": pool}, one)
            unprotected = one | {"DeletionProtection": "INACTIVE", "UserPoolTags": {TAG: "fs"}}
            cognito.add_response("update_user_pool", {}, unprotected)
            cognito.add_response("delete_user_pool", {}, one)
        account = Account("us-east-1", _clients={"cloudformation": cloud, "cognito-idp": cognito.client})
        on = Stage(account, "fs", time=Time(pause=0))
        assert prepare_stack(on.context) == "CREATE"
    gone = [] if has_accounts else ["deleted the user pool us-east-1_a, which has no accounts"]
    assert on.steps == [*gone, "the stack fs is deleted"]


def test_one_that_is_busy_is_waited_for() -> None:
    on, _ = stage("UPDATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_COMPLETE")
    assert prepare_stack(on.context) == "UPDATE"
    assert on.time.now > 0
    assert "busy (UPDATE_IN_PROGRESS)" in on.seen


def test_one_that_is_being_deleted_is_waited_for_and_made_again() -> None:
    on, _ = stage("DELETE_IN_PROGRESS", "DELETE_IN_PROGRESS", "GONE")
    assert prepare_stack(on.context) == "CREATE"


def test_one_that_stays_busy_is_not_waited_for_for_ever() -> None:
    with pytest.raises(TimedOutError, match="wait on with the same command"):
        prepare_stack(stage("UPDATE_IN_PROGRESS")[0].context)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name fs"), ("DELETE_FAILED", "fleetsight down")],
)
def test_where_only_a_person_can_help_it_is_said_how(status: str, remedy: str) -> None:
    on, cloud = stage(status)
    with pytest.raises(StackError, match=remedy):
        prepare_stack(on.context)
    assert not cloud.deleted


def test_what_was_cancelled_because_of_another_failure_is_no_failure_of_its_own() -> None:
    assert is_failure({"ResourceStatus": "CREATE_FAILED", "ResourceStatusReason": "Table already exists"})
    assert not is_failure({"ResourceStatus": "CREATE_FAILED", "ResourceStatusReason": "Resource creation cancelled"})
    assert not is_failure({"ResourceStatus": "CREATE_COMPLETE"})


AT = datetime(2026, 1, 1, tzinfo=UTC)
NO_SIGNAL = "Received 0 SUCCESS signal(s) out of 1. Unable to satisfy 100% MinSuccessfulInstancesPercent requirement"
"""As CloudFormation says it: repost.aws/knowledge-center/auto-scaling-group-rolling-updates"""


def test_where_no_web_instance_has_signalled_its_console_is_shown() -> None:
    with ExitStack() as stubs:
        cloudformation, ec2 = (stubs.enter_context(stubbed(each)) for each in ("cloudformation", "ec2"))
        event = {
            "EventId": "1", "StackId": "arn", "StackName": "fs", "Timestamp": AT, "LogicalResourceId": "WebGroup",
            "ResourceType": AUTO_SCALING_GROUP, "ResourceStatus": "UPDATE_FAILED", "ResourceStatusReason": NO_SIGNAL,
        }  # fmt: skip
        stack = {"StackName": "fs", "StackId": "arn", "StackStatus": "UPDATE_ROLLBACK_COMPLETE", "CreationTime": AT}
        instance = {
            "InstanceId": "i-1", "InstanceType": "c7a.large", "ImageId": "ami-1", "LaunchTime": AT,
            "State": {"Name": "terminated"},
        }  # fmt: skip
        console = "\n".join(f"line {number}" for number in range(40))
        cloudformation.add_response("describe_stack_events", {"StackEvents": []})
        cloudformation.add_response("execute_change_set", {})
        cloudformation.add_response("describe_stacks", {"Stacks": [stack]})
        cloudformation.add_response("describe_stack_events", {"StackEvents": [event]})
        ec2.add_response("describe_instances", {"Reservations": [{"Instances": [instance]}]})
        ec2.add_response("get_console_output", {"Output": console}, {"InstanceId": "i-1", "Latest": True})
        account = Account("us-east-1", _clients={"cloudformation": cloudformation.client, "ec2": ec2.client})
        with pytest.raises(StackError) as refused:
            deploy(Stage(account, "fs").context, ProposedChangeSet("change", "arn", "UPDATE", ()))
    told = str(refused.value)
    assert NO_SIGNAL in told
    assert "| line 39\n" in told
    assert "line 5\n" not in told
    assert "fleetsight bake --prefix fs" in told


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (ResourceChange("Add", "Web", "AWS::AutoScaling::AutoScalingGroup"), "costs: an instance"),
        (ResourceChange("Add", "Role", "AWS::IAM::Role"), ""),
        (ResourceChange("Import", "InputBucket", "AWS::S3::Bucket"), ""),
        (ResourceChange("Modify", "Queue", "AWS::SQS::Queue", "True"), "is replaced"),
        (ResourceChange("Modify", "Queue", "AWS::SQS::Queue", "Conditional"), "may be replaced"),
        (ResourceChange("Modify", "Queue", "AWS::SQS::Queue", "False"), ""),
        (
            ResourceChange("Modify", "Web", "AWS::AutoScaling::AutoScalingGroup", "False"),
            "the web instance is replaced",
        ),
        (ResourceChange("Remove", "Queue", "AWS::SQS::Queue"), "is deleted"),
    ],
    ids=lambda value: (
        f"{value.action}-{value.replacement or value.kind}" if isinstance(value, ResourceChange) else ""
    ),
)
def test_what_costs_money_or_is_replaced_or_deleted_is_marked(change: ResourceChange, warning: str) -> None:
    assert change.warning.startswith(warning)
    assert bool(change.warning) == bool(warning)


def event(number: int, name: str, kind: str, status: str, reason: str = "") -> dict[str, Any]:
    told = {
        "StackId": "arn",
        "StackName": "fs",
        "EventId": str(number),
        "Timestamp": datetime(2026, 1, 1, tzinfo=UTC),
    }
    named = {"LogicalResourceId": name, "ResourceType": kind, "ResourceStatus": status}
    return {**told, **named, **({"ResourceStatusReason": reason} if reason else {})}


EXISTS = "fs-requests already exists"
CANCELLED = "Resource creation cancelled"
"""Of the resources that were being created when another one failed."""


@pytest.mark.parametrize(
    ("verb", "ended"),
    [("CREATE", "ROLLBACK_COMPLETE"), ("CREATE", "ROLLBACK_FAILED"), ("UPDATE", "UPDATE_ROLLBACK_COMPLETE")],
)
def test_a_stack_that_was_rolled_back_is_an_error_with_the_reason_of_each_failure(verb: str, ended: str) -> None:
    """CloudFormation rolls back by itself, and the events keep the reasons.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/determine-root-cause-for-stack-failures.html
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
    """
    before = [event(0, "fs", "AWS::CloudFormation::Stack", "REVIEW_IN_PROGRESS")]
    queue, bucket = ("RequestQueue", "AWS::SQS::Queue"), ("InputBucket", "AWS::S3::Bucket")
    failed = [
        event(4, "fs", "AWS::CloudFormation::Stack", ended),
        event(3, *bucket, f"{verb}_FAILED", CANCELLED),
        event(2, *queue, f"{verb}_FAILED", EXISTS),
        event(1, *queue, f"{verb}_IN_PROGRESS"),
    ]
    with stubbed("cloudformation") as stub:
        stub.add_response("describe_stack_events", {"StackEvents": before}, {"StackName": "arn"})
        stub.add_response("execute_change_set", {})
        told = {"StackName": "fs", "StackId": "arn", "StackStatus": ended, "CreationTime": before[0]["Timestamp"]}
        stub.add_response("describe_stacks", {"Stacks": [told]}, {"StackName": "arn"})
        stub.add_response("describe_stack_events", {"StackEvents": [*failed, *before]}, {"StackName": "arn"})
        on = Stage(Account("us-east-1", _clients={"cloudformation": stub.client}), "fs", time=Time(pause=0))
        with pytest.raises(StackError) as refused:
            deploy(on.context, ProposedChangeSet("c", "arn", "CREATE", ()))
    assert str(refused.value).splitlines() == [
        f"the stack fs is {ended}:",
        f"  RequestQueue (AWS::SQS::Queue) {verb.lower()} failed: {EXISTS}",
        *(
            ["  fs (AWS::CloudFormation::Stack) rollback failed", "see to it and run this again"]
            if ended == "ROLLBACK_FAILED"
            else ["CloudFormation took everything back; see to it and run this again"]
        ),
    ]
    assert "InputBucket (AWS::S3::Bucket)" in on.seen
