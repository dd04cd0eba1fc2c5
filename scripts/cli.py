"""The `fleetsight` command: one group of subcommands for each thing that people do."""

import sys

import click

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
from scripts.chaos_command import chaos
from scripts.dead_letter_commands import dead_letters
from scripts.fleet_commands import fleet
from scripts.model.commands import model
from scripts.sbom_command import sbom
from scripts.simulate_command import simulate
from scripts.users_command import users
from services.errors import FleetsightError


@click.group()
def fleetsight() -> None:
    """Image classification on an elastic fleet."""


fleetsight.add_command(aws)
fleetsight.add_command(chaos)
fleetsight.add_command(dead_letters)
fleetsight.add_command(fleet)
fleetsight.add_command(model)
fleetsight.add_command(sbom)
fleetsight.add_command(simulate)
fleetsight.add_command(site)
fleetsight.add_command(users)
for command in (bake_command, roll_command, up_command, status_command, logs_command, ssh_command, down_command):
    fleetsight.add_command(command)


def main() -> None:
    """Run the command; an error of ours is one clear line and status 2."""
    try:
        fleetsight(prog_name="fleetsight")
    except FleetsightError as error:
        print(f"fleetsight: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
