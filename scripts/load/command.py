"""``fleetsight load-test``: loads a running system, verifies every answer, and shows the latencies.

Exit status: 0 if every image is right and every threshold is reached, 1 if not, 2 for wrong usage or if nothing
answers, 130 after Ctrl-C.
"""

import json
import resource
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from fleetsight_client.console import Console
from scripts.demo_model import DEMO_NAME
from scripts.home import HOME
from scripts.load.demo_model import DemoModel
from scripts.load.inputs import ALLOW_FLAG, LoadImages, LoadTarget, drawn_signs, parse_target, read_expected
from scripts.load.metrics import LoadSummary, progress_bar, show_load_summary
from scripts.load.runner import LoadTest, Mode
from scripts.load.schedule import ScheduleError, parse_rate, parse_seconds, steady
from scripts.load.thresholds import MaxFailed, ThresholdResult, Thresholds, check_thresholds
from scripts.run.images import images_in
from scripts.standard_options import CONTEXT, url_option, version, version_option

MAX_CLIENTS = 2_000
MAX_IMAGES = 100_000
COUNT = 100
CONCURRENCY: dict[Mode, int] = {"classic": 100, "api": 4}
OPEN_LOOP_CONCURRENCY = 1_000
DRAWN_FOLDER = HOME / "load"
"""Drawn signs are stored here: the next test with the same seed reuses them."""

SIDE = 96
"""Width and height of a drawn sign in pixels."""

PATIENCE_SECONDS = 600.0
"""After this time without an answer, an image is lost."""

INTERRUPTED = 130
"""The exit status after Ctrl-C."""

_FILE = click.Path(path_type=Path)


class _Parsed(click.ParamType[Any]):
    """An option whose text a function reads; `name` is shown in the help."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self.parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except (ScheduleError, ValueError) as error:
            self.fail(str(error), param, ctx)


def _positive(parse: Callable[[str], float]) -> Callable[[str], float]:
    def parsed(text: str) -> float:
        if not (value := parse(text)):
            raise ScheduleError(f"{text!r} must be more than 0")
        return value

    return parsed


def _parse_max_failed(text: str) -> MaxFailed:
    limit = MaxFailed(float(text.removesuffix("%")) / 100, True) if text.endswith("%") else MaxFailed(int(text))
    if not 0 <= limit.value <= (1 if limit.is_share else MAX_IMAGES):
        raise ScheduleError(f"{text!r} is not a number of images, such as 5, or a share, such as 1%")
    return limit


_RATE = _Parsed("rate", _positive(parse_rate))
_SECONDS = _Parsed("seconds", _positive(parse_seconds))


@click.command("load-test", context_settings={"show_default": True, **CONTEXT})
@url_option
@click.option(
    "--mode",
    type=click.Choice(["classic", "api"]),
    default="classic",
    help="classic: a connection for each image, which waits for its label. api: one job, images in slices of 20.",
)
@click.option(
    "--count", type=click.IntRange(1, MAX_IMAGES), help="Images to send; by default 100, or the whole folder."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, MAX_CLIENTS),
    help="Requests open at once, at most; by default 100, 4 for api, where each holds 20 images, or 1,000 "
    "for --rate.",
)
@click.option(
    "--rate", type=_RATE, help="Send so many images, such as 50/s or 3000/min, even if earlier ones have no answer."
)
@click.option("--duration", type=_SECONDS, help="With --rate: how long, such as 90s or 5min.")
@click.option("--images", type=_FILE, help="Folder of images; sent again where they are fewer than --count.")
@click.option("--expected", type=_FILE, help="With --images: CSV with the columns filename and label.")
@click.option("--unique", is_flag=True, help="Make each image new, so that none is answered from the cache.")
@click.option(
    "--seed", default=2026, help="Road signs are drawn from this seed, and their bytes are new in each test."
)
@click.option("--max-p50", type=_SECONDS, help="Status 1 if the median time is longer, such as 500ms.")
@click.option(
    "--max-p95",
    type=_SECONDS,
    help="Status 1 if 95% of the times are not as short, such as 2s.",
)
@click.option("--max-p99", type=_SECONDS, help="Status 1 if 99% of the times are not as short.")
@click.option(
    "--max-failed",
    type=_Parsed("count|percent", _parse_max_failed),
    default="0",
    help="Status 1 if more images are wrong, failed or lost, such as 5 or 1%.",
)
@click.option("--min-rate", type=_RATE, help="Status 1 if fewer images are answered, such as 40/s.")
@click.option(
    "--max-dollars-per-1000", type=click.FloatRange(min=0), help="Status 1 if 1,000 images cost more, such as 0.05."
)
@click.option("--json", "json_file", type=_FILE, help="Also write the figures to this file.")
@click.option("--report", type=_FILE, help="Also write them with plots to this HTML file.")
@click.option(ALLOW_FLAG, "anywhere", is_flag=True, help="Also load a system that is not on this machine.")
@version_option
def load_test(
    *,
    url: str,
    mode: Mode,
    concurrency: int | None,
    json_file: Path | None,
    report: Path | None,
    anywhere: bool,
    **options: Any,
) -> None:
    """Load a running system, and verify every answer.

    Exit status: 0 if every image is right and every threshold is reached, 1 if not, 2 for wrong usage or if nothing
    answers, 130 after Ctrl-C.
    """
    for file in (json_file, report):
        # A long test must not end without its figures.
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise click.UsageError(f"cannot write {file}: its folder does not exist, or it is a folder itself")
    arrivals = _arrivals(mode, options["rate"], options["duration"], options["count"])
    console, target = Console(), parse_target(url, anywhere=anywhere)
    target.check_answers()
    sent = _images(console, options, None if arrivals is None else len(arrivals))
    sent, model = (sent, None) if options["images"] else _for_the_model_of_signs(sent, target, mode, console)
    default = CONCURRENCY[mode] if arrivals is None else OPEN_LOOP_CONCURRENCY
    load = LoadTest(target, mode, concurrency or default, PATIENCE_SECONDS, arrivals, model)
    # The usual limit of 1,024 open files is too small for a thousand connections.
    maximum = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
    if sent.repeats:
        console.print("Some files are sent more than once: --unique makes each image new to the system's cache.")
    with progress_bar(console) as progress:
        task = progress.add_task(mode, total=sent.count)
        stopped = _stopped_by_interrupt()
        summary = load.run(sent, stopped, lambda done: progress.update(task, completed=done))
    summary = replace(summary, settings=_settings(url, mode, load.concurrency, options))
    show_load_summary(console, summary, is_interrupted=stopped.is_set())
    limits = Thresholds(**{name: options[name] for name in asdict(Thresholds())})
    results = check_thresholds(summary, limits)
    # One line of its own would repeat the table where no threshold is asked for.
    if limits != Thresholds():
        for result in results:
            console.print(str(result))
    try:
        if json_file is not None:
            json_file.write_text(json.dumps(_figures(summary, results), indent=2) + "\n", encoding="utf-8")
        if report is not None:
            from scripts.load.report import write_report  # late: it loads the templates

            write_report(report, summary, results)
    except OSError as error:
        raise click.UsageError(f"cannot write {error.filename}: {error.strerror}") from error
    if stopped.is_set():
        sys.exit(INTERRUPTED)
    sys.exit(0 if all(result.is_reached for result in results) else 1)


def _figures(summary: LoadSummary, results: tuple[ThresholdResult, ...]) -> dict[str, Any]:
    """Return what `--json` writes."""
    return {
        **asdict(summary),
        "dollars_per_1000_images": summary.dollars_per_1000_images,
        "thresholds": [asdict(result) for result in results],
    }


def _settings(url: str, mode: Mode, concurrency: int, options: Mapping[str, Any]) -> dict[str, str]:
    names = ("duration", "images", "unique", "seed")
    given = {name: str(options[name]) for name in names if options[name]}
    if options["rate"]:
        given["rate"] = f"{options['rate']:g}/s"
    always = {"url": url, "mode": mode, "concurrency": str(concurrency)}
    moment = {"version": version(), "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S UTC}"}
    return {**always, **given, **moment}


def _arrivals(mode: Mode, rate: float | None, duration: float | None, count: int | None) -> list[float] | None:
    """Return the schedule of an open loop, or None without a rate."""
    if rate is None:
        if duration is not None:
            raise click.UsageError("--duration goes with --rate")
        return None
    if mode != "classic":
        raise click.UsageError(
            f"--rate is for --mode classic, where each image has a request of its own: --mode {mode} sends one job "
            "as fast as the system accepts it"
        )
    if count is not None and duration is not None:
        raise click.UsageError("--duration sets the number of images: omit --count")
    images = count or (COUNT if duration is None else round(rate * duration))
    if not 1 <= images <= MAX_IMAGES:
        raise click.UsageError(f"--rate asks for {images:,} images: 1 to {MAX_IMAGES:,} are possible")
    return steady(rate, images)


def _images(console: Console, options: Mapping[str, Any], scheduled: int | None) -> LoadImages:
    """Return the images to send; `scheduled` are as many as an open loop has arrivals."""
    images, expected = options["images"], options["expected"]
    if images is not None:
        files = images_in(images).files
        count = scheduled or options["count"] or len(files)
        labels = read_expected(expected, files) if expected else {}
        return LoadImages(files, count, labels, unique=options["unique"])
    if expected is not None:
        raise click.UsageError("--expected belongs to --images: the labels of drawn signs are known")
    count = scheduled or options["count"] or COUNT
    with progress_bar(console) as progress:
        drawing = progress.add_task("drawing", total=count)
        signs = drawn_signs(
            DRAWN_FOLDER,
            count,
            options["seed"],
            SIDE,
            lambda number: progress.update(drawing, completed=number),
        )
    return replace(signs, unique=options["unique"])


def _for_the_model_of_signs(
    signs: LoadImages, target: LoadTarget, mode: Mode, console: Console
) -> tuple[LoadImages, str | None]:
    """Return the drawn signs, without labels if they go to a model that does not know them, and what a job names."""
    default, models = target.models()
    judged = replace(signs, model_label=DemoModel().label)
    if default in {None, DEMO_NAME}:
        return judged, None
    if mode == "api" and DEMO_NAME in models:
        return judged, DEMO_NAME
    console.print(f"The model {default} does not know the drawn signs, so their labels are not compared.")
    return replace(signs, expected={}), None


def _stopped_by_interrupt() -> threading.Event:
    """Return an event that the first Ctrl-C sets; the second Ctrl-C ends the command at once."""
    stopped = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, stop)
    return stopped
