"""Change sets and the operations of a stack, against CloudFormation's documented answers."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber

from scripts.aws.account import TAG, Account
from scripts.aws.context import TimedOutError
from scripts.aws.deploy.change_set import (
    ProposedChangeSet,
    ResourceChange,
    create_change_set,
    delete_stale_change_sets,
    deploy,
    execute_change_set,
    prepare_stack,
)
from scripts.aws.deploy.stack import AUTO_SCALING_GROUP, StackError, is_failure
from tests.support.aws_stage import Stage, Time
from tests.support.stubs import stubbed

CHANGE_SET = "arn:aws:cloudformation:us-east-1:123456789012:changeSet/fleetsight-up-1/1"
STACK = "arn:aws:cloudformation:us-east-1:123456789012:stack/fs/1"
VALIDATION = (
    "The following hook(s)/validation failed: [AWS::EarlyValidation::ResourceExistenceCheck]. To troubleshoot Early "
    "Validation errors, use the DescribeEvents API for detailed failure information."
)
"""https://github.com/serverless/serverless/issues/13248"""
BUCKET_EXISTS = "Resource of type 'AWS::S3::Bucket' with identifier 'fs-input-1' already exists."
"""https://github.com/aws-cloudformation/rain/pull/744"""


@pytest.fixture
def cloudformation() -> Iterator[Stubber]:
    with stubbed("cloudformation") as stub:
        yield stub


def stubbed_stage(stub: Stubber) -> Stage:
    return Stage(Account("us-east-1", _clients={"cloudformation": stub.client}), "fs", time=Time(pause=0))


def reported(status: str, reason: str = "") -> dict[str, Any]:
    return {"Status": status, "StatusReason": reason, "Changes": []}


def add_refused(stub: Stubber, reason: str) -> None:
    """Let CloudFormation refuse a new stack's change set."""
    stub.add_response("create_change_set", {"Id": CHANGE_SET, "StackId": STACK})
    for _ in range(2):  # once for its state, once for its changes
        stub.add_response("describe_change_set", reported("FAILED", reason), {"ChangeSetName": CHANGE_SET})


def add_discarded(stub: Stubber) -> None:
    stub.add_response("delete_change_set", {}, {"ChangeSetName": CHANGE_SET})
    stub.add_response("delete_stack", {}, {"StackName": STACK})


def test_validation_errors_are_reported_per_resource(cloudformation: Stubber) -> None:
    add_refused(cloudformation, VALIDATION)
    event = {
        "EventType": "VALIDATION_ERROR",
        "LogicalResourceId": "InputBucket",
        "ValidationStatusReason": BUCKET_EXISTS,
    }
    request = {"ChangeSetName": CHANGE_SET, "Filters": {"FailedEvents": True}}
    cloudformation.add_response(
        "describe_events", {"OperationEvents": [event, {"EventType": "STACK_EVENT"}]}, request
    )
    add_discarded(cloudformation)
    with pytest.raises(StackError) as refused:
        create_change_set(stubbed_stage(cloudformation).context, "CREATE", "https://template", [])
    assert str(refused.value).splitlines() == [
        f"CloudFormation refuses the change: {VALIDATION}",
        f"InputBucket: {BUCKET_EXISTS}",
    ]


def test_a_rejection_is_reported_without_details_if_events_may_not_be_read(
    cloudformation: Stubber,
) -> None:
    add_refused(cloudformation, VALIDATION)
    cloudformation.add_client_error("describe_events", "AccessDenied", "not authorized")
    add_discarded(cloudformation)
    with pytest.raises(StackError, match=r"(?s)ResourceExistenceCheck.*cloudformation:DescribeEvents.*AccessDenied"):
        create_change_set(stubbed_stage(cloudformation).context, "CREATE", "https://template", [])


def test_an_empty_change_set_is_none_and_reads_no_events(cloudformation: Stubber) -> None:
    add_refused(cloudformation, "The submitted information didn't contain changes. Submit different information.")
    add_discarded(cloudformation)
    assert create_change_set(stubbed_stage(cloudformation).context, "CREATE", "https://template", []) is None


def test_resources_of_a_failed_stack_are_deleted(cloudformation: Stubber) -> None:
    request = {"ChangeSetName": CHANGE_SET, "RetainExceptOnCreate": True}
    cloudformation.add_response("execute_change_set", {}, request)
    execute_change_set(stubbed_stage(cloudformation).account, ProposedChangeSet(CHANGE_SET, STACK, "CREATE", ()))


def test_a_new_stack_imports_retained_resources(cloudformation: Stubber) -> None:
    request = {
        "StackName": "fs",
        "ChangeSetName": ANY,
        "ChangeSetType": "CREATE",
        "TemplateURL": "https://template",
        "Parameters": [],
        "Capabilities": ["CAPABILITY_IAM"],
        "Tags": [{"Key": "fleetsight", "Value": "fs"}],
        "ImportExistingResources": True,
    }
    cloudformation.add_response("create_change_set", {"Id": CHANGE_SET, "StackId": STACK}, request)
    change = {"Action": "Import", "LogicalResourceId": "InputBucket", "ResourceType": "AWS::S3::Bucket"}
    answer = {**reported("CREATE_COMPLETE"), "Changes": [{"Type": "Resource", "ResourceChange": change}]}
    for _ in range(2):
        cloudformation.add_response("describe_change_set", answer, {"ChangeSetName": CHANGE_SET})
    proposed = create_change_set(stubbed_stage(cloudformation).context, "CREATE", "https://template", [])
    assert proposed is not None
    assert [(each.action, each.name) for each in proposed.changes] == [("Import", "InputBucket")]


def test_changes_are_reported_with_replacements(cloudformation: Stubber) -> None:
    """The values of `Replacement`, and the details that decide them, are AWS's.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-changesets-samples.html
    https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ResourceChange.html
    """
    cloudformation.add_response("create_change_set", {"Id": CHANGE_SET, "StackId": STACK})
    kinds = [("WebTemplate", "AWS::EC2::LaunchTemplate", "False"), ("WebGroup", AUTO_SCALING_GROUP, "Conditional")]
    changes = [
        {"Action": "Modify", "LogicalResourceId": name, "ResourceType": kind, "Replacement": replacement}
        for name, kind, replacement in [*kinds, ("RequestQueue", "AWS::SQS::Queue", "True")]
    ]
    changes.append({"Action": "Remove", "LogicalResourceId": "Alarm", "ResourceType": "AWS::CloudWatch::Alarm"})
    pages = [changes[:2], changes[2:]]
    listed = [[{"Type": "Resource", "ResourceChange": each} for each in page] for page in pages]
    complete = reported("CREATE_COMPLETE")
    first = {"ChangeSetName": CHANGE_SET}
    cloudformation.add_response("describe_change_set", {**reported("CREATE_IN_PROGRESS")}, first)
    cloudformation.add_response("describe_change_set", complete, first)
    cloudformation.add_response("describe_change_set", {**complete, "Changes": listed[0], "NextToken": "n"}, first)
    second = {"ChangeSetName": CHANGE_SET, "NextToken": "n"}
    cloudformation.add_response("describe_change_set", {**complete, "Changes": listed[1]}, second)
    proposed = create_change_set(stubbed_stage(cloudformation).context, "UPDATE", "https://template", [])
    assert proposed is not None
    assert proposed.changes == (
        ResourceChange("Modify", "WebGroup", AUTO_SCALING_GROUP, "Conditional"),
        ResourceChange("Modify", "WebTemplate", "AWS::EC2::LaunchTemplate", "False"),
        ResourceChange("Modify", "RequestQueue", "AWS::SQS::Queue", "True"),
        ResourceChange("Remove", "Alarm", "AWS::CloudWatch::Alarm"),
    )


def test_only_own_unexecuted_change_sets_are_deleted(cloudformation: Stubber) -> None:
    """The execution statuses: https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ChangeSetSummary.html"""

    def summary(name: str, execution_status: str, stack: str = STACK) -> dict[str, str]:
        return {"ChangeSetId": name, "ChangeSetName": name, "StackId": stack, "ExecutionStatus": execution_status}

    found = [
        summary("fleetsight-up-1", "AVAILABLE"),
        summary("fleetsight-up-2", "UNAVAILABLE"),
        summary("fleetsight-up-3", "EXECUTE_IN_PROGRESS"),
        summary("fleetsight-up-4", "AVAILABLE", f"{STACK[:-1]}2"),
        summary("by-hand", "AVAILABLE"),
    ]
    cloudformation.add_response("list_change_sets", {"Summaries": found}, {"StackName": STACK})
    for name in ("fleetsight-up-1", "fleetsight-up-2"):
        cloudformation.add_response("delete_change_set", {}, {"ChangeSetName": name})
    delete_stale_change_sets(stubbed_stage(cloudformation).account, STACK)


@dataclass
class CloudFormation:
    """One stack; each call returns its next status, and after the last one it does not exist."""

    statuses: list[str]
    deleted: int = 0
    resources: tuple[tuple[str, str], ...] = ()

    def describe_stacks(self, StackName: str) -> Any:  # noqa: N803 (CloudFormation's own name)
        if not self.statuses:
            reported: Any = {"Error": {"Code": "ValidationError", "Message": f"Stack {StackName} does not exist"}}
            raise ClientError(reported, "DescribeStacks")
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


def staged_stack(*statuses: str) -> tuple[Stage, CloudFormation]:
    cloud = CloudFormation(list(statuses))
    return Stage(Account("us-east-1", _clients={"cloudformation": cloud}), "fs", time=Time(pause=0)), cloud


def test_prepare_stack_creates_a_missing_stack() -> None:
    assert prepare_stack(staged_stack()[0].context) == "CREATE"


@pytest.mark.parametrize("status", ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"])
def test_prepare_stack_updates_a_complete_stack(status: str) -> None:
    assert prepare_stack(staged_stack(status)[0].context) == "UPDATE"


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "REVIEW_IN_PROGRESS"])
def test_prepare_stack_deletes_a_stack_that_was_never_complete(status: str) -> None:
    on, cloud = staged_stack(status)
    assert prepare_stack(on.context) == "CREATE"
    assert cloud.deleted == 1
    assert status in on.seen
    assert on.steps == ["the stack fs is deleted"]


@pytest.mark.parametrize("has_accounts", [False, True])
def test_the_user_pool_of_an_incomplete_stack_is_deleted_unless_it_has_accounts(has_accounts: bool) -> None:
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


def test_prepare_stack_waits_for_a_busy_stack() -> None:
    on, _ = staged_stack("UPDATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_COMPLETE")
    assert prepare_stack(on.context) == "UPDATE"
    assert on.time.now > 0
    assert "busy (UPDATE_IN_PROGRESS)" in on.seen


def test_prepare_stack_waits_for_a_deletion_and_creates_the_stack() -> None:
    on, _ = staged_stack("DELETE_IN_PROGRESS", "DELETE_IN_PROGRESS", "GONE")
    assert prepare_stack(on.context) == "CREATE"


def test_the_wait_for_a_busy_stack_ends() -> None:
    with pytest.raises(TimedOutError, match="wait on with the same command"):
        prepare_stack(staged_stack("UPDATE_IN_PROGRESS")[0].context)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name fs"), ("DELETE_FAILED", "fleetsight down")],
)
def test_a_stuck_stack_is_an_error_with_the_manual_remedy(status: str, remedy: str) -> None:
    on, cloud = staged_stack(status)
    with pytest.raises(StackError, match=remedy):
        prepare_stack(on.context)
    assert not cloud.deleted


def test_a_cancelled_resource_is_not_a_failure() -> None:
    assert is_failure({"ResourceStatus": "CREATE_FAILED", "ResourceStatusReason": "Table already exists"})
    assert not is_failure({"ResourceStatus": "CREATE_FAILED", "ResourceStatusReason": "Resource creation cancelled"})
    assert not is_failure({"ResourceStatus": "CREATE_COMPLETE"})


AT = datetime(2026, 1, 1, tzinfo=UTC)
NO_SIGNAL = "Received 0 SUCCESS signal(s) out of 1. Unable to satisfy 100% MinSuccessfulInstancesPercent requirement"
"""As CloudFormation says it: repost.aws/knowledge-center/auto-scaling-group-rolling-updates"""


def test_the_console_is_shown_if_no_web_instance_has_signalled() -> None:
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
    reported = str(refused.value)
    assert NO_SIGNAL in reported
    assert "| line 39\n" in reported
    assert "line 5\n" not in reported
    assert "fleetsight bake --prefix fs" in reported


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
def test_costs_replacements_and_deletions_are_marked(change: ResourceChange, warning: str) -> None:
    assert change.warning.startswith(warning)
    assert bool(change.warning) == bool(warning)


def event(number: int, name: str, kind: str, status: str, reason: str = "") -> dict[str, Any]:
    reported = {
        "StackId": "arn",
        "StackName": "fs",
        "EventId": str(number),
        "Timestamp": datetime(2026, 1, 1, tzinfo=UTC),
    }
    named = {"LogicalResourceId": name, "ResourceType": kind, "ResourceStatus": status}
    return {**reported, **named, **({"ResourceStatusReason": reason} if reason else {})}


QUEUE_EXISTS = "fs-requests already exists"
CANCELLED = "Resource creation cancelled"
"""Of the resources that were being created when another one failed."""


@pytest.mark.parametrize(
    ("verb", "ended"),
    [("CREATE", "ROLLBACK_COMPLETE"), ("CREATE", "ROLLBACK_FAILED"), ("UPDATE", "UPDATE_ROLLBACK_COMPLETE")],
)
def test_a_rollback_is_an_error_with_the_reason_of_each_failure(verb: str, ended: str) -> None:
    """CloudFormation rolls back by itself, and the events keep the reasons.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/determine-root-cause-for-stack-failures.html
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
    """
    before = [event(0, "fs", "AWS::CloudFormation::Stack", "REVIEW_IN_PROGRESS")]
    queue, bucket = ("RequestQueue", "AWS::SQS::Queue"), ("InputBucket", "AWS::S3::Bucket")
    failed = [
        event(4, "fs", "AWS::CloudFormation::Stack", ended),
        event(3, *bucket, f"{verb}_FAILED", CANCELLED),
        event(2, *queue, f"{verb}_FAILED", QUEUE_EXISTS),
        event(1, *queue, f"{verb}_IN_PROGRESS"),
    ]
    with stubbed("cloudformation") as stub:
        stub.add_response("describe_stack_events", {"StackEvents": before}, {"StackName": "arn"})
        stub.add_response("execute_change_set", {})
        reported = {"StackName": "fs", "StackId": "arn", "StackStatus": ended, "CreationTime": before[0]["Timestamp"]}
        stub.add_response("describe_stacks", {"Stacks": [reported]}, {"StackName": "arn"})
        stub.add_response("describe_stack_events", {"StackEvents": [*failed, *before]}, {"StackName": "arn"})
        on = Stage(Account("us-east-1", _clients={"cloudformation": stub.client}), "fs", time=Time(pause=0))
        with pytest.raises(StackError) as refused:
            deploy(on.context, ProposedChangeSet("c", "arn", "CREATE", ()))
    assert str(refused.value).splitlines() == [
        f"the stack fs is {ended}:",
        f"  RequestQueue (AWS::SQS::Queue) {verb.lower()} failed: {QUEUE_EXISTS}",
        *(
            ["  fs (AWS::CloudFormation::Stack) rollback failed", "see to it and run this again"]
            if ended == "ROLLBACK_FAILED"
            else ["CloudFormation took everything back; see to it and run this again"]
        ),
    ]
    assert "InputBucket (AWS::S3::Bucket)" in on.seen
