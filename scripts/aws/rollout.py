"""``fleetsight roll``: another version of the workers' template, or a new session key for the web instances.

The controller replaces the workers: `web_tier/autoscaler/drift.py`. Every step reads the present state first, so the
command continues where an earlier run ended. Two tags on the workers' template record the direction of a rollout
before anything else is done: a rollout that was cut short continues in the same direction, and a complete one can be
undone.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from botocore.exceptions import ClientError

from scripts.aws.bake.images import stored_image
from scripts.aws.context import TAG, AwsContext
from scripts.aws.deploy.auth import rotate_session_key, session_keys_parameter
from scripts.aws.deploy.room import room_for_web_instance
from scripts.aws.deploy.stack import LaunchFailureReporter, failed_launch_of, find_launch_template
from scripts.aws.instances import StackInstance, instances_named, web_name, worker_name
from services.errors import FleetsightError

PREVIOUS_TAG = f"{TAG}-before"
"""Tag with the version that was the default before the last rollout."""

ROLLBACK_TAG = f"{TAG}-back-to"
"""Tag with the version that an unfinished `--back` returns to."""

REFRESH_SECONDS = 1800.0
"""The longest wait for an instance refresh."""

REFRESH_RUNNING = {"Pending", "InProgress", "Baking", "RollbackInProgress", "Cancelling"}

NOT_TERMINATED = ("pending", "running", "stopping", "stopped")
"""States of an instance that still exists, or can be started again."""

WORKER_SECONDS = 600.0
"""The longest wait for an old worker to end: the next is drained once a new one works in the place of the last."""


class RolloutError(FleetsightError):
    """Raised when there is no version to roll to, or instances could not be replaced."""


@dataclass(frozen=True)
class WorkerTemplate:
    """The workers' launch template.

    Attributes:
        default: the version that the controller launches.
        newest: the version that the stack has created last.
        before: the default before the last rollout, or None.
        back_to: the version that an unfinished `--back` returns to, or None.
    """

    template_id: str
    name: str
    default: int
    newest: int
    before: int | None = None
    back_to: int | None = None


def worker_template(context: AwsContext) -> WorkerTemplate:
    """Return the workers' launch template.

    Raises:
        RolloutError: it does not exist.
    """
    name = worker_name(context.prefix)
    found = find_launch_template(context.account, name)
    if found is None:
        raise RolloutError(f"there is no launch template {name}: `fleetsight up` makes it")
    described = context.account.ec2.describe_tags(
        Filters=[
            {"Name": "resource-id", "Values": [found["LaunchTemplateId"]]},
            {"Name": "key", "Values": [PREVIOUS_TAG, ROLLBACK_TAG]},
        ]
    )
    tags = {tag["Key"]: int(tag["Value"]) for tag in described["Tags"] if tag["Value"].isdecimal()}
    return WorkerTemplate(
        found["LaunchTemplateId"],
        name,
        found["DefaultVersionNumber"],
        found["LatestVersionNumber"],
        tags.get(PREVIOUS_TAG),
        tags.get(ROLLBACK_TAG),
    )


def template_image(context: AwsContext, template: WorkerTemplate, version: int) -> str:
    """Return the id of the image that a version launches.

    Raises:
        RolloutError: the version does not exist.
    """
    try:
        found = context.account.ec2.describe_launch_template_versions(
            LaunchTemplateId=template.template_id, Versions=[str(version)]
        )["LaunchTemplateVersions"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidLaunchTemplateId.VersionNotFound":
            raise
        found = []
    if not found:
        raise RolloutError(f"{template.name} has no version {version}: the newest is {template.newest}")
    return found[0]["LaunchTemplateData"].get("ImageId", "")


def target_version(template: WorkerTemplate, to: int | None, *, back: bool) -> int:
    """Return the version to roll to: the given one, the previous one, or the newest.

    Raises:
        RolloutError: the previous version is wanted and not known.
    """
    if to is not None:
        return to
    if not back:
        return template.newest
    # An unfinished `--back` continues, even if its version is the default already: `before` would undo it.
    found = template.back_to or template.before
    if found is None:
        raise RolloutError(
            f"no roll is known before version {template.default} of {template.name}: name a version by --to"
        )
    return found


def set_default_version(context: AwsContext, template: WorkerTemplate, version: int, *, back: bool) -> None:
    """Make the controller launch this version from now on, and record the previous one."""
    ec2, resource = context.account.ec2, [template.template_id]
    if back and template.back_to != version:
        ec2.create_tags(Resources=resource, Tags=[{"Key": ROLLBACK_TAG, "Value": str(version)}])
        context.report_change(f"noted that {template.name} goes back to version {version}")
    if not back:
        clear_rollback_tag(context, template)
    if template.default != version:
        ec2.create_tags(Resources=resource, Tags=[{"Key": PREVIOUS_TAG, "Value": str(template.default)}])
        ec2.modify_launch_template(LaunchTemplateId=template.template_id, DefaultVersion=str(version))
        context.report_change(
            f"new workers are launched from version {version} of {template.name}, not {template.default}"
        )


def clear_rollback_tag(context: AwsContext, template: WorkerTemplate) -> None:
    """Delete the tag of an unfinished `--back`, so that the next one starts from the previous version."""
    if template.back_to is not None:
        context.account.ec2.delete_tags(Resources=[template.template_id], Tags=[{"Key": ROLLBACK_TAG}])
        context.report_change(f"forgot that {template.name} went back to version {template.back_to}")


@dataclass(frozen=True)
class WebGroup:
    """A group of web instances; it launches `version`, and `old` are its instances of other versions."""

    name: str
    version: str
    old: tuple[str, ...]


def web_groups(context: AwsContext) -> list[WebGroup]:
    """Return the groups of web instances of this prefix."""
    pages = context.account.autoscaling.get_paginator("describe_auto_scaling_groups").paginate(
        Filters=[{"Name": f"tag:{TAG}", "Values": [context.prefix]}]
    )
    groups = []
    for each in (each for page in pages for each in page["AutoScalingGroups"]):
        version = each.get("LaunchTemplate", {}).get("Version", "")  # which the stack gives as a number
        old = [
            instance["InstanceId"]
            for instance in each["Instances"]
            if instance.get("LaunchTemplate", {}).get("Version") != version
        ]
        groups.append(WebGroup(each["AutoScalingGroupName"], version, tuple(old)))
    return groups


def refresh_web_group(
    context: AwsContext, group: WebGroup, make_room: Callable[[], None] | None = None, *, every: bool = False
) -> None:
    """Replace the old instances of a group, and wait for it; each ends once its replacement is in service.

    `make_room` is called if the quota has no vCPUs for a new instance. With `every` the instances of the group's own
    version are replaced too, so that they start again.

    Raises:
        RolloutError: Auto Scaling could not replace them.
        TimedOutError: Auto Scaling takes too long.
    """
    if not (group.old or every):
        return
    try:
        context.account.autoscaling.start_instance_refresh(
            AutoScalingGroupName=group.name,
            Preferences={"MinHealthyPercentage": 100, "MaxHealthyPercentage": 200, "SkipMatching": not every},
        )
        replaced = "every instance" if every else ", ".join(group.old)
        context.report_change(
            f"started an instance refresh of {group.name}: version {group.version} replaces {replaced}"
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "InstanceRefreshInProgress":
            raise
        context.report(f"{group.name} replaces its instances already")
    failures = LaunchFailureReporter(context, make_room)

    def refreshed() -> bool:
        failures.report_reason(failed_launch_of(context.account, group.name))
        return _is_refreshed(context, group)

    context.waiter.until(refreshed, f"{group.name} to have replaced its instance", seconds=REFRESH_SECONDS)
    context.report(f"{group.name} runs version {group.version}")


def _refresh_all(context: AwsContext, groups: Sequence[WebGroup], *, every: bool = False) -> None:
    """Refresh these groups; workers make room for a new instance if the quota has none."""
    types = [each.instance_type for each in instances_named(context.account, web_name(context.prefix))]
    with room_for_web_instance(context, types[0]) if groups and types else nullcontext() as make_room:
        for group in groups:
            refresh_web_group(context, group, make_room, every=every)


def _is_refreshed(context: AwsContext, group: WebGroup) -> bool:
    refreshes = context.account.autoscaling.describe_instance_refreshes(AutoScalingGroupName=group.name)
    last = refreshes["InstanceRefreshes"][0]
    if last["Status"] not in {*REFRESH_RUNNING, "Successful"}:
        raise RolloutError(
            f"{group.name} was not replaced ({last['Status']}): {last.get('StatusReason', 'no reason')}"
        )
    return last["Status"] == "Successful"


def old_workers(context: AwsContext, template: WorkerTemplate, version: int) -> list[StackInstance]:
    """Return the existing instances of the fleet that were launched from another version."""
    workers = instances_named(context.account, worker_name(context.prefix), states=NOT_TERMINATED)
    return [worker for worker in workers if worker.template != (template.template_id, str(version))]


def wait_for_controller(context: AwsContext, template: WorkerTemplate, version: int) -> None:
    """Wait until the controller has replaced the fleet's old workers, some at a time.

    Raises:
        TimedOutError: no worker has ended for ten minutes.
    """
    left = len(old_workers(context, template, version))
    while left:
        context.waiter.until(
            lambda: len(old_workers(context, template, version)) < left,  # noqa: B023 (called before the next round)
            f"the controller to replace {left} workers: it does not while the fleet is paused, a spending cap is "
            "reached or new workers cannot work, as the Fleet page says; or run this again",
            seconds=WORKER_SECONDS,
        )
        left = len(old_workers(context, template, version))
        context.report(f"{left} workers of other versions are left")


def roll_session_keys(context: AwsContext, *, dry_run: bool) -> None:
    """Rotate the key of sessions and replace the web instances; sessions of the last key stay valid.

    While both instances serve, the old one rejects sessions that the new one has started.

    Raises:
        RolloutError: there is no web instance, or it could not be replaced.
        TimedOutError: the replacement takes too long.
    """
    groups = web_groups(context)
    if not groups:
        raise RolloutError(f"there is no web instance of {context.prefix}: `fleetsight up` makes it")
    if dry_run:
        context.report(
            f"A new key would be put first into {session_keys_parameter(context.prefix)}, and these replaced:"
        )
        context.report(", ".join(group.name for group in groups))
        return
    rotate_session_key(context)
    _refresh_all(context, groups, every=True)


@dataclass(frozen=True)
class RolloutOptions:
    """What the user has asked for.

    Attributes:
        to: a version of the workers' template; None for the newest, or with `back` for the previous one.
        wait: whether to wait until the last old worker has ended; web instances are waited for in any case.
    """

    to: int | None = None
    back: bool = False
    wait: bool = True
    dry_run: bool = False


def roll_out(context: AwsContext, options: RolloutOptions) -> None:
    """Bring the fleet to one version of the workers' template, and web instances to the version of their group.

    A given or the previous version concerns workers only: the web instances do not change.

    Raises:
        RolloutError: there is no version to roll to, or a web instance could not be replaced.
        TimedOutError: workers or the web instance take too long.
        botocore.exceptions.BotoCoreError, ClientError: AWS cannot be reached, or refuses.
    """
    template = worker_template(context)
    version = target_version(template, options.to, back=options.back)
    image = template_image(context, template, version)
    workers_only = options.back or options.to is not None
    groups = [] if workers_only else [group for group in web_groups(context) if group.old]
    old = old_workers(context, template, version)
    context.report(
        f"{template.name}: workers are launched from version {template.default} "
        f"({template_image(context, template, template.default)}); it shall be version {version} ({image})."
    )
    context.report(f"{len(old)} workers are of other versions: the controller replaces a few at a time.")
    for group in groups:
        context.report(f"{group.name} launches version {group.version}: {', '.join(group.old)} is replaced.")
    newest = None if workers_only else stored_image(context, "worker")
    if newest not in {None, image}:
        message = f"the newest image is {newest}, and no version has it yet: `fleetsight up` makes one"
        if template.default == version and not old and not groups:
            raise RolloutError(message)
        context.report(f"Mind that {message}.")
    if options.dry_run:
        return
    set_default_version(context, template, version, back=options.back)
    # First: a controller of an earlier release would not replace workers.
    _refresh_all(context, groups)
    if options.wait:
        wait_for_controller(context, template, version)
        template = worker_template(context)
        clear_rollback_tag(context, template)
        hint = "" if template.before is None else "; `fleetsight roll --back` is the way back"
        if options.back and template.default != template.newest:
            hint = "; `fleetsight roll` brings the newest again"
        context.report(f"All workers are of version {version}{hint}.")
