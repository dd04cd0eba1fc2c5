"""``fleetsight model compare``: the results of the models of a running system, side by side."""

from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.format import plural
from scripts.client import FleetClient
from scripts.fleet import operator_command, print_json


@click.command("compare")
@operator_command
def compare_command(client: FleetClient, *, as_json: bool) -> None:
    """Compare the results of models: labels, scores, failures and times.

    Each model is compared with the default, and a test says whether chance can explain the difference. A roll-out to
    a share of the jobs begins a new count.
    """
    answer = client.compare_models()
    if as_json:
        print_json(answer)
    else:
        show_comparison(answer["models"], Console())


def show_comparison(models: list[dict[str, Any]], console: Console) -> None:
    """Show the models of the API's answer, the reference first."""
    from scripts.fleet_status import plain_text  # here: it loads the web tier, which other commands do not need

    if not models:
        console.print("No model has results yet.")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "digest", "results", "done", "failed", "score", "<50%", "inference"):
        table.add_column(heading, justify="left" if heading in {"model", "digest"} else "right")
    for each in models:
        inferred = each["inferred_milliseconds"]
        table.add_row(
            plain_text(each["name"]),
            Text(each["digest"][:12]),
            _share(each["share"]),
            f"{each['done']:,}",
            f"{each['failed']:,}",
            _share(each["mean_score"]),
            _share(each["unsure_share"]),
            "-" if inferred is None else f"{inferred:.1f} ms",
        )
    console.print(table)
    for each in models[1:]:
        console.print(plain_text(f"{each['name']} {each['digest'][:12]}, {plural(each['jobs'], 'job')}:"))
        for name in ("labels", "scores", "failures"):
            if (difference := each["differences"][name]) is not None:
                console.print(plain_text(f"  {name}: {difference['sentence']}"), highlight=False)
        for label in each["differences"]["changed_labels"]:
            words = f"{_share(label['reference_share'])} → {_share(label['share'])}"
            console.print(plain_text(f"  {label['label']}: {words}"), highlight=False)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
