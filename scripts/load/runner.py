"""One load test from start to end, in any mode."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from fleetsight_client.api import ApiClient, ApiError, token_from_environment
from scripts.load.clients import ClassicClient, DirectLoad, JobLoad
from scripts.load.inputs import LoadImages, LoadTarget
from scripts.load.metrics import LoadMetrics, LoadSummary
from scripts.run.batch import cost_between

Work = TypeVar("Work")
Mode = Literal["classic", "api", "direct"]
Progressed = Callable[[int], None]


@dataclass
class _WorkQueue(Generic[Work]):
    """Hands items out one at a time, until it is empty or stopped."""

    waiting: Iterator[Work]
    stopped: threading.Event
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __iter__(self) -> Iterator[Work]:
        while not self.stopped.is_set():
            with self.lock:
                work = next(self.waiting, None)
            if work is None:
                return
            yield work


def run_concurrently(
    work: Iterable[Work], clients: int, one: Callable[[Work], None], stopped: threading.Event
) -> None:
    """Call `one` for all items of `work` in `clients` threads; after `stopped` each completes its present item.

    Raises:
        Exception: the error of `one`; the other threads complete their present items.
    """
    queue = _WorkQueue(iter(work), stopped)

    def run() -> None:
        try:
            for item in queue:
                one(item)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(clients, thread_name_prefix="client") as threads:
        for ended in [threads.submit(run) for _ in range(clients)]:
            ended.result()


@dataclass(frozen=True)
class LoadTest:
    """A load test of a system.

    Attributes:
        target: the system.
        mode: how images are sent.
        concurrency: the number of concurrent requests.
        path: for `classic`, the path of the requests.
        field: for `classic`, the field of the form.
        patience_seconds: an image without an answer for this long is lost.
    """

    target: LoadTarget
    mode: Mode
    concurrency: int
    path: str
    field: str
    patience_seconds: float

    def run(self, images: LoadImages, stopped: threading.Event, progressed: Progressed) -> LoadSummary:
        """Send all images unless `stopped` is set before, and return the summary.

        Args:
            images: to send.
            stopped: ends the test after the present requests.
            progressed: receives the number of images with a verdict, or with a result in the modes with a job.

        Raises:
            ApiError: the API rejects the job.
            TargetError: the system refers to another one that may not be loaded.
        """
        before, metrics, started = self._fleet(), LoadMetrics(), time.monotonic()
        if self.mode == "classic":
            client = ClassicClient(
                self.target, self.path, self.field, self.patience_seconds, token_from_environment()
            )

            def one(file: Path) -> None:
                client.classify(file, images, metrics)
                progressed(metrics.images)

            run_concurrently(images, min(self.concurrency, images.count), one, stopped)
        else:
            self._job(images, metrics, stopped, progressed)
        seconds = time.monotonic() - started
        return metrics.summary(self.mode, images.count, seconds, cost_between(before, self._fleet()))

    def _fleet(self) -> dict[str, Any] | None:
        """Return the status of the system's fleet, or None if the system has no such API."""
        client = ApiClient(self.target.base_url, token=token_from_environment())
        try:
            return client.fleet()
        except (ApiError, ValueError):
            return None
        finally:
            client.close()

    def _job(
        self, images: LoadImages, metrics: LoadMetrics, stopped: threading.Event, progressed: Progressed
    ) -> None:
        client = ApiClient(self.target.base_url, token=token_from_environment())
        load: JobLoad
        if self.mode == "direct":
            load = DirectLoad(client, images, metrics, self.patience_seconds, stopped, target=self.target)
        else:
            load = JobLoad(client, images, metrics, self.patience_seconds, stopped)
        try:
            job_id = client.create_job("load test")
            run_concurrently(load.batches(), self.concurrency, lambda files: load.upload(job_id, files), stopped)
            load.collect(job_id, progressed)
        finally:
            client.close()
