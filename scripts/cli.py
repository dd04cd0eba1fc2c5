"""The `fleetsight` command: one group of subcommands for each task of a user."""

import sys
from pathlib import Path

import click

from core.config import load_config
from scripts.aws.commands import (
    aws,
    bake_command,
    down_command,
    logs_command,
    roll_command,
    site,
    ssh_command,
    status_command,
    up_command,
)
from scripts.chaos.campaign import chaos
from scripts.dead_letters import dead_letters
from scripts.fleet import fleet
from scripts.model.commands import model
from scripts.users import users
from services.errors import FleetsightError


@click.group()
def fleetsight() -> None:
    """Image classification on an elastic fleet."""


@fleetsight.command()
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@click.option("--section", default="run", show_default=True, help="Of requirements.txt; of a machine: worker, web.")
def sbom(file: Path, section: str) -> None:
    """Write a software bill of materials (CycloneDX) into FILE."""
    # Imported here: it needs packages that other commands do not need.
    from scripts.sbom import create_sbom

    file.write_text(create_sbom(section), encoding="utf-8")
    click.echo(f"{file}: what [{section}] of requirements.txt installs")


@fleetsight.command()
@click.option(
    "--trace", "trace_name", required=True, metavar="NAME|FILE", help="A name, or a CSV file of arrival seconds."
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Its fleet section decides [default: config.yaml]",
)
@click.option("--against", is_flag=True, help="Also what other policies would do.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of arrivals and boots.")
@click.option(
    "--image-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="That a worker takes for an image [default: fleet.image_seconds of the config]",
)
@click.option(
    "--deadline-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="For a FILE: an image answered later counts as missed.",
)
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Folder for a plot, PNG and SVG.")
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


for group in (aws, chaos, dead_letters, fleet, model, site, users):
    fleetsight.add_command(group)
for command in (bake_command, roll_command, up_command, status_command, logs_command, ssh_command, down_command):
    fleetsight.add_command(command)


def main() -> None:
    """Run the command; an error of Fleetsight is one line and status 2."""
    try:
        fleetsight(prog_name="fleetsight")
    except FleetsightError as error:
        print(f"fleetsight: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
