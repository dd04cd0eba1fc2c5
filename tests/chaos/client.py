"""The client of a campaign sends every file until it is acknowledged."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from fleetsight_client.api import ApiClient, ApiError, RejectedFile

BATCH_FILES = 20
"""Images in one request."""

UPLOADERS = 4
PAUSE_SECONDS = 0.25
"""The pause before a request without an answer is repeated."""

JOB_IMAGES = 200
"""Images of one job; the campaign decides before each job whether it sends another."""

T = TypeVar("T")
POLL_SECONDS: Final = 0.25


class UnansweredError(ApiError):
    """Raised when a request has had no answer for `patience_seconds`."""


@dataclass
class ChaosClient:
    """Uploads files into jobs, and repeats each request under its idempotency key until it has an answer.

    Attributes:
        images: contents with their true labels.
        patience_seconds: how long a request is repeated.
        acknowledged: job, filename and index in `images` by image id.
        rejected: reasons by filename.
        kept: jobs that keep their images: every other one.
    """

    api: ApiClient
    images: Sequence[tuple[bytes, str]]
    patience_seconds: float
    acknowledged: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, should_continue: Callable[[int], bool]) -> None:
        """Send images in jobs of `JOB_IMAGES`, as long as `should_continue` is true for the number of sent images.

        Raises:
            UnansweredError: a request had no answer.
        """
        first, keep = 0, False
        while should_continue(first):
            keep = not keep
            job_id = self._retry_until_answered(
                partial(self.api.create_job, f"campaign {first}", keep=keep, key=f"campaign-{first}")
            )
            self.jobs.append(job_id)
            if keep:
                self.kept.add(job_id)
            batches = [range(at, at + BATCH_FILES) for at in range(first, first + JOB_IMAGES, BATCH_FILES)]
            with ThreadPoolExecutor(UPLOADERS) as uploaders:
                list(uploaders.map(partial(self._send_batch, job_id), batches))
            first += JOB_IMAGES

    def _send_batch(self, job_id: str, numbers: Sequence[int]) -> None:
        """Send files; those that could not be stored just now are sent again under another key, as by users."""
        unsent, ends = list(numbers), time.monotonic() + self.patience_seconds
        for attempt in itertools.count():
            files = [(f"{number}.jpg", self.images[number % len(self.images)][0]) for number in unsent]
            key = f"slice-{numbers[0]}-{attempt}"
            sent = self._retry_until_answered(partial(self.api.send_images, job_id, files, key))
            outcome = {unsent[index]: each for index, each in sent.items()}
            with self._lock:
                for number, each in outcome.items():
                    if isinstance(each, RejectedFile):
                        self.rejected[f"{number}.jpg"] = each.message
                    else:
                        self.acknowledged[each] = (job_id, f"{number}.jpg", number % len(self.images))
                        self.rejected.pop(f"{number}.jpg", None)
            unsent = [number for number, each in outcome.items() if isinstance(each, RejectedFile) and each.may_pass]
            if not unsent or time.monotonic() > ends:
                return
            time.sleep(PAUSE_SECONDS)

    def _retry_until_answered(self, call: Callable[[], T]) -> T:
        """Repeat a call until it is answered; its idempotency key makes that safe."""
        ends = time.monotonic() + self.patience_seconds
        while True:
            try:
                return call()
            except ApiError as error:
                if time.monotonic() > ends:
                    raise UnansweredError(f"not answered for {self.patience_seconds:g} s: {error}") from error
                time.sleep(PAUSE_SECONDS)


def wait_for_results(client: ChaosClient, patience_seconds: float) -> None:
    """Wait until every acknowledged image has a result, or no new result has appeared for `patience_seconds`."""
    seen, ends = 0, time.monotonic() + patience_seconds
    while time.monotonic() < ends:
        with suppress(ApiError):
            statuses = [client.api.status(job_id) for job_id in client.jobs]
            answered = sum(int(status["done"]) + int(status["failed"]) for status in statuses)
            if answered >= len(client.acknowledged) and all(each["state"] == "finished" for each in statuses):
                return
            if answered > seen:
                seen, ends = answered, time.monotonic() + patience_seconds
        time.sleep(POLL_SECONDS)
