"""`./scripts/load_test`: loads a running system, verifies every answer, and shows the latencies.

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
from rich.console import Console

from fleetsight_client import FleetsightClientError
from scripts.load.inputs import ALLOW_FLAG, LoadImages, drawn_signs, parse_target, read_expected
from scripts.load.metrics import LoadSummary, progress_bar, show_load_summary
from scripts.load.report import write_report
from scripts.load.runner import LoadTest, Mode
from scripts.load.schedule import ScheduleError, parse_rate, parse_seconds, ramp, steady, trace
from scripts.load.thresholds import (
    MaxFailed,
    ThresholdResult,
    Thresholds,
    check_thresholds,
    compare,
    comparison_table,
    different_settings,
    read_run,
)
from scripts.run.images import images_in
from scripts.standard_options import CONTEXT, version, version_option
from services.errors import FleetsightError

MAX_CLIENTS = 2_000
MAX_IMAGES = 100_000
COUNT = 100
CONCURRENCY: dict[Mode, int] = {"classic": 100, "api": 4, "direct": 8}
OPEN_LOOP_CONCURRENCY = 1_000
DRAWN_FOLDER = Path(".fleetsight/load")
"""Drawn signs are stored here: the next test with the same seed reuses them."""

INTERRUPTED = 130
"""The exit status after Ctrl-C."""

_FILE = click.Path(path_type=Path)


class _Parsed(click.ParamType[Any]):
    """An option whose text a function reads; `name` is shown in the help."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self.parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of the text."""
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


def _parse_ramp(text: str) -> tuple[float, float]:
    first, dots, last = text.partition("..")
    if not dots:
        raise ScheduleError(f"{text!r} is no ramp: write two rates, such as 10/s..100/s")
    return parse_rate(first), parse_rate(last)


def _parse_max_failed(text: str) -> MaxFailed:
    limit = MaxFailed(float(text.removesuffix("%")) / 100, True) if text.endswith("%") else MaxFailed(int(text))
    if not 0 <= limit.value <= (1 if limit.is_share else MAX_IMAGES):
        raise ScheduleError(f"{text!r} is not a number of images, such as 5, or a share, such as 1%")
    return limit


_RATE = _Parsed("rate", _positive(parse_rate))
_SECONDS = _Parsed("seconds", _positive(parse_seconds))


@click.group(
    invoke_without_command=True, context_settings={"show_default": True, **CONTEXT}, subcommand_metavar="[compare]"
)
@click.option("--url", default="http://127.0.0.1:8000", help="The system to load.")
@click.option(
    "--mode",
    type=click.Choice(["classic", "api", "direct"]),
    default="classic",
    help="classic: a connection for each image, which waits for its label. api: one job, images in slices of 20. "
    "direct: one job, images straight to the bucket.",
)
@click.option(
    "--count", type=click.IntRange(1, MAX_IMAGES), help="Images to send; by default 100, or the whole folder."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, MAX_CLIENTS),
    help="Requests open at once, at most; by default 100, 4 for api, where each holds 20 images, 8 for direct, or "
    "1,000 for --rate, --ramp and --trace.",
)
@click.option(
    "--rate", type=_RATE, help="Send so many images, such as 50/s or 3000/min, even if earlier ones have no answer."
)
@click.option(
    "--ramp",
    type=_Parsed("from..to", _parse_ramp),
    help="As --rate, with a rate that grows or falls evenly over --duration, such as 10/s..100/s.",
)
@click.option("--duration", type=_SECONDS, help="With --rate or --ramp: how long, such as 90s or 5min.")
@click.option(
    "--trace",
    "trace_file",
    type=_FILE,
    help="Send an image at each time of this CSV file, as fleetsight simulate does.",
)
@click.option(
    "--speed",
    type=click.FloatRange(0, 10_000, min_open=True),
    default=1.0,
    help="With --trace: how many times as fast.",
)
@click.option("--images", type=_FILE, help="Folder of images; sent again where they are fewer than --count.")
@click.option("--expected", type=_FILE, help="With --images: CSV with the columns filename and label.")
@click.option("--unique", is_flag=True, help="Make each image new, so that none is answered from the cache.")
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
@click.option("--max-p50", type=_SECONDS, help="Status 1 if the median request takes longer, such as 500ms.")
@click.option("--max-p95", type=_SECONDS, help="Status 1 if 95% of the requests are not as fast, such as 2s.")
@click.option("--max-p99", type=_SECONDS, help="Status 1 if 99% of the requests are not as fast.")
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
@click.pass_context
def load_test(context: click.Context, /, **options: Any) -> None:
    """Load a running system, and verify every answer.

    Exit status: 0 if every image is right and every threshold is reached, 1 if not, 2 for wrong usage or if nothing
    answers, 130 after Ctrl-C.
    """
    if context.invoked_subcommand is None:
        sys.exit(_run(**options))
    if given := [name for name in options if _is_given(context, name)]:
        raise click.UsageError(f"{context.invoked_subcommand} takes its options after its name, not {given[0]!r}")


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


@load_test.command("compare")
@click.argument("first", type=_FILE)
@click.argument("second", type=_FILE)
@click.option(
    "--max-ratio",
    type=click.FloatRange(min=1),
    help="Status 1 if SECOND is more than so many times worse, such as 1.2, or fewer of its images are right.",
)
@click.option("--report", type=_FILE, help="Also write both with plots to this HTML file.")
def compare_command(*, first: Path, second: Path, max_ratio: float | None, report: Path | None) -> None:
    """Compare two load tests by the files of their --json.

    Exit status: 0, or 1 if --max-ratio is missed, or 2 if a file cannot be read. --max-ratio judges images/s, the
    percentiles 50, 95 and 99, the cost, and the number of images that are wrong, failed or lost.
    """
    before, after = read_run(first), read_run(second)
    compared, console = compare(before, after), Console()
    console.print(comparison_table(compared, (first.name, second.name), max_ratio))
    for line in different_settings(before, after):
        console.print(f"The settings differ: {line}.", markup=False, highlight=False)
    if report is not None:
        write_report(report, (first.name, before), (second.name, after))
    if max_ratio is not None and any(each.is_worse(max_ratio) for each in compared):
        sys.exit(1)


def _run(  # noqa: PLR0913 - click calls it by name
    *,
    url: str,
    mode: Mode,
    concurrency: int | None,
    path: str,
    field: str,
    patience: float,
    json_file: Path | None,
    report: Path | None,
    anywhere: bool,
    **options: Any,
) -> int:
    """Run the load test, show and write its figures, and return the exit status."""
    for file in (json_file, report):
        # A long test must not end without its figures.
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise click.UsageError(f"cannot write {file}: its folder does not exist, or it is a folder itself")
    arrivals = _arrivals(mode, options)
    console, target = Console(), parse_target(url, anywhere=anywhere)
    target.check_answers()
    sent = _images(console, options, None if arrivals is None else len(arrivals))
    default = CONCURRENCY[mode] if arrivals is None else OPEN_LOOP_CONCURRENCY
    load = LoadTest(target, mode, concurrency or default, path, field, patience, arrivals)
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
            console.print(str(result), markup=False)
    run = _run_of(summary, results)
    try:
        if json_file is not None:
            json_file.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
        if report is not None:
            write_report(report, ("this test", run))
    except OSError as error:
        raise click.UsageError(f"cannot write {error.filename}: {error.strerror}") from error
    if stopped.is_set():
        return INTERRUPTED
    return 0 if all(result.is_reached for result in results) else 1


def _run_of(summary: LoadSummary, results: tuple[ThresholdResult, ...]) -> dict[str, Any]:
    """Return what `--json` writes."""
    return {
        **asdict(summary),
        "dollars_per_1000_images": summary.dollars_per_1000_images,
        "thresholds": [asdict(result) for result in results],
    }


def _settings(url: str, mode: Mode, concurrency: int, options: Mapping[str, Any]) -> dict[str, str]:
    names = ("ramp", "duration", "trace_file", "images", "unique", "seed", "side")
    given = {name.removesuffix("_file"): str(options[name]) for name in names if options[name]}
    if options["rate"]:
        given["rate"] = f"{options['rate']:g}/s"
    if options["ramp"]:
        given["ramp"] = "..".join(f"{rate:g}/s" for rate in options["ramp"])
    if options["trace_file"]:
        given["speed"] = f"{options['speed']:g}"
    always = {"url": url, "mode": mode, "concurrency": str(concurrency)}
    moment = {"version": version(), "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S UTC}"}
    return {**always, **given, **moment}


def _arrivals(mode: Mode, options: Mapping[str, Any]) -> list[float] | None:
    """Return the schedule of an open loop, or None if the options ask for none."""
    given = [name for name in ("rate", "ramp", "trace_file") if options[name] is not None]
    names = [f"--{name.removesuffix('_file')}" for name in given]
    count, duration = options["count"], options["duration"]
    if not given:
        if duration is not None:
            raise click.UsageError("--duration goes with --rate or --ramp")
        return None
    _check_schedule(mode, names, count, duration)
    if options["trace_file"] is not None:
        arrivals = trace(options["trace_file"], options["speed"])
    elif options["ramp"] is not None:
        first, last = options["ramp"]
        arrivals = ramp(first, last, duration)
    else:
        rate = options["rate"]
        arrivals = steady(rate, count or (COUNT if duration is None else round(rate * duration)))
    if not 1 <= len(arrivals) <= MAX_IMAGES:
        raise click.UsageError(f"{names[0]} asks for {len(arrivals):,} images: 1 to {MAX_IMAGES:,} are possible")
    return arrivals


def _check_schedule(mode: Mode, names: list[str], count: int | None, duration: float | None) -> None:
    """Check that the options of an open loop fit each other."""
    if len(names) > 1:
        raise click.UsageError(f"give one of {', '.join(names)}")
    [name] = names
    if mode != "classic":
        raise click.UsageError(
            f"{name} is for --mode classic, where each image has a request of its own: --mode {mode} sends one job "
            "as fast as the system accepts it"
        )
    if count is not None and (name != "--rate" or duration is not None):
        raise click.UsageError(
            f"{name if duration is None else '--duration'} sets the number of images: omit --count"
        )
    if name == "--ramp" and duration is None:
        raise click.UsageError("--ramp needs --duration, such as --duration 60s")
    if name == "--trace" and duration is not None:
        raise click.UsageError("--trace has a duration of its own: change it with --speed")


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
            options["side"],
            lambda number: progress.update(drawing, completed=number),
        )
    return replace(signs, unique=options["unique"])


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
