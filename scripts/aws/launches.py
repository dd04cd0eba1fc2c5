"""Why Auto Scaling does not launch the web instance, in its own words: CloudFormation and EC2 do not tell."""

from dataclasses import dataclass, field

from botocore.exceptions import ClientError

from scripts.aws.account import Account
from scripts.aws.deploy.stacks import Stack, group_names
from scripts.aws.instances import THERE, named, web_name
from scripts.aws.operation import Operation
from services.ec2 import console_of

ENDED = ("Successful", "Failed", "Cancelled")
"""States of a scaling activity in which nothing more becomes of it."""

CONSOLE_LINES = 15
"""Of a web instance that did not serve, so many of its last lines are shown."""

LOOKED_AT = 10
"""Scaling activities, those in progress first, then the newest."""


def failed_launch(account: Account, stack: Stack) -> str:
    """Return why the newest activity of the stack's group that has ended has failed; empty where it has not.

    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeScalingActivities.html
    """
    groups = group_names(account, stack)
    if not groups:
        return ""
    reply = account.autoscaling.describe_scaling_activities(AutoScalingGroupName=groups[0], MaxRecords=LOOKED_AT)
    newest = next((each for each in reply["Activities"] if each["StatusCode"] in ENDED), None)
    if newest is None or newest["StatusCode"] != "Failed":
        return ""
    return newest.get("StatusMessage") or newest.get("Description") or "Auto Scaling gives no reason"


@dataclass
class FailedLaunches:
    """Says once for each reason that Auto Scaling could not launch the web instance."""

    operation: Operation
    _reported: set[str] = field(default_factory=set)

    def report(self, stack: Stack) -> None:
        """Say why the newest launch has failed, if that was not said before."""
        reason = failed_launch(self.operation.account, stack)
        if reason and reason not in self._reported:
            self._reported.add(reason)
            self.operation.say(f"Auto Scaling could not launch the web instance, and tries again: {reason}")


def web_console(account: Account, prefix: str) -> list[str]:
    """Return the last lines on the console of the newest web instance; none where EC2 has none.

    EC2 keeps the console for an hour or more after the instance was terminated.
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-console.html
    """
    instances = named(account, web_name(prefix), states=(*THERE, "terminated"))
    if not instances:
        return []
    try:
        text = console_of(account.ec2, instances[-1].instance_id)
    except ClientError as error:
        return [f"the console of {instances[-1].instance_id} could not be read: {error}"]
    return [line.rstrip() for line in text.splitlines() if line.strip()][-CONSOLE_LINES:]
