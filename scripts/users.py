"""``fleetsight users``: the users' accounts of a system on this machine, or on AWS.

The commands change the user pool, and the job table if an account's sessions and tokens have to end.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, Final, ParamSpec

import click
from click.core import ParameterSource
from rich.table import Table as TextTable

from core.credentials import Revocations
from fleetsight_client.cli import CommandGroup
from fleetsight_client.console import Console
from localcloud.access_keys import AccessKey
from scripts.aws.context import AwsAccount, aws_command
from scripts.aws.deploy.stack import find_stack
from scripts.home import HOME, JOB_TABLE_FILE, POOL_FILE, AddressError, run_folder
from scripts.standard_options import url_option
from services.accounts import OPERATORS, USERS, Accounts
from services.errors import FleetsightError
from services.table import Table

P = ParamSpec("P")

AWS_OPTIONS: Final = ("prefix", "region", "profile", "endpoint_url")
"""Parameters of `aws_command`: one that is given names a stack on AWS."""


class NoPoolError(FleetsightError):
    """Raised when there is no user pool; the message says what to do."""


@dataclass(frozen=True)
class SystemUsers:
    """The users of a system: their accounts, and the revocations of their credentials."""

    accounts: Accounts
    revocations: Revocations


def _accounts_command(command: Callable[Concatenate[SystemUsers, P], None]) -> Callable[P, None]:
    """Give a command `--url` and the options of AWS, and call it with the accounts of the system that they name."""

    @url_option
    @wraps(command)
    def on_either(account: AwsAccount, prefix: str, /, *args: P.args, **kwargs: P.kwargs) -> None:
        url, source = str(kwargs.pop("url")), click.get_current_context().get_parameter_source
        if any(source(name) is ParameterSource.COMMANDLINE for name in AWS_OPTIONS):
            if source("url") is ParameterSource.COMMANDLINE:
                raise click.UsageError("--url names a system on this machine: omit --prefix, --region and --profile")
            command(_stack(account, prefix), *args, **kwargs)
            return
        try:
            folder = run_folder(HOME, url)
        except AddressError as error:
            raise NoPoolError(f"{error}; a stack on AWS is named by --prefix, --region or --profile") from error
        command(_local(folder), *args, **kwargs)

    return aws_command(on_either)


@click.group(cls=CommandGroup)
def users() -> None:
    """List, create and change accounts.

    They are the accounts of the system that ./scripts/run.sh runs on this machine. With --prefix, --region or
    --profile they are those of a stack on AWS.
    """


@users.command("list")
@_accounts_command
def list_command(system: SystemUsers) -> None:
    """List the accounts: e-mail, group, and whether they may sign in."""
    table = TextTable("E-mail", "Group", "State")
    for account in system.accounts.list():
        group = OPERATORS if OPERATORS in account.groups else USERS
        table.add_row(account.email, group, "active" if account.enabled else "disabled")
    Console().print(table)


@users.command()
@click.argument("email")
@click.option("--operator", is_flag=True, help="Let the account view and manage the fleet.")
@_accounts_command
def add(system: SystemUsers, email: str, *, operator: bool) -> None:
    """Create an account, and print its first password, which the user must change."""
    password = system.accounts.add(email)
    if operator:
        system.accounts.set_operator(email, is_operator=True)
    click.echo(f"{email} signs in with this password, once, within three days: {password}")


@users.command()
@click.argument("email")
@click.option("--remove", is_flag=True, help="Revoke the permission.")
@_accounts_command
def operator(system: SystemUsers, email: str, *, remove: bool) -> None:
    """Let EMAIL view and manage the fleet. Takes effect with the next sign-in, or within 15 minutes."""
    system.accounts.set_operator(email, is_operator=not remove)
    click.echo(f"{email} is {'no operator any more' if remove else 'an operator'}.")


@users.command()
@click.argument("email")
@_accounts_command
def disable(system: SystemUsers, email: str) -> None:
    """Disable an account, and end its sessions and tokens (keeps its data)."""
    system.accounts.set_enabled(email, is_enabled=False)
    system.revocations.revoke_all_of(system.accounts.sub_of(email))
    click.echo(f"{email} cannot sign in; sessions and tokens have ended.")


@users.command()
@click.argument("email")
@_accounts_command
def enable(system: SystemUsers, email: str) -> None:
    """Enable a disabled account."""
    system.accounts.set_enabled(email, is_enabled=True)
    click.echo(f"{email} can sign in again.")


@users.command("second-factor-off")
@click.argument("email")
@_accounts_command
def second_factor_off(system: SystemUsers, email: str) -> None:
    """Let EMAIL sign in by the password alone, after authenticator app and recovery codes were lost.

    Be sure that it is really them who ask. Their sessions and tokens end.
    """
    system.accounts.turn_off_second_factor(email)
    system.revocations.revoke_all_of(system.accounts.sub_of(email))
    click.echo(f"{email} signs in by the password alone, and can set up a second factor again on the account page.")


@users.command()
@click.argument("email")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_accounts_command
def remove(system: SystemUsers, email: str, *, yes: bool) -> None:
    """Delete an account, sessions and tokens; its jobs have no owner then, and expire unless they are kept."""
    if not yes:
        click.confirm(f"Remove {email} for good?", abort=True)
    sub = system.accounts.sub_of(email)
    system.accounts.remove(email)
    system.revocations.revoke_all_of(sub)
    click.echo(f"{email} is removed.")


def _stack(account: AwsAccount, prefix: str) -> SystemUsers:
    stack = find_stack(account, prefix)
    if stack is None:
        raise NoPoolError(f"there is no stack {prefix}: give --prefix and --region")
    pool_id = stack.outputs.get("UserPoolId")
    if pool_id is None:
        raise NoPoolError(
            f"there is no sign-in at {prefix}: `fleetsight up --set CreateUserPool=true` makes a user pool"
        )
    return _system(account, pool_id, stack.outputs["JobTableName"])


def _local(state_dir: Path) -> SystemUsers:
    try:
        endpoint = (state_dir / "endpoint").read_text(encoding="utf-8").strip()
        pool_id = (state_dir / POOL_FILE).read_text(encoding="utf-8").strip()
        job_table = (state_dir / JOB_TABLE_FILE).read_text(encoding="utf-8").strip()
        key = AccessKey.load(state_dir)
    except OSError as error:
        raise NoPoolError(
            "no system with sign-in runs here: start one with ./scripts/run.sh --sign-in, and give its --url; "
            "a stack on AWS is named by --prefix, --region or --profile"
        ) from error
    os.environ |= key.environment
    return _system(AwsAccount(pool_id.partition("_")[0], None, endpoint), pool_id, job_table)


def _system(account: AwsAccount, pool_id: str, job_table: str) -> SystemUsers:
    return SystemUsers(Accounts(account.cognito, pool_id), Revocations(Table(account.dynamodb, job_table)))
