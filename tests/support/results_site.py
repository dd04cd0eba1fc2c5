"""The way of results in memory: the real store, collector and reconciler, with a clock that tests turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from core.fleet.models import FleetPause
from core.fleet.store import FleetStore
from core.ids import ImageRef, image_id_at, new_id
from core.jobs.buckets import OutputBucket
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import ImageRecord, Job
from core.jobs.requests import requests_of
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Failure, Prediction, failed
from services.lease import Tenure
from services.sqs import OutgoingMessage
from tests.support.autoscaler import Clock
from tests.support.clocks import ManualClock
from tests.support.jobs import response_of
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.result_path import ResultPath
from web_tier.autoscaler.liveness import WorkerRegistry

LOST_AFTER = 60.0


def done(ref: ImageRef) -> ClassificationResult:
    return ClassificationResult(
        job_id=ref.job_id, image_id=ref.image_id, status="done", label="cat", score=0.5, worker="i-1", attempts=1
    )


def refused(ref: ImageRef, attempt: int = 0, message: str = "the worker stopped") -> ClassificationResult:
    """A result that a retry may change."""
    failure = Failure(code="crashed_worker", message=message)
    return failed(ref, failure, worker="i-1", attempt=attempt, attempts=5).response()


class PausedFleet(FleetStore):
    """The items of a fleet that is paused as long as `is_paused` says so."""

    def __init__(self, is_paused: Callable[[], bool]) -> None:
        super().__init__(MemoryTable())
        self.is_paused = is_paused

    def paused(self) -> FleetPause | None:
        return FleetPause(since=EPOCH) if self.is_paused() else None


@dataclass
class ResultsSite:
    """A collector and a reconciler with queues, buckets and a table in memory.

    Attributes:
        paused: whether the fleet is.
        active: whether the controller holds the lease.
        given_up: images that the result writer reported as given up.
    """

    paused: bool = False
    active: bool = True
    clock: Clock = field(default_factory=Clock)
    store: JobStore = field(default_factory=lambda: JobStore(MemoryTable()))
    inputs: MemoryBucket = field(default_factory=MemoryBucket)
    outputs: MemoryBucket = field(default_factory=MemoryBucket)
    given_up: set[ImageRef] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.requests, self.responses, self.letters = (MemoryQueue(clock=self.clock) for _ in range(3))
        self.start()

    def start(self) -> None:
        """Start a controller that remembers nothing."""
        path = ResultPath(
            self.store,
            Tenure(active=self._may_act),
            buckets=(self.inputs, self.outputs),
            on_given_up=[self._record_given_up],
        )
        self.results = path.results
        registry = WorkerRegistry(self.clock)
        self.collector = path.collector(self.responses, registry=registry)
        self.canceller = path.canceller(clock=ManualClock(60.0))
        self.reconciler = path.reconciler(
            self.letters,
            self.requests,
            responses=self.responses,
            reconcile_seconds=10.0,
            lost_after_seconds=LOST_AFTER,
            fleet=PausedFleet(lambda: self.paused),
            clock=self.clock,
            registry=registry,
            users=(self.canceller,),
        )

    def _record_given_up(self, given_up: Sequence[ClassificationResult]) -> dict[ImageRef, Exception]:
        self.given_up |= {each.ref for each in given_up}
        return {}

    def _may_act(self) -> bool:
        return self.active

    def respond(self, *responses: ClassificationResult) -> None:
        """Send responses, as workers do, and let the collector record them."""
        self.responses.send([response_of(response) for response in responses])
        self.collector.tick()

    def add_job(
        self,
        images: int,
        *,
        request: bool = True,
        keep: bool = True,
        max_failed_percent: float | None = None,
        pack: int = 1,
    ) -> list[ImageRef]:
        """Make a job with accepted images, `pack` in each pack, as the web tier does."""
        job_id = new_id()
        self.store.create(Job(job_id, "job", EPOCH, keep=keep, max_failed_percent=max_failed_percent))
        return self.add_images(job_id, images, request=request, pack=pack)

    def add_images(
        self, job_id: str, images: int, *, request: bool = True, touched_at: datetime = EPOCH, pack: int = 1
    ) -> list[ImageRef]:
        """Add accepted images to a job, `pack` in each pack."""
        ids = [new_id() for _ in range(0, images, pack)]
        refs = [ImageRef(job_id, image_id_at(pack_id, place)) for pack_id in ids for place in range(pack)]
        records = [ImageRecord(ref, "a.jpg", "jpg", (1,) * pack, EPOCH) for ref in refs]
        self.store.record_images(records, touched_at)
        for record in records:
            self.inputs.put(record.key, b"pixels", "image/jpeg")
        if request:
            self.requests.send([message for message, _ in requests_of(records, EPOCH)])
        return refs

    def retry(self, ref: ImageRef, *, request: bool = True) -> ImageRecord:
        """Retry a failed image, as the web tier does."""
        before = self.store.image(ref)
        after = replace(before, attempt=before.attempt + 1, retried_at=EPOCH)
        OpenJobs(self.store.table).reopen(ref.job_id, EPOCH)
        assert self.store.replace_images([(before, after)])
        if request:
            self.requests.send([message(after)])
        self.store.put_retried(ref.job_id, EPOCH, [after])
        return after

    def store_output(self, response: ClassificationResult) -> None:
        """Store a prediction, as a worker does."""
        prediction, is_lone = Prediction(**response.model_dump()), self.store.image(response.ref).is_lone
        OutputBucket(self.outputs).store([prediction], is_lone=is_lone)

    def stored(self, ref: ImageRef) -> Prediction:
        prediction = OutputBucket(self.outputs).prediction(self.store.image(ref))
        assert prediction is not None
        return prediction

    def result(self, ref: ImageRef) -> ClassificationResult:
        result = self.store.result(ref)
        assert result is not None
        return result

    def pass_time(self, seconds: float, every: float = 10.0) -> None:
        """Sweep now and then for so long."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.reconciler.tick()
            self.clock.now += every
        self.reconciler.tick()

    def lose_messages(self) -> None:
        """Lose what is in the request queue, as a purge does."""
        self.requests.messages.clear()


def message(record: ImageRecord, group: str = "", at: datetime = EPOCH) -> OutgoingMessage:
    [(request, _)] = requests_of([record], at, group)
    return request
