"""``fleetsight model list`` and the commands that change which model the jobs of a running system get."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click
from rich.table import Table

from fleetsight_client.console import Console
from scripts.client import FleetClient
from scripts.operator_command import operator_command, print_json, print_result

_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%")


class _Share(click.ParamType[Any]):
    """A share such as 10% or 0.1, above 0 and up to 1."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the share from 0 to 1."""
        text = str(value).strip()
        try:
            share = float(found[1]) / 100 if (found := _PERCENT.fullmatch(text)) else float(text)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(f"{text!r} is not a share: write one such as 10% or 0.1, up to 100%", param, ctx)
        return share


def _server_place(place: str) -> str:
    """Return a place as the server needs it: the path of an existing file or folder without its relative part."""
    return str(Path(place).absolute()) if Path(place).exists() else place


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
    for each, share in _shares(answer["models"]):
        added = str(each["added_at"] or "")[:16].replace("T", " ")
        state = "" if share is None else f"{share:.4g}%"
        if each["place"] is None:  # shares are for operators
            state = "default" if each["is_default"] else ""
        table.add_row(each["name"], each["digest"][:12], state, added, each["added_by"] or "")
    Console().print(table)


def _shares(models: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], float | None]]:
    """Return each model with the percentage of the new jobs that get it, if any do."""
    found = list(models)
    canary = sum(each["share"] or 0 for each in found)
    return [
        (each, 100 * (1 - canary) if each["is_default"] else each["share"] and 100 * each["share"]) for each in found
    ]


@click.command("add")
@click.argument("place")
@click.option("--name", help="Name by which jobs choose it [default: that of the bundle]")
@operator_command
def add_command(client: FleetClient, *, place: str, name: str | None, as_json: bool) -> None:
    """Add the bundle at PLACE as a model that jobs may name.

    PLACE is a folder or zip on the machine of the web tier, s3://BUCKET/PREFIX or s3://BUCKET/KEY.zip. The bundle is
    copied to the model bucket, and its files are checked.
    """
    answer = client.add_model(_server_place(place), name)
    text = f"Jobs may name the model {answer['name']}, digest {answer['digest'][:12]}. New jobs get it by a roll-out."
    print_result(answer, text, as_json=as_json)


@click.command("roll-out")
@click.argument("model", metavar="NAME|PLACE")
@click.option("--share", type=_Share(), default="100%", show_default=True, help="Share of the new jobs that get it.")
@operator_command
def roll_out_command(client: FleetClient, *, model: str, share: float, as_json: bool) -> None:
    """Give new jobs the model NAME, or the bundle at PLACE, which is added.

    Jobs that exist finish with their model. With a --share below 100%, compare the models, then `promote` or
    `roll-back`. Nothing restarts: workers load the model with its first image.
    """
    known = {each[key] for each in client.models()["models"] for key in ("name", "digest")}
    answer = client.roll_out_model(model if model in known else _server_place(model), share)
    print_result(answer, _sentence(answer), as_json=as_json)


@click.command("promote")
@operator_command
def promote_command(client: FleetClient, *, as_json: bool) -> None:
    """Give all new jobs the model that a share of them gets."""
    answer = client.promote_model()
    print_result(answer, _sentence(answer), as_json=as_json)


@click.command("roll-back")
@operator_command
def roll_back_command(client: FleetClient, *, as_json: bool) -> None:
    """Undo the last roll-out; jobs that exist keep their model.

    While a share of the new jobs gets a model, no more do. Else new jobs get the default before.
    """
    answer = client.roll_back_model()
    print_result(answer, _sentence(answer), as_json=as_json)


@click.command("move-jobs")
@operator_command
def move_jobs_command(client: FleetClient, *, as_json: bool) -> None:
    """Move the unfinished jobs of the model that was rolled back last to the default; results stay.

    Jobs with only some labels cannot be moved.
    """
    answer = client.move_jobs()
    moved = f"Its unfinished jobs move to {answer['default']} within seconds, except those with only some labels."
    print_result(answer, moved, as_json=as_json)


@click.command("remove")
@click.argument("name")
@operator_command
def remove_command(client: FleetClient, *, name: str, as_json: bool) -> None:
    """Remove the model NAME: new jobs cannot choose it, and its jobs go on."""
    client.remove_model(name)
    print_result({"removed": name}, f"New jobs cannot choose the model {name} any more.", as_json=as_json)


def _sentence(answer: dict[str, Any]) -> str:
    """Return which models new jobs get."""
    shares = [f"{each['name']} ({share:.4g}%)" for each, share in _shares(answer["models"]) if share]
    return f"New jobs get {' or '.join(shares)}."
