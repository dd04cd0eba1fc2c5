"""What the commands for operators share: the options that say where Fleetsight is, and how answers are printed.

Exit status: 0 when it was done, 1 when Fleetsight refused it, 2 for wrong usage or when nothing answers.
"""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import click
from rich.console import Console

from core.config import load_config
from scripts.client import ApiError, token_of
from scripts.fleet_client import FleetClient, NotThereError, url_of
from services.errors import ConfigError

P = ParamSpec("P")


class NothingAnswersError(click.ClickException):
    """Raised when no Fleetsight answers, or its address is unknown."""

    exit_code = 2


def asks_operator_api(command: Callable[Concatenate[FleetClient, P], None]) -> Callable[P, None]:
    """Give a command `--url` and `--json`, and pass it the client; an error is one line."""

    @click.option("--url", help="Where Fleetsight is [default: http://, web.host and web.port of config.yaml]")
    @click.option("--json", "as_json", is_flag=True, help="Print what the API answers.")
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        url = kwargs.pop("url")
        try:
            where = str(url).rstrip("/") if url else url_of(load_config().web)
            client = FleetClient(where, token=token_of())
            command(client, *args, **kwargs)
        except (NotThereError, ConfigError) as error:
            raise NothingAnswersError(str(error)) from error
        except ApiError as error:
            raise click.ClickException(str(error)) from error

    return run


def say(told: dict[str, Any], words: str, *, as_json: bool) -> None:
    """Print `words`, or with `--json` what the API answered."""
    if as_json:
        print_json(told)
    else:
        Console().print(words, highlight=False, markup=False)


def print_json(body: dict[str, Any]) -> None:
    """Print what the API answered."""
    print(json.dumps(body, indent=2))
