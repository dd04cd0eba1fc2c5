"""Room for a new web instance: on a small quota, workers are held back while a web instance is replaced.

The new instance starts before the old one ends: both must fit into the account's quota of vCPUs beside the workers.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from botocore.exceptions import BotoCoreError, ClientError

from core.fleet.models import FleetPause
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
class Room:
    """The vCPUs of an on-demand quota.

    Attributes:
        limit: of the quota.
        running: vCPUs of each instance that it counts, by their ids.
        needed: vCPUs of one more web instance.
    """

    limit: int
    running: Mapping[str, int]
    needed: int

    @property
    def free(self) -> int:
        """The vCPUs that are left."""
        return self.limit - sum(self.running.values())


def read_room(context: AwsContext, web_type: str) -> Room | None:
    """Return the room for one more web instance, or None if the quota is unknown."""
    account, code = context.account, quota_code(web_type, "on_demand")
    try:
        needed = describe_instance_types(account.ec2, [web_type])[web_type].vcpus
        return None if code is None else Room(quota_limit(account, code), running_vcpus(account, code), needed)
    except (BotoCoreError, ClientError) as error:
        context.report(f"The quota of vCPUs is unknown: {explain_error(error)}")
        return None


@contextmanager
def room_for_web_instance(context: AwsContext, web_type: str) -> Iterator[Callable[[], None]]:
    """Keep room for one more web instance while the block runs, if the quota is small.

    If the next worker could take the room, the fleet is paused. If there is none, as many workers as necessary finish
    their images and end, so no image is lost. The block calls what is yielded if EC2 refuses the web instance all the
    same. The pause ends with the block, or by itself if the command dies.
    """
    room = read_room(context, web_type)
    try:
        if room is not None and room.free < 2 * room.needed:
            _make_room(context, web_type)
        yield lambda: _make_room(context, web_type)
    finally:
        stack = find_stack(context.account, context.prefix)
        if stack is not None and not stack.is_busy:  # the command was interrupted, and CloudFormation goes on
            release_workers(context, stack)


def release_workers(context: AwsContext, stack: StackDescription) -> None:
    """End the pause, if this or an earlier run of a command has made it."""
    store = _fleet_store(context, stack)
    if store is not None and _is_own(store.paused()):
        store.resume()
        context.report_change("let workers start again")


def _is_own(pause: FleetPause | None) -> bool:
    return pause is not None and pause.reason.startswith(HELD_REASON)


def _fleet_store(context: AwsContext, stack: StackDescription) -> FleetStore | None:
    """Return the store of the stack's controllers; a stack that was never complete has none."""
    table = stack.outputs.get("JobTableName")
    return None if table is None else FleetStore(Table(context.account.dynamodb, table))


def _make_room(context: AwsContext, web_type: str) -> None:
    """Pause the fleet, unless operators have, and let as many workers end as a new web instance needs."""
    stack = find_stack(context.account, context.prefix)
    store = None if stack is None else _fleet_store(context, stack)
    if store is not None and ((pause := store.paused()) is None or _is_own(pause)):
        now = utc_now()
        until = now + timedelta(minutes=HELD_MINUTES)
        store.pause(now, f"{HELD_REASON}; until {until:%H:%M} UTC at the latest", until)
        context.report_change("paused the fleet: the quota has few vCPUs while a web instance is replaced")
    try:
        what = f"vCPUs for a {web_type}"
        context.waiter.until(lambda: _has_room(context, web_type), what, seconds=DRAIN_SECONDS)
    except TimedOutError:
        context.report(
            f"The account's other instances leave no vCPUs for a {web_type}: unless some end, the new web instance "
            "cannot start, and everything stays as it was."
        )


def _has_room(context: AwsContext, web_type: str) -> bool:
    """Return whether a new web instance fits; ask workers to end otherwise, all of them if the quota is unknown."""
    room, fleet = read_room(context, web_type), Fleet(context.account.ec2, worker_name(context.prefix))
    workers = instances_named(context.account, fleet.name, states=["pending", "running"])
    if room is not None:
        workers = [each for each in workers if each.instance_id in room.running]
    lacking = len(workers) if room is None else room.needed - room.free
    for worker in sorted(workers, key=lambda each: not each.draining):
        if lacking > 0 and not worker.draining:
            fleet.request_drain([worker.instance_id])
            context.report_change(f"asked the worker {worker.instance_id} to finish what it has and end")
        lacking -= 1 if room is None else room.running[worker.instance_id]
    return not workers if room is None else room.free >= room.needed
