"""Memory over a long run: batch after batch through one warm system, 100,000 images in all.

The first batch is where everything is used for the first time; growth is counted from its end.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.end_to_end import draw
from benchmarks.report import Bar, Report
from benchmarks.running import ALWAYS_WARM, GROWTH, OURS, WORKERS, Measured, running


def run(quick: bool) -> Report:
    """Send ten batches of 10,000 images; `quick` sends five of 1,000."""
    size, batches = (1_000, 5) if quick else (10_000, 10)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        images = draw(home / "images", size)
        with running(home / "system", ALWAYS_WARM) as bench:
            bench.wait_for_workers(WORKERS)
            measured = [bench.batch(images) for _ in range(batches)]
    return report_of(measured)


def report_of(measured: Sequence[Measured]) -> Report:
    """Return each process's memory after each batch (of several processes, the greatest), and how it grew."""
    first, last = measured[0], measured[-1]
    figures: dict[str, float] = {"images": sum(each.images for each in measured)}
    for number, each in enumerate(measured, 1):
        figures[f"batch_{number}_images_per_second"] = each.images_per_second
        figures |= {f"batch_{number}_{name}_mb": each.resident_mb[name] for name in (*OURS, "cloud")}
    kept = (last.resident_mb["cloud"] - first.resident_mb["cloud"]) * 1024
    figures["cloud_kept_kb_an_image"] = kept / (figures["images"] - first.images)
    grown = {name: last.resident_mb[name] / first.resident_mb[name] for name in (*OURS, "cloud")}
    count = f"{figures['images']:,.0f} images"
    bars = [
        Bar(f"{name}: memory after {count} ÷ after the first batch", grown[name], at_most=GROWTH) for name in grown
    ]
    return Report("memory", figures, tuple(bars))
