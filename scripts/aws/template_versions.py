"""Which version of their launch template workers are launched from, and which is the newest."""

from scripts.aws.account import Account
from scripts.aws.deploy.stacks import Stack


def template_versions(account: Account, stack: Stack) -> tuple[int, int] | None:
    """Return the default version of the workers' launch template, and the newest; None while there is none."""
    name = stack.outputs.get("WorkerTemplateName")
    if name is None:
        return None
    found = account.ec2.describe_launch_templates(Filters=[{"Name": "launch-template-name", "Values": [name]}])
    for each in found["LaunchTemplates"]:
        return each["DefaultVersionNumber"], each["LatestVersionNumber"]
    return None
