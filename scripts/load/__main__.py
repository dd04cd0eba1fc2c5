"""`./scripts/load_test`: loads a running system, verifies every answer, and shows the latencies."""

import json
import resource
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from fleetsight_client import FleetsightClientError
from scripts.load.inputs import ALLOW_FLAG, LoadImages, drawn_signs, parse_target, read_expected
from scripts.load.metrics import progress_bar, show_load_summary
from scripts.load.runner import LoadTest, Mode
from scripts.run.images import images_in
from scripts.standard_options import CONTEXT, version_option
from services.errors import FleetsightError

MAX_CLIENTS = 2_000
COUNT = 100
CONCURRENCY: dict[Mode, int] = {"classic": 100, "api": 4, "direct": 8}
DRAWN_FOLDER = Path(".fleetsight/load")
"""Drawn signs are stored here: the next test with the same seed reuses them."""

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"show_default": True, **CONTEXT})
@click.option("--url", default="http://127.0.0.1:8000", help="The system to load.")
@click.option(
    "--mode",
    type=click.Choice(["classic", "api", "direct"]),
    default="classic",
    help="classic: a connection for each image, which waits for its label. api: one job, images in slices of 20. "
    "direct: one job, images straight to the bucket.",
)
@click.option("--count", type=click.IntRange(1, 100_000), help="Images to send; by default 100, or the whole folder.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, MAX_CLIENTS),
    help="Requests open at once; by default 100, 4 for api, where each holds 20 images, or 8 for direct.",
)
@click.option("--images", type=_FILE, help="Folder of images; sent again where they are fewer than --count.")
@click.option("--expected", type=_FILE, help="With --images: CSV with the columns filename and label.")
@click.option(
    "--seed", default=2026, help="Road signs are drawn from this seed, and their bytes are new in each test."
)
@click.option(
    "--side", type=click.IntRange(32, 2_000), default=96, help="Width and height of a drawn sign in pixels."
)
@click.option("--path", default="/", help="classic: the address to post to.")
@click.option(
    "--field", default="myfile", help="classic: the field of the form; inputFile is answered with the name."
)
@click.option(
    "--patience", type=click.FloatRange(min=1), default=600.0, help="Seconds of silence that lose an image."
)
@click.option("--json", "json_file", type=_FILE, help="Also write the figures to this file.")
@click.option(ALLOW_FLAG, "anywhere", is_flag=True, help="Also load a system that is not on this machine.")
@version_option
def load_test(  # noqa: PLR0913 - click calls it by name
    *,
    url: str,
    mode: Mode,
    count: int | None,
    concurrency: int | None,
    images: Path | None,
    expected: Path | None,
    seed: int,
    side: int,
    path: str,
    field: str,
    patience: float,
    json_file: Path | None,
    anywhere: bool,
) -> None:
    """Load a running system and verify every answer; status 1 when one is wrong, failed or lost."""
    console, target = Console(), parse_target(url, anywhere=anywhere)
    target.check_answers()
    if images is not None:
        files = images_in(images).files
        sent = LoadImages(files, count or len(files), read_expected(expected, files) if expected else {})
    elif expected is not None:
        raise click.UsageError("--expected belongs to --images: the labels of drawn signs are known")
    else:
        with progress_bar(console) as progress:
            drawing = progress.add_task("drawing", total=count or COUNT)
            sent = drawn_signs(
                DRAWN_FOLDER, count or COUNT, seed, side, lambda number: progress.update(drawing, completed=number)
            )
    load = LoadTest(target, mode, concurrency or CONCURRENCY[mode], path, field, patience)
    # The usual limit of 1,024 open files is too small for a thousand connections.
    maximum = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
    with progress_bar(console) as progress:
        task = progress.add_task(mode, total=sent.count)
        stopped = _stopped_by_interrupt()
        summary = load.run(sent, stopped, lambda done: progress.update(task, completed=done))
    show_load_summary(console, summary)
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(summary), indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if summary.ok else 1)


def _stopped_by_interrupt() -> threading.Event:
    """Return an event that the first Ctrl-C sets; the second Ctrl-C ends the command at once."""
    stopped = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, stop)
    return stopped


def main() -> None:
    """Run the command; an error of Fleetsight is one line and status 2."""
    try:
        load_test(prog_name="./scripts/load_test")
    except (FleetsightError, FleetsightClientError) as error:
        print(f"load_test: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
