"""The memory and the speed of `fleetsight classify`, by the number of files: up to 100,000 into a real system.

The fleet is paused, since only the client is measured, and `--no-wait` ends it when all images are accepted.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.measure import usage_of
from benchmarks.report import Bar, Report
from benchmarks.running import GROWTH, Bench, running
from scripts.client import FleetClient
from scripts.run.images import draw_signs

FEW: Final = 10_000
MANY: Final = 100_000
QUICK: Final = (500, 5_000)
"""Numbers of files with `--quick`."""

DRAWN: Final = 100
SAMPLE_SECONDS: Final = 0.02
"""The pause between two samples of the command's peak; the last one before it ends counts."""


def run(quick: bool) -> Report:
    """Measure few files, and ten times as many."""
    few, many = QUICK if quick else (FEW, MANY)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        draw_signs(home / "drawn", DRAWN, seed=17, side=32)
        contents = [file.read_bytes() for file in sorted((home / "drawn").glob("*.*")) if file.suffix != ".csv"]
        with running(home / "system", {}) as bench:
            FleetClient(bench.system.url).pause("only the client is measured")
            peaks, seconds = {}, {}
            for count in (few, many):
                folder = home / f"photos-{count}"
                write_files(folder, contents, count)
                peaks[count], seconds[count] = classify(bench, folder, home)
    figures = {f"peak_mb_{count}": peak for count, peak in peaks.items()}
    figures |= {f"files_per_second_{count}": count / took for count, took in seconds.items()}
    bar = Bar(f"peak memory for {many:,} files ÷ for {few:,}", peaks[many] / peaks[few], at_most=GROWTH)
    return Report("client", figures, (bar,))


def write_files(folder: Path, contents: list[bytes], count: int) -> None:
    """Write `count` different images: decoders do not read past an image's end."""
    for number in range(count):
        file = folder / f"day{number // 1_000:03}" / f"IMG_20261124_{number:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents[number % len(contents)] + f"{folder.name} {number}".encode())


def classify(bench: Bench, folder: Path, home: Path) -> tuple[float, float]:
    """Send a folder; return the peak of the command's memory in MB, and its seconds.

    Raises:
        RuntimeError: the command fails.
    """
    command = (
        sys.executable,
        "-m",
        "fleetsight_client",
        "classify",
        str(folder),
        "--no-wait",
        "--url",
        bench.system.url,
    )
    environment = {**os.environ, "XDG_STATE_HOME": str(home / "state")}
    started, peak = time.monotonic(), 0.0
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            usage = usage_of(process.pid)
            peak = max(peak, 0.0 if usage is None else usage.peak_mb)
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise RuntimeError(f"the command ended with status {process.returncode}")
    return peak, time.monotonic() - started
