"""A CloudFormation stack: its description, its events, the launches of its web tier, and its page."""

import http.client
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from scripts.aws.context import AwsAccount, AwsContext
from scripts.aws.instances import EXISTING_STATES, instances_named, web_name
from services.ec2 import console_of
from services.errors import FleetsightError

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import LaunchTemplateTypeDef

STACK_SECONDS = 3_600.0
"""The longest wait for an operation on a stack; deleting a CloudFront distribution can take half of it."""

AUTO_SCALING_GROUP = "AWS::AutoScaling::AutoScalingGroup"
"""CloudFormation's type of an Auto Scaling group."""

ENDED = ("Successful", "Failed", "Cancelled")
"""Final states of a scaling activity."""

CONSOLE_LINES = 15
"""The number of last console lines that are shown of a web instance that failed to start."""

MAX_ACTIVITIES = 10
"""The number of scaling activities that are read: those in progress first, then the newest."""

VCPU_WORDS = "vCPU limit"
"""Part of EC2's message about a launch for which the quota has no vCPUs left."""

PAGE_SECONDS = 600.0
"""The longest wait for the page: launch, boot, nginx, and the load balancer's health checks."""

ANSWER_SECONDS = 10.0
"""Timeout of a request to the page."""

CLOSED = "127.0.0.1/32"
"""The default of the stack's `WebCidr`, which admits no client."""


class StackFailedError(FleetsightError):
    """Raised when a stack cannot be created, changed or deleted; the message says why and what to do."""


@dataclass(frozen=True)
class StackDescription:
    """A stack as DescribeStacks describes it.

    Attributes:
        status: such as UPDATE_COMPLETE.
        reason: of the status, or empty.
        parameters, outputs: by name.
        is_protected: whether CloudFormation refuses to delete it.
        service_role: ARN of the role that CloudFormation assumes; empty to use the rights of the caller.
    """

    name: str
    stack_id: str
    status: str
    reason: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    is_protected: bool = False
    service_role: str = ""

    @property
    def is_busy(self) -> bool:
        """Whether an operation runs; a change set that was not executed yet is not an operation."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"

    @property
    def is_deleted(self) -> bool:
        """Whether the stack has been deleted; CloudFormation finds such a stack by its id only."""
        return self.status == "DELETE_COMPLETE"


def find_stack(account: AwsAccount, name: str) -> StackDescription | None:
    """Return the stack with this name or id, or None if it does not exist."""
    try:
        (described,) = account.cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return StackDescription(
        name=described["StackName"],
        stack_id=described["StackId"],
        status=described["StackStatus"],
        reason=described.get("StackStatusReason", ""),
        parameters={each["ParameterKey"]: each["ParameterValue"] for each in described.get("Parameters", [])},
        outputs={each["OutputKey"]: each["OutputValue"] for each in described.get("Outputs", [])},
        is_protected=described.get("EnableTerminationProtection", False),
        service_role=described.get("RoleARN", ""),
    )


def group_names(account: AwsAccount, stack: StackDescription) -> list[str]:
    """Return the names of the stack's existing Auto Scaling groups."""
    return [name for _, kind, name in stack_resources(account, stack) if kind == AUTO_SCALING_GROUP and name]


def stack_resources(account: AwsAccount, stack: StackDescription) -> list[tuple[str, str, str]]:
    """Return the logical name, type and physical id of each existing resource of the stack."""
    pages = account.cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack.stack_id)
    return [
        (each["LogicalResourceId"], each["ResourceType"], each.get("PhysicalResourceId", ""))
        for page in pages
        for each in page["StackResourceSummaries"]
        if each["ResourceStatus"] != "DELETE_COMPLETE"
    ]


@dataclass
class StackEvents:
    """The events of a stack after the creation of this object.

    Attributes:
        failures: the failures among the events so far, each with its reason.
    """

    account: AwsAccount
    stack_id: str
    failures: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Mark the present events as seen."""
        self._seen = {each["EventId"] for each in self._newest_first()}

    def new(self) -> list[str]:
        """Return the texts of the events since the last call, oldest first."""
        events = []
        for event in self._newest_first():
            if event["EventId"] in self._seen:
                break
            self._seen.add(event["EventId"])
            events.append(event)
        events.reverse()
        self.failures += [_event_text(event) for event in events if is_failure(event)]
        return [_event_text(event) for event in events]

    def _newest_first(self) -> Iterator[Any]:
        pages = self.account.cloudformation.get_paginator("describe_stack_events").paginate(StackName=self.stack_id)
        return (event for page in pages for event in page["StackEvents"])


def is_failure(event: Mapping[str, Any]) -> bool:
    """Return whether an event is a failure of its own, and not a cancellation after another failure."""
    return event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in event.get("ResourceStatusReason", "")


def last_failure(account: AwsAccount, stack: StackDescription) -> str:
    """Return the time and the text of the newest failure among the stack's events, or an empty text."""
    pages = account.cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack.stack_id)
    events = (event for page in pages for event in page["StackEvents"])
    failure = next((event for event in events if is_failure(event)), None)
    return "" if failure is None else f"{failure['Timestamp']:%Y-%m-%d %H:%M} UTC, {_event_text(failure)}"


def follow_stack(
    context: AwsContext, events: StackEvents, on_poll: Callable[[StackDescription], None] = lambda _: None
) -> StackDescription:
    """Report the stack's events until the operation on it has ended, and return the stack.

    Args:
        context: where events are reported.
        events: of the stack.
        on_poll: called with the stack at each poll while the operation runs.

    Raises:
        TimedOutError: the operation has not ended after an hour.
    """

    def poll() -> StackDescription | None:
        # The stack is read before its events: so all events before the returned state are reported.
        stack = find_stack(events.account, events.stack_id)
        for text in events.new():
            context.report(text)
        if stack is not None and stack.is_busy:
            on_poll(stack)
            return None
        return stack

    what = f"CloudFormation to be done with {events.stack_id}; look there, or wait on with the same command"
    return context.waiter.until(poll, what, seconds=STACK_SECONDS)


def _event_text(event: Mapping[str, Any]) -> str:
    status = event["ResourceStatus"].replace("_", " ").lower()
    reason = f": {event['ResourceStatusReason']}" if event.get("ResourceStatusReason") else ""
    return f"{event['LogicalResourceId']} ({event['ResourceType']}) {status}{reason}"


def template_versions(account: AwsAccount, stack: StackDescription) -> tuple[int, int] | None:
    """Return the default and the newest version of the workers' launch template, or None if it does not exist."""
    name = stack.outputs.get("WorkerTemplateName")
    template = None if name is None else find_launch_template(account, name)
    return None if template is None else (template["DefaultVersionNumber"], template["LatestVersionNumber"])


def find_launch_template(account: AwsAccount, name: str) -> "LaunchTemplateTypeDef | None":
    """Return EC2's description of the launch template with this name, or None if it does not exist."""
    found = account.ec2.describe_launch_templates(Filters=[{"Name": "launch-template-name", "Values": [name]}])
    return next(iter(found["LaunchTemplates"]), None)


def failed_launch(account: AwsAccount, stack: StackDescription) -> str:
    """Return why the newest complete activity of the stack's group has failed, or an empty text if it has not.

    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeScalingActivities.html
    """
    groups = group_names(account, stack)
    return failed_launch_of(account, groups[0]) if groups else ""


def failed_launch_of(account: AwsAccount, group: str) -> str:
    """Return why the newest complete activity of a group has failed, or an empty text if it has not."""
    reply = account.autoscaling.describe_scaling_activities(AutoScalingGroupName=group, MaxRecords=MAX_ACTIVITIES)
    newest = next((each for each in reply["Activities"] if each["StatusCode"] in ENDED), None)
    if newest is None or newest["StatusCode"] != "Failed":
        return ""
    return newest.get("StatusMessage") or newest.get("Description") or "Auto Scaling gives no reason"


@dataclass
class LaunchFailureReporter:
    """Reports each reason for which Auto Scaling could not launch the web instance, once.

    Attributes:
        make_room: called for each reason that is a quota of vCPUs.
    """

    context: AwsContext
    make_room: Callable[[], None] | None = None
    _reported: set[str] = field(default_factory=set)

    def report(self, stack: StackDescription) -> None:
        """Report why the newest launch has failed, if this reason is new."""
        self.report_reason(failed_launch(self.context.account, stack))

    def report_reason(self, reason: str) -> None:
        """Report why a launch has failed, if this reason is new; it is empty if none has."""
        if reason and reason not in self._reported:
            self._reported.add(reason)
            self.context.report(f"Auto Scaling could not launch the web instance, and tries again: {reason}")
            if self.make_room is not None and VCPU_WORDS in reason:
                self.make_room()


def web_console_lines(account: AwsAccount, prefix: str) -> list[str]:
    """Return the last lines on the console of the newest web instance, if EC2 has any.

    EC2 keeps the console for an hour or more after the instance was terminated.
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-console.html
    """
    instances = instances_named(account, web_name(prefix), states=(*EXISTING_STATES, "terminated"))
    if not instances:
        return []
    try:
        text = console_of(account.ec2, instances[-1].instance_id)
    except ClientError as error:
        return [f"the console of {instances[-1].instance_id} could not be read: {error}"]
    return [line.rstrip() for line in text.splitlines() if line.strip()][-CONSOLE_LINES:]


def page_answers(address: str) -> bool:
    """Return whether the page at this address passes its health check.

    Its certificate is not verified: the web instance creates its own unless it is given one. So the result shows that
    a server answers, and not that it is ours; nothing secret is sent.
    """
    host = urlsplit(address).netloc
    unverified = ssl._create_unverified_context()  # nosec B323 # noqa: S323 - see above
    connection = http.client.HTTPSConnection(host, timeout=ANSWER_SECONDS, context=unverified)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_for_page(context: AwsContext, stack: StackDescription, answers: Callable[[str], bool] = page_answers) -> str:
    """Return the page's address once the page answers; if it is not open to anyone, once its instance runs.

    Raises:
        TimedOutError: it does not; the message says where to look for the reason.
    """
    account, prefix, address = context.account, context.prefix, stack.outputs["PageAddress"]
    commands = f"`fleetsight status --prefix {prefix}`, `aws logs tail /{prefix}/web`, `fleetsight ssh web`"
    launch_failures = LaunchFailureReporter(context)

    def runs() -> bool:
        if instances_named(account, web_name(stack.name), states=["running"]):
            return True
        launch_failures.report(stack)
        return False

    context.waiter.until(runs, f"a running web instance; look at {commands}", seconds=PAGE_SECONDS)
    opened_to = stack.parameters.get("WebCidr", CLOSED)
    if opened_to == CLOSED:
        context.report("The page is not open yet, so it was not asked: give --open-to.")
        return address
    context.report(f"Waiting for {address} to answer; its certificate is not verified.")
    what = f"{address} to answer, which is open to {opened_to} (are you there?); look at {commands}"
    context.waiter.until(lambda: answers(address), what, seconds=PAGE_SECONDS)
    return address
