"""``fleetsight model compare``: the results of the models of a running system, side by side."""

from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fleetsight_client.console import Console
from scripts.client import FleetClient
from scripts.operator_command import operator_command, print_json


@click.command("compare")
@operator_command
def compare_command(client: FleetClient, *, as_json: bool) -> None:
    """Compare models by the share of their images that failed, and by their mean score.

    The default model comes first. A roll-out to a share of the jobs begins a new count.
    """
    answer = client.compare_models()
    if as_json:
        print_json(answer)
    else:
        show_comparison(answer["models"], Console(), answer["since"])
        if warning := answer.get("warning"):  # not from a server of an earlier release
            click.echo(warning)


def show_comparison(models: list[dict[str, Any]], console: Console, since: str | None = None) -> None:
    """Show the models of the API's answer; `since` is when the count began, with a roll-out."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "digest", "images", "failed", "mean score"):
        table.add_column(heading, justify="left" if heading in {"model", "digest"} else "right")
    for each in models:
        images, score = each["done"] + each["failed"], each["mean_score"]
        failed = f"{each['failed'] / images:.1%}" if images else "-"
        mean = "-" if score is None else f"{score:.1%}"
        table.add_row(each["name"], each["digest"][:12], f"{images:,}", failed, mean)
    none = f"No results since the roll-out began at {since[11:16]} UTC." if since else "No model has results yet."
    console.print(table if models else none)
