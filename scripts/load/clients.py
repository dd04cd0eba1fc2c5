"""The clients of a load test, which verify every result.

The classic contract has a connection for each image, which waits for the label. A job of `/api/v1` has images in
batches.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import urllib3

from fleetsight_client.api import ApiClient, ApiError
from scripts.load.inputs import LoadImages, LoadTarget
from scripts.load.metrics import ImageVerdict, LoadMetrics
from services.clock import CLOCK, Clock

CLASSIC_FIELD = "myfile"
"""The field of the classic form; the answer is the label alone."""

BATCH_FILES = 20
"""Images in one request."""

POLL_SECONDS = 0.25
"""The pause between two polls of the job."""


@dataclass(frozen=True)
class ClassicAnswer:
    """The answer of a server."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class ClassicClient:
    """Classifies one image per request; threads may share it.

    Attributes:
        patience_seconds: after this time without an answer, an image is lost.
        token: if users sign in.
    """

    target: LoadTarget
    patience_seconds: float
    token: str | None = field(default=None, repr=False)

    def classify(self, file: Path, images: LoadImages, metrics: LoadMetrics, scheduled: float | None = None) -> None:
        """Classify one image, and record the verdict; its time counts from `scheduled`, or else from now."""
        data = images.content(file)
        started = time.monotonic() if scheduled is None else scheduled
        try:
            answer = self.post(file.name, data)
        except urllib3.exceptions.HTTPError as error:
            metrics.record_verdict("lost", f"{file.name}: {error!r}")
            return
        metrics.record_time(time.monotonic() - started)
        metrics.record_verdict(*judge_answer(answer, file.name, images))

    def post(self, name: str, data: bytes) -> ClassicAnswer:
        """Send one image on a connection of its own; return the answer.

        Raises:
            HTTPError: there is no answer, or it is not HTTP.
        """
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        form = {CLASSIC_FIELD: (name, data, "application/octet-stream")}
        limits = urllib3.Timeout(connect=self.patience_seconds, read=self.patience_seconds)
        with urllib3.PoolManager(headers={"Connection": "close"} | headers, timeout=limits) as connections:
            reply = connections.request("POST", self.target.base_url, fields=form, retries=False, redirect=False)
            return ClassicAnswer(reply.status, reply.headers.get("Content-Type", ""), reply.data)


def judge_answer(answer: ClassicAnswer, name: str, images: LoadImages) -> tuple[ImageVerdict, str]:
    """Return the verdict of an answer, and its problem if it has one; without an expected label any is right."""
    text = answer.body.decode(errors="replace")
    if answer.status != 200:
        return "failed", f"{name}: {answer.status} {text[:200]}"
    if fault := contract_violation(answer.content_type, text):
        return "failed", f"{name}: {fault}: {text[:200]!r}"
    return judge_label(text, name, images)


def judge_label(label: str, name: str, images: LoadImages) -> tuple[ImageVerdict, str]:
    """Return the verdict of a label, and its problem if it has one."""
    if name not in images.expected:
        return "answered", ""
    is_right = images.is_right(name, label)
    return ("right", "") if is_right else ("wrong", f"{name}: {label!r}, not {images.expected[name]!r}")


def contract_violation(content_type: str, text: str) -> str | None:
    """Return how an answer with status 200 violates the contract, or None."""
    if not content_type.startswith("text/plain"):
        return f"{content_type or 'no type'} is not text/plain"
    if ":" in text:
        return "a colon in the label"
    return "no label, or space around it" if not text or text != text.strip() else None


@dataclass
class JobLoad:
    """Uploads images into one job by the API, and verifies their results; threads may share it.

    Attributes:
        stalled_seconds: after this time without a new result, the remaining images are lost.
        stopped: set when the load test is to end.
    """

    client: ApiClient
    images: LoadImages
    metrics: LoadMetrics
    stalled_seconds: float
    stopped: threading.Event
    clock: Clock = CLOCK
    _accepted: dict[str, str] = field(default_factory=dict, init=False)
    """Filenames by image id."""

    def batches(self) -> Iterator[Sequence[Path]]:
        """Yield the files of each request."""
        files = iter(self.images)
        while batch := list(islice(files, BATCH_FILES)):
            yield batch

    def upload(self, job_id: str, files: Sequence[Path]) -> None:
        """Upload one batch; images that are not accepted have failed."""
        content = [(file.name, self.images.content(file)) for file in files]
        try:
            result = self.client.add_images(job_id, content)
        except ApiError as error:
            self.metrics.record_verdict("failed", f"a slice of {len(files)}: {error}", len(files))
            return
        self._accepted.update(result.accepted)
        for name, reason in result.rejected:
            self.metrics.record_verdict("failed", f"{name}: {reason}")

    def collect(self, job_id: str, classified: Callable[[int], None]) -> None:
        """Wait until every accepted image has a result, then verify all results.

        Args:
            job_id: the job.
            classified: receives the number of images with a result.
        """
        self._wait(job_id, classified)
        for result in self.client.results(job_id):
            self._verify(result)
        for name in self._accepted.values():
            self.metrics.record_verdict("lost", f"{name}: accepted, and no result")

    def _wait(self, job_id: str, classified: Callable[[int], None]) -> None:
        last, since = -1, self.clock.monotonic()
        while not self.stopped.is_set():
            count = last
            with suppress(ApiError):  # a temporary failure; a permanent one stalls the job
                status = self.client.status(job_id)
                count = int(status["done"]) + int(status["failed"])
            classified(count)
            if count >= len(self._accepted):
                return
            if count != last:
                last, since = count, self.clock.monotonic()
            elif self.clock.monotonic() - since > self.stalled_seconds:
                return
            self.clock.sleep(POLL_SECONDS)

    def _verify(self, result: dict[str, Any]) -> None:
        """Record the verdict of an image, unless its upload was never acknowledged."""
        if result["status"] == "waiting" or self._accepted.pop(result["image_id"], None) is None:
            return
        name, label = result["filename"], result["label"]
        accepted, recorded = (datetime.fromisoformat(result[key]) for key in ("accepted_at", "recorded_at"))
        ended_ago = (datetime.now(UTC) - recorded).total_seconds()
        self.metrics.record_time((recorded - accepted).total_seconds(), ended_ago)
        if result.get("cached"):
            self.metrics.record_cached()
        if result["status"] == "failed":
            self.metrics.record_verdict("failed", f"{name}: {result['error']['message']}")
        else:
            self.metrics.record_verdict(*judge_label(label, name, self.images))
