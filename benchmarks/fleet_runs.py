"""Real fleets on the local cloud, beside the simulations: real processes, real queues, and a bill at the end.

`local_fleet` compares a fleet of as many workers as fit this machine (`fleet.max_workers: auto`) with one of 19.
`worker_memory` measures what several workers with a ResNet-50 share.
`fleet_runs` has instances that take seconds to boot, and one worker for each image. `queue_kinds` measures what FIFO
queues cost beside standard ones: seconds and billed seconds of a batch in which workers are killed. Both kinds get
the same images, and workers are killed at the same shares of the batch, so that luck does not decide which kind has
more work to repeat. Each kill costs a launch, with the billed minimum, and the messages that the worker held wait for
their visibility timeout. Near the end of a batch the other workers have nothing to do meanwhile.
"""

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal, TypeVar

from benchmarks.end_to_end import bare_images_per_second, draw
from benchmarks.measure import shared_out_mb, tree, usages
from benchmarks.networks import random_network
from benchmarks.report import Bar, Report
from benchmarks.running import Bench, Measured, running
from scripts.chaos.strikes import workers
from scripts.run.batch import Batch, BatchProgress
from scripts.run.images import ImageSet

GONE_SECONDS: Final = 120.0
"""Longest wait for the end of a fleet."""
SLOW_BOOTS: Final = ("boot_delay_seconds=5", "boot_delay_tail_seconds=10")
BY_DEADLINE: Final = {
    "FLEETSIGHT__FLEET__POLICY": "deadline",
    "FLEETSIGHT__FLEET__MAX_WORKERS": "19",
    "FLEETSIGHT__FLEET__TARGET_SECONDS": "12",
    "FLEETSIGHT__FLEET__BOOT_SECONDS": "6",
    "FLEETSIGHT__WORKER__IDLE_SECONDS": "5",
}
ONE_EACH: Final = {
    "FLEETSIGHT__FLEET__IMAGES_PER_WORKER": "1",
    "FLEETSIGHT__FLEET__MAX_WORKERS": "15",
    "FLEETSIGHT__WORKER__IDLE_SECONDS": "1",
}


@dataclass
class Watch:
    """What DescribeInstances said, again and again.

    Attributes:
        most: pending and running at once.
    """

    bench: Bench
    most: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Poll until the end."""
        while not self.over.wait(0.05):
            self.most = max(self.most, len(self.bench.fleet.instances(("pending", "running"))))


@dataclass
class MemoryWatch:
    """The most memory that all workers, with their decoders, had together, in MiB."""

    bench: Bench
    peak_mb: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Sample until the end."""
        while not self.over.wait(0.5):
            pids = [pid for worker in workers(self.bench.system) for pid in tree(worker.pid)]
            self.peak_mb = max(self.peak_mb, sum(map(shared_out_mb, pids)))


Watching = TypeVar("Watching", Watch, MemoryWatch)


@dataclass(frozen=True)
class RunningFleet:
    """The outcome of a fleet that classified one batch.

    Attributes:
        batch: the batch.
        launched: instances, by the controller's own log.
        peak: most instances at once, by EC2.
        gone_seconds: from the last answer to an empty fleet.
        billed_seconds, dollars: the bill, at the price of config.yaml.
    """

    batch: Measured
    launched: int
    peak: int
    gone_seconds: float
    billed_seconds: float
    dollars: float

    def figures(self, name: str) -> dict[str, float]:
        """Return the figures of the run, by their names in the report."""
        return {
            f"{name}_batch_s": self.batch.seconds,
            f"{name}_right": self.batch.right / self.batch.images,
            f"{name}_launched": self.launched,
            f"{name}_peak": self.peak,
            f"{name}_gone_s": self.gone_seconds,
            f"{name}_billed_s": self.billed_seconds,
            f"{name}_dollars": self.dollars,
        }


def run(quick: bool) -> Report:
    """Measure both fleets; `quick` is no different."""
    del quick
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        images = draw(home / "images", 1_000)
        slow = fleet_of(home / "slow", images, BY_DEADLINE, SLOW_BOOTS)
        hundred = ImageSet(images.title, images.files[:100], images.truth)
        each = fleet_of(home / "each", hundred, ONE_EACH)
    return Report(
        "fleet_runs",
        slow.figures("slow_boots") | each.figures("one_each"),
        (
            Bar("boots of 5 s and a tail, 1,000 images: answered", slow.batch.images, at_least=1_000),
            Bar("boots of 5 s and a tail: peak ÷ workers that the plan launched", slow.peak / slow.launched, 1, 1),
            Bar("boots of 5 s and a tail: workers at the peak", slow.peak, at_most=19),
            Bar("a worker for each image, at most 15: peak", each.peak, at_most=15, at_least=15),
            Bar(
                "a worker for each image: time from the last answer to no worker ÷ the batch's time",
                each.gone_seconds / each.batch.seconds,
                at_most=1,
            ),
        ),
    )


def fleet_of(home: Path, images: ImageSet, settings: Mapping[str, str], switches: Sequence[str] = ()) -> RunningFleet:
    """Send a batch to a system with a fleet at zero, and watch the fleet until it is there again."""
    with running(home, settings, switches) as bench, watched(Watch(bench)) as watch:
        batch = bench.batch(images)
        ended = time.monotonic()
        bench.wait_for_workers(0)
        gone_seconds = time.monotonic() - ended
        fleet = await_end(bench)
        log = (bench.system.state_dir / "logs" / "controller.log").read_text()
    lines = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    launched = sum(len(line["instances"]) for line in lines if line.get("message") == "workers are launching")
    return RunningFleet(batch, launched, watch.most, gone_seconds, fleet["billed_seconds"], fleet["cost"])


@contextmanager
def watched(watch: Watching) -> Iterator[Watching]:
    """Let `watch` run meanwhile."""
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.over.set()
        thread.join()


def await_end(bench: Bench) -> dict[str, Any]:
    """Return the status of the fleet, with its bill, once the controller has seen the end of the last instance.

    Raises:
        TimeoutError: it has not after `GONE_SECONDS`.
    """
    deadline = time.monotonic() + GONE_SECONDS
    while (fleet := bench.api.fleet()) is None or fleet["running"] + fleet["pending"]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the fleet has not ended after {GONE_SECONDS:.0f} s: {fleet}")
        time.sleep(0.2)
    return fleet


IMAGES: Final = 3_000
QUICK_IMAGES: Final = 600
ROUNDS: Final = 3
KILLED_AT: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the batch that have a result when a worker is killed."""

MAX_RATIO: Final = 1.25
"""Bar: FIFO ÷ standard."""

KILLED_SETTINGS: Final = {"FLEETSIGHT__FLEET__MAX_WORKERS": "4", "FLEETSIGHT__WORKER__IDLE_SECONDS": "2"}
QUICK_SETTINGS: Final = {"FLEETSIGHT__QUEUES__VISIBILITY_TIMEOUT_SECONDS": "10"}
"""Images of the last worker that is killed are received again sooner: most of a small batch is this wait."""
Kind = Literal["standard", "fifo"]


@dataclass(frozen=True)
class Cost:
    """What one batch took, from the first upload to the last result, and how many instance-seconds were billed."""

    seconds: float
    billed_seconds: float


def run_queue_kinds(quick: bool) -> Report:
    """Send a batch through each kind in turn, three times or, if `quick`, once; the medians count."""
    shared_settings = KILLED_SETTINGS | (QUICK_SETTINGS if quick else {})
    with tempfile.TemporaryDirectory() as scratch:
        images = draw(Path(scratch) / "images", QUICK_IMAGES if quick else IMAGES)
        costs: dict[Kind, list[Cost]] = {"standard": [], "fifo": []}
        for turn in range(1 if quick else ROUNDS):
            for kind, measured in costs.items():
                settings = {**shared_settings, "FLEETSIGHT__QUEUES__KIND": kind}
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
    return Cost(summary.last_result_s, await_end(bench)["billed_seconds"])


FLEETS: Final = {"fitting": "auto", "nineteen": "19"}
"""Both fleets, by `fleet.max_workers`."""
LOCAL_ROUNDS: Final = {1_000: 2, 10_000: 1}
"""Batches of each fleet, by their number of images."""


@dataclass(frozen=True)
class LocalRun:
    """A batch that a fleet at zero answered, and the most memory of its workers in MiB."""

    batch: Measured
    workers_mb: float


def run_local(quick: bool) -> Report:
    """Send 1,000 and, unless `quick`, 10,000 images to each fleet in turn, from zero; the fastest run counts."""
    rounds = {1_000: 1} if quick else LOCAL_ROUNDS
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        images = draw(home / "images", max(rounds))
        bare = bare_images_per_second(images.files[:200])
        best = dict[tuple[str, int], LocalRun]()
        for count, times in rounds.items():
            for turn in range(times):
                for name, limit in FLEETS.items():
                    sent = ImageSet(images.title, images.files[:count], images.truth)
                    folder = home / f"{name}-{count}-{turn}"
                    run = local_run(folder, sent, {"FLEETSIGHT__FLEET__MAX_WORKERS": limit})
                    so_far = best.setdefault((name, count), run)
                    best[name, count] = min(so_far, run, key=lambda each: each.batch.seconds)
    return local_report(best, bare)


def local_run(home: Path, images: ImageSet, settings: Mapping[str, str]) -> LocalRun:
    """Send a batch to a new system, which has no workers yet."""
    with running(home, settings) as bench, watched(MemoryWatch(bench)) as memory:
        batch = bench.again(images)
    return LocalRun(batch, memory.peak_mb)


def local_report(runs: Mapping[tuple[str, int], LocalRun], bare: float) -> Report:
    """Return the figures of both fleets by the number of images, and the ratios; `bare` is in images/s."""
    figures: dict[str, float] = {"bare_images_per_second": bare}
    bars = list[Bar]()
    for (name, count), run in runs.items():
        figures |= {
            f"{name}_{count}_images_per_second": run.batch.images_per_second,
            f"{name}_{count}_to_bare_ratio": run.batch.images_per_second / bare,
            f"{name}_{count}_first_result_s": run.batch.first_result_s,
            f"{name}_{count}_workers_mb": run.workers_mb,
        }
    for count in dict.fromkeys(count for _, count in runs):
        fitting, nineteen = (runs[name, count] for name in FLEETS)
        size = f"{count:,} images, a fleet that fits ÷ one of 19"
        speed = fitting.batch.images_per_second / nineteen.batch.images_per_second
        bars += [
            Bar(f"{size}: images/s", speed, at_least=1),
            Bar(
                f"{size}: time to the first result",
                fitting.batch.first_result_s / nineteen.batch.first_result_s,
                at_most=1,
            ),
            Bar(f"{size}: most memory of all workers", fitting.workers_mb / nineteen.workers_mb, at_most=1),
        ]
    return Report("local_fleet", figures, tuple(bars))


MAX_SHARED: Final = 0.75
"""Bar: memory of several workers ÷ as many times that of one alone. They share the mapped bundle and libraries."""
SENT_EACH: Final = 16
MAX_BATCHES: Final = 20


@dataclass(frozen=True)
class WorkersMemory:
    """Memory of workers that have all classified, with their decoders, in MiB.

    Attributes:
        shared_mb: a page that n processes share counts as 1/n in each.
        resident_mb: it counts in full in each, so that this sum says more than the machine lacks.
    """

    shared_mb: float
    resident_mb: float


def run_worker_memory(quick: bool) -> Report:
    """Measure one worker, then 16 or, if `quick`, four."""
    count, bundle = (4 if quick else 16), random_network("resnet50")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        images = draw(home / "images", count * SENT_EACH)
        one, all_of_them = (workers_memory(home / str(each), images, each, bundle.folder) for each in (1, count))
    figures = {
        "one_mb": one.shared_mb,
        "one_resident_mb": one.resident_mb,
        "workers": float(count),
        "all_mb": all_of_them.shared_mb,
        "all_resident_mb": all_of_them.resident_mb,
        "each_mb": all_of_them.shared_mb / count,
    }
    ratio = all_of_them.shared_mb / (count * one.shared_mb)
    bar = Bar(f"memory of {count} ResNet-50 workers ÷ {count} times that of one alone", ratio, at_most=MAX_SHARED)
    return Report("worker_memory", figures, (bar,))


def workers_memory(home: Path, images: ImageSet, count: int, bundle: Path) -> WorkersMemory:
    """Start `count` workers, and send batches until each has answered.

    Raises:
        TimeoutError: one answers nothing.
    """
    settings = {
        "FLEETSIGHT__FLEET__MAX_WORKERS": str(count),
        "FLEETSIGHT__FLEET__MIN_WORKERS": str(count),
        "FLEETSIGHT__WORKER__BUNDLE": str(bundle),
        "FLEETSIGHT__WORKER__IDLE_SECONDS": "600",
        "FLEETSIGHT__RETENTION__REPEAT_DAYS": "0",
    }
    with running(home, settings) as bench:
        answered = set[str]()
        for _ in range(MAX_BATCHES):
            summary = Batch(bench.api, images, lambda _progress: None).run()
            answered |= {str(result["worker"]) for result in bench.api.results(summary.job_id)}
            if len(answered) == count:
                pids = [pid for worker in workers(bench.system) for pid in tree(worker.pid)]
                resident = sum(usage.resident_mb for usage in usages(pids, below=False).values())
                return WorkersMemory(sum(map(shared_out_mb, pids)), resident)
    raise TimeoutError(f"{len(answered)} of {count} workers have answered after {MAX_BATCHES} batches")
