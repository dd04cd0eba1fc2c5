"""``fleetsight chaos``: rehearse bad days, and have every image checked afterwards.

Exit status: 0 when every image was right and nothing was left, 1 when not, 2 when the campaign could not run.
"""

import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from localcloud.options import InvalidSwitchError, load_scenario
from scripts.chaos.campaign import Campaign, Report
from scripts.run.system import ROOT

HOME = ROOT / ".fleetsight" / "chaos"
MAX_SEED = 2**32 - 1


@click.command(context_settings={"show_default": True})
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Play a campaign again; by default another each time.")
@click.option("--minutes", type=click.FloatRange(min=0), default=2.0, help="Images are sent for so long.")
@click.option("--images", type=click.IntRange(0, 1_000_000), default=0, help="Images that are sent at least.")
@click.option(
    "--every", type=click.FloatRange(min=0.05), default=1.0, help="Seconds between two strikes, on average."
)
@click.option("--queues", type=click.Choice(["standard", "fifo"]), default="standard", help="The kind of the queues.")
@click.option(
    "--scenario",
    type=click.Path(path_type=Path),
    help="YAML file of switches of the local cloud (localcloud/README.md); by default 7% of all calls fail.",
)
@click.option("--log", type=click.Path(path_type=Path), default=HOME / "log.jsonl", help="What was done, and when.")
def chaos(  # noqa: PLR0917 - click calls it by name
    seed: int | None, minutes: float, images: int, every: float, queues: str, scenario: Path | None, log: Path
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
    report = Campaign(HOME, chosen, minutes, images, every, queues, switches, log, say).run()  # type: ignore[arg-type]
    _show(console, report, log)
    sys.exit(0 if report.verdict.is_clean else 1)


def _show(console: Console, report: Report, log: Path) -> None:
    table = Table(title="Campaign", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in report.rows():
        table.add_row(name, value)
    console.print(table)
    for example in report.verdict.examples:
        console.print(example, markup=False)
    console.print(f"the log is {log}")
