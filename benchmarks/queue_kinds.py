"""What FIFO queues cost beside standard ones: seconds and billed seconds of a batch in which workers are killed.

Both kinds get the same images, and workers are killed at the same shares of the batch, so that luck does not decide
which kind has more work to repeat. Each kill costs a launch, with the billed minimum, and the messages that the
worker held wait for their visibility timeout. Near the end of a batch the other workers have nothing to do meanwhile.
"""

import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Literal

from benchmarks.end_to_end import draw
from benchmarks.report import Bar, Report
from benchmarks.running import Bench, running
from scripts.chaos.strikes import workers
from scripts.run.batch import Batch, BatchProgress
from scripts.run.images import ImageSet

IMAGES: Final = 3_000
QUICK_IMAGES: Final = 600
ROUNDS: Final = 3
KILLED_AT: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the batch that have a result when a worker is killed."""

MAX_RATIO: Final = 1.25
"""Bar: FIFO ÷ standard."""

DRAIN_SECONDS: Final = 120.0
SETTINGS: Final = {"FLEETSIGHT__FLEET__MAX_WORKERS": "4", "FLEETSIGHT__WORKER__IDLE_SECONDS": "2"}

Kind = Literal["standard", "fifo"]


@dataclass(frozen=True)
class Cost:
    """What one batch took, from the first upload to the last result, and how many instance-seconds were billed."""

    seconds: float
    billed_seconds: float


def run(quick: bool) -> Report:
    """Send a batch through each kind in turn, three times or, if `quick`, once; the medians count."""
    with tempfile.TemporaryDirectory() as scratch:
        images = draw(Path(scratch) / "images", QUICK_IMAGES if quick else IMAGES)
        costs: dict[Kind, list[Cost]] = {"standard": [], "fifo": []}
        for turn in range(1 if quick else ROUNDS):
            for kind, measured in costs.items():
                settings = {**SETTINGS, "FLEETSIGHT__QUEUES__KIND": kind}
                with running(Path(scratch) / f"{kind}-{turn}", settings) as bench:
                    measured.append(batch_with_kills(bench, images))
    seconds = {kind: median(cost.seconds for cost in costs[kind]) for kind in costs}
    billed = {kind: median(cost.billed_seconds for cost in costs[kind]) for kind in costs}
    return Report(
        "queue_kinds",
        {f"{kind}_s": seconds[kind] for kind in costs} | {f"{kind}_billed_s": billed[kind] for kind in costs},
        (
            Bar("a batch with FIFO queues ÷ with standard ones", seconds["fifo"] / seconds["standard"], MAX_RATIO),
            Bar("instance-seconds billed with FIFO ÷ standard", billed["fifo"] / billed["standard"], MAX_RATIO),
        ),
    )


def batch_with_kills(bench: Bench, images: ImageSet) -> Cost:
    """Send `images` and kill a worker each time so many have a result; wait until the fleet has ended.

    Raises:
        RuntimeError: an image got no result.
        TimeoutError: the fleet did not end.
    """
    left = [round(share * len(images.files)) for share in KILLED_AT]

    def kill_when_due(progress: BatchProgress) -> None:
        if left and progress.classified >= left[0] and (running_now := workers(bench.system)):
            left.pop(0)
            os.kill(running_now[0].pid, signal.SIGKILL)

    summary = Batch(bench.api, images, kill_when_due).run()
    if not summary.ok:
        raise RuntimeError(f"{summary.failed} images failed, {summary.lost} were lost: {summary.failures[:3]}")
    deadline = time.monotonic() + DRAIN_SECONDS
    while (fleet := bench.api.fleet()) is None or fleet["running"] + fleet["pending"]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the fleet has not ended after {DRAIN_SECONDS:.0f} s: {fleet}")
        time.sleep(0.2)
    return Cost(summary.last_result_s, fleet["billed_seconds"])
