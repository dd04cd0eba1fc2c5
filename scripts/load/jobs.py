"""Load through jobs of `/api/v1`: images in batches, by the API or to the bucket, and every result verified."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from core.images import ImageRejectedError, sniff
from scripts.client import ApiClient, ApiError, FileToUpload, OfferedForm
from scripts.load.inputs import LoadImages, LoadTarget
from scripts.load.metrics import LoadMetrics

BATCH_FILES = 20
"""Images in one request."""

POLL_SECONDS = 0.25
"""The pause between two polls of the job."""

HEAD_BYTES = 1024
"""The first bytes of a file, which determine its type."""

UNKNOWN_TYPE = "application/octet-stream"
_Result = TypeVar("_Result")


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
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _accepted: dict[str, str] = field(default_factory=dict, init=False)
    """Filenames by image id."""

    def batches(self) -> Iterator[Sequence[Path]]:
        """Yield the files of each request."""
        files = iter(self.images)
        while batch := list(islice(files, BATCH_FILES)):
            yield batch

    def upload(self, job_id: str, files: Sequence[Path]) -> None:
        """Upload one batch; images that are not accepted have failed."""
        content = [(file.name, file.read_bytes()) for file in files]
        started = self.clock()
        try:
            result = self.client.add_images(job_id, content)
        except ApiError as error:
            self.metrics.record_verdict("failed", f"a slice of {len(files)}: {error}", len(files))
            return
        self.metrics.record_time(self.clock() - started)
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
        last, since = -1, self.clock()
        while not self.stopped.is_set():
            count = last
            with suppress(ApiError):  # a temporary failure; a permanent one stalls the job
                status = self.client.status(job_id)
                count = int(status["done"]) + int(status["failed"])
            classified(count)
            if count >= len(self._accepted):
                return
            if count != last:
                last, since = count, self.clock()
            elif self.clock() - since > self.stalled_seconds:
                return
            self.sleep(POLL_SECONDS)

    def _verify(self, result: dict[str, Any]) -> None:
        """Record the verdict of an image, unless its upload was never acknowledged."""
        if result["status"] == "waiting" or self._accepted.pop(result["image_id"], None) is None:
            return
        name, label = result["filename"], result["label"]
        expected = self.images.expected.get(name)
        if result["status"] == "failed":
            self.metrics.record_verdict("failed", f"{name}: {result['error']['message']}")
        elif expected is None:
            self.metrics.record_verdict("answered")
        elif label == expected:
            self.metrics.record_verdict("right")
        else:
            self.metrics.record_verdict("wrong", f"{name}: {label!r}, not {expected!r}")


@dataclass(kw_only=True)
class DirectLoad(JobLoad):
    """Uploads images to the bucket by presigned forms, and commits them to one job.

    Attributes:
        target: decides whether a form's host may be loaded.
    """

    target: LoadTarget
    _checked: set[str] = field(default_factory=set, init=False)

    def upload(self, job_id: str, files: Sequence[Path]) -> None:
        """Upload one batch; images that are not accepted have failed.

        Raises:
            TargetError: the host of a form may not be loaded.
        """
        specs = [FileToUpload(file.name, file.stat().st_size, content_type(file)) for file in files]
        try:
            offer = self._timed(lambda: self.client.offer_uploads(job_id, specs))
        except ApiError as error:
            self.metrics.record_verdict("failed", f"a slice of {len(files)}: {error}", len(files))
            return
        for name, reason in offer.rejected:
            self.metrics.record_verdict("failed", f"{name}: {reason}")
        errors = {files[form.index].name: self._post(form, files[form.index]) for form in offer.files}
        if offer.files:
            self._commit(job_id, offer.upload_id, len(offer.files), errors)

    def _post(self, form: OfferedForm, file: Path) -> str | None:
        """Upload a file by its form; return the error, or None."""
        if form.url not in self._checked:
            self.target.check(form.url)
            self._checked.add(form.url)
        data = file.read_bytes()
        try:
            self._timed(lambda: self.client.send_form(form.url, form.fields, file.name, data))
        except ApiError as error:
            return str(error)
        return None

    def _commit(self, job_id: str, upload_id: str, count: int, errors: dict[str, str | None]) -> None:
        try:
            result = self._timed(lambda: self.client.commit_upload(job_id, upload_id))
        except ApiError as error:
            self.metrics.record_verdict("failed", f"a slice of {count}: {error}", count)
            return
        self._accepted.update(result.accepted)
        for name, reason in result.rejected:
            self.metrics.record_verdict("failed", f"{name}: {errors.get(name) or reason}")

    def _timed(self, call: Callable[[], _Result]) -> _Result:
        started = self.clock()
        result = call()
        self.metrics.record_time(self.clock() - started)
        return result


def content_type(file: Path) -> str:
    """Return the content type of a file by its first bytes; `UNKNOWN_TYPE` if it is not an image."""
    with file.open("rb") as content:
        head = content.read(HEAD_BYTES)
    try:
        return f"image/{sniff(head).lower()}"
    except ImageRejectedError:
        return UNKNOWN_TYPE
