"""The client of a campaign: sends every file until it is acknowledged, and knows the truth of each."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from scripts.client import ApiClient, ApiError, Outcome

SLICE = 20
"""Images in one request."""

UPLOADERS = 4
PAUSE_SECONDS = 0.25
"""Between two tries of a request that was not answered."""

JOB_IMAGES = 200
"""Images of one job; whether to go on is asked before each."""


T = TypeVar("T")


class UnansweredError(ApiError):
    """Raised when a request was not answered until the end of the campaign's patience."""


@dataclass
class Client:
    """Uploads files into jobs, repeating each request under its idempotency key until it is answered.

    Attributes:
        pictures: contents and their right labels, by a number from 0.
        patience_seconds: how long one request is repeated.
        acknowledged: by image id, the job, the filename and the number of its picture.
        rejected: filenames that were refused, with the reason.
    """

    api: ApiClient
    pictures: Sequence[tuple[bytes, str]]
    patience_seconds: float
    acknowledged: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, goes_on: Callable[[int], bool]) -> None:
        """Send images, in jobs of `JOB_IMAGES`, as long as `goes_on` says so of the number that was sent.

        Raises:
            UnansweredError: a request was not answered.
        """
        first = 0
        while goes_on(first):
            job_id = self._answered(partial(self.api.create_job, f"campaign {first}", key=f"campaign-{first}"))
            self.jobs.append(job_id)
            slices = [range(at, at + SLICE) for at in range(first, first + JOB_IMAGES, SLICE)]
            with ThreadPoolExecutor(UPLOADERS) as uploaders:
                list(uploaders.map(partial(self._send_slice, job_id), slices))
            first += JOB_IMAGES

    def _send_slice(self, job_id: str, numbers: Sequence[int]) -> None:
        files = [(f"{number}.jpg", self.pictures[number % len(self.pictures)][0]) for number in numbers]
        outcome: Outcome = self._answered(lambda: self.api.add_images(job_id, files, key=f"slice-{numbers[0]}"))
        with self._lock:
            for image_id, name in outcome.accepted:
                number = int(name.removesuffix(".jpg")) % len(self.pictures)
                self.acknowledged[image_id] = (job_id, name, number)
            self.rejected.update(outcome.rejected)

    def _answered(self, call: Callable[[], T]) -> T:
        """Repeat a call until it is answered; under its key, that does no harm."""
        ends = time.monotonic() + self.patience_seconds
        while True:
            try:
                return call()
            except ApiError as error:
                if time.monotonic() > ends:
                    raise UnansweredError(f"not answered for {self.patience_seconds:g} s: {error}") from error
                time.sleep(PAUSE_SECONDS)
