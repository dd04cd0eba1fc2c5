"""Change sets, against answers as AWS documents them."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from scripts.aws.account import Account
from scripts.aws.deploy.change_set import (
    ProposedChangeSet,
    ResourceChange,
    create_change_set,
    delete_stale_change_sets,
    execute_change_set,
)
from scripts.aws.deploy.stack import AUTO_SCALING_GROUP, StackError
from tests.support.aws_stage import Stage, Time
from tests.support.stubs import stubbed

CHANGE_SET = "arn:aws:cloudformation:us-east-1:123456789012:changeSet/fleetsight-up-1/1"
STACK = "arn:aws:cloudformation:us-east-1:123456789012:stack/fs/1"
VALIDATION = (
    "The following hook(s)/validation failed: [AWS::EarlyValidation::ResourceExistenceCheck]. To troubleshoot Early "
    "Validation errors, use the DescribeEvents API for detailed failure information."
)
"""https://github.com/serverless/serverless/issues/13248"""
EXISTS = "Resource of type 'AWS::S3::Bucket' with identifier 'fs-input-1' already exists."
"""https://github.com/aws-cloudformation/rain/pull/744"""


@pytest.fixture
def cloudformation() -> Iterator[Stubber]:
    with stubbed("cloudformation") as stub:
        yield stub


def stage(stub: Stubber) -> Stage:
    return Stage(Account("us-east-1", _clients={"cloudformation": stub.client}), "fs", time=Time(pause=0))


def told(status: str, reason: str = "") -> dict[str, Any]:
    return {"Status": status, "StatusReason": reason, "Changes": []}


def add_refused(stub: Stubber, reason: str) -> None:
    """Let CloudFormation refuse a new stack's change set."""
    stub.add_response("create_change_set", {"Id": CHANGE_SET, "StackId": STACK})
    for _ in range(2):  # once for its state, once for its changes
        stub.add_response("describe_change_set", told("FAILED", reason), {"ChangeSetName": CHANGE_SET})


def add_discarded(stub: Stubber) -> None:
    stub.add_response("delete_change_set", {}, {"ChangeSetName": CHANGE_SET})
    stub.add_response("delete_stack", {}, {"StackName": STACK})


def test_what_validation_finds_is_told_for_each_resource(cloudformation: Stubber) -> None:
    add_refused(cloudformation, VALIDATION)
    event = {"EventType": "VALIDATION_ERROR", "LogicalResourceId": "InputBucket", "ValidationStatusReason": EXISTS}
    asked = {"ChangeSetName": CHANGE_SET, "Filters": {"FailedEvents": True}}
    cloudformation.add_response("describe_events", {"OperationEvents": [event, {"EventType": "STACK_EVENT"}]}, asked)
    add_discarded(cloudformation)
    with pytest.raises(StackError) as refused:
        create_change_set(stage(cloudformation).context, "CREATE", "https://template", [])
    assert str(refused.value).splitlines() == [
        f"CloudFormation refuses the change: {VALIDATION}",
        f"InputBucket: {EXISTS}",
    ]


def test_without_the_right_to_read_them_the_details_are_missing_and_the_refusal_is_told(
    cloudformation: Stubber,
) -> None:
    add_refused(cloudformation, VALIDATION)
    cloudformation.add_client_error("describe_events", "AccessDenied", "not authorized")
    add_discarded(cloudformation)
    with pytest.raises(StackError, match=r"(?s)ResourceExistenceCheck.*cloudformation:DescribeEvents.*AccessDenied"):
        create_change_set(stage(cloudformation).context, "CREATE", "https://template", [])


def test_a_change_set_without_changes_is_none_and_no_events_are_read(cloudformation: Stubber) -> None:
    add_refused(cloudformation, "The submitted information didn't contain changes. Submit different information.")
    add_discarded(cloudformation)
    assert create_change_set(stage(cloudformation).context, "CREATE", "https://template", []) is None


def test_what_a_failed_stack_has_made_is_not_kept(cloudformation: Stubber) -> None:
    asked = {"ChangeSetName": CHANGE_SET, "RetainExceptOnCreate": True}
    cloudformation.add_response("execute_change_set", {}, asked)
    execute_change_set(stage(cloudformation).account, ProposedChangeSet(CHANGE_SET, STACK, "CREATE", ()))


def test_what_an_earlier_stack_has_left_is_taken_in(cloudformation: Stubber) -> None:
    asked = {
        "StackName": "fs",
        "ChangeSetName": ANY,
        "ChangeSetType": "CREATE",
        "TemplateURL": "https://template",
        "Parameters": [],
        "Capabilities": ["CAPABILITY_IAM"],
        "Tags": [{"Key": "fleetsight", "Value": "fs"}],
        "ImportExistingResources": True,
    }
    cloudformation.add_response("create_change_set", {"Id": CHANGE_SET, "StackId": STACK}, asked)
    change = {"Action": "Import", "LogicalResourceId": "InputBucket", "ResourceType": "AWS::S3::Bucket"}
    answer = {**told("CREATE_COMPLETE"), "Changes": [{"Type": "Resource", "ResourceChange": change}]}
    for _ in range(2):
        cloudformation.add_response("describe_change_set", answer, {"ChangeSetName": CHANGE_SET})
    proposed = create_change_set(stage(cloudformation).context, "CREATE", "https://template", [])
    assert proposed is not None
    assert [(each.action, each.name) for each in proposed.changes] == [("Import", "InputBucket")]


def test_what_an_update_would_change_is_told_with_what_is_replaced(cloudformation: Stubber) -> None:
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
    complete = told("CREATE_COMPLETE")
    first = {"ChangeSetName": CHANGE_SET}
    cloudformation.add_response("describe_change_set", {**told("CREATE_IN_PROGRESS")}, first)
    cloudformation.add_response("describe_change_set", complete, first)
    cloudformation.add_response("describe_change_set", {**complete, "Changes": listed[0], "NextToken": "n"}, first)
    second = {"ChangeSetName": CHANGE_SET, "NextToken": "n"}
    cloudformation.add_response("describe_change_set", {**complete, "Changes": listed[1]}, second)
    proposed = create_change_set(stage(cloudformation).context, "UPDATE", "https://template", [])
    assert proposed is not None
    assert proposed.changes == (
        ResourceChange("Modify", "WebGroup", AUTO_SCALING_GROUP, "Conditional"),
        ResourceChange("Modify", "WebTemplate", "AWS::EC2::LaunchTemplate", "False"),
        ResourceChange("Modify", "RequestQueue", "AWS::SQS::Queue", "True"),
        ResourceChange("Remove", "Alarm", "AWS::CloudWatch::Alarm"),
    )


def test_only_unused_change_sets_that_the_commands_have_made_are_discarded(cloudformation: Stubber) -> None:
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
    delete_stale_change_sets(stage(cloudformation).account, STACK)
