"""What the commands about AWS have in common on the command line."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import botocore.exceptions
import click

from scripts.aws.account import Account
from scripts.aws.refusals import explained
from services.errors import FleetsightError

P = ParamSpec("P")

PREFIX = r"[a-z][a-z0-9-]{1,14}[a-z0-9]"
"""As the stack's parameter `Prefix` allows it."""


def on_account(command: Callable[Concatenate[Account, str, P], None]) -> Callable[P, None]:
    """Give a command `--region`, `--profile` and `--prefix`, and hand it account and prefix.

    What goes wrong is one line, and status 1.
    """

    @click.option("--region", help="AWS region, such as us-east-1 [default: the profile's]")
    @click.option("--profile", help="Profile of the AWS configuration [default: the default one]")
    @click.option("--prefix", default="fleetsight", show_default=True, callback=_checked, help="Begins every name.")
    @click.option("--endpoint-url", hidden=True, help="Of a local cloud.")
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        region, profile, prefix, url = (kwargs.pop(name) for name in ("region", "profile", "prefix", "endpoint_url"))
        account = Account(_text(region), _text(profile), _text(url))
        try:
            command(account, str(prefix), *args, **kwargs)
        except (FleetsightError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise click.ClickException(explained(error)) from error

    return run


dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _checked(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(PREFIX, value):
        raise click.BadParameter(
            f"{value!r}: 3 to 16 small letters, digits and dashes, a letter first and no dash last"
        )
    return value
