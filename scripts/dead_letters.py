"""``fleetsight dead-letters``: images that the system gave up; list, show, redrive and discard them by the API.

Exit status: 0 if the API has accepted the command, 1 if it has rejected it or could not redrive a dead letter, 2 for
wrong usage or if nothing answers.
"""

import sys
from collections.abc import Iterator
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fleetsight_client.cli import CommandGroup
from fleetsight_client.console import Console
from scripts.client import FleetClient
from scripts.operator_command import operator_command, print_json, print_result


@click.group("dead-letters", cls=CommandGroup)
def dead_letters() -> None:
    """List, redrive and discard images that the system gave up."""


@dead_letters.command("list")
@operator_command
def list_command(client: FleetClient, *, as_json: bool) -> None:
    """List the dead letters of all jobs, those of the newest jobs first."""
    letters = list(client.dead_letters())
    if as_json:
        print_json({"dead_letters": letters})
    elif letters:
        Console().print(letter_table(letters))
    else:
        print("There are no dead letters.")


@dead_letters.command()
@click.argument("job")
@click.argument("image")
@operator_command
def show(client: FleetClient, *, job: str, image: str, as_json: bool) -> None:
    """Show the dead letter of IMAGE in JOB: file, reason, tries and times."""
    letter = client.dead_letter(job, image)
    if as_json:
        print_json(letter)
        return
    grid = Table.grid(padding=(0, 2))
    for name, text in letter_rows(letter):
        grid.add_row(name, text)
    Console().print(grid)


@dead_letters.command()
@click.argument("job", required=False)
@click.argument("image", required=False)
@click.option("--all", "is_all", is_flag=True, help="Redrive all dead letters.")
@operator_command
def redrive(client: FleetClient, *, job: str | None, image: str | None, is_all: bool, as_json: bool) -> None:
    """Request IMAGE in JOB again, or with --all the images of all dead letters.

    Redriving an image twice requests it once. The command ends with status 1 if a dead letter stays: its image is no
    longer stored, or the queue rejected the request.
    """
    # Imported here: it takes long, and other commands do not use it.
    from web_tier.features.dead_letters.words import REDRIVE_WORDS, redriven_words

    if is_all:
        if job is not None:
            raise click.UsageError("--all redrives all dead letters, so it goes without JOB and IMAGE")
        counts = client.redrive_all()
        stays = counts["refused"] + counts["gone"]
        print_result(counts, redriven_words(**counts), as_json=as_json)
    elif job is not None and image is not None:
        answer = client.redrive(job, image)
        stays = answer["outcome"] in {"refused", "gone"}
        print_result(answer, REDRIVE_WORDS[answer["outcome"]], as_json=as_json)
    else:
        raise click.UsageError("give JOB and IMAGE as `fleetsight dead-letters list` shows them, or --all")
    if stays:
        sys.exit(1)


@dead_letters.command()
@click.argument("job")
@click.argument("image")
@operator_command
def discard(client: FleetClient, *, job: str, image: str, as_json: bool) -> None:
    """Discard the dead letter of IMAGE in JOB; the image keeps its failed result."""
    # Imported here: it takes long, and other commands do not use it.
    from web_tier.features.dead_letters.words import DISCARD_WORDS

    client.discard(job, image)
    print_result({"job_id": job, "image_id": image, "discarded": True}, DISCARD_WORDS, as_json=as_json)


def letter_table(letters: list[dict[str, Any]]) -> Table:
    """Return dead letters as a table; the first column has the ids of job and image below each other."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("job and image", no_wrap=True)
    table.add_column("file", overflow="fold")
    table.add_column("job", overflow="fold")
    table.add_column("tries", justify="right")
    table.add_column("failed, UTC")
    for each in letters:
        ids = f"{each['job_id']}\n{each['image_id']}"
        failed_at = _moment(each["recorded_at"]).replace(" ", "\n")
        table.add_row(ids, each["filename"], each["job_name"], str(each["tries"]), failed_at)
    return table


def letter_rows(letter: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a dead letter's rows."""
    yield "file", f"{letter['filename']} ({letter['bytes']:,} bytes)"
    yield "job", f"{letter['job_name']} ({letter['job_id']})"
    yield "image", letter["image_id"]
    yield "reason", letter["error"]["message"]
    yield "tries", str(letter["tries"])
    yield "retries", str(letter["attempt"])
    yield "accepted", _moment(letter["accepted_at"])
    if letter["retried_at"]:
        yield "retried", _moment(letter["retried_at"])
    yield "failed", _moment(letter["recorded_at"])


def _moment(text: str | None) -> str:
    """Return a time of the API (RFC 3339 in UTC) to the second."""
    return "" if text is None else text[:19].replace("T", " ")
