"""The `fleetsight` command: one group of subcommands for each thing that people do."""

import sys

import click

from scripts.fleet_commands import fleet
from scripts.model_commands import model
from scripts.simulate_command import simulate
from services.errors import FleetsightError


@click.group()
def fleetsight() -> None:
    """Image classification on an elastic fleet."""


fleetsight.add_command(fleet)
fleetsight.add_command(model)
fleetsight.add_command(simulate)


def main() -> None:
    """Run the command; an error of ours is one clear line and status 2."""
    try:
        fleetsight(prog_name="fleetsight")
    except FleetsightError as error:
        print(f"fleetsight: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
