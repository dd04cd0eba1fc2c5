"""What all commands for operators share: the client of a running system, its errors in one line, and their output."""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import click

from fleetsight_client.api import ApiError, NotRunningError, RejectedError, UnreachableError, token_from_environment
from fleetsight_client.console import Console
from scripts.client import FleetClient
from scripts.standard_options import NoSystemError, url_option

P = ParamSpec("P")


def operator_command(command: Callable[Concatenate[FleetClient, P], None]) -> Callable[P, None]:
    """Give a command `--url` and `--json`, and call it with the client; an error is one line."""

    @url_option
    @click.option("--json", "as_json", is_flag=True, help="Print what the API answers.")
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        url = str(kwargs.pop("url"))
        try:
            client = FleetClient(url, token=token_from_environment())
            command(client, *args, **kwargs)
        except NotRunningError as error:
            raise NoSystemError(str(error)) from error
        except UnreachableError as error:
            raise NoSystemError(
                f"nothing answers at {url}: start Fleetsight with ./scripts/run.sh, "
                f"or say where it is with --url ({str(error).partition(': ')[2]})"
            ) from error
        except RejectedError as error:
            raise click.ClickException(error.detail) from error
        except ApiError as error:
            raise click.ClickException(str(error)) from error

    return run


def print_result(answer: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print `text`, or with `--json` the API's answer."""
    if as_json:
        print_json(answer)
    else:
        Console().print(text)


def print_json(body: dict[str, Any]) -> None:
    """Print the API's answer."""
    print(json.dumps(body, indent=2))
