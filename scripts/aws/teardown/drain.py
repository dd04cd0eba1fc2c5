"""The end of a fleet: nothing is launched any more, and workers finish what they have."""

from scripts.aws.deploy.stacks import Stack, group_names
from scripts.aws.instances import Machine, named, web_name, worker_name
from scripts.aws.operation import Operation
from scripts.aws.waiting import TimedOutError
from services.ec2 import Fleet

WEB_SECONDS = 600.0
DRAIN_SECONDS = 180.0
"""Three times what a worker takes at most, by `worker.drain_seconds`."""

ENDED_SECONDS = 300.0
MAX_GROUP_SIZE = 5
"""Of the group of web instances, as the template says."""


def end_web_tier(operation: Operation, stack: Stack) -> None:
    """End the web instances, and the controllers on them: from then on no worker is launched.

    Raises:
        TimedOutError: some are still there after ten minutes.
    """
    groups = _groups(operation, stack)
    for name in [name for name, most in groups.items() if most]:
        operation.account.autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=name, MinSize=0, MaxSize=0, DesiredCapacity=0
        )
        operation.done("told the web tier to end, and with it the controller: nothing is launched any more")
    if groups:
        name, what = web_name(operation.prefix), f"the web tier to be gone; look at {', '.join(groups)}"
        operation.waiting.until(lambda: not named(operation.account, name), what, seconds=WEB_SECONDS)


def bring_back_web_tier(operation: Operation, stack: Stack) -> None:
    """Undo that after a `down` that was given up: CloudFormation does not see that the group was changed."""
    count = int(stack.parameters.get("WebInstances", "1"))
    for name in [name for name, most in _groups(operation, stack).items() if not most]:
        operation.account.autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=name, MinSize=count, MaxSize=MAX_GROUP_SIZE, DesiredCapacity=count
        )
        operation.done("told the web tier to come back, which an unfinished `down` had ended")


def _groups(operation: Operation, stack: Stack) -> dict[str, int]:
    """Return the Auto Scaling groups of the stack that are there, with their greatest size."""
    names = group_names(operation.account, stack)
    if not names:
        return {}
    found = operation.account.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=names)
    return {each["AutoScalingGroupName"]: each["MaxSize"] for each in found["AutoScalingGroups"]}


def end_workers(operation: Operation, seconds: float = DRAIN_SECONDS) -> None:
    """Ask workers to finish what they have, wait so long, and end those that are still there.

    What one has not answered then waits in the request queue, as when a worker dies.

    Raises:
        TimedOutError: EC2 does not end them.
    """
    fleet = Fleet(operation.account.ec2, worker_name(operation.prefix))
    at_work = [each for each in _workers(operation) if each.state in {"pending", "running"}]
    if new := [each.instance_id for each in at_work if not each.draining]:
        fleet.ask_to_drain(new)
        operation.done(f"asked {len(new)} workers to finish what they have and end")
    if at_work:
        _wait_for_end(operation, seconds)
    if left := [each.instance_id for each in _workers(operation) if each.state != "shutting-down"]:
        fleet.terminate(left)
        operation.done(f"ended {len(left)} workers")
    operation.waiting.until(lambda: not _workers(operation), "all workers to be gone", seconds=ENDED_SECONDS)


def _workers(operation: Operation) -> list[Machine]:
    return named(operation.account, worker_name(operation.prefix))


def _wait_for_end(operation: Operation, seconds: float) -> None:
    def ended() -> bool:
        return not any(each.state in {"pending", "running", "stopping"} for each in _workers(operation))

    try:
        operation.waiting.until(ended, "the workers to finish", seconds=seconds)
    except TimedOutError:
        operation.say(f"Some workers have not finished within {seconds:.0f} s: they are ended.")
