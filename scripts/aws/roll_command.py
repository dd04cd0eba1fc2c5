"""``fleetsight roll``: what people type."""

import click

from scripts.aws.account import Account
from scripts.aws.options import dry_run, on_account


@click.command("roll")
@click.option(
    "--to", type=click.IntRange(min=1), metavar="VERSION", help="Of the workers' template [default: newest]"
)
@click.option("--back", is_flag=True, help="To the version before the last roll.")
@click.option("--wait/--no-wait", default=True, help="Until all old ones are gone; else all are asked at once.")
@click.option("--new-session-key", is_flag=True, help="Roll the web instance alone, to a new key of sessions.")
@dry_run
@on_account
def roll_command(
    account: Account, prefix: str, *, to: int | None, back: bool, wait: bool, new_session_key: bool, dry_run: bool
) -> None:
    """Bring a new image, or new settings, to the fleet: new workers take the place of old ones, a few at a time.

    Old workers finish what they have; no image is lost by it. Run again after a crash it goes on.
    """
    # Here, so that commands which need no roll do not wait for it.
    from scripts.aws.operation import Operation
    from scripts.aws.roll.keys import roll_keys
    from scripts.aws.roll.roll import Order, roll
    from scripts.aws.waiting import Waiting

    if back and to is not None:
        raise click.UsageError("--back and --to each name a version: give one of them")
    if new_session_key and (back or to is not None):
        raise click.UsageError("--new-session-key is of the web instance, --back and --to are of workers: give one")
    operation = Operation(account, prefix, lambda sentence: click.echo(f"✓ {sentence}"), click.echo, Waiting())
    if new_session_key:
        roll_keys(operation, wait=wait, dry_run=dry_run)
    else:
        roll(operation, Order(to, back, wait, dry_run))
