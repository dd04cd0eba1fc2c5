"""One job through `/api/v1`: images in slices, then every result, each compared with what is expected."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from scripts.client import ApiClient, ApiError
from scripts.load.figures import Figures
from scripts.load.pictures import Pictures

SLICE = 20
"""Images in one request."""

LOOK_SECONDS = 0.25


@dataclass
class ApiLoad:
    """Sends `pictures` into one job, with `clients` requests at once.

    Attributes:
        stalled_seconds: a job without a new result for this long has lost the rest.
        stopped: set when the load test is to end.
    """

    client: ApiClient
    pictures: Pictures
    figures: Figures
    stalled_seconds: float
    stopped: threading.Event
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _accepted: dict[str, str] = field(default_factory=dict, init=False)
    """Filenames by image id."""

    def slices(self) -> Iterator[Sequence[Path]]:
        """Yield the files of each request."""
        files = iter(self.pictures)
        while part := list(islice(files, SLICE)):
            yield part

    def upload(self, job_id: str, files: Sequence[Path]) -> None:
        """Send one slice; what is not accepted has its verdict with that."""
        content = [(file.name, file.read_bytes()) for file in files]
        began = self.clock()
        try:
            outcome = self.client.add_images(job_id, content)
        except ApiError as error:
            self.figures.judged("failed", f"a slice of {len(files)}: {error}", len(files))
            return
        self.figures.timed(self.clock() - began)
        self._accepted.update(outcome.accepted)
        for name, reason in outcome.rejected:
            self.figures.judged("failed", f"{name}: {reason}")

    def collect(self, job_id: str, classified: Callable[[int], None]) -> None:
        """Wait until every accepted image has its result, then judge all of them.

        Args:
            job_id: the job.
            classified: is told how many have a result.
        """
        self._wait(job_id, classified)
        for result in self.client.results(job_id):
            self._judge(result)
        for name in self._accepted.values():
            self.figures.judged("lost", f"{name}: accepted, and no result")

    def _wait(self, job_id: str, classified: Callable[[int], None]) -> None:
        last, since = -1, self.clock()
        while not self.stopped.is_set():
            found = self._classified(job_id, last)
            classified(found)
            if found >= len(self._accepted):
                return
            if found != last:
                last, since = found, self.clock()
            elif self.clock() - since > self.stalled_seconds:
                return
            self.sleep(LOOK_SECONDS)

    def _classified(self, job_id: str, last: int) -> int:
        try:
            status = self.client.status(job_id)
        except ApiError:
            return last  # it may come back; when it does not, the job stalls
        return int(status["done"]) + int(status["failed"])

    def _judge(self, result: dict[str, Any]) -> None:
        """Judge one of the job's images; one that no answer of ours named is counted as foreign."""
        if result["status"] == "waiting" or self._accepted.pop(result["image_id"], None) is None:
            return
        name, label = result["filename"], result["label"]
        expected = self.pictures.expected.get(name)
        if result["status"] == "failed":
            self.figures.judged("failed", f"{name}: {result['error']['message']}")
        elif expected is None:
            self.figures.judged("answered")
        elif label == expected:
            self.figures.judged("right")
        else:
            self.figures.judged("wrong", f"{name}: {label!r}, not {expected!r}")
