"""Why Auto Scaling does not launch the web instance, in its own words: CloudFormation and EC2 do not tell."""

from scripts.aws.account import Account
from scripts.aws.deploy.stacks import Stack, group_names

ENDED = ("Successful", "Failed", "Cancelled")
"""States of a scaling activity in which nothing more becomes of it."""

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
