"""From any state that a stack can be in to one of ours that is complete."""

from scripts.aws.deploy.changes import ChangeSet, Kind, execute
from scripts.aws.deploy.stacks import GROUP, Events, Stack, StackError, find, follow, resources
from scripts.aws.launches import FailedLaunches, web_console
from scripts.aws.operation import Operation
from scripts.aws.teardown.belongings.data import delete_user_pool, user_pools

UNMADE = {"REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED"}
"""A stack that was never complete: CloudFormation does nothing with one but delete it."""

UPDATED = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"}
"""How an operation ends that did what it was to do."""

USER_POOL = "AWS::Cognito::UserPool"
"""CloudFormation's type of a user pool."""


def ready(operation: Operation) -> Kind:
    """Bring the stack into a state from which a change set can be made, and return of which kind.

    A stack that was never complete is deleted, with its user pool if that has no accounts. An operation that runs is
    waited for.

    Raises:
        StackError: only a person can help.
    """
    while (stack := find(operation.account, operation.prefix)) is not None and not stack.gone:
        if stack.busy:
            operation.say(f"The stack {stack.name} is busy ({stack.status}): waiting for it.")
            follow(operation, Events(operation.account, stack.stack_id))
        elif stack.status in UNMADE:
            operation.say(
                f"The stack {stack.name} was never complete ({stack.status}): it is deleted and made again."
            )
            _delete_unused_pool(operation, stack)
            delete(operation, stack)
        else:
            _refuse_what_is_stuck(stack)
            return "UPDATE"
    return "CREATE"


def _delete_unused_pool(operation: Operation, stack: Stack) -> None:
    """Delete the user pool of a stack that was never complete, unless it has accounts.

    CloudFormation cannot delete it, since it is protected. The next stack could only go on with it as it is
    (`KeptUserPool`), and could never change its settings.
    """
    account = operation.account
    made = {pool_id for _, kind, pool_id in resources(account, stack) if kind == USER_POOL}
    there = {pool["Id"] for pool in user_pools(account, operation.prefix)} if made else set()
    for pool_id in made & there:
        if not account.cognito.list_users(UserPoolId=pool_id, Limit=1)["Users"]:
            delete_user_pool(account, pool_id)
            operation.done(f"deleted the user pool {pool_id}, which has no accounts")


def _refuse_what_is_stuck(stack: Stack) -> None:
    if stack.status == "UPDATE_ROLLBACK_FAILED":
        raise StackError(
            f"an update of the stack {stack.name} failed, and so did the way back ({stack.reason}): see to that "
            f"reason, run `aws cloudformation continue-update-rollback --stack-name {stack.name}`, then this again"
        )
    if stack.status == "DELETE_FAILED":
        raise StackError(
            f"the stack {stack.name} is half deleted ({stack.reason}): run `fleetsight down` to the end first"
        )


def deploy(operation: Operation, proposed: ChangeSet) -> Stack:
    """Execute a change set, tell how it goes, and return the stack.

    Raises:
        StackError: something failed; the message names each thing that did, with CloudFormation's reason.
    """
    events = Events(operation.account, proposed.stack_id)
    execute(operation.account, proposed)
    operation.done("CloudFormation has begun")
    stack = follow(operation, events, FailedLaunches(operation).report)
    if stack.status not in UPDATED:
        why = _no_signal(operation) if any(f"({GROUP})" in each for each in events.failures) else ""
        took_back = "CloudFormation took everything back; " if stack.status.endswith("ROLLBACK_COMPLETE") else ""
        raise StackError(_failed(stack, events, f"{why}{took_back}see to it and run this again"))
    operation.done(f"the stack {stack.name} is complete")
    return stack


def delete(operation: Operation, stack: Stack) -> None:
    """Delete the stack and tell how it goes; what the template keeps stays.

    Raises:
        StackError: something could not be deleted.
    """
    events = Events(operation.account, stack.stack_id)
    if not stack.busy:
        protect(operation, stack, wanted=False)
        operation.account.cloudformation.delete_stack(StackName=stack.stack_id)
    ended = follow(operation, events)
    if not ended.gone:
        raise StackError(_failed(ended, events, "see to it and run this again"))
    operation.done(f"the stack {stack.name} is deleted")


def protect(operation: Operation, stack: Stack, *, wanted: bool) -> None:
    """Let CloudFormation refuse to delete the stack, or let it delete the stack again."""
    if stack.is_protected != wanted:
        operation.account.cloudformation.update_termination_protection(
            StackName=stack.stack_id, EnableTerminationProtection=wanted
        )
        operation.done(f"the stack {stack.name} {'is' if wanted else 'is no longer'} protected from deletion")


def _no_signal(operation: Operation) -> str:
    """Return what to know where the group of web instances failed: it waits for a signal of each new one."""
    prefix = operation.prefix
    console = "".join(f"\n  | {line}" for line in web_console(operation.account, prefix))
    shown = f" Its console ends:{console}\n" if console else "\n"
    return (
        "A new web instance signals to CloudFormation once its page answers, or that it cannot start. An image of an "
        f"earlier version does not signal: run `fleetsight bake --prefix {prefix}` first.{shown}"
    )


def _failed(stack: Stack, events: Events, remedy: str) -> str:
    named = events.failures or [stack.reason or "CloudFormation gives no reason"]
    why = "".join(f"\n  {each}" for each in named)
    return f"the stack {stack.name} is {stack.status}:{why}\n{remedy}"
