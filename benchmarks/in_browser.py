"""A batch through the pages in Chromium, scrolled all the while: how long they were busy, and what came of it."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from benchmarks.measure import usages
from benchmarks.running import Bench
from scripts.run.images import Images

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STALLED_SECONDS: Final = 180.0
ACTION_MS: Final = 120_000
JOB_PAGE: Final = re.compile(r"/jobs/([0-9A-Z]{26})$")
SCROLLS: Final = 40
LOOKS: Final = 3

_WATCH: Final = """
new PerformanceObserver((list) => {
    for (const task of list.getEntries()) tellTask(location.pathname, task.duration);
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


@dataclass(frozen=True)
class Way:
    """What one way of sending the batch came to.

    Attributes:
        images: how many files were sent.
        right: images that got their true label.
        answered: images that got a result: a label or the reason why there is none.
        refused: files that were not taken, with the reason.
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

    def hear(self, _path: str, duration: float) -> None:
        """Note a task of a page; a task under 50 ms is none that the browser tells of."""
        self.longest[self.stage] = max(duration, self.longest.get(self.stage, 0.0))

    def enter(self, stage: str) -> None:
        """Count tasks for `stage` from now on."""
        self.stage = stage
        self.longest.setdefault(stage, 0.0)


def through_pages(bench: Bench, browser: "Browser", images: Images, tasks: Tasks) -> tuple[Way, float]:
    """Send `images` as a person does; return what came of it, and the longest pause of an empty page in ms."""
    with browser.new_context(base_url=bench.system.url) as context:
        context.set_default_timeout(ACTION_MS)
        idle = context.new_page()
        idle.evaluate(_TICK)
        context.expose_function("tellTask", tasks.hear)
        context.add_init_script(_WATCH)
        page = context.new_page()
        page.goto("/")
        began = time.monotonic()
        job_id, refused = _upload(page, images, tasks)
        seconds = _follow(bench, page, job_id, tasks) - began
        tasks.longest["finished"] = min(_scroll_through(page, tasks) for _ in range(LOOKS))
        pause = float(idle.evaluate("longestPause"))
    results = {str(result["filename"]): result for result in bench.api.results(job_id)}
    return _way(bench, images, results, refused, seconds), pause


def _upload(page: "Page", images: Images, tasks: Tasks) -> tuple[str, int]:
    """Hand the files to the page and send them; return the job, and how many files were not taken."""
    tasks.enter("choosing")
    page.locator("#images").set_input_files(images.files)
    page.locator("#count", has_text=f"{len(images.files):,} images").wait_for()
    tasks.enter("uploading")
    page.locator("#send").click()
    while not (JOB_PAGE.search(page.url) or page.locator("#said", has_text="not taken").count()):
        _scroll(page)
    match = JOB_PAGE.search(page.url)
    if match is not None:
        return match[1], 0
    refused = re.sub(r"\D", "", page.locator("#refusedCount").inner_text())
    page.locator("#follow").click()
    page.wait_for_url(JOB_PAGE)
    return page.url.rpartition("/")[2], int(refused)


def _follow(bench: Bench, page: "Page", job_id: str, tasks: Tasks) -> float:
    """Scroll the job's page while results come; return when it showed the last one, or no new one for long."""
    tasks.enter("results")
    shown, since = -1, time.monotonic()
    while time.monotonic() - since < STALLED_SECONDS:
        _scroll(page)
        status = bench.api.status(job_id)
        figures = page.locator('[data-slot="done"], [data-slot="failed"]').all_inner_texts()
        told = sum(int(text.replace(",", "")) for text in figures)
        if not status["waiting"] and told == status["accepted"]:
            break
        if told != shown:
            shown, since = told, time.monotonic()
    return time.monotonic()


def _scroll(page: "Page") -> None:
    page.mouse.move(400, 500)
    page.mouse.wheel(0, 3_000)
    page.wait_for_timeout(100)


def _scroll_through(page: "Page", tasks: Tasks) -> float:
    """Return the longest task of a job's page that only scrolls; the best of several looks is the page's own."""
    tasks.longest.pop("finished", None)
    tasks.enter("finished")
    page.evaluate("scrollTo(0, 0)")
    for _ in range(SCROLLS):
        page.mouse.wheel(0, 4_000)
        page.wait_for_timeout(50)
    return tasks.longest["finished"]


def _way(bench: Bench, images: Images, results: Mapping[str, Mapping[str, Any]], refused: int, seconds: float) -> Way:
    web = bench.system.supervisor.pid("web")
    used = usages([web] if web is not None else [])
    answered = [name for name, result in results.items() if result["status"] in {"done", "failed"}]
    return Way(
        images=len(images.files),
        right=sum(images.truth[name] == results[name].get("label") for name in answered),
        answered=len(answered),
        refused=refused,
        seconds=seconds,
        web_peak_mb=max((each.peak_mb for each in used.values()), default=0.0),
    )
