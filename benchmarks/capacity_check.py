"""Is the model of `capacity` right? The same answers, to a real controller and to the model with the same latencies.

A controller process runs on the local cloud, which answers each of its calls later by the switch `faults`. This
program records the jobs, and sends the answers that workers would send. Then the model does the same: with these
latencies, with what the local cloud itself takes for a call, and with the CPU time of calls that is measured here.

The local cloud is one process beside the controller, and answers some hundred calls a second. So the latencies are
several times those of AWS: the controller and the model wait more, and compute less. The comparison shows how many
calls there are and how they overlap. It does not show how fast AWS is.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from benchmarks.call_costs import measure_call_costs
from benchmarks.capacity import FREE, no_collection
from benchmarks.capacity_model import CapacityModel, Setup
from benchmarks.flood import WorkerCloud, worker_environment
from benchmarks.measure import usages
from benchmarks.report import Bar, Report
from benchmarks.virtual_aws import Latencies, answer_body
from core.config import load_config
from core.ids import ImageRef, input_key, new_id
from core.jobs.items import COUNTED, counts_partition
from core.jobs.models import AcceptedCount, ImageRecord, Job
from core.jobs.store import JobStore
from localcloud.clients import ControlClient
from localcloud.launch import LocalCloud
from scripts.run.system import ROOT
from services.clients import Clients
from services.s3 import Bucket
from services.sqs import OutgoingMessage, Queue
from services.table import BATCH, Table

DELAY_SECONDS: Final = 0.15
"""By which the local cloud answers each call of the controller later."""

JOBS: Final = (1, 20, 100)
IMAGES, QUICK_IMAGES = 4_000, 1_500
FIRST_SHARE, LAST_SHARE = 0.2, 0.9
"""The rate is that from the first to the last share of the answers."""

SAMPLE_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 300.0
MAX_RATIO: Final = 2.0
"""Model ÷ real, or the inverse: wide, since the local cloud shares the controller's cores."""


@dataclass(frozen=True)
class Recording:
    """How a controller recorded answers: images/s, and CPU milliseconds an image.

    `cloud_share` is the local cloud's share of a core meanwhile: near 1, it is what limits the controller.
    """

    images_per_second: float
    cpu_ms: float
    cloud_share: float = 0.0


def run(quick: bool) -> Report:
    """Compare the real controller with the model for 1, 20 and 100 jobs."""
    images = QUICK_IMAGES if quick else IMAGES
    with tempfile.TemporaryDirectory() as folder, LocalCloud(Path(folder) / "cloud", hypervisor=False) as cloud:
        stage = _Stage(cloud, Path(folder))
        latencies = stage.latencies()
        real = {jobs: stage.record(jobs, images) for jobs in JOBS}
    # The local cloud returns as many messages as were asked for, and has no quotas.
    setup = Setup(costs=measure_call_costs(10), latencies=latencies, quotas=FREE, full_from=0)
    with no_collection():
        modelled = {jobs: modelled_recording(setup, jobs, images) for jobs in JOBS}
    figures = {
        "a call of DynamoDB, ms": 1e3 * latencies.table,
        "a call of SQS, ms": 1e3 * latencies.queue,
        "a deletion of 100 objects, ms": 1e3 * latencies.delete,
    }
    bars = []
    for jobs in JOBS:
        for name, each in (("real", real[jobs]), ("model", modelled[jobs])):
            figures |= {
                f"{jobs} jobs, {name}: images/s": each.images_per_second,
                f"{jobs} jobs, {name}: CPU ms an image": each.cpu_ms,
            }
        figures[f"{jobs} jobs, real: the local cloud's share of a core"] = real[jobs].cloud_share
        figures[f"{jobs} jobs: CPU time, real ÷ model"] = real[jobs].cpu_ms / modelled[jobs].cpu_ms
        ratio = modelled[jobs].images_per_second / real[jobs].images_per_second
        bars.append(Bar(f"{jobs} jobs: images/s, model ÷ real", ratio, at_most=MAX_RATIO, at_least=1 / MAX_RATIO))
    return Report("capacity_check", figures, tuple(bars))


class _Stage(WorkerCloud):
    """A local cloud with jobs, and a program that sends answers."""

    def __init__(self, cloud: LocalCloud, folder: Path) -> None:
        super().__init__(cloud)
        self._cloud, self._folder = cloud, folder
        self.environment = worker_environment(cloud.endpoint_url)
        config = load_config(ROOT / "config.yaml", self.environment)
        clients, names = Clients(config.aws.endpoint()), config.names
        self._store = JobStore(Table(clients.dynamodb, names.job_table))
        self._answers = Queue.named(clients.sqs, config.queue_name(names.response_queue))
        self._bucket = Bucket.named(clients, names.input_bucket)

    def latencies(self) -> Latencies:
        """Return how long the controller waits for a call: the delay, and what the local cloud takes."""
        items = [{"pk": "latencies", "sk": str(number), "response": "r" * 900} for number in range(BATCH)]
        with self._delayed(None):
            table = _fastest(lambda: self._store.table.put_all(items))
            queue = _fastest(lambda: self._answers.receive(10, wait_seconds=0))
            one = _fastest(lambda: self._bucket.delete("nothing"))
            many = _fastest(lambda: self._bucket.delete_all([f"nothing/{number}" for number in range(100)]))
        return Latencies(table=table, page=0.0, queue=queue, delete=many, object=one, jitter=0.1)

    def record(self, jobs: int, images: int) -> Recording:
        """Let a controller that knows so many jobs, since each has an answer, record the other answers."""
        made = [Job(new_id(), f"job {number}", datetime.now(UTC)) for number in range(jobs)]
        self._store.create_all(made)
        of_job = [[_image(job, number) for number in range(images // jobs)] for job in made]
        for job, records in zip(made, of_job, strict=True):
            self._store.record_images(records, job.created_at)
            self._store.put_accepted_count(job.job_id, new_id(), AcceptedCount(len(records), 0, None, None))
        in_turn = [record.ref for records in zip(*of_job, strict=True) for record in records]
        answers = [OutgoingMessage(ref.image_id, answer_body(ref)) for ref in in_turn]
        with self._controller() as controller:
            self._answers.send(answers[:jobs])
            self._samples(made, jobs, controller.pid)
            with self._delayed("controller"):
                self._answers.send(answers[jobs:])
                began, busy = time.monotonic(), self._cloud_seconds()
                samples = self._samples(made, len(in_turn), controller.pid)
                cloud_share = (self._cloud_seconds() - busy) / (time.monotonic() - began)
        for job in made:
            self._store.delete(job)
        return replace(recording(samples, len(in_turn)), cloud_share=cloud_share)

    def _cloud_seconds(self) -> float:
        return sum(each.cpu_seconds for each in usages([self._cloud.server_pid]).values())

    def _samples(self, jobs: Sequence[Job], images: int, pid: int) -> list[tuple[float, int, float]]:
        """Return the time, the counted answers and the controller's CPU seconds, until all are counted."""
        keys = [(counts_partition(job.job_id), COUNTED) for job in jobs]
        samples = list[tuple[float, int, float]]()
        began = time.monotonic()
        while not samples or samples[-1][1] < images:
            if time.monotonic() > began + PATIENCE_SECONDS:
                raise RuntimeError(f"{samples[-1][1]} of {images} answers were counted in {PATIENCE_SECONDS:.0f} s")
            time.sleep(SAMPLE_SECONDS)
            counted = sum(int(item["done"]) for item in self._store.table.get_all(keys))
            used = sum(each.cpu_seconds for each in usages([pid]).values())
            samples.append((time.monotonic(), counted, used))
        return samples

    @contextmanager
    def _controller(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a controller that launches no worker."""
        environment = self.environment | {"FLEETSIGHT__FLEET__MAX_WORKERS": "0"}
        with (self._folder / "controller.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "web_tier.controller"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
            try:
                yield process
            finally:
                process.terminate()
                process.wait(30)

    @contextmanager
    def _delayed(self, tier: str | None) -> Iterator[None]:
        rules = [
            {"kind": "slow", "service": service, "seconds": DELAY_SECONDS} | ({"tier": tier} if tier else {})
            for service in ("dynamodb", "sqs", "s3")
        ]
        with closing(ControlClient(self._cloud.endpoint_url)) as control:
            control.send("PUT", "switches", {"faults": rules})
        try:
            yield
        finally:
            with closing(ControlClient(self._cloud.endpoint_url)) as control:
                control.send("PUT", "switches", {"faults": []})


def modelled_recording(setup: Setup, jobs: int, images: int) -> Recording:
    """Let the model record the same answers."""
    with closing(CapacityModel(setup)) as model:
        made = [model.new_job(images // jobs) for _ in range(jobs)]
        for job in made:
            model.answer(job, job.image_ids[:1])
        model.start()
        model.virtual.run_until(PATIENCE_SECONDS, lambda: model.counted() == jobs)
        for in_turn in islice(zip(*(job.image_ids for job in made), strict=True), 1, None):
            for job, image_id in zip(made, in_turn, strict=True):
                model.answer(job, [image_id])
        answers, samples = images // jobs * jobs, list[tuple[float, int, float]]()
        while (not samples or samples[-1][1] < answers) and model.virtual.now < 2 * PATIENCE_SECONDS:
            model.virtual.run_until(model.virtual.now + SAMPLE_SECONDS)
            samples.append((model.virtual.now, model.counted(), sum(model.virtual.busy.values())))
    return recording(samples, answers)


def recording(samples: Sequence[tuple[float, int, float]], answers: int) -> Recording:
    """Return how answers were recorded, from samples of the time, the counted answers and the CPU seconds."""
    first = next(each for each in samples if each[1] >= FIRST_SHARE * answers)
    last = next(each for each in samples if each[1] >= LAST_SHARE * answers)
    seconds, images, cpu = (after - before for before, after in zip(first, last, strict=True))
    return Recording(images / max(seconds, SAMPLE_SECONDS), 1e3 * cpu / max(1, images))


def _image(job: Job, number: int) -> ImageRecord:
    ref = ImageRef(job.job_id, new_id())
    return ImageRecord(ref, f"photo-{number}.jpg", input_key(ref, "jpg"), 104_857, job.created_at)


def _fastest(call: Callable[[], object], rounds: int = 5) -> float:
    """Return the seconds that the fastest of some calls waited: without the CPU time of this thread."""
    took = []
    for _ in range(rounds):
        began, busy = time.monotonic(), time.thread_time()
        call()
        took.append(time.monotonic() - began - (time.thread_time() - busy))
    return min(took)
