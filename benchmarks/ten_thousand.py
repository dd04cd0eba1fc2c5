"""A large batch by the API and through the pages in Chromium: is every file accounted for, and what does it take.

Each way has a system of its own, so no image is known from before. In the browser the files go into the upload page,
which is scrolled while it checks and sends, and then the job's page is, while results come. The browser shares the
machine with the system: an empty page beside measures for how long a page gets no processor at all.
"""

import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.end_to_end import bare_images_per_second, draw
from benchmarks.measure import usages
from benchmarks.report import Bar, Report
from benchmarks.running import ALWAYS_WARM, WORKERS, Bench, running
from scripts.chromium import open_chromium
from scripts.run.images import ImageSet

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

COUNT: Final = 10_000
QUICK_COUNT: Final = 500
MAX_WEB_MB: Final = 300
MAX_LAYOUTS: Final = 2.5
MIN_ACCURACY: Final = 0.99
STALLED_SECONDS: Final = 180.0
ACTION_MS: Final = 120_000
JOB_PAGE: Final = re.compile(r"/jobs/([0-9A-Z]{26})$")
SCROLLS: Final = 40
SAMPLES: Final = 3

_WATCH: Final = """
new PerformanceObserver((list) => {
    for (const task of list.getEntries()) recordTask(location.pathname, task.duration);
}).observe({ type: "longtask" });
"""
_TICK: Final = """
window.longestPause = 0;
let last = performance.now();
setInterval(() => {
    longestPause = Math.max(longestPause, performance.now() - last - 10);
    last = performance.now();
}, 10);
"""

_LAY_OUT: Final = """
() => {
    const started = performance.now();
    const list = document.createElement("ul");
    for (let number = 0; number < 5000; number++) {
        list.append(Object.assign(document.createElement("li"), { textContent: number }));
    }
    document.body.append(list);
    list.offsetHeight;
    const took = performance.now() - started;
    list.remove();
    return took;
}
"""
"""Measures how long this browser takes to lay out a list of 5,000 lines."""


@dataclass(frozen=True)
class Way:
    """What one way of sending the batch came to.

    Attributes:
        images: how many files were sent.
        right: images that got their true label.
        answered: images that got a result: a label or the reason why there is none.
        refused: files that the page or the server skipped, with the reason.
        seconds: from the first file to the last result.
        web_peak_mb: most memory that any process of the web tier ever had, in MiB.
    """

    images: int
    right: int
    answered: int
    refused: int
    seconds: float
    web_peak_mb: float

    @property
    def images_per_second(self) -> float:
        """Throughput."""
        return self.images / self.seconds

    @property
    def unaccounted(self) -> int:
        """Files of which nothing is known in the end."""
        return self.images - self.answered - self.refused


@dataclass
class Tasks:
    """The longest tasks of the pages, in milliseconds, by what was going on."""

    stage: str = "opening"
    longest: dict[str, float] = field(default_factory=dict)

    def record(self, _path: str, duration: float) -> None:
        """Record a task of a page. The browser reports only tasks of at least 50 ms."""
        self.longest[self.stage] = max(duration, self.longest.get(self.stage, 0.0))

    def enter(self, stage: str) -> None:
        """Count tasks for `stage` from now on."""
        self.stage = stage
        self.longest.setdefault(stage, 0.0)


def through_pages(bench: Bench, browser: "Browser", images: ImageSet, tasks: Tasks) -> tuple[Way, float, float]:
    """Send `images` as a person does.

    Returns:
        What came of it; the longest pause of an empty page, and its time to lay out a list, in milliseconds.
    """
    with browser.new_context(base_url=bench.system.url) as context:
        context.set_default_timeout(ACTION_MS)
        idle = context.new_page()
        idle.evaluate(_TICK)
        context.expose_function("recordTask", tasks.record)
        context.add_init_script(_WATCH)
        page = context.new_page()
        page.goto("/")
        began = time.monotonic()
        job_id, refused = _upload(page, images, tasks)
        seconds = _follow(bench, page, job_id, tasks) - began
        longest = []
        for _ in range(SAMPLES):  # the best of several samples is the page's own
            tasks.longest.pop("finished", None)
            tasks.enter("finished")
            page.evaluate("scrollTo(0, 0)")
            for _ in range(SCROLLS):
                page.mouse.wheel(0, 4_000)
                page.wait_for_timeout(50)
            longest.append(tasks.longest["finished"])
        tasks.longest["finished"] = min(longest)
        pause = float(idle.evaluate("longestPause"))
        layout_ms = min(float(idle.evaluate(_LAY_OUT)) for _ in range(SAMPLES))
    results = {str(result["filename"]): result for result in bench.api.results(job_id)}
    answered = [name for name, result in results.items() if result["status"] in {"done", "failed"}]
    web = bench.system.supervisor.pid("web")
    used = usages([web] if web is not None else [])
    way = Way(
        images=len(images.files),
        right=sum(images.truth[name] == results[name].get("label") for name in answered),
        answered=len(answered),
        refused=refused,
        seconds=seconds,
        web_peak_mb=max((each.peak_mb for each in used.values()), default=0.0),
    )
    return way, pause, layout_ms


def _upload(page: "Page", images: ImageSet, tasks: Tasks) -> tuple[str, int]:
    """Hand the files to the page and send them; return the job, and how many files were skipped."""
    tasks.enter("choosing")
    page.locator("#images").set_input_files(images.files)
    page.locator("#count", has_text=f"{len(images.files):,} images").wait_for()
    tasks.enter("uploading")
    page.locator("#send").click()
    while not JOB_PAGE.search(page.url):
        _scroll(page)
    skipped = re.sub(r"\D", "", page.locator("#skipped summary").inner_text())
    return page.url.rpartition("/")[2], int(skipped or 0)


def _follow(bench: Bench, page: "Page", job_id: str, tasks: Tasks) -> float:
    """Scroll the job's page while results come; return when it showed the last one, or no new one for long."""
    tasks.enter("results")
    shown, since = -1, time.monotonic()
    while time.monotonic() - since < STALLED_SECONDS:
        _scroll(page)
        status = bench.api.status(job_id)
        figures = page.locator('[data-slot="done"], [data-slot="failed"]').all_inner_texts()
        counted = sum(int(text.replace(",", "")) for text in figures)
        if not status["waiting"] and counted == status["accepted"]:
            break
        if counted != shown:
            shown, since = counted, time.monotonic()
    return time.monotonic()


def _scroll(page: "Page") -> None:
    page.mouse.move(400, 500)
    page.mouse.wheel(0, 3_000)
    page.wait_for_timeout(100)


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
            in_browser, pause, layout_ms = through_pages(bench, browser, images, tasks)
    return report_of(by_api, in_browser, bare, tasks.longest, pause, layout_ms)


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
    by_api: Way,
    in_browser: Way,
    bare: float,
    longest_task_ms: Mapping[str, float],
    pause_ms: float,
    layout_ms: float,
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
            Bar(f"{name}: most memory of a web process, MiB: a bound of size", way.web_peak_mb, at_most=MAX_WEB_MB),
        ]
    figures["browser_to_api_ratio"] = in_browser.images_per_second / by_api.images_per_second
    figures |= {f"longest_task_{stage}_ms": task for stage, task in longest_task_ms.items()}
    figures |= {"empty_page_longest_pause_ms": pause_ms, "empty_page_layout_ms": layout_ms}
    bars.append(
        Bar(
            "the finished job's page: longest task while it scrolls ÷ layout of a list of 5,000 lines",
            longest_task_ms["finished"] / layout_ms,
            at_most=MAX_LAYOUTS,
        )
    )
    return Report("ten_thousand", figures, tuple(bars))
