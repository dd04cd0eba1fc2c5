"""A change set: what an update of the stack would do, shown before it does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from botocore.exceptions import ClientError
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from core.ids import new_id
from scripts.aws.account import TAG, Account
from scripts.aws.deploy.stacks import GROUP, StackError
from scripts.aws.operation import Operation

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import ParameterTypeDef

Kind = Literal["CREATE", "UPDATE"]

OURS = "fleetsight-up-"
"""Begins the name of every change set that the commands make."""

PROPOSE_SECONDS = 300.0

NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
"""How CloudFormation says that there is nothing to do: as the reason for which a change set has failed."""

COSTLY = {
    GROUP: "an instance and its disk, by the hour",
    "AWS::EC2::EIP": "by the hour",
    "AWS::ElasticLoadBalancingV2::LoadBalancer": "by the hour",
    "AWS::CloudFront::Distribution": "by what is downloaded",
    "AWS::CloudWatch::Alarm": "by the month, ten are free",
    "AWS::Cognito::UserPool": "by those who sign in, 10,000 a month are free",
    "AWS::CloudWatch::Dashboard": "by the month, three are free",
    "AWS::DynamoDB::Table": "by use",
    "AWS::S3::Bucket": "by use",
    "AWS::SQS::Queue": "by use",
    "AWS::Logs::LogGroup": "by use",
}
"""What of a stack costs money, and how it is billed."""


@dataclass(frozen=True)
class Change:
    """What becomes of a resource.

    Attributes:
        action: Add, Modify, Remove or Import.
        name: in the template.
        kind: its type.
        replacement: True, False or Conditional, for Modify; else empty.
    """

    action: str
    name: str
    kind: str
    replacement: str = ""

    @property
    def warning(self) -> str:
        """What a person should know before they say yes; empty where there is nothing."""
        if self.action == "Remove":
            return "is deleted"
        if self.action == "Add":
            return f"costs: {COSTLY[self.kind]}" if self.kind in COSTLY else ""
        if self.kind == GROUP:
            return "the web instance is replaced, once another serves"
        return {"True": "is replaced", "Conditional": "may be replaced"}.get(self.replacement, "")


@dataclass(frozen=True)
class ChangeSet:
    """A change set that waits to be executed."""

    change_set_id: str
    stack_id: str
    kind: Kind
    changes: tuple[Change, ...]


def propose(
    operation: Operation, kind: Kind, template_url: str, parameters: Sequence["ParameterTypeDef"]
) -> ChangeSet | None:
    """Ask CloudFormation what it would do, and return that, or None where there is nothing to do.

    What an earlier stack of this prefix has left, its buckets and its table, becomes part of the new one.

    Raises:
        StackError: CloudFormation refuses; the message says why.
    """
    account = operation.account
    reply = account.cloudformation.create_change_set(
        StackName=operation.prefix,
        ChangeSetName=f"{OURS}{new_id()}",
        ChangeSetType=kind,
        TemplateURL=template_url,
        Parameters=parameters,
        Capabilities=["CAPABILITY_IAM"],
        Tags=[{"Key": TAG, "Value": operation.prefix}],
        ImportExistingResources=True,
    )
    found = _when_made(operation, reply["Id"])
    proposed = ChangeSet(reply["Id"], reply["StackId"], kind, _changes(account, reply["Id"]))
    if found["Status"] == "CREATE_COMPLETE":
        return proposed
    reason = found["StatusReason"] or "it gives no reason"
    is_empty = any(words in reason for words in NO_CHANGES)
    details = [] if is_empty else _refusals(account, reply["Id"])
    discard(account, proposed)
    if is_empty:
        return None
    raise StackError("\n".join([f"CloudFormation refuses the change: {reason}", *details]))


def _refusals(account: Account, change_set_id: str) -> list[str]:
    """Return what validation found before anything was made, a line for each resource; DescribeChangeSet is silent.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/validate-stack-deployments.html
    """
    pages = account.cloudformation.get_paginator("describe_events").paginate(
        ChangeSetName=change_set_id, Filters={"FailedEvents": True}
    )
    try:
        events = [event for page in pages for event in page["OperationEvents"]]
    except ClientError as error:
        return [f"The reasons could not be read (cloudformation:DescribeEvents): {error}"]
    reasons = ((each.get("LogicalResourceId", ""), each.get("ValidationStatusReason")) for each in events)
    return [f"{name}: {reason}" for name, reason in reasons if reason]


def _when_made(operation: Operation, change_set_id: str) -> Mapping[str, str]:
    def look() -> dict[str, str] | None:
        told = operation.account.cloudformation.describe_change_set(ChangeSetName=change_set_id)
        if told["Status"] in {"CREATE_PENDING", "CREATE_IN_PROGRESS"}:
            return None
        return {"Status": told["Status"], "StatusReason": told.get("StatusReason", "")}

    what = "CloudFormation to say what it would change: try again"
    return operation.waiting.until(look, what, seconds=PROPOSE_SECONDS, every=2.0)


def _changes(account: Account, change_set_id: str) -> tuple[Change, ...]:
    changes: list[Change] = []
    token: dict[str, str] = {}
    while True:
        page = account.cloudformation.describe_change_set(ChangeSetName=change_set_id, **token)  # type: ignore[arg-type]
        for each in page.get("Changes", []):
            told = each["ResourceChange"]
            replacement = str(told.get("Replacement") or "")
            changes.append(Change(told["Action"], told["LogicalResourceId"], told["ResourceType"], replacement))
        if not page.get("NextToken"):
            return tuple(sorted(changes, key=lambda each: (each.action, each.kind, each.name)))
        token = {"NextToken": page["NextToken"]}


def discard(account: Account, proposed: ChangeSet) -> None:
    """Forget a change set, and the empty stack that CloudFormation made for it if it was to be a new one."""
    account.cloudformation.delete_change_set(ChangeSetName=proposed.change_set_id)
    if proposed.kind == "CREATE":
        account.cloudformation.delete_stack(StackName=proposed.stack_id)


def discard_all(account: Account, stack_id: str) -> None:
    """Forget the change sets that a run of the command which died has left."""
    pages = account.cloudformation.get_paginator("list_change_sets").paginate(StackName=stack_id)
    for each in [each for page in pages for each in page["Summaries"]]:
        unused = each.get("ExecutionStatus") in {"AVAILABLE", "UNAVAILABLE"}
        if each.get("StackId") == stack_id and unused and each["ChangeSetName"].startswith(OURS):
            account.cloudformation.delete_change_set(ChangeSetName=each["ChangeSetId"])


def execute(account: Account, proposed: ChangeSet) -> None:
    """Let CloudFormation begin.

    If the operation fails, CloudFormation also deletes the new resources that would stay when the stack is deleted:
    they are empty, and would be in the way of the next try. A user pool stays, since it is protected from deletion;
    `deploy.ready` deletes it before the next try.
    """
    account.cloudformation.execute_change_set(ChangeSetName=proposed.change_set_id, RetainExceptOnCreate=True)


def table(changes: Sequence[Change]) -> Table:
    """Return what is to be done as a table; the last column says what costs money, is replaced or is deleted."""
    rows = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("action", "resource", "type", "mind"):
        rows.add_column(heading, overflow="fold")
    for each in changes:
        style = "bold red" if each.action == "Remove" or each.replacement == "True" else ""
        cells = (each.action.lower(), each.name, each.kind.removeprefix("AWS::"), each.warning)
        rows.add_row(*(Text(cell, style=style) for cell in cells))
    return rows
