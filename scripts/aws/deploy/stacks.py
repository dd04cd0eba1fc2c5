"""A stack: what CloudFormation says of it, and its events as they come."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from scripts.aws.account import Account
from scripts.aws.operation import Operation
from services.errors import FleetsightError

STACK_SECONDS = 3_600.0
"""Longest that an operation on a stack may take; that a CloudFront distribution is gone can take half of it."""

GROUP = "AWS::AutoScaling::AutoScalingGroup"
"""CloudFormation's type of an Auto Scaling group."""


class StackError(FleetsightError):
    """Raised when a stack cannot be made, changed or deleted; the message says why and what to do."""


@dataclass(frozen=True)
class Stack:
    """A stack as DescribeStacks tells it.

    Attributes:
        status: such as UPDATE_COMPLETE.
        reason: why, where CloudFormation says; else empty.
        parameters, outputs: by name.
        is_protected: whether CloudFormation refuses to delete it.
    """

    name: str
    stack_id: str
    status: str
    reason: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    is_protected: bool = False

    @property
    def busy(self) -> bool:
        """Whether an operation runs; a change set that was not executed yet is none."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"

    @property
    def gone(self) -> bool:
        """Whether it has been deleted; such a stack is found by its id only."""
        return self.status == "DELETE_COMPLETE"


def find(account: Account, name: str) -> Stack | None:
    """Return the stack of that name or id, or None."""
    try:
        (told,) = account.cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return Stack(
        name=told["StackName"],
        stack_id=told["StackId"],
        status=told["StackStatus"],
        reason=told.get("StackStatusReason", ""),
        parameters={each["ParameterKey"]: each["ParameterValue"] for each in told.get("Parameters", [])},
        outputs={each["OutputKey"]: each["OutputValue"] for each in told.get("Outputs", [])},
        is_protected=told.get("EnableTerminationProtection", False),
    )


def group_names(account: Account, stack: Stack) -> list[str]:
    """Return the names of the stack's Auto Scaling groups that are there."""
    return [name for _, kind, name in resources(account, stack) if kind == GROUP and name]


def resources(account: Account, stack: Stack) -> list[tuple[str, str, str]]:
    """Return the logical name, type and physical id of each resource of the stack that is there."""
    pages = account.cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack.stack_id)
    return [
        (each["LogicalResourceId"], each["ResourceType"], each.get("PhysicalResourceId", ""))
        for page in pages
        for each in page["StackResourceSummaries"]
        if each["ResourceStatus"] != "DELETE_COMPLETE"
    ]


@dataclass
class Events:
    """A stack's events from now on: those that there were already are not told.

    Attributes:
        failures: of the events told so far, each with its reason.
    """

    account: Account
    stack_id: str
    failures: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Take note of what has happened before."""
        self._seen = {each["EventId"] for each in self._newest_first()}

    def new(self) -> list[str]:
        """Return what has happened since the last call, in words, oldest first."""
        events = []
        for event in self._newest_first():
            if event["EventId"] in self._seen:
                break
            self._seen.add(event["EventId"])
            events.append(event)
        words = []
        for event in reversed(events):
            words.append(_words(event))
            if is_failure(event):
                self.failures.append(_words(event))
        return words

    def _newest_first(self) -> Iterator[Any]:
        pages = self.account.cloudformation.get_paginator("describe_stack_events").paginate(StackName=self.stack_id)
        return (event for page in pages for event in page["StackEvents"])


def is_failure(event: Mapping[str, Any]) -> bool:
    """Return True if an event is a failure of its own; what was only cancelled because of another is none."""
    return event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in event.get("ResourceStatusReason", "")


def last_failure(account: Account, stack: Stack) -> str:
    """Return the newest failure among the stack's events, with its time and in words, or an empty text."""
    pages = account.cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack.stack_id)
    events = (event for page in pages for event in page["StackEvents"])
    failure = next((event for event in events if is_failure(event)), None)
    return "" if failure is None else f"{failure['Timestamp']:%Y-%m-%d %H:%M} UTC, {_words(failure)}"


def follow(operation: Operation, events: Events, each_time: Callable[[Stack], None] = lambda _: None) -> Stack:
    """Tell what happens to the stack until the operation on it has ended, and return it then.

    Args:
        operation: which account, and who is told.
        events: those that are told.
        each_time: called with the stack at each look while the operation runs.

    Raises:
        TimedOutError: it has not after an hour.
    """

    def look() -> Stack | None:
        stack = find(events.account, events.stack_id)  # first, so that no event is younger than what is returned
        for words in events.new():
            operation.say(words)
        if stack is not None and stack.busy:
            each_time(stack)
            return None
        return stack

    what = f"CloudFormation to be done with {events.stack_id}; look there, or wait on with the same command"
    return operation.waiting.until(look, what, seconds=STACK_SECONDS)


def _words(event: Mapping[str, Any]) -> str:
    status = event["ResourceStatus"].replace("_", " ").lower()
    reason = f": {event['ResourceStatusReason']}" if event.get("ResourceStatusReason") else ""
    return f"{event['LogicalResourceId']} ({event['ResourceType']}) {status}{reason}"
