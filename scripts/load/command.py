"""``fleetsight load-test``: loads a running system, verifies every answer, and shows the latencies."""

import csv
import json
import resource
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from core.format import plural
from fleetsight_client.api import ApiClient, token_from_environment
from fleetsight_client.console import Console
from scripts.demo_model import DEMO_NAME
from scripts.home import HOME, address_of, is_this_machine
from scripts.load.runner import VERDICTS, LoadTest, Mode
from scripts.run.batch import InterruptedBatchError
from scripts.run.images import ImageSet, images_in, sample_images
from scripts.standard_options import CONTEXT, url_option, version_option

ALLOW_FLAG: Final = "--i-may-load-this-target"
MAX_CLIENTS: Final = 2_000
MAX_IMAGES: Final = 100_000
COUNT: Final = 100
CLIENTS: Final = 100
OPEN_LOOP_CLIENTS: Final = 1_000

PATIENCE_SECONDS: Final = 600.0
"""After this time without an answer, an image is lost."""

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C."""

_FILE: Final = click.Path(path_type=Path)
_POSITIVE: Final = click.FloatRange(min=0, min_open=True)


@click.command("load-test", context_settings={"show_default": True, **CONTEXT})
@url_option
@click.option(
    "--mode",
    type=click.Choice(["classic", "api"]),
    default="classic",
    help="classic: a connection for each image, which waits for its label. api: one job.",
)
@click.option(
    "--count", type=click.IntRange(1, MAX_IMAGES), help="Images to send; by default 100, or the whole folder."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, MAX_CLIENTS),
    help="Requests open at once, at most; by default 100, or 1,000 for --rate.",
)
@click.option("--rate", type=_POSITIVE, help="Send so many images/s, even if earlier ones have no answer.")
@click.option("--duration", type=_POSITIVE, help="With --rate: for how many seconds.")
@click.option(
    "--images", "folder", type=_FILE, help="Folder of images; sent again where they are fewer than --count."
)
@click.option("--expected", type=_FILE, help="With --images: CSV with the columns filename and label.")
@click.option("--max-p50", type=_POSITIVE, help="Status 1 if the median time is longer than these seconds.")
@click.option("--max-p95", type=_POSITIVE, help="Status 1 if 95% of the times are not as short.")
@click.option("--max-p99", type=_POSITIVE, help="Status 1 if 99% of the times are not as short.")
@click.option(
    "--max-failed", type=click.IntRange(0), default=0, help="Status 1 if more images are wrong, failed or lost."
)
@click.option("--min-rate", type=_POSITIVE, help="Status 1 if fewer images/s are answered.")
@click.option("--json", "json_file", type=_FILE, help="Also write the figures to this file.")
@click.option(ALLOW_FLAG, "anywhere", is_flag=True, help="Also load a system that is not on this machine.")
@version_option
def load_test(  # noqa: PLR0913 - click calls it by name
    *,
    url: str,
    mode: Mode,
    count: int | None,
    concurrency: int | None,
    rate: float | None,
    duration: float | None,
    folder: Path | None,
    expected: Path | None,
    max_p50: float | None,
    max_p95: float | None,
    max_p99: float | None,
    max_failed: int,
    min_rate: float | None,
    json_file: Path | None,
    anywhere: bool,
) -> None:
    """Load a running system, and verify every answer.

    Exit status: 0 if every image is right and every threshold is reached, 1 if not, 2 for wrong usage or if nothing
    answers, 130 after Ctrl-C.
    """
    # A long test must not end without its figures.
    if json_file is not None and (json_file.is_dir() or not json_file.parent.is_dir()):
        raise click.UsageError(f"cannot write {json_file}: its folder does not exist, or it is a folder itself")
    if mode == "api" and (rate or concurrency):
        raise click.UsageError("--rate and --concurrency are for --mode classic: --mode api sends one job")
    if not anywhere and not is_this_machine(address_of(url)[0]):
        raise click.UsageError(f"refusing to load a remote host, {url}: if you are allowed to, add {ALLOW_FLAG}")
    count = count if duration is None else _count(rate, duration, count)
    console, images, model = Console(), _images(folder, expected, count), None
    with closing(ApiClient(url, token=token_from_environment())) as client:
        models = client.models()  # also shows that a system answers, and that the token is valid
    if folder is None and models["default"] != DEMO_NAME:
        if mode == "api" and any(each["name"] == DEMO_NAME for each in models["models"]):
            model = DEMO_NAME
        else:
            console.print(f"The model {models['default']} does not know the drawn signs: labels are not compared.")
            images = replace(images, truth={})
    # The usual limit of 1,024 open files is too small for a thousand connections.
    maximum = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
    clients, stopped = concurrency or (OPEN_LOOP_CLIENTS if rate else CLIENTS), _stopped_by_interrupt()
    load = LoadTest(url, mode, clients, PATIENCE_SECONDS, rate, model)
    bar = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bar, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(mode, total=len(images.files))
        try:
            summary = load.run(images, stopped, lambda done: progress.update(task, completed=done))
        except InterruptedBatchError as error:
            console.print(f"fleetsight: {error}")
            sys.exit(INTERRUPTED)
    figures = summary.figures()
    show_figures(console, figures)
    results = check_thresholds(figures, max_failed, min_rate, {"p50": max_p50, "p95": max_p95, "p99": max_p99})
    for limit, is_reached in results.items():
        console.print(f"{'reached' if is_reached else 'missed'}: {limit}")
    if json_file is not None:
        json_file.write_text(json.dumps({**figures, "thresholds": results}, indent=2) + "\n", encoding="utf-8")
    if stopped.is_set():
        console.print("Interrupted: images that were not sent count as lost.")
        sys.exit(INTERRUPTED)
    sys.exit(0 if all(results.values()) else 1)


def _count(rate: float | None, duration: float, count: int | None) -> int:
    if rate is None or count is not None:
        raise click.UsageError("--duration goes with --rate, and sets the number of images: omit --count")
    images = round(rate * duration)
    if not 1 <= images <= MAX_IMAGES:
        raise click.UsageError(f"--rate asks for {images:,} images: 1 to {MAX_IMAGES:,} are possible")
    return images


def _images(folder: Path | None, expected: Path | None, count: int | None) -> ImageSet:
    """Return `count` images with the expected labels by filename; files repeat where they are fewer."""
    if folder is None:
        if expected is not None:
            raise click.UsageError("--expected belongs to --images: the labels of drawn signs are known")
        signs = sample_images(HOME / "samples")
        files, labels, count = signs.files, signs.truth, count or COUNT
    else:
        files = images_in(folder).files
        labels = {} if expected is None else read_expected(expected, files)
    return ImageSet("load test", list(islice(cycle(files), count or len(files))), labels)


def read_expected(path: Path, files: Sequence[Path]) -> dict[str, str]:
    """Return the label of each of `files` by its name, from a CSV file with the columns `filename` and `label`."""
    try:
        with path.open(newline="", encoding="utf-8") as rows:
            labels = {row["filename"]: row["label"] for row in csv.DictReader(rows)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise click.UsageError(f"--expected {path}: no CSV with columns filename and label ({error!r})") from error
    missing = [file.name for file in files if file.name not in labels]
    if missing:
        raise click.UsageError(f"--expected {path}: no label for {len(missing)} images, such as {missing[0]!r}")
    return labels


def _stopped_by_interrupt() -> threading.Event:
    """Return an event that the first Ctrl-C sets; the second Ctrl-C ends the command at once."""
    stopped = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, stop)
    return stopped


def show_figures(console: Console, figures: Mapping[str, Any]) -> None:
    """Print the figures of a load test, then what went wrong first, if anything did."""
    table = Table(title=f"{figures['images']} images, {figures['mode']}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for verdict in VERDICTS:
        table.add_row(verdict, str(figures[verdict]))
    table.add_row("seconds", f"{figures['seconds']:.2f}")
    table.add_row("images/s", f"{figures['images_per_second']:.1f}")
    timed = "upload to label" if figures["mode"] == "api" else "request"
    for name in ("p50", "p95", "p99", "slowest"):
        taken = figures[f"{name}_s"]
        table.add_row(f"{timed}, {name}", "-" if taken is None else f"{taken:.3f} s")
    console.print(table)
    for problem in figures["problems"]:
        console.print(problem)
    if figures["late"]:
        console.print(
            f"The load test fell behind: {plural(figures['late'], 'request')} started late, by up to "
            f"{figures['latest_s']:.1f} s. Raise --concurrency, or lower the rate."
        )


def check_thresholds(
    figures: Mapping[str, Any], max_failed: int, min_rate: float | None, max_times: dict[str, float | None]
) -> dict[str, bool]:
    """Return each limit with its measured figure, and whether it was reached: one that was not measured is missed.

    `max_times` are the longest seconds by percentile, such as `p95`.
    """
    bad, rate = figures["wrong"] + figures["failed"] + figures["lost"], figures["images_per_second"]
    results = {f"wrong, failed or lost images at most {max_failed} (measured {bad})": bad <= max_failed}
    for name, longest in max_times.items():
        if longest is not None:
            taken = figures[f"{name}_s"]
            measured = "nothing" if taken is None else f"{taken:.3f} s"
            results[f"{name} at most {longest:g} s (measured {measured})"] = taken is not None and taken <= longest
    if min_rate is not None:
        results[f"images/s at least {min_rate:g} (measured {rate:g})"] = rate >= min_rate
    return results
