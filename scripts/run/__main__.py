"""Starts the whole system on this machine, sends a batch through it, and keeps serving until it is told to end."""

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from scripts.client import ApiClient
from scripts.run.batch import Batch, InterruptedBatchError, Summary
from scripts.run.cost import cost_of
from scripts.run.display import LiveBar, show_summary
from scripts.run.images import Images, images_in, sample_images
from scripts.run.system import ROOT, StartError, System
from services.errors import FleetsightError

FLEET_END_SECONDS = 30.0
"""With --once: how long after its last image the fleet may take to end itself, beyond the workers' idle time."""


_FIGURES = (
    *("job_id", "started_at", "images", "right", "wrong", "failed", "lost"),
    *("images_per_second", "peak_workers", "first_result_s", "last_result_s"),
)


@click.command()
@click.option("--once", is_flag=True, help="End after the batch; status 1 when any image is lost or failed.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the summary to this file.")
@click.option("--images", "folder", type=click.Path(path_type=Path), help="Classify the images in this folder.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port of the page; by default web.port of config.yaml.")
def main(once: bool, json_file: Path | None, folder: Path | None, port: int | None) -> None:
    """Run Fleetsight on this machine and classify 100 drawn road signs, or the images of a folder."""
    logging.basicConfig(level=logging.WARNING, format="fleetsight: %(message)s")
    stop = _stop_on_signals()
    try:
        sys.exit(_run(stop, once, json_file, folder, port))
    except FleetsightError as error:
        print(f"fleetsight: {error}", file=sys.stderr)
        sys.exit(130 if isinstance(error, InterruptedBatchError) else 2)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    return stop


def _run(stop: threading.Event, once: bool, json_file: Path | None, folder: Path | None, port: int | None) -> int:
    console = Console()
    home = ROOT / ".fleetsight"
    images = images_in(folder) if folder is not None else sample_images(home / "samples")
    overrides = {} if port is None else {"FLEETSIGHT__WEB__PORT": str(port)}
    system = System(home / "run", overrides)
    system.state_dir = home / f"run-{system.config.web.port}"
    if system.config.worker.engine == "torch":
        subprocess.run([str(ROOT / "scripts" / "setup.sh"), "run", "torch"], check=True)
    try:
        system.start()
        console.print(f"Fleetsight is at {system.url}. {len(images.files)} images are on their way through it.")
        summary = _classify(system, images, console, stop)
        _report(system, summary, console, json_file)
        if once:
            _await_the_fleet_end(system, console, stop, FLEET_END_SECONDS + system.config.worker.idle_seconds)
            return 0 if summary.ok else 1
        _serve(system, console, stop, summary)
        return 0
    finally:
        system.stop()


def _classify(system: System, images: Images, console: Console, stop: threading.Event) -> Summary:
    def interrupted() -> bool:
        return stop.is_set() or system.supervisor.failed.is_set()

    with LiveBar(console) as bar:
        return Batch(ApiClient(system.url), images, bar.show, interrupted).run()


def _await_the_fleet_end(system: System, console: Console, stop: threading.Event, seconds: float) -> bool:
    """Wait until the workers have ended themselves, and say so; tell whether they have within `seconds`."""
    client, started = ApiClient(system.url), time.monotonic()
    while not stop.wait(0.1) and time.monotonic() - started < seconds:
        if system.supervisor.failed.is_set():
            raise StartError(system.supervisor.failure)
        fleet = client.fleet()
        if fleet is not None and fleet["running"] + fleet["pending"] <= system.config.fleet.min_workers:
            waited = time.monotonic() - started
            console.print(f"The fleet ended itself: {fleet['peak_workers']} → {fleet['running']} in {waited:.1f} s.")
            return True
    return False


def _report(system: System, summary: Summary, console: Console, json_file: Path | None) -> None:
    fleet = ApiClient(system.url).fleet()
    cost = cost_of(float(fleet["billed_seconds"]) if fleet else 0.0, system.config)
    show_summary(console, summary, cost)
    if json_file is not None:
        figures = {name: getattr(summary, name) for name in _FIGURES}
        json_file.write_text(json.dumps({**figures, "cost_dollars": round(cost.dollars, 6)}, indent=2) + "\n")


def _serve(system: System, console: Console, stop: threading.Event, summary: Summary) -> None:
    console.print(f"The page is at {system.url} and this batch at {system.url}/jobs/{summary.job_id}.")
    console.print("Everything is in this command's memory and ends with it: Ctrl-C.")
    _await_the_fleet_end(system, console, stop, float("inf"))
    while not stop.wait(0.5):
        if system.supervisor.failed.is_set():
            raise StartError(system.supervisor.failure)


if __name__ == "__main__":
    main()
