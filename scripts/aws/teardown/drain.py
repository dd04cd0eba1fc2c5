"""The end of a fleet: the controllers stop, then workers drain and terminate."""

from scripts.aws.context import AwsContext, TimedOutError
from scripts.aws.deploy.stack import StackDescription, group_names
from scripts.aws.instances import StackInstance, instances_named, web_name, worker_name
from services.ec2 import Fleet

WEB_SECONDS = 600.0
"""The longest wait until the web instances have ended."""

DRAIN_SECONDS = 180.0
"""Three times the limit of a worker, `worker.drain_seconds`."""

TERMINATE_SECONDS = 300.0
"""The longest wait until terminated workers have ended."""

MAX_GROUP_SIZE = 5
"""The maximum size of the group of web instances in the template."""


def stop_web_tier(context: AwsContext, stack: StackDescription) -> None:
    """Terminate the web instances with their controllers, so that no worker is launched any more.

    Raises:
        TimedOutError: an instance still exists after ten minutes.
    """
    groups = _group_sizes(context, stack)
    for name in [name for name, size in groups.items() if size]:
        context.account.autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=name, MinSize=0, MaxSize=0, DesiredCapacity=0
        )
        context.report_change("told the web tier to end, and with it the controller: nothing is launched any more")
    if groups:
        name, what = web_name(context.prefix), f"the web tier to be gone; look at {', '.join(groups)}"
        context.waiter.until(lambda: not instances_named(context.account, name), what, seconds=WEB_SECONDS)


def restart_web_tier(context: AwsContext, stack: StackDescription) -> None:
    """Restore the web instances after an unfinished `down`: CloudFormation does not detect the changed group."""
    count = int(stack.parameters.get("WebInstances", "1"))
    for name in [name for name, size in _group_sizes(context, stack).items() if not size]:
        context.account.autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=name, MinSize=count, MaxSize=MAX_GROUP_SIZE, DesiredCapacity=count
        )
        context.report_change("told the web tier to come back, which an unfinished `down` had ended")


def _group_sizes(context: AwsContext, stack: StackDescription) -> dict[str, int]:
    """Return the maximum sizes of the stack's existing Auto Scaling groups by name."""
    names = group_names(context.account, stack)
    if not names:
        return {}
    found = context.account.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=names)
    return {each["AutoScalingGroupName"]: each["MaxSize"] for each in found["AutoScalingGroups"]}


def drain_workers(context: AwsContext, seconds: float = DRAIN_SECONDS) -> None:
    """Drain the workers for so many seconds, and terminate those that still exist.

    Images that a terminated worker has not classified return to the request queue, as after a crash.

    Raises:
        TimedOutError: EC2 does not terminate them in time.
    """
    fleet = Fleet(context.account.ec2, worker_name(context.prefix))
    at_work = [each for each in _workers(context) if each.state in {"pending", "running"}]
    if new := [each.instance_id for each in at_work if not each.draining]:
        fleet.request_drain(new)
        context.report_change(f"asked {len(new)} workers to finish what they have and end")
    if at_work:
        try:
            context.waiter.until(
                lambda: not any(each.state in {"pending", "running", "stopping"} for each in _workers(context)),
                "the workers to finish",
                seconds=seconds,
            )
        except TimedOutError:
            context.report(f"Some workers have not finished within {seconds:.0f} s: they are ended.")
    if left := [each.instance_id for each in _workers(context) if each.state != "shutting-down"]:
        fleet.terminate(left)
        context.report_change(f"ended {len(left)} workers")
    context.waiter.until(lambda: not _workers(context), "all workers to be gone", seconds=TERMINATE_SECONDS)


def _workers(context: AwsContext) -> list[StackInstance]:
    return instances_named(context.account, worker_name(context.prefix))
