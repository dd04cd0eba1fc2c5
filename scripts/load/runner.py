"""One load test from start to end, in any mode."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from fleetsight_client.api import ApiClient, ApiError, token_from_environment
from scripts.load.clients import ClassicClient, JobLoad
from scripts.load.inputs import LoadImages, LoadTarget
from scripts.load.metrics import FleetSample, LoadMetrics, LoadSummary
from scripts.load.schedule import Pacer
from scripts.run.batch import cost_between
from services.clock import CLOCK, Clock

Work = TypeVar("Work")
Mode = Literal["classic", "api"]
Progressed = Callable[[int], None]

SAMPLE_SECONDS = 1.0
"""The pause between two samples of the fleet."""

MAX_REPORT_SECONDS = 5.0
"""The controller reports about once a second; without a report after this long, the last one counts."""


def run_concurrently(
    work: Iterable[Work], clients: int, one: Callable[[Work], None], stopped: threading.Event
) -> None:
    """Call `one` for all items of `work` in `clients` threads; after `stopped` each completes its present item.

    Raises:
        Exception: the error of `one`; the other threads complete their present items.
    """
    items, lock = iter(work), threading.Lock()

    def run() -> None:
        try:
            while not stopped.is_set():
                with lock:
                    item = next(items, None)
                if item is None:
                    return
                one(item)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(clients, thread_name_prefix="client") as threads:
        for ended in [threads.submit(run) for _ in range(clients)]:
            ended.result()


@dataclass
class FleetWatch:
    """Samples the fleet of the system during a load test, in a thread of its own."""

    client: ApiClient
    clock: Clock = CLOCK
    samples: list[FleetSample] = field(default_factory=list, init=False)

    def read(self) -> dict[str, Any] | None:
        """Return the status of the fleet, or None if the system has no such API."""
        try:
            return self.client.fleet()
        except (ApiError, ValueError):
            return None

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample the fleet until the context ends."""
        ended, began = threading.Event(), self.clock.monotonic()

        def sample() -> None:
            while (status := self.read()) is not None:
                waiting = int(status.get("visible", 0)) + int(status.get("delayed", 0))
                second = round(self.clock.monotonic() - began, 2)
                self.samples.append(FleetSample(second, int(status["running"]), int(status["pending"]), waiting))
                if ended.wait(SAMPLE_SECONDS):
                    return

        thread = threading.Thread(target=sample, name="fleet-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def next_report(self) -> dict[str, Any] | None:
        """Return the first status that the controller makes from now on, so that it has the whole cost."""
        first, began = self.read(), self.clock.monotonic()
        status = first
        while status is not None and first is not None and status.get("at") == first.get("at"):
            if "at" not in first or self.clock.monotonic() - began > MAX_REPORT_SECONDS:
                break
            self.clock.sleep(SAMPLE_SECONDS / 4)
            status = self.read() or status
        return status


@dataclass(frozen=True)
class LoadTest:
    """A load test of a system.

    Attributes:
        patience_seconds: an image without an answer for this long is lost.
        arrivals: for an open loop of `classic`, the second of each image; None sends one after the other.
        model: that the job of `api` names; None for that of new jobs.
    """

    target: LoadTarget
    mode: Mode
    concurrency: int
    patience_seconds: float
    arrivals: Sequence[float] | None = None
    model: str | None = None

    def run(self, images: LoadImages, stopped: threading.Event, progressed: Progressed) -> LoadSummary:
        """Send all images unless `stopped` is set before, and return the summary.

        Args:
            images: to send.
            stopped: ends the test after the present requests.
            progressed: receives the number of images with a verdict, or with a result in the modes with a job.

        Raises:
            ApiError: the API rejects the job.
        """
        client = ApiClient(self.target.base_url, token=token_from_environment())
        pacer = None if self.arrivals is None else Pacer(self.arrivals, stopped, wait=stopped.wait)
        try:
            watch = FleetWatch(client)
            before, metrics = watch.read(), LoadMetrics()
            with watch.sampling():
                started = time.monotonic()
                if self.mode == "classic":
                    self._classic(images, metrics, stopped, progressed, pacer)
                else:
                    load = JobLoad(client, images, metrics, self.patience_seconds, stopped)
                    job_id = client.create_job("load test", model=self.model)
                    upload = partial(load.upload, job_id)
                    run_concurrently(load.batches(), self.concurrency, upload, stopped)
                    load.collect(job_id, progressed)
                seconds = time.monotonic() - started
            cost = cost_between(before, watch.next_report())
        finally:
            client.close()
        summary = metrics.summary(self.mode, images.count, seconds, cost, ended=started + seconds)
        late = (0, 0.0) if pacer is None else (pacer.late, round(pacer.latest_seconds, 3))
        return replace(summary, fleet=tuple(watch.samples), late=late[0], latest_s=late[1])

    def _classic(
        self,
        images: LoadImages,
        metrics: LoadMetrics,
        stopped: threading.Event,
        progressed: Progressed,
        pacer: Pacer | None,
    ) -> None:
        client = ClassicClient(self.target, self.patience_seconds, token_from_environment())

        def one(work: tuple[Path, float | None]) -> None:
            file, moment = work
            if pacer is None or moment is None or pacer.hold(moment):
                client.classify(file, images, metrics, moment)
                progressed(metrics.images)

        moments: Iterable[float | None] = (None for _ in range(images.count)) if pacer is None else pacer
        run_concurrently(zip(images, moments, strict=True), min(self.concurrency, images.count), one, stopped)
