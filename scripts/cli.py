"""The `fleetsight` command: one group of subcommands for each task of a user."""

import os
import sys
from pathlib import Path
from typing import Final

import click

from fleetsight_client import FleetsightClientError
from fleetsight_client.cli import COMMANDS as IMAGE_COMMANDS
from fleetsight_client.terminal import clean_terminal_output
from scripts.lazy_group import LazyGroup, Sections
from scripts.standard_options import CONTEXT, of_this_checkout, version_option
from services.errors import FleetsightError

EXIT_STATUSES: Final = (
    "Exit status: 0 if it is done, 1 if it was rejected or something is missing, 2 for wrong usage or if nothing "
    "answers. docs/operate.md lists those of each command."
)

MKDOCS_FILE: Final = Path(__file__).absolute().parents[1] / "mkdocs.yml"


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--serve", is_flag=True, help="Show it until Ctrl-C, and build it again after a change.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF MKDOCS]...")
def docs(*, serve: bool, options: tuple[str, ...]) -> None:
    """Build the documentation as a site in .fleetsight/docs, or show it at http://127.0.0.1:8001/.

    A warning of the build is an error. Neither the build nor the site needs a network.
    """
    os.environ["NO_MKDOCS_2_WARNING"] = "1"  # an advertisement of the theme's successor
    task = ["serve", "--dev-addr", "127.0.0.1:8001"] if serve else ["build", "--strict"]
    command = [sys.executable, "-m", "mkdocs", *task, "--config-file", str(MKDOCS_FILE), *options]
    os.execv(command[0], command)  # nosec B606 # noqa: S606 (mkdocs takes over the terminal)


SECTIONS: Final[Sections] = {  # `status` on AWS and `fleet status` are not the same
    "This machine": {
        "run": "scripts.run.__main__:main",
        "doctor": "scripts.doctor:doctor",
    },
    "Images": {str(each.name): of_this_checkout(each) for each in IMAGE_COMMANDS},
    "A running system": {
        "fleet": "scripts.fleet:fleet",
        "dead-letters": "scripts.dead_letters:dead_letters",
        "users": "scripts.users:users",
        "logs": "scripts.logs:logs_command",
        "load-test": "scripts.load.command:load_test",
    },
    "Models": {"model": "scripts.model.group:model"},
    "AWS": {
        "up": "scripts.aws.commands:up_command",
        "status": "scripts.aws.commands:status_command",
        "ssh": "scripts.aws.commands:ssh_command",
        "roll": "scripts.aws.commands:roll_command",
        "aws": "scripts.aws.commands:aws",
        "bake": "scripts.aws.commands:bake_command",
        "site": "scripts.aws.commands:site",
        "down": "scripts.aws.commands:down_command",
    },
    "Documents": {"docs": docs},
}


@click.group(cls=LazyGroup, sections=SECTIONS, context_settings=CONTEXT, epilog=EXIT_STATUSES)
@version_option
def fleetsight() -> None:
    """Image classification on an elastic fleet."""


def main() -> None:
    """Run the command; an error of Fleetsight is one line and status 2."""
    clean_terminal_output()
    try:
        fleetsight(prog_name="fleetsight")
    except (FleetsightError, FleetsightClientError) as error:
        print(f"fleetsight: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
