"""``fleetsight down``: drains the fleet, deletes everything of a prefix, and verifies that nothing is left.

The controllers stop first, then workers drain and terminate. Every step reads the present state first, so the command
continues where an earlier run ended. CloudFormation reports the end of the stack, and each service what else is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from core.config import PriceSettings
from scripts.aws.buckets import bucket_exists, empty_bucket
from scripts.aws.context import AwsContext, DeclinedError, TimedOutError
from scripts.aws.deploy.change_set import NEVER_COMPLETE, delete_stack
from scripts.aws.deploy.kept_settings import keep_settings
from scripts.aws.deploy.stack import (
    StackDescription,
    StackEvents,
    find_stack,
    follow_stack,
    group_names,
    stack_resources,
)
from scripts.aws.instances import StackInstance, instances_named, web_name, worker_name
from scripts.aws.resources import RESOURCE_TYPES, kept_buckets
from services.ec2 import Fleet
from services.errors import FleetsightError

WEB_SECONDS = 600.0
"""The longest wait until the web instances have ended."""

DRAIN_SECONDS = 180.0
"""Three times the limit of a worker, a minute."""

TERMINATE_SECONDS = 300.0
"""The longest wait until terminated workers have ended."""

MAX_GROUP_SIZE = 5
"""The maximum size of the group of web instances in the template."""

BUCKET_TYPE = "AWS::S3::Bucket"
FoundResource = tuple[str, str, bool]
"""The type and the id of a resource, and whether it holds users' data."""


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
        context.report_change("scaled the web tier to 0: its controller stops and launches no more workers")
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
        context.report_change("restarted the web tier, which an unfinished `down` had stopped")


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


class ResourcesLeftError(FleetsightError):
    """Raised when resources still exist after their deletion; the message names them."""


def verify_deleted(context: AwsContext, *, with_data: bool) -> list[FoundResource]:
    """Check that no resource of the prefix is left, and return those with data that were to be kept.

    Raises:
        ResourcesLeftError: a resource is left.
    """
    prefix, found = context.prefix, _find_resources(context)
    left = [f"{kind} {one}" for kind, one, data in found if with_data or not data]
    if (stack := find_stack(context.account, prefix)) is not None:
        left.append(f"stack {stack.name}, {stack.status}")
    if left:
        listed = "".join(f"\n  {each}" for each in left)
        raise ResourcesLeftError(
            f"of {prefix} there is left:{listed}\nrun this again; if it stays, delete it by hand"
        )
    context.report(f"Nothing of {prefix} is left" + ("." if with_data else ", but data."))
    return found


@dataclass(frozen=True)
class DownOptions:
    """The options of `down`.

    Attributes:
        delete_data: whether to delete images, results, jobs and accounts too.
        drain_seconds: the longest time for workers to drain.
        dry_run: report what would be deleted, and delete nothing.
    """

    delete_data: bool = False
    drain_seconds: float = DRAIN_SECONDS
    dry_run: bool = False


def down(context: AwsContext, options: DownOptions, prices: PriceSettings, confirm: Callable[[str], bool]) -> None:
    """Delete all resources of the prefix; data only if `options` include it.

    Args:
        context: of the command.
        options: of the command line.
        prices: of the data that is kept.
        confirm: asks the user to confirm the deletion of this prefix.

    Raises:
        DeclinedError: the user declined.
        StackError: a part of the stack could not be deleted; the message says why.
        ResourcesLeftError: a resource is left; the message names it.
        TimedOutError: AWS takes too long.
    """
    context.report(f"Account {context.account.id}, {context.account.region_name}: everything of {context.prefix}.")
    stack, found = find_stack(context.account, context.prefix), _find_resources(context)
    ours = [each for each in found if options.delete_data or not each[2]]
    if stack is None and not ours:
        context.report(f"There is nothing of {context.prefix} to delete.")
        _report_kept(context, verify_deleted(context, with_data=options.delete_data), prices)
        return
    context.report(_deletion_table(context, stack, found, delete_data=options.delete_data))
    if options.dry_run:
        return
    if not confirm(context.prefix):
        raise DeclinedError("nothing was deleted")
    _delete_all(context, stack, options)
    _report_kept(context, verify_deleted(context, with_data=options.delete_data), prices)


def _find_resources(context: AwsContext) -> list[FoundResource]:
    return [
        (kind.name, one, kind.data) for kind in RESOURCE_TYPES for one in kind.find(context.account, context.prefix)
    ]


def _delete_all(context: AwsContext, stack: StackDescription | None, options: DownOptions) -> None:
    if stack is not None and stack.is_busy and stack.status != "DELETE_IN_PROGRESS":
        context.report(f"The stack is busy ({stack.status}): waiting for it.")
        stack = follow_stack(context, StackEvents(context.account, stack.stack_id))
    if stack is not None and not stack.is_busy:
        stop_web_tier(context, stack)
    drain_workers(context, options.drain_seconds)
    if stack is not None and not stack.is_deleted:
        # CloudFormation deletes only empty buckets.
        kept = kept_buckets(context.account, context.prefix)
        for _, kind, name in stack_resources(context.account, stack):
            there = kind == BUCKET_TYPE and name not in kept and bucket_exists(context.account, name)
            if there and (count := empty_bucket(context.account, name)):
                context.report_change(f"emptied the bucket {name} of {count:,} objects")
        if not options.delete_data and stack.status not in NEVER_COMPLETE:
            keep_settings(context, stack)
        delete_stack(context, stack)
    for resource_type in RESOURCE_TYPES:
        if options.delete_data or not resource_type.data:
            resource_type.delete_all(context)


def _deletion_table(
    context: AwsContext, stack: StackDescription | None, found: Sequence[FoundResource], *, delete_data: bool
) -> Table:
    """Return a table of the stack and the resources outside it, with what `down` does with each."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("what", "which", "becomes"):
        shown.add_column(heading, overflow="fold")
    own = set() if stack is None else {name for _, _, name in stack_resources(context.account, stack)}
    if stack is not None:
        shown.add_row("stack", stack.name, f"deleted, with {len(own)} resources")
    for kind, one, data in found:
        if data:
            shown.add_row(kind, one, Text("deleted for good", "bold red") if delete_data else "kept")
        elif one not in own:
            shown.add_row(kind, one, "deleted")
    return shown


def _report_kept(context: AwsContext, found: Sequence[FoundResource], prices: PriceSettings) -> None:
    kept = [f"\n  {kind} {one}" for kind, one, _ in found]
    if kept:
        context.report(
            f"Kept, for the next `fleetsight up` or until `fleetsight down --delete-data`:{''.join(kept)}\n"
            f"A GB of objects costs ${prices.object_gb_month:.3f} a month, of the table ${prices.item_gb_month:.2f}."
        )
