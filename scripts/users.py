"""``fleetsight users``: the accounts of the user pool that a stack on AWS has.

The commands change the pool, and the job table if an account's sessions and tokens have to end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, Final, ParamSpec

import click
from click.core import ParameterSource
from rich.table import Table as TextTable

from core.credentials import Revocations
from fleetsight_client.cli import CommandGroup
from fleetsight_client.console import Console
from scripts.aws.context import AwsAccount, aws_command
from scripts.aws.deploy.stack import find_stack
from services.accounts import OPERATORS, USERS, Accounts
from services.errors import FleetsightError
from services.table import Table

P = ParamSpec("P")

STACK_OPTIONS: Final = ("prefix", "region", "profile", "endpoint_url")
"""Parameters of `aws_command`: at least one is given, so that a command is for the stack that its caller means."""


class NoPoolError(FleetsightError):
    """Raised when there is no user pool; the message says what to do."""


@dataclass(frozen=True)
class StackUsers:
    """The users of a stack: their accounts, and the revocations of their credentials."""

    accounts: Accounts
    revocations: Revocations


def _accounts_command(command: Callable[Concatenate[StackUsers, P], None]) -> Callable[P, None]:
    """Give a command the options of AWS, and call it with the accounts of the stack that they name."""

    @wraps(command)
    def of_stack(account: AwsAccount, prefix: str, /, *args: P.args, **kwargs: P.kwargs) -> None:
        source = click.get_current_context().get_parameter_source
        if all(source(name) is not ParameterSource.COMMANDLINE for name in STACK_OPTIONS):
            raise NoPoolError(
                "name the stack by --prefix, --region or --profile; "
                "a local system has a development provider with two people, and no accounts"
            )
        command(_users_of(account, prefix), *args, **kwargs)

    return aws_command(of_stack)


@click.group(cls=CommandGroup)
def users() -> None:
    """List, create and change accounts of a stack on AWS.

    They are those of its user pool. --prefix, --region or --profile name the stack.
    """


@users.command("list")
@_accounts_command
def list_command(stack: StackUsers) -> None:
    """List the accounts: e-mail, group, and whether they may sign in."""
    table = TextTable("E-mail", "Group", "State")
    for account in stack.accounts.list():
        group = OPERATORS if OPERATORS in account.groups else USERS
        table.add_row(account.email, group, "active" if account.enabled else "disabled")
    Console().print(table)


@users.command()
@click.argument("email")
@click.option("--operator", is_flag=True, help="Let the account view and manage the fleet.")
@_accounts_command
def add(stack: StackUsers, email: str, *, operator: bool) -> None:
    """Create an account, and print its first password, which the user must change."""
    password = stack.accounts.add(email)
    if operator:
        stack.accounts.set_operator(email, is_operator=True)
    click.echo(f"{email} signs in with this password, once, within three days: {password}")


@users.command()
@click.argument("email")
@click.option("--remove", is_flag=True, help="Revoke the permission.")
@_accounts_command
def operator(stack: StackUsers, email: str, *, remove: bool) -> None:
    """Let EMAIL view and manage the fleet. Takes effect with the next sign-in, or within 15 minutes."""
    stack.accounts.set_operator(email, is_operator=not remove)
    click.echo(f"{email} is {'no operator any more' if remove else 'an operator'}.")


@users.command()
@click.argument("email")
@_accounts_command
def disable(stack: StackUsers, email: str) -> None:
    """Disable an account, and end its sessions and tokens (keeps its data)."""
    stack.accounts.set_enabled(email, is_enabled=False)
    stack.revocations.revoke_all_of(stack.accounts.sub_of(email))
    click.echo(f"{email} cannot sign in; sessions and tokens have ended.")


@users.command()
@click.argument("email")
@_accounts_command
def enable(stack: StackUsers, email: str) -> None:
    """Enable a disabled account."""
    stack.accounts.set_enabled(email, is_enabled=True)
    click.echo(f"{email} can sign in again.")


@users.command()
@click.argument("email")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_accounts_command
def remove(stack: StackUsers, email: str, *, yes: bool) -> None:
    """Delete an account, sessions and tokens; its jobs have no owner then, and expire unless they are kept."""
    if not yes:
        click.confirm(f"Remove {email} for good?", abort=True)
    sub = stack.accounts.sub_of(email)
    stack.accounts.remove(email)
    stack.revocations.revoke_all_of(sub)
    click.echo(f"{email} is removed.")


def _users_of(account: AwsAccount, prefix: str) -> StackUsers:
    stack = find_stack(account, prefix)
    if stack is None:
        raise NoPoolError(f"there is no stack {prefix}: give --prefix and --region")
    pool_id = stack.outputs.get("UserPoolId")
    if pool_id is None:
        raise NoPoolError(
            f"the stack {prefix} has no user pool: its users are those of its OpenID provider, or `fleetsight up "
            "--set CreateUserPool=true` makes a pool"
        )
    revocations = Revocations(Table(account.dynamodb, stack.outputs["JobTableName"]))
    return StackUsers(Accounts(account.cognito, pool_id), revocations)
