"""Room for a new web instance: on a small quota, workers are held back while a web instance is replaced.

The new instance starts before the old one ends: both must fit into the account's quota of vCPUs beside the workers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from botocore.exceptions import BotoCoreError, ClientError

from core.fleet.store import FleetStore
from scripts.aws.context import AwsContext, TimedOutError, explain_error
from scripts.aws.deploy.stack import StackDescription, find_stack
from scripts.aws.instances import describe_instance_types, instances_named, worker_name
from scripts.aws.preflight.quotas import quota_code, quota_limit, running_vcpus
from services.clock import utc_now
from services.ec2 import Fleet
from services.table import Table

HELD_MINUTES = 45
"""How long workers are held back at most, if the command dies.

CloudFormation replaces an instance, or gives up, in 15 minutes, and needs the room once more for the way back.
"""

HELD_REASON = "a new web instance needs the vCPUs"

DRAIN_SECONDS = 300.0
"""The longest wait for workers to finish and end."""


@dataclass(frozen=True)
class VcpuQuota:
    """The on-demand quota that counts the vCPUs of the web instances.

    Attributes:
        code: of the quota; None for instance types without a known quota.
        limit: vCPUs; None if it is unknown.
        needed: vCPUs of one more web instance.
    """

    code: str | None
    limit: int | None
    needed: int


def read_quota(context: AwsContext, web_type: str) -> VcpuQuota:
    """Return the quota that one more web instance needs."""
    account, code, limit = context.account, quota_code(web_type, "on_demand"), None
    try:
        limit = quota_limit(account, code) if code else None
    except (BotoCoreError, ClientError) as error:
        context.report(f"The quota of vCPUs is unknown: {explain_error(error)}")
    return VcpuQuota(code, limit, describe_instance_types(account.ec2, [web_type])[web_type].vcpus)


@contextmanager
def room_for_web_instance(context: AwsContext, web_type: str) -> Iterator[Callable[[], None]]:
    """Keep room for one more web instance while the block runs, if the quota is small.

    If the next worker could take the room, the fleet is paused. If there is none, as many workers as necessary finish
    their images and end, so no image is lost. The block calls what is yielded if EC2 refuses the web instance all the
    same. The pause ends with the block, or by itself if the command dies.
    """
    quota = read_quota(context, web_type)
    try:
        if quota.limit and quota.limit - _used(context, quota) < 2 * quota.needed:
            _make_room(context, quota, web_type)
        # EC2 has refused: other instances took the room meanwhile, or the limit is unknown (or 0, and nothing would
        # run). Then no more is free than what runs now leaves.
        yield lambda: _make_room(context, replace(quota, limit=quota.limit or _used(context, quota)), web_type)
    finally:
        stack = find_stack(context.account, context.prefix)
        if stack is not None and not stack.is_busy:  # the command was interrupted, and CloudFormation goes on
            release_workers(context, stack)


def _used(context: AwsContext, quota: VcpuQuota) -> int:
    return sum(running_vcpus(context.account, quota.code).values())


def release_workers(context: AwsContext, stack: StackDescription) -> None:
    """End the pause, if this or an earlier run of a command has made it."""
    store = _fleet_store(context, stack)
    if store is not None and store.resume_if(HELD_REASON, "the deployment"):
        context.report_change("let workers start again")


def _fleet_store(context: AwsContext, stack: StackDescription) -> FleetStore | None:
    """Return the store of the stack's controllers; a stack that was never complete has none."""
    table = stack.outputs.get("JobTableName")
    return None if table is None else FleetStore(Table(context.account.dynamodb, table))


def _make_room(context: AwsContext, quota: VcpuQuota, web_type: str) -> None:
    """Pause the fleet, unless operators have, and let as many workers end as a new web instance needs."""
    stack = find_stack(context.account, context.prefix)
    store = None if stack is None else _fleet_store(context, stack)
    if store is not None and ((pause := store.paused()) is None or pause.reason.startswith(HELD_REASON)):
        now = utc_now()
        until = now + timedelta(minutes=HELD_MINUTES)
        store.pause(now, f"{HELD_REASON}; until {until:%H:%M} UTC at the latest", until)
        context.report_change("paused the fleet: the quota has few vCPUs while a web instance is replaced")
    try:
        what = f"vCPUs for a {web_type}"
        context.waiter.until(lambda: _has_room(context, quota), what, seconds=DRAIN_SECONDS)
    except TimedOutError:
        context.report(
            f"The account's other instances leave no vCPUs for a {web_type}: unless some end, the new web instance "
            "cannot start, and everything stays as it was."
        )


def _has_room(context: AwsContext, quota: VcpuQuota) -> bool:
    """Return whether a new web instance fits; ask workers to end otherwise, protected ones last.

    Only workers that the quota counts are asked, so neither Spot Instances nor, usually, those with a GPU.
    """
    fleet = Fleet(context.account.ec2, worker_name(context.prefix))
    running = running_vcpus(context.account, quota.code)
    workers = instances_named(context.account, fleet.name, states=["pending", "running"])
    lacking = missing = quota.needed + sum(running.values()) - (quota.limit or 0)
    for worker in sorted(workers, key=lambda each: (not each.draining, each.protected)):
        if lacking > 0 and worker.instance_id in running:
            if not worker.draining:
                fleet.request_drain([worker.instance_id])
                context.report_change(f"asked the worker {worker.instance_id} to finish what it has and end")
            lacking -= running[worker.instance_id]
    return missing <= 0
