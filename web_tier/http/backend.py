"""What the web tier talks to: made on first use, so after gunicorn's fork, and shared by the threads of a process.

A process times by its own clock how long the controller has not reported (`ControllerReports`).
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import cast

from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, current_app, render_template

from core.bundle_facts import MAX_MANIFEST_BYTES
from core.config import Config, config_path
from core.fleet.models import FleetSnapshot
from core.fleet.store import FleetStore
from core.format import STALE_SECONDS
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.formats import refuse_earlier_format
from core.jobs.packs import PackSizes
from core.jobs.store import JobStore
from core.model_catalog import CatalogStore
from core.sandbox.process import SandboxError
from services.clients import Clients
from services.clock import CLOCK, Clock
from services.demand_signal import SignallingQueue
from services.errors import MessageError
from services.made_once import made_once
from services.s3 import Bucket, Forms, SourceBuckets
from services.sqs import Queue
from services.table import Table
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.autoscaler.forecast import Forecast, forecast
from web_tier.http.bulkheads import Bulkheads
from web_tier.http.memory import MemoryLimiter
from web_tier.http.metrics import WebMetrics
from web_tier.results.query import JobModels
from web_tier.results.waiter import ResultWaiter
from web_tier.uploads.ingest import CONCURRENCY, ImageIngest, sandboxed_inspect
from web_tier.uploads.presigned import PresignedUploads
from web_tier.uploads.served_models import BundleReader, Refresh, ServedModels
from web_tier.uploads.single import SingleImages

CHECK_SECONDS = 2.0
"""How long the check of a service may take."""

CHECKED_SECONDS = 1.0
"""How long the result of the checks is used."""

READING_BYTES = 48 * 2**20
"""Bytes of images that one process holds at once while it reads them from requests."""

MEASURED_SECONDS = 10.0
"""Age of the speed of workers at which it is read again."""

KEPT_CONNECTIONS = 64
"""Maximum connections that stay open to a service; of a thousand threads few call one at the same moment."""

_EXTENSION = "fleetsight"

_log = logging.getLogger(__name__)


class ControllerReports:
    """Remembers when this process first read the controller's last report; its threads share it.

    A report has a time of the controller's clock, which only distinguishes reports: for how long the controller has
    been silent is measured by the monotonic `clock`.
    """

    def __init__(self, clock: Clock = CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last: datetime | None = None
        self._since = float("-inf")

    def silent_seconds(self, report: FleetSnapshot | None) -> float:
        """Return for how long `report`, which has just been read, has been the last one; 0 if there is none."""
        if report is None:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            if report.at != self._last:
                self._last, self._since = report.at, now
            return now - self._since


class MeasuredSpeed:
    """The time that a worker takes for an image, as the controller measured it; read again every few seconds."""

    def __init__(self, fleet: Callable[[], FleetStore], clock: Clock = CLOCK) -> None:
        self._fleet, self._refresh = fleet, Refresh(clock)
        self._seconds: float | None = None

    def image_seconds(self) -> float | None:
        """Return the time in seconds, or None if it is not known."""
        self._refresh.run(MEASURED_SECONDS, self._read)
        return self._seconds

    def _read(self) -> bool:
        try:
            snapshot = self._fleet().snapshot()
        except (BotoCoreError, ClientError, MessageError) as error:
            _log.warning("the speed of workers could not be read: %s", error)
            return False
        self._seconds = None if snapshot is None else snapshot.image_seconds
        return True


class Backend:
    """The job store and the intake of one process, for all its threads.

    Args:
        store: the job store; by default that of the configuration, as are the next two.
        input_bucket: where images go.
        request_queue: where requests go.
        inspect: inspects an image, as in `ImageIngest`; by default in sandboxed processes.
    """

    def __init__(
        self,
        config: Config,
        store: JobStore | None = None,
        input_bucket: Bucket | None = None,
        request_queue: Queue | None = None,
        inspect: Callable[..., object] | None = None,
    ) -> None:
        self.config, self._inspect = config, inspect
        self.metrics = WebMetrics()
        self.models = JobModels()
        self.reading = MemoryLimiter(READING_BYTES)
        self.bulkheads = Bulkheads.for_threads(config.web.threads)
        self.reports = ControllerReports()
        self._speed = MeasuredSpeed(lambda: self.fleet)
        self._fleet_config = FleetConfigWatcher(config_path(), config.fleet)
        self._store, self._bucket, self._queue = store, input_bucket, request_queue
        self.served = ServedModels(
            BundleReader(
                config.worker.bundle,
                lambda bucket, key: self.bucket_named(bucket).get(key, MAX_MANIFEST_BYTES),
                config.worker.bundle_sha256,
            ),
            lambda: CatalogStore(self.store.table),
            config.names.model_bucket,
            self.bucket_named,
        )
        self._lock, self._checking = threading.RLock(), threading.Lock()
        self._checked_at, self._faults = float("-inf"), dict[str, str]()

    def prepare(self) -> None:
        """Make what the first image needs, without a call of a service; the first image would wait 0.15 s for it.

        What fails here is tried again by the first image, which reports the error.
        """
        with suppress(SandboxError, BotoCoreError):
            sandboxed_inspect(self.config.web.image_limits, self.config.sandbox.limits).prepare()
            _ = self.clients.dynamodb, self.clients.sqs

    @made_once
    def clients(self) -> Clients:
        """The clients of this process, for all its threads."""
        kept = min(CONCURRENCY + 2 * self.config.web.threads, KEPT_CONNECTIONS)
        return Clients(self.config.aws.endpoint(pool_size=kept))

    @made_once
    def store(self) -> JobStore:
        """The job store."""
        return self._store or JobStore(Table(self.clients.dynamodb, self.config.names.job_table))

    @property
    def fleet(self) -> FleetStore:
        """The fleet's items, in the same table."""
        return FleetStore(self.store.table)

    @made_once
    def inputs(self) -> InputBucket:
        """The input bucket."""
        return InputBucket(self._bucket or self.bucket_named(self.config.names.input_bucket))

    @made_once
    def outputs(self) -> OutputBucket:
        """The output bucket."""
        return OutputBucket.named(self.clients, self.config.names.output_bucket)

    @made_once
    def intake(self) -> ImageIngest:
        """Where uploads go."""
        web, names, clients = self.config.web, self.config.names, self.clients
        queue = self._queue or SignallingQueue.named(clients.sqs, self.config.queue_name(names.request_queue))
        return ImageIngest(
            web.image_limits,
            self.inputs,
            self.store,
            queue,
            self._inspect or sandboxed_inspect(web.image_limits, self.config.sandbox.limits),
            metrics=self.metrics.intake,
            sizes=PackSizes.of(self.config, self._speed.image_seconds),
        )

    @made_once
    def singles(self) -> SingleImages:
        """Where images go that are sent alone."""
        return SingleImages(
            self.intake,
            keep=self.config.classic.keep,
            model=self.served.default_model,
        )

    @made_once
    def direct(self) -> PresignedUploads:
        """Where images are accepted that their owners put into the input bucket themselves."""
        clients = self.clients
        return PresignedUploads(
            self.intake,
            Forms.for_bucket(clients, self.config.names.input_bucket),
            self.config.web.direct_upload_seconds,
            SourceBuckets(clients.s3),
        )

    @made_once
    def watch(self) -> ResultWaiter:
        """Where a request waits for the result of its image."""
        return ResultWaiter(self.store)

    def forecast(self, images: int, finish_by: datetime | None = None) -> Forecast | None:
        """Return when a batch of `images` would have its results, and its cost; None while the fleet is unknown.

        It follows config.yaml as the controller does, which reads its fleet settings again when the file changes.
        """
        state = self.fleet.state()
        if self.reports.silent_seconds(state.snapshot) > STALE_SECONDS:
            return None
        config = self.config.model_copy(update={"fleet": self._fleet_config.current()})
        return forecast(images, state, config, finish_by)

    def bucket_named(self, name: str) -> Bucket:
        """Return a bucket, with the clients of this process."""
        return Bucket.named(self.clients, name)

    def faults(self) -> dict[str, str]:
        """Return the services that do not answer within `CHECK_SECONDS`, with the kind of error.

        One thread at a time checks, at most once in `CHECKED_SECONDS`: every client may request a check at any time.
        """
        with self._checking:
            now = time.monotonic()
            if now - self._checked_at > CHECKED_SECONDS:
                self._checked_at, self._faults = now, self._found_faults()
            return self._faults

    def _found_faults(self) -> dict[str, str]:
        clients, names = _checking_clients(self.config), self.config.names
        checks: dict[str, Callable[[], object]] = {
            "input bucket": lambda: clients.s3.head_bucket(Bucket=names.input_bucket),
            # Health checks are frequent, so the process learns soon that the controller no longer reports.
            "job table": lambda: self.reports.silent_seconds(
                FleetStore(Table(clients.dynamodb, names.job_table)).snapshot()
            ),
            "request queue": lambda: Queue.named(clients.sqs, self.config.queue_name(names.request_queue)).counts(),
        }
        faults = dict[str, str]()
        for name, check in checks.items():
            try:
                check()
            except (BotoCoreError, ClientError) as error:
                # The whole error is only for the log.
                _log.warning("the %s does not answer: %s", name, error)
                kind = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
                faults[name] = kind
        return faults


def _checking_clients(config: Config) -> Clients:
    """Return clients that try a call once, for `CHECK_SECONDS`."""
    endpoint = config.aws.endpoint()
    return Clients(replace(endpoint, max_attempts=1, connect_timeout=CHECK_SECONDS, read_timeout=CHECK_SECONDS))


def require_format(config: Config) -> None:
    """Refuse a job table of an earlier format before the first process is forked; one that does not answer is used.

    Raises:
        ConfigError: it has an earlier format.
    """
    try:
        refuse_earlier_format(Table(_checking_clients(config).dynamodb, config.names.job_table))
    except (BotoCoreError, ClientError) as error:
        _log.warning("the format of the job table is not known: %s", error)


def install_backend(app: Flask, backend: Backend) -> None:
    """Make `backend` the one of `app`."""
    app.extensions[_EXTENSION] = backend


def current_backend() -> Backend:
    """Return the backend of the application that serves the current request."""
    return backend_of(current_app)


def backend_of(app: Flask) -> Backend:
    """Return the backend of `app`."""
    return cast(Backend, app.extensions[_EXTENSION])


def render_with_fleet(template: str, *, for_viewer: bool = False, **context: object) -> str:
    """Return the rendered page with the state of the fleet in its header, which viewers of shared jobs do not see."""
    return render_template(template, fleet=None if for_viewer else current_backend().fleet.snapshot(), **context)
