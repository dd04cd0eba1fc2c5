"""A stack: its operations against CloudFormation's documented answers, status, launches, sessions, and cost."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber
from rich.console import Console

from scripts.aws.bake.spec import disk_gib
from scripts.aws.context import TAG, AwsAccount, TimedOutError, explain_error
from scripts.aws.deploy.change_set import (
    ChangeSetType,
    ProposedChangeSet,
    ResourceChange,
    create_change_set,
    delete_stale_change_sets,
    deploy,
    prepare_stack,
)
from scripts.aws.deploy.idle_cost import METRICS, WEB_DISK_GB, BilledParts, monthly_cost
from scripts.aws.deploy.settings import validated_config
from scripts.aws.deploy.stack import (
    AUTO_SCALING_GROUP,
    LaunchFailureReporter,
    StackDescription,
    StackFailedError,
    failed_launch,
)
from scripts.aws.instances import SessionError, StackInstance, select_instance, session_command
from scripts.aws.preflight.instances import DISK_GIB
from scripts.aws.status import StackStatus, status_table
from tests.support.aws_stage import Stage, Time, stubbed, stubbed_stage
from tests.support.stack_template import RESOURCES, TEMPLATE

AT = datetime(2026, 1, 1, tzinfo=UTC)
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


def proposed_by(stub: Stubber, kind: ChangeSetType = "CREATE") -> ProposedChangeSet | None:
    return create_change_set(stubbed_stage(cloudformation=stub).context, kind, "https://template", [])


def test_cloudformation_works_with_the_rights_of_a_service_role(cloudformation: Stubber) -> None:
    role = "arn:aws:iam::123456789012:role/deploys"
    request: dict[str, Any] = {
        "StackName": "fs",
        "ChangeSetType": "UPDATE",
        "TemplateURL": "https://template",
        "Parameters": [],
        "Capabilities": ["CAPABILITY_IAM"],
        "ImportExistingResources": True,
        "ChangeSetName": ANY,
        "Tags": ANY,
    }
    for given in ({"RoleARN": role}, {}):  # without one the stack keeps its present one
        cloudformation.add_response("create_change_set", {"Id": CHANGE_SET, "StackId": STACK}, {**request, **given})
        for _ in range(2):
            cloudformation.add_response("describe_change_set", reported("CREATE_COMPLETE"))
    context = stubbed_stage(cloudformation=cloudformation).context
    assert create_change_set(context, "UPDATE", "https://template", [], service_role=role)
    assert create_change_set(context, "UPDATE", "https://template", [])


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
    with pytest.raises(StackFailedError) as refused:
        proposed_by(cloudformation)
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
    with pytest.raises(
        StackFailedError, match=r"(?s)ResourceExistenceCheck.*cloudformation:DescribeEvents.*AccessDenied"
    ):
        proposed_by(cloudformation)


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
    proposed = proposed_by(cloudformation, "UPDATE")
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
    delete_stale_change_sets(stubbed_stage(cloudformation=cloudformation).account, STACK)


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
    return Stage(AwsAccount("us-east-1", _clients={"cloudformation": cloud}), "fs", time=Time(pause=0)), cloud


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ([], "CREATE"),
        (["CREATE_COMPLETE"], "UPDATE"),
        (["UPDATE_COMPLETE"], "UPDATE"),
        (["UPDATE_ROLLBACK_COMPLETE"], "UPDATE"),
        (["UPDATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_COMPLETE"], "UPDATE"),
        (["DELETE_IN_PROGRESS", "DELETE_IN_PROGRESS", "GONE"], "CREATE"),
    ],
    ids=lambda value: ",".join(value) or "none" if isinstance(value, list) else "",
)
def test_a_missing_stack_is_created_and_a_complete_one_updated_once_it_is_not_busy(
    statuses: list[str], kind: str
) -> None:
    on, cloud = staged_stack(*statuses)
    assert prepare_stack(on.context) == kind
    assert not cloud.deleted
    assert ("busy" in on.seen, on.time.now > 0) == (len(statuses) > 1,) * 2


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
    pool = {"Id": "us-east-1_a", "Name": "fs", "UserPoolTags": {TAG: "fs"}, "Domain": "fs-1"}
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
            cognito.add_response("delete_user_pool_domain", {}, one | {"Domain": "fs-1"})
            cognito.add_response("delete_user_pool", {}, one)
        account = AwsAccount("us-east-1", _clients={"cloudformation": cloud, "cognito-idp": cognito.client})
        on = Stage(account, "fs", time=Time(pause=0))
        assert prepare_stack(on.context) == "CREATE"
    gone = [] if has_accounts else ["deleted the user pool us-east-1_a, which has no accounts"]
    assert on.steps == [*gone, "the stack fs is deleted"]


def test_the_wait_for_a_busy_stack_ends() -> None:
    with pytest.raises(TimedOutError, match="wait on with the same command"):
        prepare_stack(staged_stack("UPDATE_IN_PROGRESS")[0].context)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name fs"), ("DELETE_FAILED", "fleetsight down")],
)
def test_a_stuck_stack_is_an_error_with_the_manual_remedy(status: str, remedy: str) -> None:
    on, cloud = staged_stack(status)
    with pytest.raises(StackFailedError, match=remedy):
        prepare_stack(on.context)
    assert not cloud.deleted


NO_SIGNAL = "Received 0 SUCCESS signal(s) out of 1. Unable to satisfy 100% MinSuccessfulInstancesPercent requirement"
"""As CloudFormation says it: repost.aws/knowledge-center/auto-scaling-group-rolling-updates"""


def event(number: int, name: str, kind: str, status: str, reason: str = "") -> dict[str, Any]:
    named = {"LogicalResourceId": name, "ResourceType": kind, "ResourceStatus": status}
    found = {"StackId": "arn", "StackName": "fs", "EventId": str(number), "Timestamp": AT, **named}
    return {**found, "ResourceStatusReason": reason} if reason else found


def add_failure(stub: Stubber, ended: str, *events: dict[str, Any]) -> None:
    """Let an operation end so, with these events, the newest first."""
    before = [event(0, "fs", "AWS::CloudFormation::Stack", "REVIEW_IN_PROGRESS")]
    stub.add_response("describe_stack_events", {"StackEvents": before}, {"StackName": "arn"})
    stub.add_response("execute_change_set", {}, {"ChangeSetName": "change", "RetainExceptOnCreate": True})
    stack = {"StackName": "fs", "StackId": "arn", "StackStatus": ended, "CreationTime": AT}
    stub.add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": "arn"})
    stub.add_response("describe_stack_events", {"StackEvents": [*events, *before]}, {"StackName": "arn"})


def test_the_console_is_shown_if_no_web_instance_has_signalled(cloudformation: Stubber) -> None:
    add_failure(
        cloudformation,
        "UPDATE_ROLLBACK_COMPLETE",
        event(1, "WebGroup", AUTO_SCALING_GROUP, "UPDATE_FAILED", NO_SIGNAL),
    )
    instance = {"InstanceId": "i-1", "InstanceType": "c7a.large", "ImageId": "ami-1", "LaunchTime": AT}
    found = {"Reservations": [{"Instances": [{**instance, "State": {"Name": "terminated"}}]}]}
    console = "\n".join(f"line {number}" for number in range(40))
    with stubbed("ec2") as ec2:
        ec2.add_response("describe_instances", found)
        ec2.add_response("get_console_output", {"Output": console}, {"InstanceId": "i-1", "Latest": True})
        with pytest.raises(StackFailedError) as refused:
            on = stubbed_stage(cloudformation=cloudformation, ec2=ec2)
            deploy(on.context, ProposedChangeSet("change", "arn", "UPDATE", ()))
    reported = str(refused.value)
    assert NO_SIGNAL in reported
    assert "| line 39\n" in reported
    assert "line 5\n" not in reported
    assert "fleetsight bake --prefix fs" in reported


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (ResourceChange("Add", "Web", "AWS::AutoScaling::AutoScalingGroup"), ""),
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
def test_replacements_and_deletions_are_marked(change: ResourceChange, warning: str) -> None:
    assert change.warning.startswith(warning)
    assert bool(change.warning) == bool(warning)


QUEUE_EXISTS = "fs-requests already exists"
CANCELLED = "Resource creation cancelled"
"""Of the resources that were being created when another one failed."""


@pytest.mark.parametrize(
    ("verb", "ended"),
    [("CREATE", "ROLLBACK_COMPLETE"), ("CREATE", "ROLLBACK_FAILED"), ("UPDATE", "UPDATE_ROLLBACK_COMPLETE")],
)
def test_a_rollback_is_an_error_with_the_reason_of_each_failure(
    cloudformation: Stubber, verb: str, ended: str
) -> None:
    """CloudFormation rolls back by itself, and the events keep the reasons.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/determine-root-cause-for-stack-failures.html
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
    """
    queue = ("RequestQueue", "AWS::SQS::Queue")
    add_failure(
        cloudformation,
        ended,
        event(4, "fs", "AWS::CloudFormation::Stack", ended),
        event(3, "InputBucket", "AWS::S3::Bucket", f"{verb}_FAILED", CANCELLED),
        event(2, *queue, f"{verb}_FAILED", QUEUE_EXISTS),
        event(1, *queue, f"{verb}_IN_PROGRESS"),
    )
    on = stubbed_stage(cloudformation=cloudformation)
    with pytest.raises(StackFailedError) as refused:
        deploy(on.context, ProposedChangeSet("change", "arn", "CREATE", ()))
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


def test_a_validation_that_fails_while_a_change_set_is_executed_is_reported_with_its_reasons(
    cloudformation: Stubber,
) -> None:
    """Then the stack's events only name DescribeEvents. It returns "Validation errors - Failures from CloudFormation
    Early Validations": https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_DescribeEvents.html.
    """
    failed = "Validation failed with 1 error(s). Call DescribeEvents to retrieve the full list"
    stack = ("fs", "AWS::CloudFormation::Stack")
    add_failure(cloudformation, "ROLLBACK_COMPLETE", event(1, *stack, "CREATE_FAILED", failed))
    reason = {"LogicalResourceId": "InputBucket", "ValidationStatusReason": BUCKET_EXISTS}
    request = {"StackName": "arn", "Filters": {"FailedEvents": True}}
    cloudformation.add_response("describe_events", {"OperationEvents": [reason]}, request)
    with pytest.raises(StackFailedError, match=f"{re.escape(failed)}\n  InputBucket: {re.escape(BUCKET_EXISTS)}"):
        deploy(stubbed_stage(cloudformation=cloudformation).context, ProposedChangeSet("change", "arn", "CREATE", ()))


DEPLOYED = StackDescription("fs", STACK, "CREATE_COMPLETE")
QUOTA = (
    "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket that the "
    "specified instance type belongs to. Launching EC2 instance failed."
)


def activity(status: str, message: str = "") -> dict[str, Any]:
    reported = {"ActivityId": "1", "AutoScalingGroupName": "fs-web", "Cause": "capacity", "StartTime": AT}
    return {**reported, "StatusCode": status, **({"StatusMessage": message} if message else {})}


@contextmanager
def on_a_stack(answers: Sequence[Sequence[dict[str, Any]]], kind: str = AUTO_SCALING_GROUP) -> Iterator[Stage]:
    """Yield a stage that answers each question for the group's activities with the next of `answers`."""
    resource = {
        "LogicalResourceId": "Web", "ResourceType": kind, "PhysicalResourceId": "fs-web",
        "ResourceStatus": "CREATE_COMPLETE", "LastUpdatedTimestamp": AT,
    }  # fmt: skip
    with stubbed("cloudformation") as cloudformation, stubbed("autoscaling") as autoscaling:
        for activities in answers:
            answer = {"StackResourceSummaries": [resource]}
            cloudformation.add_response("list_stack_resources", answer, {"StackName": DEPLOYED.stack_id})
            if kind == AUTO_SCALING_GROUP:
                wanted = {"AutoScalingGroupName": "fs-web", "MaxRecords": 10}
                autoscaling.add_response("describe_scaling_activities", {"Activities": list(activities)}, wanted)
        yield stubbed_stage(cloudformation=cloudformation, autoscaling=autoscaling)


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
    with on_a_stack([activities]) as stage:
        assert failed_launch(stage.account, DEPLOYED) == reason


def test_a_stack_without_a_group_has_no_failed_launch() -> None:
    with on_a_stack([[]], kind="AWS::S3::Bucket") as stage:
        assert failed_launch(stage.account, DEPLOYED) == ""


def test_a_launch_failure_is_reported_once() -> None:
    failed = [activity("Failed", QUOTA)]
    with on_a_stack([failed, failed, [], [activity("Failed", "no default VPC")]]) as stage:
        made_room: list[str] = []
        report = LaunchFailureReporter(stage.context, lambda: made_room.append("once"))
        for _ in range(4):
            report.report(DEPLOYED)
    assert made_room == ["once"], "for the quota"
    reported = stage.seen
    assert reported.count("vCPU limit of 0") == 1
    assert "no default VPC" in reported


def test_status_names_failures_and_the_commands_that_mend_them() -> None:
    shown = StackStatus(
        prefix="fs", stack="ROLLBACK_COMPLETE", failure="no rights", page=None, settings={}, web=[], workers={},
        template=(1, 2), failed_launch=QUOTA, images={"web": None},
    )  # fmt: skip
    console = Console(width=400, file=io.StringIO(), record=True)
    console.print(status_table(shown))
    printed = [re.sub(" {2,}", ": ", line.strip()) for line in console.export_text().splitlines()]
    assert printed == [
        "stack: fs, rollback complete",
        "last failure: no rights",
        "page: it has no address yet",
        f"web launch: failed: {QUOTA}",
        "workers: none",
        "template: version 1; 2 is the newest: `fleetsight roll`",
        "alarms: none rings",
        "web image: none yet: `fleetsight bake`",
    ]


WEB, ONE, TWO = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2", "i-0bbcccccccccccccc"


def machine(instance_id: str, name: str) -> StackInstance:
    return StackInstance(instance_id, name, "running", "c7a.large", "ami-1", AT)


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


def test_an_unknown_instance_lists_the_running_ones(fleet: list[StackInstance]) -> None:
    with pytest.raises(SessionError, match=f"is i-9; there are:\n  {WEB}"):
        select_instance(fleet, "fs", "i-9")
    fleet.clear()
    with pytest.raises(SessionError, match="there are: none"):
        select_instance(fleet, "fs", None)


def test_the_session_is_for_the_region_and_the_profile_of_the_account() -> None:
    words = ["aws", "ssm", "start-session", "--target", WEB, "--region", "eu-central-1"]
    assert session_command(AwsAccount("eu-central-1"), machine(WEB, "fs-web")) == words
    assert session_command(AwsAccount("eu-central-1", "ops"), machine(WEB, "fs-web")) == [*words, "--profile", "ops"]


CONFIG = validated_config({})
PARTS = BilledParts("c7a.large", alarms=4, dashboards=1, images_gb=48)


def test_minimum_workers_cost_the_same_as_others() -> None:
    rows = dict(monthly_cost(PARTS, validated_config({"fleet.min_workers": "2", "fleet.market": "spot"})))
    assert rows["2 workers that stand by, c7a.large"] == pytest.approx(2 * 0.041 * 730)
    assert rows["disks, 32 GB"] == pytest.approx(2.56)
    assert "disks, 64 GB" in dict(
        monthly_cost(PARTS, validated_config({"fleet.min_workers": "2", "worker.engine": "torch"}))
    )
    assert "public addresses, 3" in rows


def test_the_default_budget_is_twice_the_idle_cost() -> None:
    whole = BilledParts("c7a.large", alarms=8, dashboards=1, images_gb=16)
    at_rest = sum(dollars for _, dollars in monthly_cost(whole, CONFIG))
    assert TEMPLATE["Parameters"]["MonthlyBudget"]["Default"] == round(2 * at_rest, -1)


def test_the_idle_cost_has_the_alarms_and_metrics_of_the_template() -> None:
    always = [each["Type"] for each in RESOURCES.values() if each.get("Condition") in {None, "HasNoLoadBalancer"}]
    rows = dict(monthly_cost(BilledParts.from_resources(always, "c7a.large", zones=2, images_gb=16), CONFIG))
    assert rows["alarms, 8"] == pytest.approx(0.80)
    assert rows[f"metrics of the logs, {METRICS}"] == pytest.approx(0.30 * METRICS)
    assert "load balancer" not in rows


def test_disk_costs_follow_the_template_and_the_image() -> None:
    sizes = {}
    for name in ("WebTemplate", "WorkerTemplate"):
        (disk,) = RESOURCES[name]["Properties"]["LaunchTemplateData"]["BlockDeviceMappings"]
        sizes[name] = disk["Ebs"]["VolumeSize"]
    assert sizes == {"WebTemplate": WEB_DISK_GB, "WorkerTemplate": {"Ref": "WorkerDiskGiB"}}
    assert TEMPLATE["Parameters"]["WorkerDiskGiB"]["Default"] == disk_gib("worker", "openvino")
    assert disk_gib("worker", "torch") <= DISK_GIB, "EC2 refuses a disk that is smaller than its image's"


@pytest.mark.parametrize(
    ("code", "message", "shown"),
    [
        ("UnauthorizedOperation", "You may not. Encoded authorization failure message: 4Q9x-_z", "You may not."),
        ("403", "", "403"),
    ],
)
def test_a_denied_call_is_explained_with_the_remedy(code: str, message: str, shown: str) -> None:
    denied = ClientError({"Error": {"Code": code, "Message": message}}, "RunInstances")
    assert explain_error(denied) == (
        "AWS does not allow you to call RunInstances: have your user or role allowed that, or use another --profile "
        f"({shown})"
    )


def test_an_ended_session_is_explained_with_the_remedy() -> None:
    message = "The security token included in the request is expired"
    shown = explain_error(ClientError({"Error": {"Code": "ExpiredToken", "Message": message}}, "DescribeStacks"))
    assert "is expired): sign in again, and repeat the command, which continues" in shown
