"""Does a job of 100,000 images delay a single image of another user?

One worker has a core to itself, and the rest of the system has another, so that they do not share a CPU, as on AWS.
The images are as costly to decode as photos: the worker is the bottleneck, and the local cloud, which shares its core
with the web tier and the controller, is not (`rest_busy_share`). While images are classified, it answers as late as
S3 and SQS do within a region. Single images are sent one after another, first to the idle fleet and then beside the
job, by the classic contract: the answer to a POST is the label. The job is uploaded before the worker starts.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from PIL import Image

from benchmarks.end_to_end import bare_images_per_second, classify_singles, unseen
from benchmarks.local_services import REGION_DELAYS, set_delays
from benchmarks.measure import busy_seconds, percentile, pinned, tree, two_cores
from benchmarks.report import Bar, Report
from benchmarks.running import Bench, running
from scripts.client import FleetClient
from scripts.load.runner import run_concurrently
from scripts.run.images import draw_signs

JOB_IMAGES: Final = 100_000
QUICK_JOB_IMAGES: Final = 2_000
SINGLE_IMAGES: Final = 200
QUICK_SINGLE_IMAGES: Final = 20
DRAWN: Final = 200
DRAWN_SIDE: Final = 64
ENLARGED: Final = 16
"""Each pixel of a drawn sign becomes a square with so many pixels a side: a PNG of a megapixel in 20 KB, so that
100,000 of them fit into the local cloud's memory."""

BATCH_FILES: Final = 50
UPLOADERS: Final = 4
MAX_RATIO: Final = 2.0
PATIENCE_SECONDS: Final = 600.0
ONE_WORKER: Final = {
    "FLEETSIGHT__FLEET__MIN_WORKERS": "1",
    "FLEETSIGHT__FLEET__MAX_WORKERS": "1",
    "FLEETSIGHT__WORKER__IDLE_SECONDS": "600",
    "FLEETSIGHT__WORKER__THREADS": "1",
}


def run(quick: bool) -> Report:
    """Compare 200 single images with and without a job of 100,000 beside them; `quick`: 20, beside 2,000."""
    worker_core, other_core = two_cores()
    singles = QUICK_SINGLE_IMAGES if quick else SINGLE_IMAGES
    with tempfile.TemporaryDirectory() as scratch, pinned(other_core):
        home = Path(scratch)
        files = _draw(home / "images")
        with running(home / "system", ONE_WORKER) as bench:
            _start_worker(bench, worker_core)
            alone = classify_singles(bench, files, singles)
            _stop_worker(bench)
            job_id = _upload(bench, files, QUICK_JOB_IMAGES if quick else JOB_IMAGES)
            _start_worker(bench, worker_core)
            while not bench.api.status(job_id)["done"]:
                time.sleep(1)
            before, began, busy_before = bench.api.status(job_id), time.monotonic(), busy_seconds(other_core)
            beside = classify_singles(bench, files, singles)
            after, seconds = bench.api.status(job_id), time.monotonic() - began
            rest_busy_share = (busy_seconds(other_core) - busy_before) / seconds
        with pinned(worker_core):
            bare = bare_images_per_second(files)
    throughput = (after["done"] - before["done"]) / seconds
    figures = {
        "job_images": after["accepted"],
        "job_waiting_at_the_end": after["waiting"],
        "job_images_per_second": throughput,
        "job_to_bare_ratio": throughput / bare,
        "rest_busy_share": rest_busy_share,
    }
    for name, latencies in (("alone", alone), ("beside", beside)):
        figures |= {f"{name}_p{percent}_ms": percentile(latencies, percent) * 1000 for percent in (50, 95, 99)}
    ratios = {percent: percentile(beside, percent) / percentile(alone, percent) for percent in (50, 95)}
    figures |= {f"p{percent}_ratio": ratio for percent, ratio in ratios.items()}
    return Report(
        "fairness",
        figures,
        (
            Bar("p95 of a single image beside the job ÷ without it", ratios[95], at_most=MAX_RATIO),
            Bar("images of the job that still wait at the end", after["waiting"], at_least=1),
        ),
    )


def _draw(folder: Path) -> list[Path]:
    """Return drawn signs as files that take long to decode."""
    files = []
    for name in draw_signs(folder, DRAWN, seed=11, side=DRAWN_SIDE):
        with Image.open(folder / name) as drawn:
            pixels = drawn.convert("RGB").resize((DRAWN_SIDE * ENLARGED,) * 2, Image.Resampling.NEAREST)
        file = (folder / name).with_suffix(".png")
        pixels.save(file)
        files.append(file)
    return files


def _start_worker(bench: Bench, core: int) -> None:
    """Start the worker on a core of its own; from now on the services answer as late as within a region."""
    with closing(FleetClient(bench.system.url)) as client:
        client.resume()
    bench.wait_for_workers(1)
    _pin(bench, core)
    set_delays(bench.system.endpoint_url, REGION_DELAYS)


def _stop_worker(bench: Bench) -> None:
    """End the worker, so that the job that is uploaded next waits as a whole."""
    set_delays(bench.system.endpoint_url, {})
    with closing(FleetClient(bench.system.url)) as client:
        client.pause("a job is uploaded")
    bench.fleet.terminate([instance.instance_id for instance in bench.fleet.instances()])


def _pin(bench: Bench, core: int) -> None:
    """Let the worker, all its threads and its processes, run on `core` alone.

    Raises:
        RuntimeError: there is no worker.
    """
    stats = (bench.system.state_dir / "instances").glob("*/process")
    workers = {int(text.split()[0]) for stat in stats if (text := stat.read_text())}
    if not workers:
        raise RuntimeError("the fleet has no worker's process")
    for worker in workers:
        for pid in tree(worker):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})


def _upload(bench: Bench, files: Sequence[Path], count: int) -> str:
    """Upload a job of `count` images and return its id.

    Raises:
        RuntimeError: an image was rejected.
    """
    job_id = bench.api.create_job("a large job")

    def upload(batch: Sequence[Path]) -> None:
        result = bench.api.add_images(job_id, [(file.name, unseen(file)) for file in batch])
        if result.rejected:
            raise RuntimeError(f"an image was rejected: {result.rejected[0]}")

    run_concurrently(_batches(files, count), UPLOADERS, upload, threading.Event())
    return job_id


def _batches(files: Sequence[Path], count: int) -> Iterator[list[Path]]:
    every = islice(cycle(files), count)
    while batch := list(islice(every, BATCH_FILES)):
        yield batch
