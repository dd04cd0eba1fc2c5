"""`python -m tests.chaos`: run a campaign, and check every image afterwards.

Exit status: 0 if every image was right and nothing was left, 1 if not, 2 if the campaign could not run.
"""

import sys
import time
from pathlib import Path
from typing import Final, Literal

import click
from rich.console import Console
from rich.table import Table

from fleetsight_client import FleetsightClientError
from localcloud.options import InvalidSwitchError, load_scenario
from scripts.run.system import ROOT
from services.errors import FleetsightError
from tests.chaos.campaign import Campaign, CampaignReport

HOME: Final = ROOT / ".fleetsight" / "chaos"
MAX_SEED: Final = 2**32 - 1


@click.command(context_settings={"show_default": True})
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), help="Repeat the campaign of this seed; by default a new one."
)
@click.option("--minutes", type=click.FloatRange(min=0), default=2.0, help="Minutes for which images are sent.")
@click.option("--images", type=click.IntRange(0, 1_000_000), default=0, help="Minimum number of images to send.")
@click.option("--every", type=click.FloatRange(min=0.05), default=1.0, help="Average seconds between two faults.")
@click.option("--queues", type=click.Choice(["standard", "fifo"]), default="standard", help="Kind of the queues.")
@click.option(
    "--scenario",
    type=click.Path(path_type=Path),
    help="YAML file of switches of the local cloud (localcloud/README.md); by default 7% of all calls fail.",
)
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    default=HOME / "log.jsonl",
    help="File for the log of faults, with their times.",
)
def chaos(
    seed: int | None,
    minutes: float,
    images: int,
    every: float,
    queues: Literal["standard", "fifo"],
    scenario: Path | None,
    log: Path,
) -> None:
    """Run the whole system while calls fail and processes are killed, and check every image."""
    console = Console()
    try:
        switches = load_scenario(scenario) if scenario else {}
    except InvalidSwitchError as error:
        raise click.UsageError(f"--scenario: {error}") from error
    log.parent.mkdir(parents=True, exist_ok=True)
    chosen = int(time.time()) % MAX_SEED if seed is None else seed
    say = lambda text: console.print(f"fleetsight: {text}")  # noqa: E731
    console.print(f"fleetsight: campaign {chosen}; play it again with --seed {chosen}")
    report = Campaign(HOME, chosen, minutes, images, every, queues, switches, log, say).run()
    _show(console, report, log)
    sys.exit(0 if report.verdict.is_clean else 1)


def _show(console: Console, report: CampaignReport, log: Path) -> None:
    table = Table(title="Campaign", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in report.rows():
        table.add_row(name, value)
    console.print(table)
    for example in report.verdict.examples:
        console.print(example, markup=False)
    console.print(f"the log is {log}")


def main() -> None:
    """Run the command; an error of Fleetsight is one line and status 2."""
    try:
        chaos(prog_name="python -m tests.chaos")
    except (FleetsightError, FleetsightClientError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
