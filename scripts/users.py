"""``fleetsight users``: the users' accounts of a system on this machine, or on AWS.

The commands change the user pool: sessions and tokens of a disabled account end within minutes.
"""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec

import click
from rich.console import Console
from rich.table import Table

from fleetsight_client.cli import CommandGroup
from localcloud.access_keys import AccessKey
from scripts.aws.context import AwsAccount
from scripts.aws.deploy.stack import find_stack
from scripts.named_system import NamedStack, named_system_command
from services.accounts import OPERATORS, USERS, Accounts
from services.errors import FleetsightError

P = ParamSpec("P")


class NoPoolError(FleetsightError):
    """Raised when there is no user pool; the message says what to do."""


def _accounts_command(command: Callable[Concatenate[Accounts, P], None]) -> Callable[P, None]:
    """Give a command the options that name a system, and call it with the accounts of the system."""

    @wraps(command)
    def with_accounts(system: Path | NamedStack, /, *args: P.args, **kwargs: P.kwargs) -> None:
        found = _accounts_of_stack(system) if isinstance(system, NamedStack) else _local_accounts(system)
        command(found, *args, **kwargs)

    return named_system_command(with_accounts)


@click.group(cls=CommandGroup)
def users() -> None:
    """List, create and change accounts.

    They are the accounts of the system that ./scripts/run.sh runs on this machine. With --prefix, --region or
    --profile they are those of a stack on AWS.
    """


@users.command("list")
@_accounts_command
def list_command(accounts: Accounts) -> None:
    """List the accounts: e-mail, group, and whether they may sign in."""
    table = Table("E-mail", "Group", "State")
    for account in accounts.list():
        group = OPERATORS if OPERATORS in account.groups else USERS
        table.add_row(account.email, group, "active" if account.enabled else "disabled")
    Console().print(table)


@users.command()
@click.argument("email")
@click.option("--operator", is_flag=True, help="Let the account view and manage the fleet.")
@_accounts_command
def add(accounts: Accounts, email: str, *, operator: bool) -> None:
    """Create an account, and print its first password, which the user must change."""
    password = accounts.add(email)
    if operator:
        accounts.set_operator(email, is_operator=True)
    click.echo(f"{email} signs in with this password, once, within three days: {password}")


@users.command()
@click.argument("email")
@click.option("--remove", is_flag=True, help="Revoke the permission.")
@_accounts_command
def operator(accounts: Accounts, email: str, *, remove: bool) -> None:
    """Let EMAIL view and manage the fleet. Takes effect with the next sign-in, or within 15 minutes."""
    accounts.set_operator(email, is_operator=not remove)
    click.echo(f"{email} is {'no operator any more' if remove else 'an operator'}.")


@users.command()
@click.argument("email")
@_accounts_command
def disable(accounts: Accounts, email: str) -> None:
    """Disable an account (keeps its data)."""
    accounts.set_enabled(email, is_enabled=False)
    click.echo(f"{email} cannot sign in; sessions and tokens end within 15 minutes.")


@users.command()
@click.argument("email")
@_accounts_command
def enable(accounts: Accounts, email: str) -> None:
    """Enable a disabled account."""
    accounts.set_enabled(email, is_enabled=True)
    click.echo(f"{email} can sign in again.")


@users.command("second-factor-off")
@click.argument("email")
@_accounts_command
def second_factor_off(accounts: Accounts, email: str) -> None:
    """Let EMAIL sign in by the password alone, after authenticator app and recovery codes were lost.

    Be sure that it is really them who ask. They are signed out within 15 minutes.
    """
    accounts.turn_off_second_factor(email)
    click.echo(f"{email} signs in by the password alone, and can set up a second factor again on the account page.")


@users.command()
@click.argument("email")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_accounts_command
def remove(accounts: Accounts, email: str, *, yes: bool) -> None:
    """Delete an account; its jobs have no owner then, and expire unless they are kept."""
    if not yes:
        click.confirm(f"Remove {email} for good?", abort=True)
    accounts.remove(email)
    click.echo(f"{email} is removed.")


def _accounts_of_stack(named: NamedStack) -> Accounts:
    stack = find_stack(named.account, named.prefix)
    if stack is None:
        raise NoPoolError(f"there is no stack {named.prefix}: give --prefix and --region")
    pool_id = stack.outputs.get("UserPoolId")
    if pool_id is None:
        raise NoPoolError(
            f"there is no sign-in at {named.prefix}: `fleetsight up --set CreateUserPool=true` makes a user pool"
        )
    return Accounts(named.account.cognito, pool_id)


def _local_accounts(state_dir: Path) -> Accounts:
    try:
        endpoint = (state_dir / "endpoint").read_text(encoding="utf-8").strip()
        pool_id = (state_dir / "user-pool").read_text(encoding="utf-8").strip()
        key = AccessKey.load(state_dir)
    except OSError as error:
        raise NoPoolError(
            "no system with sign-in runs here: start one with ./scripts/run.sh --sign-in, and give its --url; "
            "a stack on AWS is named by --prefix, --region or --profile"
        ) from error
    os.environ |= key.environment
    return Accounts(AwsAccount(pool_id.partition("_")[0], None, endpoint).cognito, pool_id)
