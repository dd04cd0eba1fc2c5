"""Change sets: what an update of the stack would do, shown to the user, and executed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from core.ids import new_id
from scripts.aws.context import TAG, AwsAccount, AwsContext
from scripts.aws.deploy.stack import (
    AUTO_SCALING_GROUP,
    LaunchFailureReporter,
    StackDescription,
    StackEvents,
    StackFailedError,
    find_stack,
    follow_stack,
    stack_resources,
    web_console_lines,
)
from scripts.aws.resources import delete_user_pool, user_pools

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import ParameterTypeDef

ChangeSetType = Literal["CREATE", "UPDATE"]

CHANGE_SET_PREFIX = "fleetsight-up-"
"""Prefix of the names of all change sets that the commands create."""

PROPOSE_SECONDS = 300.0
"""The longest wait until CloudFormation has created a change set."""

NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
"""Parts of the reasons with which CloudFormation fails a change set without changes."""

NEVER_COMPLETE = {"REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED"}
"""States of a stack that was never complete: CloudFormation can only delete it."""

SUCCEEDED = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"}
"""States of a stack after a successful operation."""

USER_POOL = "AWS::Cognito::UserPool"
"""CloudFormation's type of a user pool."""


@dataclass(frozen=True)
class ResourceChange:
    """The change of a resource.

    Attributes:
        action: Add, Modify, Remove or Import.
        name: logical name in the template.
        replacement: True, False or Conditional for Modify; else empty.
    """

    action: str
    name: str
    kind: str
    replacement: str = ""

    @property
    def warning(self) -> str:
        """What the user should know before confirming the change, or empty."""
        if self.action == "Remove":
            return "is deleted"
        if self.kind == AUTO_SCALING_GROUP and self.action == "Modify":
            return "the web instance is replaced, once another serves"
        return {"True": "is replaced", "Conditional": "may be replaced"}.get(self.replacement, "")


@dataclass(frozen=True)
class ProposedChangeSet:
    """A change set that is ready to be executed."""

    change_set_id: str
    stack_id: str
    kind: ChangeSetType
    changes: tuple[ResourceChange, ...]


def create_change_set(
    context: AwsContext,
    kind: ChangeSetType,
    template_url: str,
    parameters: Sequence["ParameterTypeDef"],
    *,
    reverts_drift: bool = False,
    service_role: str = "",
) -> ProposedChangeSet | None:
    """Create a change set and return it, or None if there is nothing to change.

    The buckets and the table that an earlier stack of this prefix has left become part of the new stack. A change set
    that reverts drift compares the template with what exists instead, and imports nothing.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/drift-aware-change-sets.html

    Raises:
        StackError: CloudFormation rejects the change; the message says why.
    """
    account = context.account
    options: dict[str, Any] = (
        {"DeploymentMode": "REVERT_DRIFT"} if reverts_drift else {"ImportExistingResources": True}
    )
    if service_role:
        options["RoleARN"] = service_role
    reply = account.cloudformation.create_change_set(
        StackName=context.prefix,
        ChangeSetName=f"{CHANGE_SET_PREFIX}{new_id()}",
        ChangeSetType=kind,
        TemplateURL=template_url,
        Parameters=parameters,
        Capabilities=["CAPABILITY_IAM"],
        Tags=[{"Key": TAG, "Value": context.prefix}],
        **options,
    )
    created = _wait_until_created(context, reply["Id"])
    proposed = ProposedChangeSet(reply["Id"], reply["StackId"], kind, _read_changes(account, reply["Id"]))
    if created["Status"] == "CREATE_COMPLETE":
        return proposed
    reason = created["StatusReason"] or "it gives no reason"
    is_empty = any(text in reason for text in NO_CHANGES)
    details = [] if is_empty else _validation_errors(account, ChangeSetName=reply["Id"])
    delete_change_set(account, proposed)
    if is_empty:
        return None
    raise StackFailedError("\n".join([f"CloudFormation refuses the change: {reason}", *details]))


def _validation_errors(account: AwsAccount, **operation: str) -> list[str]:
    """Return the errors of CloudFormation's validation of a change set, or of its execution, one per resource.

    DescribeChangeSet and DescribeStackEvents omit them.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/validate-stack-deployments.html
    """
    paginator = account.cloudformation.get_paginator("describe_events")
    pages = paginator.paginate(**operation, Filters={"FailedEvents": True})  # type: ignore[arg-type]
    try:
        events = [event for page in pages for event in page["OperationEvents"]]
    except ClientError as error:
        return [f"The reasons could not be read (cloudformation:DescribeEvents): {error}"]
    reasons = ((each.get("LogicalResourceId", ""), each.get("ValidationStatusReason")) for each in events)
    return [f"{name}: {reason}" for name, reason in reasons if reason]


def _wait_until_created(context: AwsContext, change_set_id: str) -> Mapping[str, str]:
    def poll() -> dict[str, str] | None:
        described = context.account.cloudformation.describe_change_set(ChangeSetName=change_set_id)
        if described["Status"] in {"CREATE_PENDING", "CREATE_IN_PROGRESS"}:
            return None
        return {"Status": described["Status"], "StatusReason": described.get("StatusReason", "")}

    what = "CloudFormation to say what it would change: try again"
    return context.waiter.until(poll, what, seconds=PROPOSE_SECONDS, every=2.0)


def _read_changes(account: AwsAccount, change_set_id: str) -> tuple[ResourceChange, ...]:
    pages = account.cloudformation.get_paginator("describe_change_set").paginate(ChangeSetName=change_set_id)
    described = (each["ResourceChange"] for page in pages for each in page.get("Changes", []))
    changes = [
        ResourceChange(
            each["Action"], each["LogicalResourceId"], each["ResourceType"], str(each.get("Replacement") or "")
        )
        for each in described
    ]
    return tuple(sorted(changes, key=lambda each: (each.action, each.kind, each.name)))


def delete_change_set(account: AwsAccount, proposed: ProposedChangeSet) -> None:
    """Delete a change set, and the empty stack that CloudFormation has created for a new one."""
    account.cloudformation.delete_change_set(ChangeSetName=proposed.change_set_id)
    if proposed.kind == "CREATE":
        account.cloudformation.delete_stack(StackName=proposed.stack_id)


def delete_stale_change_sets(account: AwsAccount, stack_id: str) -> None:
    """Delete the change sets that an earlier run of the command has left after a crash."""
    pages = account.cloudformation.get_paginator("list_change_sets").paginate(StackName=stack_id)
    for each in [each for page in pages for each in page["Summaries"]]:
        unused = each.get("ExecutionStatus") in {"AVAILABLE", "UNAVAILABLE"}
        if each.get("StackId") == stack_id and unused and each["ChangeSetName"].startswith(CHANGE_SET_PREFIX):
            account.cloudformation.delete_change_set(ChangeSetName=each["ChangeSetId"])


def change_table(changes: Sequence[ResourceChange]) -> Table:
    """Return the changes as a table; the last column marks what is replaced or deleted."""
    rows = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("action", "resource", "type", "mind"):
        rows.add_column(heading, overflow="fold")
    for each in changes:
        style = "bold red" if each.action == "Remove" or each.replacement == "True" else ""
        cells = (each.action.lower(), each.name, each.kind.removeprefix("AWS::"), each.warning)
        rows.add_row(*(Text(cell, style=style) for cell in cells))
    return rows


def prepare_stack(context: AwsContext) -> ChangeSetType:
    """Bring the stack into a state that allows a change set, and return the type of the change set.

    The function deletes a stack that was never complete, with its user pool if that has no accounts. It waits for an
    operation that runs.

    Raises:
        StackError: the stack needs manual repair; the message says which.
    """
    while (stack := find_stack(context.account, context.prefix)) is not None and not stack.is_deleted:
        if stack.is_busy:
            context.report(f"The stack {stack.name} is busy ({stack.status}): waiting for it.")
            follow_stack(context, StackEvents(context.account, stack.stack_id))
        elif stack.status in NEVER_COMPLETE:
            context.report(
                f"The stack {stack.name} was never complete ({stack.status}): it is deleted and made again."
            )
            _delete_unused_pool(context, stack)
            delete_stack(context, stack)
        else:
            _check_not_stuck(stack)
            return "UPDATE"
    return "CREATE"


def _delete_unused_pool(context: AwsContext, stack: StackDescription) -> None:
    """Delete the user pool of a stack that was never complete, unless it has accounts.

    CloudFormation cannot delete it, since it is protected. The next stack could only use it unchanged
    (`KeptUserPool`), and could never change its settings.
    """
    account = context.account
    created = {pool_id for _, kind, pool_id in stack_resources(account, stack) if kind == USER_POOL}
    existing = {pool["Id"] for pool in user_pools(account, context.prefix)} if created else set()
    for pool_id in created & existing:
        if not account.cognito.list_users(UserPoolId=pool_id, Limit=1)["Users"]:
            delete_user_pool(account, pool_id)
            context.report_change(f"deleted the user pool {pool_id}, which has no accounts")


def _check_not_stuck(stack: StackDescription) -> None:
    if stack.status == "UPDATE_ROLLBACK_FAILED":
        raise StackFailedError(
            f"an update of the stack {stack.name} failed, and so did the way back ({stack.reason}): see to that "
            f"reason, run `aws cloudformation continue-update-rollback --stack-name {stack.name}`, then this again"
        )
    if stack.status == "DELETE_FAILED":
        raise StackFailedError(
            f"the stack {stack.name} is half deleted ({stack.reason}): run `fleetsight down` to the end first"
        )


def deploy(
    context: AwsContext, proposed: ProposedChangeSet, make_room: Callable[[], None] | None = None
) -> StackDescription:
    """Execute a change set, report its events, and return the stack.

    If the operation fails, CloudFormation also deletes the new resources that the template retains: they are empty,
    and would block the next attempt. A user pool stays, since it is protected from deletion; `prepare_stack` deletes
    it before the next attempt. `make_room` is called when the quota has no vCPUs for a new web instance.

    Raises:
        StackError: the operation failed; the message names each failure with CloudFormation's reason.
    """
    events = StackEvents(context.account, proposed.stack_id)
    context.account.cloudformation.execute_change_set(ChangeSetName=proposed.change_set_id, RetainExceptOnCreate=True)
    context.report_change("CloudFormation has begun")
    stack = follow_stack(context, events, LaunchFailureReporter(context, make_room).report)
    if stack.status not in SUCCEEDED:
        remedy = "see to it and run this again"
        if any("DescribeEvents" in each for each in (*events.failures, stack.reason)):
            events.failures += _validation_errors(context.account, StackName=stack.stack_id)
        if stack.status.endswith("ROLLBACK_COMPLETE"):
            remedy = f"CloudFormation took everything back; {remedy}"
        if any(f"({AUTO_SCALING_GROUP})" in each for each in events.failures):
            console = "".join(f"\n  | {line}" for line in web_console_lines(context.account, context.prefix))
            shown = f" Its console ends:{console}\n" if console else "\n"
            remedy = (
                "A new web instance signals to CloudFormation once its page answers, or that it cannot start. An "
                "image of an earlier version does not signal: run `fleetsight bake --prefix "
                f"{context.prefix}` first.{shown}{remedy}"
            )
        raise StackFailedError(_failure_text(stack, events, remedy))
    context.report_change(f"the stack {stack.name} is complete")
    return stack


def delete_stack(context: AwsContext, stack: StackDescription) -> None:
    """Delete the stack except the resources that the template retains, and report the events.

    Raises:
        StackError: a resource could not be deleted.
    """
    events = StackEvents(context.account, stack.stack_id)
    if not stack.is_busy:
        set_termination_protection(context, stack, wanted=False)
        context.account.cloudformation.delete_stack(StackName=stack.stack_id)
    ended = follow_stack(context, events)
    if not ended.is_deleted:
        raise StackFailedError(_failure_text(ended, events, "see to it and run this again"))
    context.report_change(f"the stack {stack.name} is deleted")


def set_termination_protection(context: AwsContext, stack: StackDescription, *, wanted: bool) -> None:
    """Switch CloudFormation's termination protection of the stack on or off."""
    if stack.is_protected != wanted:
        context.account.cloudformation.update_termination_protection(
            StackName=stack.stack_id, EnableTerminationProtection=wanted
        )
        context.report_change(f"the stack {stack.name} {'is' if wanted else 'is no longer'} protected from deletion")


def _failure_text(stack: StackDescription, events: StackEvents, remedy: str) -> str:
    failures = events.failures or [stack.reason or "CloudFormation gives no reason"]
    why = "".join(f"\n  {each}" for each in failures)
    return f"the stack {stack.name} is {stack.status}:{why}\n{remedy}"
