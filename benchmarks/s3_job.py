"""A job of images in a bucket: its time beside that of the same images by the API, also with a killed controller.

The API and the bucket have a system each, so no image is known from before. The second job from the bucket loses its
controller when it has listed half of the source: another one continues, and each image is there once.
"""

import os
import signal
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.end_to_end import draw
from benchmarks.report import Bar, Report
from benchmarks.running import ALWAYS_WARM, WORKERS, Bench, running
from scripts.run.images import ImageSet

COUNT: Final = 10_000
QUICK_COUNT: Final = 600
BUCKET: Final = "photos"
SOURCE: Final = f"s3://{BUCKET}/signs"
MIN_ACCURACY: Final = 0.99
MAX_RATIO: Final = 2.0
"""Most time of the job from S3 beside the same images by the API."""
POLL_SECONDS: Final = 0.2
MAX_SECONDS: Final = 900.0
PUTS_AT_ONCE: Final = 8


@dataclass(frozen=True)
class SourceJob:
    """What a job from the bucket came to: images of which none, or more than one, is there; and its seconds."""

    lost: int
    doubled: int
    right: int
    listing_seconds: float
    seconds: float


def run(quick: bool) -> Report:
    """Classify 10,000 images in a bucket twice; `quick` 600."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        images = draw(home / "images", QUICK_COUNT if quick else COUNT)
        with running(home / "api", ALWAYS_WARM) as bench:
            bench.wait_for_workers(WORKERS)
            by_api = bench.batch(images).seconds
        allowed = {"FLEETSIGHT__IMPORTS__SOURCES": f"[{{location: '{SOURCE}'}}]"}
        with running(home / "s3", {**ALWAYS_WARM, **allowed}) as bench:
            put_images(bench, images)
            bench.wait_for_workers(WORKERS)
            plain, killed = from_source(bench, images), from_source(bench, images, kills=True)
    figures: dict[str, float] = {
        "images": len(images.files),
        "s3_to_api_time_ratio": plain.seconds / by_api,
        "listing_share_of_time": plain.listing_seconds / plain.seconds,
        "killed_to_plain_time_ratio": killed.seconds / plain.seconds,
        "accuracy": plain.right / len(images.files),
    }
    bars = [Bar("time from S3 ÷ by the API", figures["s3_to_api_time_ratio"], at_most=MAX_RATIO)]
    for name, job in (("plain", plain), ("controller killed", killed)):
        bars += [
            Bar(f"{name}: images lost", job.lost, at_most=0),
            Bar(f"{name}: images doubled", job.doubled, at_most=0),
            Bar(f"{name}: images with their true label, share", job.right / len(images.files), at_least=MIN_ACCURACY),
        ]
    return Report("s3_job", figures, tuple(bars))


def put_images(bench: Bench, images: ImageSet) -> None:
    """Put the images into a bucket that the system does not own."""
    s3 = bench.system.clients.s3
    s3.create_bucket(Bucket=BUCKET)

    def put(path: Path) -> None:
        s3.put_object(Bucket=BUCKET, Key=f"signs/{path.name}", Body=path.read_bytes())

    with ThreadPoolExecutor(PUTS_AT_ONCE) as pool:
        list(pool.map(put, images.files))


def from_source(bench: Bench, images: ImageSet, *, kills: bool = False) -> SourceJob:
    """Make a job of the bucket and wait for its results; with `kills`, kill the controller once.

    Raises:
        TimeoutError: the job is not finished after `MAX_SECONDS`.
    """
    began, listed_after, is_due = time.monotonic(), 0.0, kills
    job_id = bench.api.create_job("from S3", source=SOURCE)
    while (status := bench.api.status(job_id))["state"] != "finished":
        source, so_far = status["source"], time.monotonic() - began
        if is_due and source["listed"] >= len(images.files) / 2:
            is_due, pid = False, bench.system.supervisor.pid("controller")
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
        if not listed_after and source["state"] == "complete":
            listed_after = so_far
        if so_far > MAX_SECONDS:
            raise TimeoutError(f"the job from S3 is not finished after {so_far:.0f} s: {status}")
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - began
    names, right = Counter[str](), 0
    for result in bench.api.results(job_id):
        names[str(result["filename"])] += 1
        right += images.truth[str(result["filename"])] == result["label"]
    lost = sum(path.name not in names for path in images.files)
    return SourceJob(lost, sum(names.values()) - len(names), right, listed_after or seconds, seconds)
