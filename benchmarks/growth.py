"""Jobs of growing size through one warm system: time and CPU an image, memory of each process, and the job's page.

Each job is ten times as large as the one before. What an image costs must not depend on the size of its job, nor on
how many images the system has answered before.
"""

import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Final

import requests

from benchmarks.end_to_end import draw
from benchmarks.report import Bar, Report
from benchmarks.running import ALWAYS_WARM, GROWTH, OURS, PATIENCE_SECONDS, WORKERS, Bench, Measured, running
from scripts.run.images import ImageSet

SIZES: Final = (1_000, 10_000, 100_000)
QUICK_SIZES: Final = (200, 1_000, 5_000)
DRAWN: Final = 2_000
"""Signs that are drawn; files of a larger job are copies."""
MAX_DEARER: Final = 1.1
"""What an image of a job costs ÷ an image of a job of a tenth of the size."""
PAGE_SAMPLES: Final = 9
FIRST_RESULTS: Final = 100


def run(quick: bool) -> Report:
    """Measure jobs of 1,000, 10,000 and 100,000 images; `quick` measures 200, 1,000 and 5,000."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        drawn = draw(home / "drawn", DRAWN)
        with running(home / "system", ALWAYS_WARM) as bench:
            bench.wait_for_workers(WORKERS)
            bench.batch(ImageSet("warm-up", drawn.files[:200], drawn.truth))
            sizes = QUICK_SIZES if quick else SIZES
            jobs, page_s = [], []
            for size in sizes:
                jobs.append(bench.batch(enlarged(drawn, size, home / str(size))))
                page_s.append(page_seconds(bench))
    return growth_report(jobs, page_s)


def enlarged(images: ImageSet, count: int, folder: Path) -> ImageSet:
    """Return `count` files in `folder`, copies of `images` in turn."""
    folder.mkdir()
    files, truth = [], {}
    for number, file in enumerate(islice(cycle(images.files), count)):
        copy = folder / f"{number:06d}-{file.name}"
        copy.write_bytes(file.read_bytes())
        files.append(copy)
        truth[copy.name] = images.truth[file.name]
    return ImageSet(f"growth-{count}", files, truth)


def page_seconds(bench: Bench) -> float:
    """Return how long the server takes for the newest job's page, status and first results; fastest of several."""
    url, job_id, samples = bench.system.url, str(next(bench.api.jobs(page=1))["job_id"]), list[float]()
    for _ in range(PAGE_SAMPLES):
        started = time.perf_counter()
        requests.get(f"{url}/jobs/{job_id}", timeout=PATIENCE_SECONDS).raise_for_status()
        bench.api.status(job_id)
        bench.api.results_page(job_id, None, FIRST_RESULTS)
        samples.append(time.perf_counter() - started)
    return min(samples)


def growth_report(jobs: Sequence[Measured], page_s: Sequence[float]) -> Report:
    """Return the figures of each job, and how an image of a larger one compares with one of a smaller one."""
    figures: dict[str, float] = {}
    for measured, seconds in zip(jobs, page_s, strict=True):
        figures |= {
            f"job_{measured.images}_images_per_second": measured.images_per_second,
            f"job_{measured.images}_page_ms": 1e3 * seconds,
            f"job_{measured.images}_others_cores": measured.others_cores,
            **{f"job_{measured.images}_{name}_cpu_ms": measured.cpu_ms[name] for name in (*OURS, "cloud")},
            **{f"job_{measured.images}_{name}_mb": measured.resident_mb[name] for name in (*OURS, "cloud")},
        }
    smallest, largest = jobs[0], jobs[-1]
    kept = (largest.resident_mb["cloud"] - smallest.resident_mb["cloud"]) * 1024
    figures["cloud_kept_kb_an_image"] = kept / sum(job.images for job in jobs[1:])
    bars = []
    for (small, small_page_s), (large, large_page_s) in pairwise(zip(jobs, page_s, strict=True)):
        count = f"a job of {large.images:,} images ÷ one of {small.images:,}"
        cpu_ms = [sum(job.cpu_ms[name] for name in OURS) for job in (small, large)]
        slower = small.images_per_second / large.images_per_second
        bars += [
            Bar(f"{count}: time an image", slower, at_most=MAX_DEARER),
            Bar(f"{count}: CPU of web, controller and workers an image", cpu_ms[1] / cpu_ms[0], at_most=MAX_DEARER),
            Bar(f"{count}: time of the job's page", large_page_s / small_page_s, at_most=MAX_DEARER),
        ]
    bars += [
        Bar(
            f"{name}: memory after the largest job ÷ after the smallest",
            largest.resident_mb[name] / smallest.resident_mb[name],
            at_most=GROWTH,
        )
        for name in (*OURS, "cloud")
    ]
    return Report("growth", figures, tuple(bars))
