"""What a newcomer waits for: a fresh clone to its finished batch of 100 images, then the same command again.

The batch of the second start is also set against one worker's bare pipeline on one core: decode and classify the same
hundred images in this process, without queue, bucket or page.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.end_to_end import bare_images_per_second
from benchmarks.report import Bar, Report, seconds_of
from scripts.run.images import sample_images
from scripts.run.system import ROOT, free_port

FIRST_SECONDS = 180.0
SECOND_RATIO = 8.0
MAX_SECONDS = 600.0

BARE_PROGRAM = """
import sys
from app_tier.bundle import load_bundle
from app_tier.engines import open_engine
from app_tier.preprocess import load_pixels
bundle = load_bundle()
engine = open_engine("openvino", bundle, threads=1)
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        engine.infer(load_pixels(file.read(), bundle.manifest.preprocess)[None])
"""
"""The least program that classifies files."""


@dataclass(frozen=True)
class _Run:
    """One start of the command: seconds until it ended, and its summary."""

    seconds: float
    summary: dict[str, Any]

    @property
    def until_batch(self) -> float:
        """Seconds from typing the command to the last result."""
        return float(self.summary["started_s"]) + float(self.summary["last_result_s"])


def run(quick: bool) -> Report:
    """Measure both starts in a fresh clone; `quick` measures two starts in this checkout."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = ROOT if quick else Path(scratch) / "fleetsight"
        if not quick:  # what is committed: no environment, no samples, no compiled modules
            git = shutil.which("git") or "git"
            subprocess.run([git, "clone", "--quiet", str(ROOT), str(folder)], check=True, timeout=60)
        first, second = _start(folder), _start(folder)
        files = sample_images(Path(scratch) / "samples").files
        bare = len(files) / bare_images_per_second(files)
        program_s = seconds_of(partial(_classify_bare, files), 2, time.monotonic)
    figures = {
        "bare_program_s": program_s,
        "first_until_batch_s": first.until_batch,
        "second_until_batch_s": second.until_batch,
        "second_until_end_s": second.seconds,
        "second_batch_s": float(second.summary["last_result_s"]),
        "bare_batch_s": bare,
        "batch_to_bare_ratio": float(second.summary["last_result_s"]) / bare,
        "images_per_second": float(second.summary["images_per_second"]),
        "right": float(second.summary["right"]),
        "peak_workers": float(second.summary["peak_workers"]),
    }
    return Report(
        "first_run",
        figures,
        (
            Bar(
                "first start, s to the finished batch: a bound of patience, most of it are downloads",
                first.until_batch,
                at_most=FIRST_SECONDS,
            ),
            Bar(
                "second start, time to the finished batch ÷ that of the least program for the same images",
                second.until_batch / program_s,
                at_most=SECOND_RATIO,
            ),
            Bar("right answers of 100", float(min(first.summary["right"], second.summary["right"])), at_least=99),
        ),
    )


def _classify_bare(files: Sequence[Path]) -> None:
    command = [sys.executable, "-c", BARE_PROGRAM, *map(str, files)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=MAX_SECONDS)


def _start(folder: Path) -> _Run:
    command = [str(folder / "scripts" / "run.sh"), "--once", "--port", str(free_port())]
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    with tempfile.TemporaryDirectory() as scratch:
        summary = Path(scratch) / "summary.json"
        started = time.time()
        subprocess.run(
            [*command, "--json", str(summary)],
            cwd=folder,
            env=environment,
            check=True,
            timeout=MAX_SECONDS,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.time() - started
        figures = json.loads(summary.read_text())
        return _Run(seconds, figures | {"started_s": figures["started_at"] - started})
