"""Metrics for Prometheus: what the web tier counts, and the sum over its processes.

`docs/reference/metrics.md` lists them.

Each process of gunicorn counts in files of its own, which it maps into memory: the multi-process mode of
prometheus-client (https://prometheus.github.io/client_python/multiprocess/). The process that answers `/metrics` adds
all files up. They are named by a slot instead of a process id. A process that replaces another one takes over its
slot, so no counter goes back, and the number of files is that of processes that ran at the same time.

Labels have few values: never a user, job, image, file or instance. A value that is not in a list counts as `other`.
"""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable
from itertools import count
from pathlib import Path
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from core.images import CODES

FOLDER_VARIABLE: Final = "FLEETSIGHT_METRICS_FOLDER"
"""Names the folder in which the web tier makes the folder of its files; by default that of temporary files."""

SHARED_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""In which prometheus-client finds the folder of the files."""

OTHER: Final = "other"

UNKNOWN_ROUTE: Final = "unknown"
"""Label of requests that no route answers, such as those of scanners."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

REJECTIONS: Final = (*CODES, "unavailable")
"""Reasons of rejections: the content of the file, or a fault of the system."""

REQUEST_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets of a request's duration; classic requests wait for their image."""

disable_created_metrics()  # a second series of each counter, which no rule uses


class IntakeMetrics:
    """What an intake of images counts, in a web process or in the controller."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.accepted = Counter(
            "fleetsight_images_accepted",
            "Images that were accepted and recorded; the controller accepts those of jobs from S3. After a crash an "
            "image may count twice.",
            registry=registry,
        )
        self.accepted_bytes = Counter(
            "fleetsight_images_accepted_bytes", "Bytes of the accepted images.", registry=registry
        )
        self.rejected = Counter(
            "fleetsight_images_rejected",
            "Files of uploads through the web tier that were not accepted; docs/classify.md has the reasons.",
            ["reason"],
            registry=registry,
        )
        self.retried = Counter(
            "fleetsight_images_retried",
            "Failed images that users or operators had requested again.",
            registry=registry,
        )
        for reason in REJECTIONS:
            self.rejected.labels(reason)

    def accept(self, images: int, size: int) -> None:
        """Count images that were recorded: their number and their bytes."""
        self.accepted.inc(images)
        self.accepted_bytes.inc(size)

    def reject(self, reason: str, files: int = 1) -> None:
        """Count files that were rejected."""
        self.rejected.labels(one_of(reason, REJECTIONS)).inc(files)


class WebMetrics:
    """What the web tier counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.intake = IntakeMetrics(self.registry)
        self.requests = Counter(
            "fleetsight_http_requests",
            "HTTP requests.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "fleetsight_http_request_duration_seconds",
            "Time from the head of a request to the head of its response, without the body of a stream or download.",
            ["route"],
            buckets=REQUEST_SECONDS,
            registry=self.registry,
        )
        self.streams = Gauge(
            "fleetsight_event_streams",
            "Open streams of server-sent events.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )

    def count_request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count an answered request; `route` is the template of its route, or None if there is none."""
        route = route or UNKNOWN_ROUTE
        self.requests.labels(one_of(method, METHODS), route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return the metrics of all web processes in Prometheus's text format."""
        if (folder := os.environ.get(SHARED_VARIABLE)) is None:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)
        return generate_latest(registry)


def one_of(value: str, known: Collection[str]) -> str:
    """Return `value` if it is known, else `other`, so that a label has no more values than that."""
    return value if value in known else OTHER


class SharedFiles:
    """The files in which the processes of one web tier count.

    The parent of the processes makes them before it makes metrics. A process writes the files of its `slot`; the
    parent, which counts nothing, has a slot of its own.
    """

    def __init__(self) -> None:
        self.slot = "parent"
        parent = os.environ.get(FOLDER_VARIABLE)
        self.folder = Path(tempfile.mkdtemp(prefix="fleetsight-metrics-", dir=parent))
        os.environ[SHARED_VARIABLE] = str(self.folder)
        values.ValueClass = values.MultiProcessValue(lambda: self.slot)

    def free_slot(self, used: Iterable[str]) -> str:
        """Return a slot for a new process, while others have those that are `used`."""
        taken = set(used)
        return next(slot for slot in map(str, count()) if slot not in taken)

    def end(self, slot: str) -> None:
        """Drop what the process of this slot had open when it ended; its counters stay."""
        mark_process_dead(slot, str(self.folder))

    def remove(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)
