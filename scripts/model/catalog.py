"""``fleetsight model list`` and the commands that change which models the jobs of a running system may get."""

from pathlib import Path

import click
from rich.table import Table

from fleetsight_client.console import Console
from scripts.client import FleetClient
from scripts.operator_command import operator_command, print_json, print_result


@click.command("list")
@operator_command
def list_command(client: FleetClient, *, as_json: bool) -> None:
    """List the models that jobs may name, and which one new jobs get."""
    answer = client.models()
    if as_json:
        print_json(answer)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "DIGEST", "NEW JOBS", "ADDED", "BY"):
        table.add_column(title)
    for each in answer["models"]:
        added = str(each["added_at"] or "")[:16].replace("T", " ")
        state = "default" if each["is_default"] else ""
        table.add_row(each["name"], each["digest"][:12], state, added, each["added_by"] or "")
    Console().print(table)


@click.command("add")
@click.argument("place")
@click.option("--name", help="Name by which jobs choose it [default: that of the bundle]")
@operator_command
def add_command(client: FleetClient, *, place: str, name: str | None, as_json: bool) -> None:
    """Add the bundle at PLACE as a model that jobs may name.

    PLACE is a folder or zip on the machine of the web tier, s3://BUCKET/PREFIX or s3://BUCKET/KEY.zip. The bundle is
    copied to the model bucket, and its files are checked.
    """
    answer = client.add_model(str(Path(place).absolute()) if Path(place).exists() else place, name)
    text = (
        f"Jobs may name the model {answer['name']}, digest {answer['digest'][:12]}. New jobs get it with `model use`."
    )
    print_result(answer, text, as_json=as_json)


@click.command("use")
@click.argument("name")
@operator_command
def use_command(client: FleetClient, *, name: str, as_json: bool) -> None:
    """Give new jobs the model NAME; jobs that exist keep theirs."""
    answer = client.use_model(name)
    print_result(answer, f"New jobs get {answer['default']}.", as_json=as_json)


@click.command("roll-back")
@operator_command
def roll_back_command(client: FleetClient, *, as_json: bool) -> None:
    """Give new jobs the model that they got before; jobs that exist keep theirs."""
    answer = client.roll_back_model()
    print_result(answer, f"New jobs get {answer['default']}.", as_json=as_json)


@click.command("remove")
@click.argument("name")
@operator_command
def remove_command(client: FleetClient, *, name: str, as_json: bool) -> None:
    """Remove the model NAME: new jobs cannot choose it, and its jobs go on."""
    client.remove_model(name)
    print_result({"removed": name}, f"New jobs cannot choose the model {name} any more.", as_json=as_json)
