"""Options that every command has: `-h`, `--help` and `--version`."""

import tomllib
from pathlib import Path
from typing import Final

import click

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
