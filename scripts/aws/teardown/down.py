"""``fleetsight down``: everything of a prefix taken away, and proof that nothing is left.

Every step looks at what there is, so that the command run again goes on where it ended.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from core.config import Prices
from scripts.aws.buckets import empty_bucket, exists
from scripts.aws.deploy.deploy import delete
from scripts.aws.deploy.stacks import Events, Stack, find, follow, resources
from scripts.aws.deploy.up import NotWantedError
from scripts.aws.operation import Operation
from scripts.aws.teardown.belongings import KINDS
from scripts.aws.teardown.belongings.data import kept_buckets
from scripts.aws.teardown.drain import DRAIN_SECONDS, end_web_tier, end_workers
from scripts.aws.teardown.proof import prove

BUCKET = "AWS::S3::Bucket"

Found = tuple[str, str, bool]
"""A thing: its kind, its id, and whether it is data."""


@dataclass(frozen=True)
class Order:
    """What a person wants.

    Attributes:
        delete_data: images, results, jobs and accounts too, for good.
        drain_seconds: how long workers have to finish.
        dry_run: say what would be deleted, and do nothing.
    """

    delete_data: bool = False
    drain_seconds: float = DRAIN_SECONDS
    dry_run: bool = False


def down(operation: Operation, order: Order, prices: Prices, confirm: Callable[[str], bool]) -> None:
    """Delete everything of the prefix; data only where that is ordered.

    Args:
        operation: for which account and prefix.
        order: what a person wants.
        prices: for what is kept.
        confirm: asks a person, told what for.

    Raises:
        NotWantedError: a person said no.
        StackError: a part of the stack could not be deleted; the message says why.
        ResourcesLeftError: something is left; the message names it.
        TimedOutError: AWS takes too long.
    """
    operation.say(
        f"Account {operation.account.id}, {operation.account.region_name}: everything of {operation.prefix}."
    )
    stack, found = find(operation.account, operation.prefix), _everything(operation)
    ours = [each for each in found if order.delete_data or not each[2]]
    if stack is None and not ours:
        operation.say(f"There is nothing of {operation.prefix} to delete.")
        prove(operation, with_data=order.delete_data)
        _say_what_is_kept(operation, found, prices)
        return
    operation.say(_table(operation, stack, found, delete_data=order.delete_data))
    if order.dry_run:
        return
    if not confirm(operation.prefix):
        raise NotWantedError("nothing was deleted")
    _take_away(operation, stack, order)
    prove(operation, with_data=order.delete_data)
    _say_what_is_kept(operation, _everything(operation), prices)


def _everything(operation: Operation) -> list[Found]:
    return [(kind.name, one, kind.data) for kind in KINDS for one in kind.find(operation.account, operation.prefix)]


def _take_away(operation: Operation, stack: Stack | None, order: Order) -> None:
    if stack is not None and stack.busy and stack.status != "DELETE_IN_PROGRESS":
        operation.say(f"The stack is busy ({stack.status}): waiting for it.")
        stack = follow(operation, Events(operation.account, stack.stack_id))
    if stack is not None and not stack.busy:
        end_web_tier(operation, stack)
    end_workers(operation, order.drain_seconds)
    if stack is not None and not stack.gone:
        _empty_what_goes_with_the_stack(operation, stack)
        delete(operation, stack)
    for kind in KINDS:
        if order.delete_data or not kind.data:
            kind.remove_all(operation)


def _empty_what_goes_with_the_stack(operation: Operation, stack: Stack) -> None:
    """Empty the buckets that CloudFormation is to delete, which it does with empty ones only."""
    kept = kept_buckets(operation.account, operation.prefix)
    for _, kind, name in resources(operation.account, stack):
        there = kind == BUCKET and name not in kept and exists(operation.account, name)
        if there and (count := empty_bucket(operation.account, name)):
            operation.done(f"emptied the bucket {name} of {count:,} objects")


def _table(operation: Operation, stack: Stack | None, found: Sequence[Found], *, delete_data: bool) -> Table:
    """Return what becomes of the stack, of what is beside it, and of data."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("what", "which", "becomes"):
        shown.add_column(heading, overflow="fold")
    own = set() if stack is None else {name for _, _, name in resources(operation.account, stack)}
    if stack is not None:
        shown.add_row("stack", stack.name, f"deleted, with {len(own)} resources")
    for kind, one, data in found:
        if data:
            shown.add_row(kind, one, "[bold red]deleted for good[/]" if delete_data else "kept")
        elif one not in own:
            shown.add_row(kind, one, "deleted")
    return shown


def _say_what_is_kept(operation: Operation, found: Sequence[Found], prices: Prices) -> None:
    kept = [f"\n  {kind} {one}" for kind, one, data in found if data]
    if kept:
        operation.say(
            f"Kept, for the next `fleetsight up` or until `fleetsight down --delete-data`:{''.join(kept)}\n"
            f"A GB of objects costs ${prices.object_gb_month:.3f} a month, of the table ${prices.item_gb_month:.2f}."
        )
