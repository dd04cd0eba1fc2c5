"""The `fleetsight` command: one group of subcommands for each task of a user."""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from core.config import load_config
from fleetsight_client import FleetsightClientError
from fleetsight_client.cli import COMMANDS as IMAGE_COMMANDS
from fleetsight_client.cli import CommandGroup
from scripts.aws.commands import (
    aws,
    bake_command,
    down_command,
    roll_command,
    site,
    ssh_command,
    status_command,
    up_command,
)
from scripts.chaos.campaign import chaos
from scripts.dead_letters import dead_letters
from scripts.doctor.checked_system import ROOT, CheckedSystem
from scripts.doctor.command import HELP, OPTIONS, diagnose
from scripts.fleet import fleet
from scripts.logs import logs_command
from scripts.model.commands import model
from scripts.restore import restore_command
from scripts.standard_options import CONTEXT, version_option
from scripts.state import state
from scripts.users import users
from services.errors import FleetsightError

COMPLETE_VARIABLE: Final = "_FLEETSIGHT_COMPLETE"
"""The environment variable by which a shell asks for completions; the wrapper reads it, too."""

WRAPPER: Final = Path(__file__).resolve().parent / "fleetsight"


class _SectionedGroup(CommandGroup):
    """A group that lists its commands by section, since `status` on AWS and `fleet status` are not the same."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write a list of commands for each section."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                self.write_commands(formatter, commands)


EXIT_STATUSES: Final = (
    "Exit status: 0 if it is done, 1 if it was refused or something is missing, 2 for wrong usage or if nothing "
    "answers. docs/commands.md lists those of each command."
)


@click.group(cls=_SectionedGroup, context_settings=CONTEXT, epilog=EXIT_STATUSES)
@version_option
def fleetsight() -> None:
    """Image classification on an elastic fleet."""


@click.command()
@click.option(
    "--trace", "trace_name", required=True, metavar="NAME|FILE", help="A name, or a CSV file of arrival seconds."
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration with the fleet section to simulate [default: config.yaml]",
)
@click.option("--against", is_flag=True, help="Also simulate the other policies.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of random arrivals and boot times."
)
@click.option(
    "--image-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that a worker takes for an image [default: fleet.image_seconds of the config]",
)
@click.option(
    "--deadline-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="With a FILE: an image that is answered later counts as missed.",
)
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Folder for a plot as PNG and SVG.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write this file.")
def simulate(
    *,
    trace_name: str,
    config: Path | None,
    against: bool,
    seed: int,
    image_seconds: float | None,
    deadline_seconds: float,
    plots: Path | None,
    json_file: Path | None,
) -> None:
    """Simulate the configured fleet over a trace: cost, latency, launches.

    Traces by NAME: batch-100, batch-1000, batch-10000, flash-crowd, mmpp, nys-day, twitter-day; they are scaled to
    the configured maximum of workers. A FILE is a CSV; its first column is the seconds at which images come.
    """
    # Imported here: it needs packages that other commands do not need.
    from scripts.simulation import SimulationOutputs, SimulationRequest, run_simulation

    request = SimulationRequest(trace_name, seed, deadline_seconds, against)
    run_simulation(request, load_config(config), image_seconds, SimulationOutputs(plots, json_file))


@click.command(help=HELP)
@click.option("--json", "as_json", is_flag=True, help=OPTIONS["--json"])
@click.option("--aws", "is_aws", is_flag=True, help=OPTIONS["--aws"])
@click.option("--prefix", help=OPTIONS["--prefix"])
@click.option("--port", type=click.IntRange(1, 65_535), help=OPTIONS["--port"])
def doctor(*, as_json: bool, is_aws: bool, prefix: str | None, port: int | None) -> None:
    """Run the checks; scripts/fleetsight runs scripts/doctor/__main__.py instead, which needs no package."""
    system = CheckedSystem(ROOT, os.environ, is_aws=is_aws, prefix=prefix, port=port)
    sys.exit(diagnose(system, as_json_text=as_json))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a SHELL.

    For bash: source <(./scripts/fleetsight completion bash). It completes `./scripts/fleetsight` and `fleetsight`,
    from any folder, and installs nothing.
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"there is no completion for {shell}")
    script = found(fleetsight, {}, "fleetsight", COMPLETE_VARIABLE).source()
    # Click's scripts call what was typed, or look for the command in PATH. This one has its own path.
    call = re.compile(rf"({COMPLETE_VARIABLE}={shell}_complete.*?) (?:\$1|fleetsight)\)")
    click.echo(call.sub(lambda match: f"{match[1]} {shlex.quote(str(WRAPPER))})", script))


SECTIONS: Final[Mapping[str, tuple[click.Command, ...]]] = {
    "Images": IMAGE_COMMANDS,
    "A running system, on this machine or by --url": (fleet, dead_letters, users, logs_command, state),
    "Models": (model,),
    "AWS": (
        *(up_command, status_command, ssh_command, roll_command),
        *(aws, bake_command, site, restore_command, down_command),
    ),
    "This machine, tests, documents and your shell": (doctor, chaos, simulate, completion),
}
"""The commands by section of the help."""

for section in SECTIONS.values():
    for command in section:
        fleetsight.add_command(command)


def main() -> None:
    """Run the command; an error of Fleetsight is one line and status 2."""
    try:
        fleetsight(prog_name="fleetsight")
    except (FleetsightError, FleetsightClientError) as error:
        print(f"fleetsight: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
