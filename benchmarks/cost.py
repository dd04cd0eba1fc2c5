"""What requests to AWS cost for a million images, by the recorded calls of a run, beside the price that pages show.

Two warm workers classify photos of noise, which are sent in each way that users have. The local cloud records the
calls of the tiers and of presigned forms with what AWS bills for them (`benchmarks.billed_calls`), at the prices of
`config.yaml`.

A job counts from its first call until it is deleted and nothing of it is left. For each way two jobs are compared, of
which the second has more images: the difference is the cost of these. So what a job costs once is no part of it, nor
its first and last images, which may go in smaller portions. Polls that find nothing do not count, either, nor calls
by the clock, such as leases, heartbeats and counts of queues: their rate at rest, times the difference of the
seconds, is subtracted.

The page is that of users, in Chromium, which shows the first results while it sends. `API` sends 50 files a request,
as `run.sh`.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import urllib3
from PIL import Image

from benchmarks.billed_calls import EMPTY, EXTENSION, Billed, Call, Record, recording
from benchmarks.end_to_end import classify_singles
from benchmarks.photos import open_page, photo_files, send_by_command, send_by_page
from benchmarks.report import Bar, DocumentPart, Report
from benchmarks.running import ALWAYS_WARM, WORKERS, Bench, running, wait_for
from core.config import PriceSettings
from core.jobs.figures import JobFigures
from core.jobs.packs import pack_object
from scripts.demo_model.signs import encode
from scripts.run.batch import LARGE_BATCH_FILES, UPLOADERS
from scripts.run.system import ROOT
from services.batches import in_batches
from services.table import Table

MILLION: Final = 1_000_000
SETTINGS: Final = {
    **ALWAYS_WARM,
    "FLEETSIGHT__CONTROLLER__INTERVAL_SECONDS": "1",  # as in a stack on AWS
    "FLEETSIGHT__CONTROLLER__RECONCILE_SECONDS": "2",  # so that a deleted job is removed soon
    "FLEETSIGHT__IMPORTS__SOURCES": '[{"location": "s3://photos"}]',
}
SOURCE_BUCKET: Final = "photos"

COUNTS: Final = {0.1: 1_300, 1.0: 800, 3.0: 260}
"""Images of the smaller job by megabytes of a photo: as many as are accepted until a portion is as large as it gets,
and are left when portions become smaller again. The larger job has twice as many."""

LONE_COUNT: Final = 200
"""The same for images that are sent one by one. The first of the larger job may be put twice: into the deleted job of
the others, too."""

WARM_UP_COUNT: Final = 1_000
"""Images before any is counted: packs are small until the speed of a worker is known."""

DRAWN: Final = 50
"""Different photos of a size: as many as a pack has, since results of the same photo would be deflated together."""

MAX_FORMS: Final = 250
"""Files of a request for presigned forms."""

REST_SECONDS: Final = 15.0
POLL_SECONDS: Final = 1.0
"""Time between two polls of the job, which are calls of the web tier, too."""
WAIT_SECONDS: Final = 600.0

HTTP: Final = urllib3.PoolManager(maxsize=UPLOADERS, timeout=WAIT_SECONDS, retries=False)
"""Connections of the clients that use presigned forms; a repeated request would be recorded twice."""

SHOWN_TOLERANCE: Final = 0.03
MAX_DOLLARS: Final[Mapping[str, Mapping[float, float]]] = {
    **{way: {0.1: 0.8, 1.0: 1.0, 3.0: 2.0} for way in ("page", "API", "command")},
    "presigned": {0.1: 1.0},
    "source in S3": {0.1: 1.2},
    "one by one": {0.1: 19.5},
}
"""What a million images of so many megabytes may cost, by the way in which they are sent."""

WAYS: Final = tuple(MAX_DOLLARS)
QUICK_WAYS, QUICK_SIZES = ("API",), (0.1, 3.0)
PART_OF: Final = ROOT / "docs" / "aws.md", "Requests of a million images"
"""Page and section with the tables."""

WHAT_TOTALS_ARE: Final = """\
`python -m benchmarks cost` has recorded the calls of photos of large jobs, from upload to removal, on one machine.
For a million photos they cost, by size and by the way in which the photos are sent:"""

CALLS_OF: Final = "For a million photos of {:g} MB, calls and their US dollars by component and operation:"

MIN_ROW_DOLLARS: Final = 0.01
"""A call that costs less in each way has no row of its own."""


@dataclass(frozen=True)
class JobCalls:
    """The calls of one job, its seconds, and the dollars that its page shows for requests."""

    calls: Mapping[Call, Billed]
    seconds: float
    shown: float


@dataclass(frozen=True)
class ImageCost:
    """The calls of an image that is sent in one way, and the dollars that pages show for its requests."""

    calls: Mapping[Call, Billed]
    shown: float

    @classmethod
    def of_difference(
        cls, smaller: JobCalls, larger: JobCalls, images: int, by_clock: Mapping[Call, Billed]
    ) -> "ImageCost":
        """Return the cost of each of the `images` that the larger job has more; `by_clock` are calls of a second."""
        longer, none = larger.seconds - smaller.seconds, Billed()
        calls = {
            call: (
                larger.calls.get(call, none) + smaller.calls.get(call, none) * -1 + by_clock.get(call, none) * -longer
            )
            * (1 / images)
            for call in sorted({*smaller.calls, *larger.calls})
            if not call[1].endswith(EMPTY)
        }
        return cls(calls, (larger.shown - smaller.shown) / images)

    def million_dollars(self, prices: PriceSettings) -> float:
        """Return the dollars for a million images."""
        return MILLION * sum(billed.requests.dollars(prices) for billed in self.calls.values())


Costs = dict[tuple[str, float], ImageCost]
"""By way, and megabytes of a photo."""


def run(quick: bool) -> Report:
    """Measure each way with photos of each size; `quick` measures the API with the smallest and the largest."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        with (
            recording(home / "calls") as record,
            running(home / "system", SETTINGS, extensions=[EXTENSION]) as bench,
            open_page(bench.system.url) as page,
        ):
            bench.wait_for_workers(WORKERS)
            bench.system.clients.s3.create_bucket(Bucket=SOURCE_BUCKET)
            sender = Sender(bench, page, home)
            measured(sender, record, "API", photo_files(home / "warm-up", photos_of(0.1), WARM_UP_COUNT))
            time.sleep(REST_SECONDS)
            by_clock = {call: billed * (1 / REST_SECONDS) for call, billed in record.take().items()}
            costs: Costs = {}
            for size in QUICK_SIZES if quick else COUNTS:
                for way in QUICK_WAYS if quick else WAYS:
                    images = LONE_COUNT if way == "one by one" else COUNTS[size]
                    folders = {count: home / f"{way}-{size:g}-{count}" for count in (images, 2 * images)}
                    smaller, larger = (
                        measured(sender, record, way, photo_files(folder, photos_of(size), count))
                        for count, folder in folders.items()
                    )
                    costs[way, size] = ImageCost.of_difference(smaller, larger, images, by_clock)
            return cost_report(costs, by_clock, bench.system.config.prices)


@lru_cache(1)
def photos_of(megabytes: float) -> list[bytes]:
    """Return different photos of about so many megabytes: JPEGs of noise."""
    noise = np.random.default_rng(1)

    def drawn(side: int) -> bytes:
        return encode(Image.fromarray(noise.integers(0, 256, (side, side, 3), np.uint8)), "JPEG", 90)

    side = round(256 * (megabytes * 1e6 / len(drawn(256))) ** 0.5)
    return [drawn(side) for _ in range(DRAWN)]


@dataclass(frozen=True)
class Sender:
    """Sends photos to a running system in each of the ways.

    Attributes:
        page: of a browser.
        home: a folder for the files of commands.
    """

    bench: Bench
    page: Any
    home: Path

    def send(self, way: str, files: Sequence[Path]) -> str:
        """Send the photos; return the id of their job."""
        ways: Mapping[str, Callable[[Sequence[Path]], object]] = {
            "page": lambda chosen: send_by_page(self.bench, self.page, chosen),
            "API": self._by_api,
            "command": lambda given: send_by_command(self.bench, given, self.home / "client"),
            "presigned": self._by_forms,
            "source in S3": self._from_source,
            "one by one": lambda given: classify_singles(self.bench, given, len(given)),
        }
        ways[way](files)
        return str(next(self.bench.api.jobs(page=1))["job_id"])

    def _by_api(self, files: Sequence[Path]) -> None:
        job_id = self.bench.api.create_job("cost", key=str(uuid4()))

        def add(first: int) -> None:
            part = [(file.name, file.read_bytes()) for file in files[first : first + LARGE_BATCH_FILES]]
            self.bench.api.add_images(job_id, part, str(uuid4()), first_position=first)

        side_by_side(add, range(0, len(files), LARGE_BATCH_FILES))

    def _by_forms(self, files: Sequence[Path]) -> None:
        uploads = f"{self.bench.system.url}/api/v1/jobs/{self.bench.api.create_job('cost')}/uploads"
        left = len(files)
        for part in in_batches(files, MAX_FORMS):
            left -= len(part)
            described = [
                {"name": file.name, "bytes": file.stat().st_size, "content_type": "image/jpeg"} for file in part
            ]
            body = {"files": described, "remaining": left}
            offer = accepted(HTTP.request("POST", uploads, json=body)).json()
            side_by_side(partial(put_pack, part), offer["uploads"])
            accepted(HTTP.request("POST", f"{uploads}/{offer['upload_id']}/commit"))

    def _from_source(self, files: Sequence[Path]) -> None:
        client, folder = self.bench.system.clients.s3, files[0].parent.name.replace(" ", "-")
        side_by_side(
            lambda file: client.put_object(Bucket=SOURCE_BUCKET, Key=f"{folder}/{file.name}", Body=file.read_bytes()),
            files,
        )
        self.bench.api.create_job("cost", source=f"s3://{SOURCE_BUCKET}/{folder}")


def side_by_side(action: Callable[[Any], object], values: Iterable[Any]) -> None:
    """Call `action` with each value, some at a time."""
    with ThreadPoolExecutor(UPLOADERS) as threads:
        list(threads.map(action, values))


def put_pack(files: Sequence[Path], offered: Mapping[str, Any]) -> None:
    """Send a presigned form with those of the files that it takes to the bucket."""
    form, images = offered["upload"], offered["images"]
    content = pack_object((("jpg", files[each["index"]].read_bytes()) for each in images), len(images))
    fields = {**form["fields"], "file": ("content", bytes(content))}
    accepted(HTTP.request("POST", form["url"], fields=fields))


def accepted(answer: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
    """Return an answer of success.

    Raises:
        RuntimeError: the answer is another one.
    """
    if answer.status not in {200, 204}:
        raise RuntimeError(f"a photo was answered with {answer.status}: {answer.data[:200]!r}")
    return answer


def measured(sender: Sender, record: Record, way: str, files: Sequence[Path]) -> JobCalls:
    """Send photos in one way, delete their job, and return its calls until nothing of it is left.

    Raises:
        RuntimeError: a photo has no label.
    """
    bench, started = sender.bench, time.monotonic()
    record.take()
    job_id = sender.send(way, files)

    def find_complete() -> Mapping[str, Any] | None:
        status = bench.api.status(job_id)
        if status["failed"]:
            raise RuntimeError(f"{way}: {status['failed']} of {len(files)} photos have no label")
        # Images that are sent one by one belong to no batch, so they have no file.
        has_file = way == "one by one" or bool(status["results_file"] and status["results_file"]["current"])
        return status if status["done"] == len(files) and status["cost"] and has_file else None

    # The price has no reads of pages, so the page is left as soon as it need not send any more.
    wait_for(lambda: bench.api.status(job_id)["accepted"] >= len(files), f"the images of {job_id}", WAIT_SECONDS)
    sender.page.goto("about:blank")
    status = wait_for(find_complete, f"the results of job {job_id}", WAIT_SECONDS, POLL_SECONDS)
    bench.api.delete(job_id)
    # Its counts are removed last.
    figures = JobFigures(Table(bench.system.clients.dynamodb, bench.system.config.names.job_table))
    wait_for(lambda: not figures.counts(job_id).images, f"the removal of job {job_id}", WAIT_SECONDS, POLL_SECONDS)
    return JobCalls(record.take(), time.monotonic() - started, status["cost"]["requests_dollars"])


def cost_report(costs: Costs, by_clock: Mapping[Call, Billed], prices: PriceSettings) -> Report:
    """Return the dollars for a million images by way and size, the tables, and the bars."""
    figures, bars = dict[str, float](), list[Bar]()
    for (way, size), cost in costs.items():
        dollars, shown, what = cost.million_dollars(prices), MILLION * cost.shown, f"{way}, {size:g} MB"
        figures |= {f"{what}: dollars for a million": dollars, f"{what}: as pages show them": shown}
        if size in MAX_DOLLARS[way]:
            bars.append(Bar(f"{what}: dollars for a million", dollars, at_most=MAX_DOLLARS[way][size]))
        nearly = partial(Bar, at_least=1 - SHOWN_TOLERANCE, at_most=1 + SHOWN_TOLERANCE)
        bars.append(nearly(f"{what}: dollars ÷ those that pages show", dollars / shown))
    a_day = 24 * 3_600 * sum(billed.requests.dollars(prices) for billed in by_clock.values())
    figures["by the clock, with two workers: dollars a day"] = a_day
    totals, sizes = totals_table(costs, prices), sorted({size for _, size in costs})
    calls = {size: f"{CALLS_OF.format(size)}\n\n{calls_table(costs, size, prices)}" for size in sizes}
    part = DocumentPart(*PART_OF, f"{WHAT_TOTALS_ARE}\n\n{totals}\n\n{calls[sizes[0]]}")
    return Report("cost", figures, tuple(bars), "\n\n".join([totals, *calls.values()]), part)


def totals_table(costs: Costs, prices: PriceSettings) -> str:
    """Return the dollars by way and size."""
    sizes = sorted({size for _, size in costs})
    rows = [f"| US dollars | {' | '.join(f'{size:g} MB' for size in sizes)} |", "|---" * (1 + len(sizes)) + "|"]
    for way in dict.fromkeys(way for way, _ in costs):
        cells = [f"{costs[way, size].million_dollars(prices):.2f}" for size in sizes]
        rows.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(rows)


def calls_table(costs: Costs, megabytes: float, prices: PriceSettings) -> str:
    """Return the calls of a million photos of a size, and their dollars, by component and operation."""
    ways = {way: cost.calls for (way, size), cost in costs.items() if size == megabytes}
    rows = [f"| calls: US dollars | {' | '.join(ways)} |", "|---" * (1 + len(ways)) + "|"]

    def dollars(billed: Billed) -> float:
        return MILLION * billed.requests.dollars(prices)

    for component, operation in sorted({call for calls in ways.values() for call in calls}):
        found = [calls.get((component, operation), Billed()) for calls in ways.values()]
        if max(map(dollars, found)) >= MIN_ROW_DOLLARS:
            cells = [
                f"{max(0.0, MILLION * each.calls):,.0f}: {dollars(each):.2f}"
                if dollars(each) >= MIN_ROW_DOLLARS
                else ""
                for each in found
            ]
            rows.append(f"| {component}, {operation} | {' | '.join(cells)} |")
    return "\n".join(rows)
