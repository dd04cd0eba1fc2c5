"""``fleetsight simulate``: what the configured policy would do with a trace, and what others would have done."""

from pathlib import Path

import click

from core.config import load_config


@click.command()
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
    # Here, since other commands need not wait for it.
    from scripts.simulation import Outputs, Wish, carry_out

    wish = Wish(trace_name, seed, deadline_seconds, against)
    carry_out(wish, load_config(config), image_seconds, Outputs(plots, json_file))
