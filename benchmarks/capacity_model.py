"""The controller in virtual time: its own loops, as `ControllerServices.ticks` wires them, over `virtual_aws`."""

import gc
import logging
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from functools import partial
from math import inf
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final, cast

from benchmarks.virtual_aws import (
    WORKER,
    CallCosts,
    Latencies,
    ModelJob,
    Quotas,
    VirtualBucket,
    VirtualCloud,
    VirtualQueue,
    VirtualTable,
    encoded,
)
from benchmarks.virtual_time import EPOCH, VirtualTime, virtualise
from core.config import load_config
from core.ids import ImageRef
from core.jobs.items import COUNTED, JOBS, OPEN, RESULT, accepted_attributes, counts_partition, deleted_item, job_item
from core.jobs.models import AcceptedCount, Job
from core.jobs.store import JobStore
from scripts.run.system import ROOT
from services.demand_signal import DemandListener
from services.ec2 import Fleet
from services.s3 import SourceBuckets
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.controller.leader import run_loop
from web_tier.controller.result_recorder import ResultRecorder
from web_tier.controller.services import ControllerServices

_LOGGER: Final = logging.getLogger("web_tier")
"""Of the controller, which reports each job and each delay; a model of a million images needs none of it."""

OURS: Final = ("core", "services", "web_tier")
ID_PREFIX: Final = "01KJN0W8G0"
"""Time of an id: the first ten characters of a ULID. The rest is a number."""


@dataclass(frozen=True)
class Setup:
    """What a model is made of.

    Attributes:
        core_speed: as of `VirtualTime`.
        full_from: messages from which on a short poll is full.
    """

    costs: CallCosts = field(default_factory=CallCosts)
    latencies: Latencies = field(default_factory=Latencies)
    quotas: Quotas = field(default_factory=Quotas)
    core_speed: Callable[[], float] = lambda: 1.0
    full_from: int = 1_000
    seed: int = 0


@dataclass
class JobProgress:
    """What the model knows of a job: times are virtual seconds.

    Attributes:
        sent_at: of its answers that are not recorded, by image id.
        uncounted: when those answers were sent that are recorded and not counted.
        counted: results that the job's counts have.
    """

    sent_at: dict[str, float] = field(default_factory=dict)
    uncounted: deque[float] = field(default_factory=deque)
    counted: int = 0


class CapacityModel:
    """A controller that has just acquired the lease, its services, and a program that sends answers to it.

    Attributes:
        delays: seconds from an answer to its count, by job, each with the time of the count.
        recorded: results that were stored.
    """

    def __init__(self, setup: Setup) -> None:
        self.virtual = virtual = VirtualTime(setup.core_speed)
        self.cloud = VirtualCloud(virtual, setup.latencies, setup.costs, setup.quotas, setup.seed)
        self.cloud.on_item = self._note
        self.items = VirtualTable(self.cloud)
        self.requests = VirtualQueue(self.cloud)
        self.responses = VirtualQueue(self.cloud, full_from=setup.full_from)
        self.inputs = VirtualBucket(self.cloud, has_inputs=True)
        self.outputs = VirtualBucket(self.cloud, has_inputs=False)
        self.progress: dict[str, JobProgress] = defaultdict(JobProgress)
        self.delays: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.recorder: ResultRecorder | None = None
        self.recorded = 0
        self._numbers = 0
        self._level: int | None = None

    # The controller

    def start(self) -> None:
        """Start the controller."""
        self._level = _LOGGER.level
        _LOGGER.setLevel(logging.ERROR)
        self.virtual.spawn("start", self._start)

    def _start(self) -> None:
        config, path = (
            load_config(ROOT / "config.yaml", {"FLEETSIGHT__FLEET__MAX_WORKERS": "1"}),
            ROOT / "config.yaml",
        )
        fleet = Fleet(cast(Any, OneWorker()), "model")
        services = ControllerServices(
            config=config,
            store=JobStore(self.items.table()),
            requests=self.requests.queue(),
            responses=self.responses.queue(),
            dead_letters=VirtualQueue(self.cloud).queue(),
            inputs=self.inputs,
            outputs=self.outputs,
            fleet=fleet,
            launching=fleet,
            send={},
            operators=(),
            sources=SourceBuckets(cast(Any, None)),
            signals=NoSignals("virtual"),
            bucket_named=lambda _name: self.outputs,
        )
        ticks = services.ticks("model", 1, FleetConfigWatcher(path, config.fleet), lambda: True)
        virtualise(self.virtual, *ticks.values(), ours=OURS)
        self.recorder = cast(Any, ticks["collector"]).__self__.recorder
        for name, tick in ticks.items():
            self.virtual.spawn(name, partial(run_loop, name, tick, lambda: True, self.virtual.sleep))

    def close(self) -> None:
        """End the controller."""
        self.virtual.close()
        if self._level is not None:
            _LOGGER.setLevel(self._level)

    # Jobs and answers

    def new_job(self, images: int, answered: int = 0, owner: str = "user") -> ModelJob:
        """Make a job with so many accepted images, the first of which have a result that is counted."""
        job_id = f"{ID_PREFIX}{self._number():016d}"
        job = ModelJob(job_id, owner, self._ids(images), answered)
        self.cloud.jobs[job_id] = job
        self.requests.more += images - answered
        made = Job(job_id, f"job {job_id}", self.virtual.datetime(), owner=owner)
        for item in (job_item(made), job_item(made, f"OWNED#{owner}")):
            self._put(item)
        self.accept(job, 0)
        if answered:
            counts = {"done": answered, "failed": 0, "images": images}
            at = {"first_at": EPOCH.isoformat(), "last_at": EPOCH.isoformat()}
            fencing = {"token": 0}  # nosec B105 # the number of a tenure, not a secret
            self._put({"pk": counts_partition(job_id), "sk": COUNTED, **counts, **at, **fencing})
            self.progress[job_id].counted = answered
        return job

    def accept(self, job: ModelJob, images: int) -> None:
        """Add images to a job, as the web tier does: open, record, count."""
        job.add(self._ids(images))
        self.requests.more += images
        at = self.virtual.datetime()
        self._put({"pk": OPEN, "sk": job.job_id, "touched_at": at.isoformat()})
        count = AcceptedCount(len(job.image_ids), 0, None, None)
        self._put({"pk": counts_partition(job.job_id), "sk": "SAID#web", **accepted_attributes(count)})

    def delete(self, job: ModelJob) -> None:
        """Delete a job, as the web tier does."""
        made = Job(job.job_id, "", self.virtual.datetime(), owner=job.owner)
        self._put(deleted_item(made))
        for pk in (JOBS, OPEN, f"OWNED#{job.owner}"):
            self.items.delete(pk, job.job_id)

    def answer(self, job: ModelJob, image_ids: Sequence[str]) -> None:
        """Send the answers of images now; their requests have waited in the queue until then."""
        now, progress = self.virtual.now, self.progress[job.job_id]
        self.requests.more = max(0, self.requests.more - len(image_ids))
        progress.sent_at.update((image_id, now) for image_id in image_ids)
        self.responses.add([ImageRef(job.job_id, image_id) for image_id in image_ids])

    def counted(self) -> int:
        """Return how many results are counted, of all jobs."""
        return sum(each.counted for each in self.progress.values())

    def every(self, seconds: Callable[[], float], action: Callable[[], bool]) -> None:
        """Call `action` again and again after `seconds()`, until it returns False."""

        def again() -> None:
            if action():
                self.virtual.call_at(self.virtual.now + seconds(), again)

        again()

    def memory_of_recorder(self) -> int:
        """Return the bytes of what the recorder remembers: of all objects that only its own state refers to."""
        if self.recorder is None:
            raise RuntimeError("the controller has not started")
        own = [getattr(self.recorder, each.name) for each in fields(self.recorder) if not each.init]
        return deep_bytes(own)

    def _note(self, pk: str, sk: str, item: Mapping[str, Any]) -> None:
        """Note which answers have been recorded and counted."""
        kind, _, job_id = pk.partition("#")
        if kind == "JOB" and sk.startswith(RESULT):
            progress = self.progress[job_id]
            self.recorded += 1
            if (sent_at := progress.sent_at.pop(sk[len(RESULT) :], None)) is not None:
                progress.uncounted.append(sent_at)
        elif kind == "COUNTS" and sk == COUNTED:
            progress, now = self.progress[job_id], self.virtual.now
            done = int(item["done"]["N"])
            for _ in range(min(done - progress.counted, len(progress.uncounted))):
                self.delays[job_id].append((now, now - progress.uncounted.popleft()))
            progress.counted = max(done, progress.counted)

    def _put(self, item: Mapping[str, str | int]) -> None:
        self.items.put(encoded(item))

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _ids(self, count: int) -> list[str]:
        first, self._numbers = self._numbers + 1, self._numbers + count
        return [f"{ID_PREFIX}{number:016d}" for number in range(first, first + count)]


class NoSignals(DemandListener):
    """Receives no signal, as on AWS, where the web tier is on other machines."""

    def listen(self) -> bool:
        """Return False: there will be none."""
        return False


class OneWorker:
    """The client of EC2 with the instance that answers: so the autoscaler, which may have one, launches none."""

    def get_paginator(self, _operation: str) -> "OneWorker":
        """Return what yields the pages."""
        return self

    def paginate(self, **_: Any) -> list[Any]:
        """Return a page with the instance."""
        instance = {
            "InstanceId": WORKER,
            "State": {"Name": "running"},
            "InstanceType": "c7a.large",
            "Placement": {"AvailabilityZone": "us-east-1a"},
            "LaunchTime": EPOCH,
        }
        return [{"Reservations": [{"Instances": [instance]}]}]

    def terminate_instances(self, **_: Any) -> dict[str, Any]:
        """Do nothing: the controller takes an instance for dead while that instance's answers wait."""
        return {"TerminatingInstances": []}


def deep_bytes(root: object) -> int:
    """Return the bytes of an object and of all that it refers to, each once."""
    seen: set[int] = set()
    left, size = [root], 0
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType | BuiltinFunctionType | VirtualTime):
            continue
        seen.add(id(each))
        size += sys.getsizeof(each)
        # The traversal of a dictionary leaves out keys that are strings.
        left += [*each.keys(), *each.values()] if isinstance(each, dict) else gc.get_referents(each)
    return size


@dataclass(frozen=True)
class Rates:
    """What a model did between two moments, an image."""

    images: int
    seconds: float
    cpu_seconds: float
    calls: int
    write_units: float
    read_units: float
    by_task: Mapping[str, float]
    by_call: Mapping[str, int]

    @property
    def images_per_second(self) -> float:
        """Images with a result that was recorded, in a second."""
        return self.images / self.seconds

    @property
    def core_share(self) -> float:
        """Share of the core that the controller used."""
        return self.cpu_seconds / self.seconds

    def an_image(self, total: float) -> float:
        """Return the share of an image."""
        return total / max(1, self.images)


def measure(model: CapacityModel, warm_up: float, seconds: float) -> Rates:
    """Let the model run, and return what it did after the warm-up."""
    model.virtual.run_until(model.virtual.now + warm_up)
    virtual, cloud = model.virtual, model.cloud
    images, busy, calls = model.recorded, dict(virtual.busy), Counter(cloud.calls)
    writes, reads, began = cloud.write_units, cloud.read_units, virtual.now
    virtual.run_until(began + seconds)
    by_task = {name: used - busy.get(name, 0.0) for name, used in virtual.busy.items()}
    by_call = {name: made - calls[name] for name, made in cloud.calls.items()}
    return Rates(
        model.recorded - images,
        virtual.now - began,
        sum(by_task.values()),
        sum(by_call.values()),
        cloud.write_units - writes,
        cloud.read_units - reads,
        by_task,
        by_call,
    )


MAX_IMAGES_PER_SECOND: Final = 3_500
"""Answers that are sent for each second of `sustained`: more than one controller records."""

WARM_UP_SECONDS: Final = 1.0
START_SECONDS: Final = 120.0
"""Within this time a controller has read the jobs."""


def sustained(setup: Setup, jobs: int, seconds: float, warm_up: float = WARM_UP_SECONDS) -> Rates:
    """Return what the controller does while more answers wait than it can record, of so many jobs in turn.

    It knows the jobs: each has one answer that was recorded before.
    """
    with closing(CapacityModel(setup)) as model:
        images = -(-int(MAX_IMAGES_PER_SECOND * (seconds + warm_up)) // jobs) + 1
        made = [model.new_job(images) for _ in range(jobs)]
        for job in made:
            model.answer(job, job.image_ids[:1])
        model.start()
        model.virtual.run_until(START_SECONDS, lambda: model.counted() == jobs)
        for at in range(1, images):
            for job in made:
                model.answer(job, job.image_ids[at : at + 1])
        return measure(model, warm_up, seconds)


def under_load(
    setup: Setup, jobs: int, images_per_second: float, seconds: float, warm_up: float = 5.0
) -> tuple[Rates, list[float]]:
    """Return what the controller does under a load, and the seconds from each answer to its count.

    The last answers count with the time that they have waited so far.
    """
    with closing(CapacityModel(setup)) as model:
        images = int(images_per_second * (warm_up + seconds) * 1.2 / jobs) + 20
        made = [model.new_job(images) for _ in range(jobs)]
        random, left = model.cloud.random, [(job, image_id) for job in made for image_id in job.image_ids]
        random.shuffle(left)

        def send() -> bool:
            if not left:
                return False
            job, image_id = left.pop()
            model.answer(job, [image_id])
            return True

        model.start()
        model.every(lambda: random.expovariate(images_per_second), send)
        rates = measure(model, warm_up, seconds)
        now = model.virtual.now
        delays = [delay for of_job in model.delays.values() for at, delay in of_job if at > warm_up]
        delays += [now - at for each in model.progress.values() for at in (*each.uncounted, *each.sent_at.values())]
        return rates, delays


OTHERS: Final = 10
OTHERS_IMAGES: Final = 400
OTHERS_PER_SECOND: Final = 10.0
JOB_PER_SECOND: Final = 100.0
ACCEPTED_PER_SECOND: Final = 200.0
"""Images that are added to the large job while it is uploaded."""


@dataclass(frozen=True)
class Phases:
    """Seconds of each phase of a large job.

    Attributes:
        upload: images are added and answered.
        end: nothing is added; longer than `lost_after_seconds`, after which all images are counted once.
        removal: at most, of the deleted job.
    """

    upload: float = 30.0
    end: float = 75.0
    removal: float = 60.0


@dataclass(frozen=True)
class LargeJob:
    """What one large job does to the controller and to other jobs; seconds, unless another unit is named.

    Attributes:
        images: of the job, half of which have a result when the controller takes over.
        loaded: from the takeover to the first recorded answer of the job.
        stalls: longest time from an answer of another job to its count, by phase.
        hold: longest time for which the lock of a job was held.
        memory_bytes: of what the recorder remembers of the job, an image.
        removed_per_second: images of the deleted job that were removed in a second.
    """

    images: int
    loaded: float
    stalls: Mapping[str, float]
    hold: float
    memory_bytes: float
    removed_per_second: float


def large_job(setup: Setup, images: int, phases: Phases = Phases()) -> LargeJob:
    """Take over a system with a large job that is being uploaded, beside small jobs; let it end; delete it."""
    with closing(CapacityModel(setup)) as model:
        random, virtual = model.cloud.random, model.virtual
        job = model.new_job(images, answered=images // 2)
        others = [model.new_job(OTHERS_IMAGES) for _ in range(OTHERS)]
        unanswered = iter(list(job.image_ids[images // 2 :]))
        of_others = ((other, number) for number in range(OTHERS_IMAGES) for other in others)
        upload_ends = answers_end = inf

        def answer_job() -> bool:
            image_id = next(unanswered, None)
            if image_id is None or virtual.now > answers_end:
                return False
            model.answer(job, [image_id])
            return True

        def answer_others() -> bool:
            other, number = next(of_others)
            model.answer(other, [other.image_ids[number]])
            return True

        def accept() -> bool:
            model.accept(job, int(ACCEPTED_PER_SECOND))
            return virtual.now < upload_ends

        model.start()
        model.every(lambda: random.expovariate(JOB_PER_SECOND), answer_job)
        model.every(lambda: random.expovariate(OTHERS_PER_SECOND), answer_others)
        model.every(lambda: 1.0, accept)
        progress = model.progress[job.job_id]
        before, stalls = progress.counted, dict[str, float]()
        virtual.run_until(START_SECONDS * 10, lambda: progress.counted > before)
        loaded = virtual.now
        upload_ends, answers_end = loaded + phases.upload, loaded + phases.upload + phases.end
        stalls["takeover"] = _longest_delay(model, others, 0.0)
        memory = model.memory_of_recorder()
        for phase, seconds in (("upload", phases.upload), ("end", phases.end)):
            since = virtual.now
            virtual.run_until(since + seconds)
            stalls[phase] = _longest_delay(model, others, since)
        since, left = virtual.now, _left_of(job)
        model.delete(job)
        while virtual.now < since + phases.removal and _left_of(job):
            virtual.run_until(virtual.now + 0.5)
        stalls["removal"] = _longest_delay(model, others, since)
        removed = (left - _left_of(job)) / max(1e-9, virtual.now - since)
        return LargeJob(
            images,
            loaded=loaded,
            stalls=stalls,
            hold=virtual.max_hold_seconds.get("job", 0.0),
            memory_bytes=memory / images,
            removed_per_second=removed,
        )


def _longest_delay(model: CapacityModel, jobs: Sequence[ModelJob], since: float) -> float:
    """Return the longest time from an answer that was sent since a moment to its count; or until now, if it waits."""
    now = model.virtual.now
    delays = [delay for job in jobs for at, delay in model.delays[job.job_id] if at - delay >= since]
    for job in jobs:
        progress = model.progress[job.job_id]
        delays += [now - at for at in (*progress.uncounted, *progress.sent_at.values()) if at >= since]
    return max(delays, default=0.0)


def _left_of(job: ModelJob) -> int:
    """Return the images of which a record or a result is left."""
    return max(job.recorded.count(1), job.answered.count(1))
