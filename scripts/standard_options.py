"""Options that several commands share: `-h`, `--help`, `--version`, and `--url`, which names a running system."""

import copy
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from fleetsight_client.api import URL_VARIABLE
from scripts.client import web_url
from services.errors import ConfigError

CONTEXT: Final = {"help_option_names": ["-h", "--help"]}
"""The context settings of a command."""

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def version() -> str:
    """Return the version of this checkout."""
    return str(tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["version"])


def _show_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"Fleetsight {version()}")
        context.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)


class NoSystemError(click.ClickException):
    """Raised when no Fleetsight answers, or its address is unknown."""

    exit_code = 2


def configured_url() -> str:
    """Return the address of the system that the configuration describes.

    Raises:
        NoSystemError: the configuration is not valid.
    """
    from core.config import load_config  # late: it takes longer than all other imports of a command

    try:
        web = load_config().web
        return web_url(web.host, web.port)
    except ConfigError as error:
        raise NoSystemError(str(error)) from error


_URL: Final[Mapping[str, Any]] = {
    "envvar": URL_VARIABLE,
    "show_envvar": True,
    "default": configured_url,
    "show_default": "web.host and web.port of config.yaml",
    "help": "Address of Fleetsight.",
}

url_option = click.option("--url", **_URL)
"""How each command names a running system."""


def of_this_checkout(command: click.Command) -> click.Command:
    """Return a command of the client whose `--url` is that of the other commands: its default is in config.yaml."""
    own = copy.copy(command)
    own.params = [click.Option(["--url"], **_URL) if each.name == "url" else each for each in command.params]
    return own
