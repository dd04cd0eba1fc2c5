"""What records results, connected as in the controller, over two jobs in memory."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from core.ids import ImageRef, new_id
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.figures import JobFigures
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Failure, failed
from services.clock import CLOCK, Clock
from services.lease import Tenure
from services.s3 import Bucket
from services.sqs import Queue
from tests.support.jobs import statuses_of
from tests.support.memory_aws.calls import failing_writes
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.memory_aws.s3 import MemoryBucket
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.controller.cancellation import JobCanceller
from web_tier.controller.collector import Collector
from web_tier.controller.reconciler import DeadLetterConsumer, Reconciler, ResultRecovery
from web_tier.controller.result_writer import RecordGivenUp, ResultStatistics, ResultWriter

JOBS = [new_id() for _ in range(2)]
IMAGES = {job_id: [ImageRef(job_id, new_id()) for _ in range(40)] for job_id in JOBS}
REFS = [ref for refs in IMAGES.values() for ref in refs]


def done(ref: ImageRef, attempts: int = 1) -> ClassificationResult:
    return ClassificationResult(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="done",
        label="cat",
        score=0.5,
        worker="i-1",
        attempts=attempts,
    )


def not_done(ref: ImageRef, attempt: int = 0, attempts: int = 1) -> ClassificationResult:
    failure = Failure(code="bad", message="no image")
    return failed(ref, failure, worker="i-1", attempt=attempt, attempts=attempts).response()


def stored_jobs(
    fail: Callable[[str], None] = lambda _when: None, sleep: Callable[[float], None] = time.sleep
) -> JobStore:
    """A store with two jobs of forty images each, which fails only afterwards."""
    ready = [False]
    store = JobStore(MemoryTable(failing_writes(lambda when: fail(when) if ready[0] else None), sleep=sleep))
    for job_id, refs in IMAGES.items():
        store.create(Job(job_id, "job", EPOCH))
        store.record_images([ImageRecord(ref, "a.jpg", "jpg", (1,), EPOCH) for ref in refs], EPOCH)
    ready[0] = True
    return store


def figures(store: JobStore, job_id: str) -> tuple[int, int, int]:
    counts = JobFigures(store.table).counts(job_id)
    return counts.done, counts.failed, counts.images


def figures_of_items(store: JobStore, job_id: str) -> tuple[int, int, int]:
    """The figures as the items themselves make them."""
    statuses = list(statuses_of(store, job_id).values())
    return statuses.count("done"), statuses.count("failed"), len(list(store.images(job_id)))


class Statistics(ResultStatistics):
    """Keeps what is counted: results, and answers by billing period."""

    def __init__(self, period: int = 1) -> None:
        self.period = period
        self.results = list[ClassificationResult]()
        self.answers = list[tuple[int, int]]()

    def count(self, results: Sequence[ClassificationResult]) -> None:
        self.results += results

    def attribute(self, answers: int, packs: int = 0) -> int:
        if answers:
            self.answers.append((self.period, answers))
        return self.period


class InlineExecutor:
    """An executor that runs each call at once, in the thread or task that asks for it."""

    def submit(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> "Future[Any]":
        """Run a call; a process that is killed in it goes no further."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future

    def submit_in_turn(self, _user: str, call: Callable[[], Any]) -> "Future[Any]":
        """Run a call of a user."""
        return self.submit(call)

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> list[Any]:
        """Run a call for each item."""
        return [function(*items) for items in zip(*iterables, strict=False)]


class ResultPath:
    """What records results."""

    def __init__(
        self,
        store: JobStore,
        tenure: Tenure | None = None,
        *,
        buckets: tuple[Bucket, Bucket] | None = None,
        statistics: ResultStatistics | None = None,
        on_given_up: Sequence[RecordGivenUp] = (),
        clock: Clock = CLOCK,
    ) -> None:
        inputs, outputs = buckets or (MemoryBucket(), MemoryBucket())
        self.inputs, self.outputs = InputBucket(inputs), OutputBucket(outputs)
        self.store, self.tenure = store, tenure or Tenure()
        self.results = ResultWriter(store, self.tenure, self.inputs, self.outputs, statistics, on_given_up, clock)
        self.recovery = ResultRecovery(store, self.results, self.outputs)

    def collector(self, responses: Queue, **options: Any) -> Collector:
        """Return a collector of these responses."""
        return Collector(responses, self.outputs, self.results, self.tenure, **options)

    def canceller(self, **options: Any) -> JobCanceller:
        """Return a canceller of jobs."""
        return JobCanceller(self.store, self.recovery, self.inputs, self.tenure, **options)

    def reconciler(
        self, dead_letters: Queue, requests: Queue, metrics: ControllerMetrics | None = None, **options: Any
    ) -> Reconciler:
        """Return a reconciler that consumes these dead letters."""
        metrics, clock = metrics or ControllerMetrics(), options.get("clock", CLOCK)
        letters = DeadLetterConsumer(dead_letters, requests, self.recovery, self.tenure, clock, metrics)
        parts = (self.store, self.recovery, letters, requests)
        return Reconciler(*parts, inputs=self.inputs, tenure=self.tenure, metrics=metrics, **options)
