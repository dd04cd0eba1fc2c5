"""Commands that change the user pool of a system: one on this machine by its `--url`, or a stack on AWS.

An address leads to a system of `./scripts/run.sh`, whose folder is named after its port. A stack is found by its
prefix, region and profile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, Final, ParamSpec

import click
from click.core import ParameterSource

from scripts.aws.context import AwsAccount, aws_command
from scripts.home import HOME, AddressError, run_folder
from scripts.standard_options import url_option
from services.errors import FleetsightError

P = ParamSpec("P")

AWS_OPTIONS: Final = ("prefix", "region", "profile", "endpoint_url")
"""Parameters of `aws_command`: one that is given names a stack on AWS."""


@dataclass(frozen=True)
class NamedStack:
    """A stack on AWS."""

    account: AwsAccount
    prefix: str


class ElsewhereError(FleetsightError):
    """Raised when an address names no system on this machine; the message says how to name one."""


def named_system_command(command: Callable[Concatenate[Path | NamedStack, P], None]) -> Callable[P, None]:
    """Give a command `--url` and the options of AWS; call it with a folder of this machine, or with a stack."""

    @url_option
    @wraps(command)
    def on_either(account: AwsAccount, prefix: str, /, *args: P.args, **kwargs: P.kwargs) -> None:
        url, source = str(kwargs.pop("url")), click.get_current_context().get_parameter_source
        if any(source(name) is ParameterSource.COMMANDLINE for name in AWS_OPTIONS):
            if source("url") is ParameterSource.COMMANDLINE:
                raise click.UsageError("--url names a system on this machine: omit --prefix, --region and --profile")
            command(NamedStack(account, prefix), *args, **kwargs)
            return
        try:
            folder = run_folder(HOME, url)
        except AddressError as error:
            raise ElsewhereError(f"{error}; a stack on AWS is named by --prefix, --region or --profile") from error
        command(folder, *args, **kwargs)

    return aws_command(on_either)
