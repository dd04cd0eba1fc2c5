"""A large batch by the API and through the pages in Chromium: is every file accounted for, and what does it take.

Each way has a system of its own, so no image is known from before. In the browser the files go into the upload page,
which is scrolled while it checks and sends, and then the job's page is, while results come. The browser shares the
machine with the system: an empty page beside tells for how long a page gets no processor at all.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.end_to_end import bare_images_per_second, draw
from benchmarks.in_browser import Tasks, Way, through_pages
from benchmarks.report import Bar, Report
from benchmarks.running import ALWAYS_WARM, WORKERS, Bench, running
from scripts.chromium import open_chromium
from scripts.run.images import ImageSet

COUNT: Final = 10_000
QUICK_COUNT: Final = 500
MAX_WEB_MB: Final = 300
MAX_TASK_MS: Final = 200
MIN_ACCURACY: Final = 0.99


def run(quick: bool) -> Report:
    """Send 10,000 images both ways; `quick` sends 500."""
    with tempfile.TemporaryDirectory() as scratch, open_chromium() as browser:
        home = Path(scratch)
        images = draw(home / "images", QUICK_COUNT if quick else COUNT)
        bare = bare_images_per_second(images.files[:200])
        with running(home / "api", ALWAYS_WARM) as bench:
            bench.wait_for_workers(WORKERS)
            by_api = through_api(bench, images)
        with running(home / "browser", ALWAYS_WARM) as bench:
            bench.wait_for_workers(WORKERS)
            tasks = Tasks()
            in_browser, pause = through_pages(bench, browser, images, tasks)
    return report_of(by_api, in_browser, bare, tasks.longest, pause)


def through_api(bench: Bench, images: ImageSet) -> Way:
    """Send `images` with the commands' client, and wait for every result."""
    measured = bench.batch(images)
    return Way(
        images=measured.images,
        right=measured.right,
        answered=measured.images,  # or it would have raised
        refused=0,
        seconds=measured.seconds,
        web_peak_mb=measured.peak_mb["web"],
    )


def report_of(
    by_api: Way, in_browser: Way, bare: float, longest_task_ms: Mapping[str, float], pause_ms: float
) -> Report:
    """Return both ways as flat figures with their bars; `bare` is one thread's images/s, with no system around it."""
    figures: dict[str, float] = {"images": by_api.images, "bare_images_per_second": bare}
    bars: list[Bar] = []
    for name, way in (("api", by_api), ("browser", in_browser)):
        figures |= {
            f"{name}_images_per_second": way.images_per_second,
            f"{name}_to_bare_ratio": way.images_per_second / bare,
            f"{name}_accuracy": way.right / way.images,
            f"{name}_refused": way.refused,
            f"{name}_web_peak_mb": way.web_peak_mb,
        }
        bars += [
            Bar(f"{name}: files of which nothing is known in the end", way.unaccounted, at_most=0),
            Bar(f"{name}: images with their true label, share", way.right / way.images, at_least=MIN_ACCURACY),
            Bar(f"{name}: most memory of a web process, MiB", way.web_peak_mb, at_most=MAX_WEB_MB),
        ]
    figures["browser_to_api_ratio"] = in_browser.images_per_second / by_api.images_per_second
    figures |= {f"longest_task_{stage}_ms": task for stage, task in longest_task_ms.items()}
    figures["empty_page_longest_pause_ms"] = pause_ms
    bars.append(
        Bar(
            "the finished job's page: longest task while it scrolls, ms",
            longest_task_ms["finished"],
            at_most=MAX_TASK_MS,
        )
    )
    return Report("ten_thousand", figures, tuple(bars))
