"""How many images a second one controller records with AWS's latencies, for 1, 20 and 100 jobs.

Images that are alone, and images in packs of 50: ten times as many.

A real controller process runs on a local cloud, which answers the controller's calls later by the switch `faults`: by
7 ms for DynamoDB, 8 ms for SQS and 60 ms for S3, the time of a deletion. This program records jobs and sends the
answers that workers would send.

The local cloud is one process, shares the cores with the controller, and answers far fewer calls a second than AWS.
So images/s are a ratio to what the same local cloud does in the same run without a controller: for one caller, it
stores items in full batches. How many calls an image takes, and what more jobs cost, depends little on the machine.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from timeit import repeat
from typing import Final, NamedTuple

from benchmarks.local_services import LocalServices, slow_calls
from benchmarks.measure import usages
from benchmarks.report import Bar, Report
from core.ids import new_id
from core.images import FORMATS
from core.jobs.figures import JobFigures
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from core.messages import ClassificationResult, LabelScore, Model, Response, Timings
from localcloud.clients import ControlClient
from localcloud.launch import LocalCloud
from scripts.run.system import ROOT
from services.sqs import OutgoingMessage
from services.table import BATCH, Table

LATENCIES: Final[Mapping[str, float]] = {"dynamodb": 0.007, "sqs": 0.008, "s3": 0.060}
"""Seconds that AWS takes for a call, by service; the controller's calls of S3 are deletions of up to 1,000 images."""

JOBS: Final = (1, 20, 100)
PACK_IMAGES: Final = 50
ANSWERS, QUICK_ANSWERS = 30_000, 6_000
"""Answers that are recorded, each about one image; a tenth of it about a pack."""

FIRST_SHARE, LAST_SHARE = 0.2, 0.9
"""The rate is that from before the first to the last share of the answers."""

SAMPLE_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 300.0
BARE_ROUNDS: Final = 5
BARE_ITEMS: Final = 20 * BATCH

MIN_BARE_RATIO: Final = 0.03
MAX_CALLS: Final = 1.0
"""Calls of AWS for an image: results are stored, and messages received and deleted, in batches."""
MIN_JOBS_RATIO: Final = 0.3
"""Images/s with most jobs ÷ with one: 0.06 while the controller made its calls one after another."""
MIN_PACKED: Final[Mapping[int, float]] = {1: 4_000, 100: 20_000}
"""Images/s in packs, by number of jobs, that no latency of AWS may prevent; the local cloud can."""

TOP: Final = tuple(
    LabelScore(label=f"{number}: a label of ImageNet", score=0.8312546014785767 / 10**number) for number in range(5)
)


class CapacitySample(NamedTuple):
    """At a moment (monotonic seconds): answers counted, CPU seconds of both processes, the controller's calls."""

    moment: float
    images: int
    controller_cpu: float
    cloud_cpu: float
    calls: int


@dataclass(frozen=True)
class Recording:
    """How a controller recorded answers.

    Attributes:
        cpu_ms: CPU milliseconds of the controller for an image.
        calls: calls of AWS for an image.
        cloud_share: the local cloud's share of a core; near 1, it limits the controller.
    """

    images_per_second: float
    cpu_ms: float
    calls: float
    cloud_share: float


def run(quick: bool) -> Report:
    """Measure 30,000 answers for each number of jobs, and 3,000 packs; `quick` 6,000 and 600."""
    answers = QUICK_ANSWERS if quick else ANSWERS
    with tempfile.TemporaryDirectory() as folder, LocalCloud(Path(folder) / "cloud", hypervisor=False) as cloud:
        bench = CapacityBench(cloud, Path(folder))
        bare = bench.bare_items_per_second()
        recordings = {jobs: bench.record(jobs, answers) for jobs in JOBS}
        packed = {jobs: bench.record(jobs, answers // 10, PACK_IMAGES) for jobs in JOBS}
        bare = max(bare, bench.bare_items_per_second())
    return report_of(recordings, packed, bare)


def report_of(recordings: Mapping[int, Recording], packed: Mapping[int, Recording], bare: float) -> Report:
    """Return the report of the recordings, by number of jobs; `bare` is what the local cloud stores, in items/s.

    `packed` are those of images in packs.
    """
    figures, bars = {"bare_items_per_second": bare}, []
    for jobs, each in recordings.items():
        ratio = each.images_per_second / bare
        figures |= {
            f"{jobs}_jobs_images_per_second": each.images_per_second,
            f"{jobs}_jobs_to_bare_ratio": ratio,
            f"{jobs}_jobs_cpu_ms": each.cpu_ms,
            f"{jobs}_jobs_calls_an_image": each.calls,
            f"{jobs}_jobs_cloud_core_share": each.cloud_share,
        }
        name = "1 job" if jobs == 1 else f"{jobs} jobs"
        bars += [
            Bar(f"{name}: images/s ÷ items/s of the bare local cloud", ratio, at_least=MIN_BARE_RATIO),
            Bar(f"{name}: calls for an image", each.calls, at_most=MAX_CALLS),
        ]
    fewest, most = min(recordings), max(recordings)
    slower = recordings[most].images_per_second / recordings[fewest].images_per_second
    bars.append(Bar(f"images/s: {most} jobs ÷ {fewest}", slower, at_least=MIN_JOBS_RATIO))
    for jobs, each in packed.items():
        figures |= {
            f"{jobs}_jobs_in_packs_images_per_second": each.images_per_second,
            f"{jobs}_jobs_in_packs_cpu_ms": each.cpu_ms,
            f"{jobs}_jobs_in_packs_calls_an_image": each.calls,
            f"{jobs}_jobs_in_packs_cloud_core_share": each.cloud_share,
        }
        if jobs in MIN_PACKED:
            what = f"{jobs} job{'s' * (jobs > 1)}, in packs of {PACK_IMAGES}: images/s"
            bars.append(Bar(what, each.images_per_second, at_least=MIN_PACKED[jobs]))
    return Report("capacity", figures, tuple(bars))


def recording(samples: Sequence[CapacitySample]) -> Recording:
    """Return how answers were recorded, from samples from before the first one until the last one was counted."""
    answers = samples[-1].images
    # A fast controller may record them all between two samples: so the first sample is before its share.
    first = [each for each in samples if each.images < FIRST_SHARE * answers][-1]
    last = next(each for each in samples if each.images >= LAST_SHARE * answers)
    seconds, images, cpu, cloud, calls = (after - before for before, after in zip(first, last, strict=True))
    return Recording(images / seconds, cpu_ms=1e3 * cpu / images, calls=calls / images, cloud_share=cloud / seconds)


def answer_body(pack: Sequence[ImageRecord]) -> str:
    """Return a worker's response about the images of a pack: five labels of ImageNet, and a digest."""
    return Response(images=len(pack), results=tuple(_result(image) for image in pack)).to_json()


def _result(image: ImageRecord) -> ClassificationResult:
    return ClassificationResult(
        job_id=image.ref.job_id,
        image_id=image.ref.image_id,
        status="done",
        key=image.key,
        queued_at=datetime.now(UTC),
        label=TOP[0].label,
        score=TOP[0].score,
        top=TOP,
        model=Model(name="resnet18-imagenet", digest="0123456789abcdef" * 4),
        worker="i-0123456789abcdef0",
        attempts=1,
        timings=Timings(queued=812.3, fetched=21.4, decoded=7.8, inferred=11.2, stored=24.9),
    )


class CapacityBench:
    """A local cloud with jobs, and a program that sends answers."""

    def __init__(self, cloud: LocalCloud, folder: Path) -> None:
        self._cloud, self._log = cloud, folder / "controller.log"
        self._services = LocalServices(cloud)
        names = self._services.config.names
        self._store = JobStore(Table(self._services.clients.dynamodb, names.job_table))

    def bare_items_per_second(self) -> float:
        """Return how many items of a result's size the local cloud stores for one caller, in full batches."""
        items = [{"pk": "bare", "sk": f"{number:06d}", "response": "r" * 900} for number in range(BARE_ITEMS)]
        return BARE_ITEMS / min(repeat(lambda: self._store.table.put_all(items), repeat=BARE_ROUNDS, number=1))

    def record(self, jobs: int, answers: int, pack_images: int = 1) -> Recording:
        """Let a controller record so many answers, each about a pack, that are spread over so many jobs."""
        made = [Job(new_id(), f"job {number}", datetime.now(UTC)) for number in range(jobs)]
        self._store.create(*made)
        of_job = [[_pack(job, pack_images) for _ in range(answers // jobs)] for job in made]
        for job, packs in zip(made, of_job, strict=True):
            self._store.record_images([image for pack in packs for image in pack], job.created_at)
        in_turn = [pack for packs in zip(*of_job, strict=True) for pack in packs]
        self._services.responses.send([OutgoingMessage(pack[0].pack_id, answer_body(pack)) for pack in in_turn])
        with slow_calls(self._cloud.endpoint_url, LATENCIES, "controller"):
            samples = [self._sample(0, controller_cpu=0.0)]
            with self._controller() as controller:
                samples += self._samples(len(in_turn), pack_images, controller.pid)
                self._await_counts(made, len(in_turn) * pack_images)
        for job in made:
            DeletedJobs(self._store.table).delete(job)
        return recording(samples)

    def _samples(self, answers: int, pack_images: int, pid: int) -> Iterator[CapacitySample]:
        """Yield samples until so many answers are recorded: then their messages are deleted."""
        deadline, recorded = time.monotonic() + PATIENCE_SECONDS, 0
        while recorded < answers:
            self._check(deadline, f"{recorded} of {answers} answers were recorded")
            time.sleep(SAMPLE_SECONDS)
            recorded = answers - self._services.responses.counts().total
            yield self._sample(recorded * pack_images, _cpu_seconds(pid))

    def _sample(self, images: int, controller_cpu: float) -> CapacitySample:
        with closing(ControlClient(self._cloud.endpoint_url)) as control:
            calls = control.get("calls")["faults"].get("slow", 0)  # only the controller's calls are slow
        return CapacitySample(time.monotonic(), images, controller_cpu, _cpu_seconds(self._cloud.server_pid), calls)

    def _await_counts(self, jobs: Sequence[Job], images: int) -> None:
        """Wait until the jobs' counts have every answer once."""
        figures = JobFigures(self._store.table)
        deadline, counted = time.monotonic() + PATIENCE_SECONDS, 0
        while counted != images:
            self._check(deadline, f"{counted} answers were counted instead of {images}")
            time.sleep(SAMPLE_SECONDS)
            counted = sum(figures.counts(job.job_id).done for job in jobs)

    def _check(self, deadline: float, found: str) -> None:
        """Raise an error with `found` if the deadline is over.

        Raises:
            RuntimeError: it is.
        """
        if time.monotonic() > deadline:
            log = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{found} in {PATIENCE_SECONDS:.0f} s; the controller's log ends with: {log}")

    @contextmanager
    def _controller(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a controller that launches no worker."""
        environment = self._services.environment | {"FLEETSIGHT__FLEET__MAX_WORKERS": "0"}
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "web_tier.controller"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
            try:
                yield process
            finally:
                process.terminate()
                process.wait(30)


def _cpu_seconds(pid: int) -> float:
    return sum(each.cpu_seconds for each in usages([pid]).values())


def _pack(job: Job, images: int) -> list[ImageRecord]:
    files = [(f"photo-{number}.jpg", FORMATS["JPEG"].extension, 104_857) for number in range(images)]
    return ImageRecord.of_pack(job, new_id(), files, job.created_at)
