"""A prototype of packs, the design of docs/scale.md: what one controller would record, and what a million would cost.

Nothing of this is in the product. A pack is up to 50 images of one job with one request, one answer and one object of
results. `PackCollectorPrototype` takes answers about packs through the product's queue and table, in the model of
`benchmarks.capacity`: the same services, latencies, quotas and costs of calls. It has no failures, retries or
deletion, so a real one would be somewhat slower.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from rich.console import Console
from rich.table import Table as PrintedTable

from benchmarks.aws_costs import IMAGES_A_SECOND
from benchmarks.capacity import FREE, STRICT, no_collection, reference_setup
from benchmarks.capacity_model import CapacityModel, Setup, deep_bytes
from benchmarks.report import Report
from benchmarks.virtual_aws import encoded
from benchmarks.virtual_time import virtualise
from core.config import Config, load_config
from core.cost import IMAGE, SECONDS_AN_HOUR, WHOLE_IMAGE, Requests
from core.jobs.items import partition
from core.jobs.models import Counts
from core.jobs.store import JobStore
from core.messages import Id, WireModel
from scripts.run.system import ROOT
from services.side_by_side import side_by_side
from services.sqs import BATCH, Queue
from services.table import LAST, Item, Table
from web_tier.controller.collector import HELPERS, MAX_BATCHES
from web_tier.controller.result_recorder import COUNTS_SECONDS
from web_tier.controller.services import CALLS

PACK_IMAGES: Final = 50
PACK: Final = "PACK#"
JOBS: Final = (1, 20)
LARGE_JOB_IMAGES: Final = 10_000_000


class PackAnswer(WireModel):
    """The answer about a pack: how many of its images have a label, and where their results are.

    Attributes:
        first: position of its first image in the job.
        key: of the object of results in the output bucket, one line an image.
    """

    version: int = 2
    job_id: Id
    first: int
    done: int
    failed: int
    key: str
    worker: str
    attempt: int = 0


@dataclass
class PackedJob:
    """What the prototype knows of a job: the done and the failed images of each answered pack, by its position."""

    packs: dict[int, tuple[int, int]] = field(default_factory=dict)
    done: int = 0
    failed: int = 0

    def count(self, first: int, done: int, failed: int) -> None:
        """Count the answer about a pack, which may have been answered before."""
        before_done, before_failed = self.packs.get(first, (0, 0))
        self.packs[first] = _PAIRS.setdefault((done, failed), (done, failed))
        self.done += done - before_done
        self.failed += failed - before_failed


_PAIRS: Final[dict[tuple[int, int], tuple[int, int]]] = {}
"""Each pair once: most packs have the same."""


@dataclass
class PackCollectorPrototype:
    """Records answers about packs and counts the images of their jobs, several rounds at the same time."""

    answers: Queue
    table: Table
    pool: Any = field(default_factory=lambda: ThreadPoolExecutor(CALLS))
    jobs: dict[str, PackedJob] = field(default_factory=lambda: defaultdict(PackedJob))
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _changed: set[str] = field(default_factory=set, init=False)

    def tick(self) -> float:
        """Record the answers of a round; then delete their messages."""
        messages = self.answers.receive(wait_seconds=1)
        if len(messages) == BATCH:
            more = side_by_side(self.pool, lambda _: self.answers.receive(wait_seconds=0), range(MAX_BATCHES - 1))
            messages += [message for batch in more for message in batch]
        packs = {(each.job_id, each.first): each for each in (PackAnswer.from_json(each.body) for each in messages)}
        self.table.put_all([pack_item(each) for each in packs.values()])
        with self._lock:
            for each in packs.values():
                self.jobs[each.job_id].count(each.first, each.done, each.failed)
                self._changed.add(each.job_id)
        self.answers.delete([message.receipt for message in messages])
        return 0.0

    def counts_tick(self) -> float:
        """Store the counts that have changed."""
        with self._lock:
            changed, self._changed = list(self._changed), set()
            counts = {each: Counts(self.jobs[each].done, self.jobs[each].failed) for each in changed}
        store = JobStore(self.table)
        side_by_side(self.pool, lambda job_id: store.store_counts(job_id, counts[job_id], 1), changed)
        return COUNTS_SECONDS

    def take_over(self, job_id: str) -> None:
        """Read the packs of a job, as after a takeover."""
        for item in self.table.query(partition(job_id), PACK, PACK + LAST):
            self.jobs[job_id].count(int(str(item["sk"])[len(PACK) :]), int(item["done"]), int(item["failed"]))


def pack_item(each: PackAnswer) -> Item:
    """Return the item of an answered pack."""
    return {
        "pk": partition(each.job_id),
        "sk": f"{PACK}{each.first:08d}",
        "done": each.done,
        "failed": each.failed,
        "key": each.key,
        "attempt": each.attempt,
    }


@dataclass(frozen=True)
class PackRates:
    """What the prototype did in a second, and for a pack."""

    packs_per_second: float
    core_share: float
    cpu_ms: float
    calls: float
    write_units: float


def record_packs(setup: Setup, jobs: int, seconds: float) -> PackRates:
    """Return what the prototype records while more answers wait than it can record."""
    with closing(CapacityModel(setup)) as model:
        collector = _prototype(model)
        job_ids = [model.new_job(0).job_id for _ in range(jobs)]
        sent = int(8_000 * (seconds + 1.0)) // jobs
        model.responses.add(
            [answer_of(job_id, PACK_IMAGES * number).to_json() for number in range(sent) for job_id in job_ids]
        )
        ticks = {**{f"collector-{n}": collector.tick for n in range(HELPERS + 1)}, "counts": collector.counts_tick}
        for name, tick in ticks.items():
            model.virtual.spawn(name, partial(_run, model, tick))
        model.virtual.run_until(1.0)
        before = _totals(model, collector)
        model.virtual.run_until(1.0 + seconds)
        packs, busy, calls, units = (
            after - earlier for after, earlier in zip(_totals(model, collector), before, strict=True)
        )
    return PackRates(packs / seconds, busy / seconds, 1e3 * busy / packs, calls / packs, units / packs)


def take_over(setup: Setup, images: int) -> tuple[float, float]:
    """Return the seconds until the packs of a job of so many images are read, and the bytes of a pack in memory."""
    with closing(CapacityModel(setup)) as model:
        collector, job_id = _prototype(model), model.new_job(0).job_id
        for first in range(0, images, PACK_IMAGES):
            model.items.put(encoded(pack_item(answer_of(job_id, first))))
        model.virtual.run_tasks(lambda: collector.take_over(job_id))
        return model.virtual.now, deep_bytes(collector.jobs[job_id].packs) / len(collector.jobs[job_id].packs)


def answer_of(job_id: str, first: int) -> PackAnswer:
    """Return the answer of a worker about the pack that begins at a position; one of its images has failed."""
    return PackAnswer(
        job_id=job_id,
        first=first,
        done=PACK_IMAGES - 1,
        failed=1,
        key=f"{job_id}/{first:08d}.jsonl",
        worker="i-0123456789abcdef0",
    )


def _prototype(model: CapacityModel) -> PackCollectorPrototype:
    collector = PackCollectorPrototype(model.responses.queue(), model.items.table())
    collector.answers = replace(collector.answers, pool=collector.pool)
    collector.table = replace(collector.table, pool=collector.pool)
    virtualise(model.virtual, collector, ours=("benchmarks", "core", "services"))
    return collector


def _run(model: CapacityModel, tick: Callable[[], float]) -> None:
    while True:
        model.virtual.sleep(tick())


def _totals(model: CapacityModel, collector: PackCollectorPrototype) -> tuple[float, float, float, float]:
    packs = sum(len(job.packs) for job in collector.jobs.values())
    return packs, sum(model.virtual.busy.values()), model.cloud.calls.total(), model.cloud.write_units


# Costs

RESULT_SHARE: Final = 1 / PACK_IMAGES
OF_PACK: Final = Requests(
    s3_put=RESULT_SHARE,  # the object of results
    sqs=IMAGE.sqs / PACK_IMAGES,
    table_write=10 / PACK_IMAGES,  # its share of the slice, 160 bytes an image, and its item, written twice
    table_read=IMAGE.table_read / PACK_IMAGES,
)
"""Requests of an image in a pack, without those for the image itself."""

WAYS: Final[Mapping[str, Requests]] = {
    "as it is": WHOLE_IMAGE,
    "packs, an object for each image": OF_PACK + Requests(s3_put=1 + 1 / 1_000, s3_get=1),
    "packs, uploaded as one tar each": OF_PACK + Requests(s3_put=1 / PACK_IMAGES, s3_get=1 / PACK_IMAGES),
}
"""Of an image, to its removal: of packs by time to live and lifecycle rules, which cost nothing. A LIST of a slice's
folder, 1,000 keys, checks that its objects exist."""

SECONDS_A_MONTH: Final = 30 * 86_400
LOADS: Final = (10, 1_000, 10_000)


def dollars(config: Config) -> Iterator[tuple[str, float, float]]:
    """Yield each way with the US dollars of a million images: of their requests, and of busy workers."""
    workers = (
        1e6 / IMAGES_A_SECOND / SECONDS_AN_HOUR * config.prices.hourly(config.fleet.instance_types[0], spot=False)
    )
    for name, requests in WAYS.items():
        yield name, (requests * 1e6).dollars(config.prices), workers


def run(quick: bool) -> Report:
    """Print what the prototype records, and what packs cost."""
    figures: dict[str, float] = {}
    setup, figures["speed of a core of this machine"] = reference_setup(quick)
    with no_collection():
        seconds = 2.0 if quick else 10.0
        cases = {
            "1 job in partitions without a limit": (1, FREE),
            "1 job in one partition": (1, STRICT),
            "20 jobs": (20, STRICT),
        }
        for name, (jobs, quotas) in cases.items():
            found = record_packs(replace(setup, quotas=quotas), jobs, seconds)
            figures |= {
                f"{name}: packs/s": found.packs_per_second,
                f"{name}: images/s": found.packs_per_second * PACK_IMAGES,
                f"{name}: share of the core": found.core_share,
                f"{name}: CPU ms a pack": found.cpu_ms,
                f"{name}: calls a pack": found.calls,
                f"{name}: write units a pack": found.write_units,
            }
        images = LARGE_JOB_IMAGES // (20 if quick else 1)
        read, size = take_over(setup, images)
    figures |= {
        f"a job of {images:,}: seconds to read after a takeover": read,
        f"a job of {images:,}: bytes of a pack in memory": size,
        f"a job of {images:,}: MiB in memory": size * images / PACK_IMAGES / 2**20,
    }
    figures |= _print_costs(load_config(ROOT / "config.yaml", {}))
    return Report("packs", figures)


def _print_costs(config: Config) -> dict[str, float]:
    columns = ("requests", "workers", *(f"a month at {load:,}/s" for load in LOADS))
    table = PrintedTable("US dollars a million images", *columns)
    figures: dict[str, float] = {}
    for name, requests, workers in dollars(config):
        both = requests + workers
        months = [both * load * SECONDS_A_MONTH / 1e6 for load in LOADS]
        table.add_row(name, f"{requests:.2f}", f"{workers:.2f}", *(f"{each:,.0f}" for each in months))
        figures |= {f"{name}: $ a million": both, f"{name}: $ a month at {LOADS[-1]:,}/s": months[-1]}
    Console().print(table)
    return figures
