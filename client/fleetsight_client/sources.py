"""A job of images that are in S3: the server lists and copies them, and the command waits for their results."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from fleetsight_client.api import ApiClient, FleetsightClientError, RejectedError
from fleetsight_client.classification import MAX_POLL_SECONDS, MIN_POLL_SECONDS, Progress, Summary
from fleetsight_client.output import ResultRowsFile, row_of
from fleetsight_client.retries import PatientCalls, StoppedError

NO_IMAGE: Final = "not_an_image"
"""The server's reason to skip an object that is not meant to be an image; objects with other reasons are images that
are not classified."""

SKIPPED: Final = {
    NO_IMAGE: "no image by its name",
    "empty": "empty",
    "too_large": "too large",
    "archived": "archived",
    "gone": "deleted before it was copied",
    "not_readable": "not readable by Fleetsight",
}
"""Reasons of the server in words."""


class SourceFailedError(FleetsightClientError):
    """Raised when the source could not be listed, its job was cancelled, or its results cannot be copied."""


@dataclass
class SourceClassification:
    """Classifies the images at a location in S3 by one job.

    Attributes:
        source: the location, `s3://bucket/folder`.
        out: file of the results, `-` for the standard output, or None.
        results: location in S3 to which the server copies the results, or None.
        model: name of the model, or None for the server's choice.
        show: receives the progress.
        job_id: of the job, as soon as the server has created it.
    """

    client: ApiClient
    calls: PatientCalls
    source: str
    name: str
    keep: bool = False
    out: str | None = None
    results: str | None = None
    model: str | None = None
    show: Callable[[Progress], None] = lambda _progress: None
    job_id: str | None = field(default=None, init=False)
    progress: Progress = field(default_factory=lambda: Progress("importing"), init=False)

    def __post_init__(self) -> None:
        """Show why calls are repeated."""
        self.calls = replace(self.calls, waiting=self._note)

    def _note(self, reason: str) -> None:
        self.progress.note = reason
        self.show(self.progress)

    def run(self, *, waits: bool = True) -> Summary:
        """Make the job; with `waits`, write and count its results when it is finished, and wait for their copy.

        Raises:
            RejectedError: the server does not allow the source, or the location of the results.
            ApiError: the server does not answer, or is not Fleetsight.
            SourceFailedError: the source could not be listed, the job was cancelled, or its results cannot be copied.
            StoppedError: the user has stopped the command; the job goes on.
        """
        create = partial(
            self.client.create_job,
            self.name,
            keep=self.keep,
            model=self.model,
            key=uuid.uuid4().hex,
            source=self.source,
            results=self.results,
        )
        # Not repeated: a wrong address is reported at once.
        with suppress(RejectedError):
            self.client.limits()
        self.job_id = self.calls.call(create)
        summary = Summary(job_ids=[self.job_id])
        if waits:
            status = self._wait(summary.job_ids[0])
            self._read(summary, status)
            if self.results is not None and status["accepted"]:  # without an image nothing is copied
                self._wait_for_copy(summary.job_ids[0])
        return summary

    def _wait(self, job_id: str) -> dict[str, Any]:
        pause, last = MIN_POLL_SECONDS, ""
        while True:
            status = self.calls.call(partial(self.client.status, job_id))
            done = int(status["done"]) + int(status["failed"])
            is_listed = status["source"]["state"] != "listing"
            note = "the quota of the day" if status["source"]["paused_until"] else ""
            total = int(status["accepted"])
            phase = "classifying" if is_listed else "importing"
            self.progress = Progress(phase, total, sent=total, classified=done, note=note)
            self.show(self.progress)
            if is_listed and not status["waiting"]:
                return status
            seen = f"{total} {done} {phase}"
            pause = MIN_POLL_SECONDS if seen != last else min(MAX_POLL_SECONDS, pause * 1.5)
            last = seen
            if (self.calls.wait or self.calls.stop.wait)(pause):
                raise StoppedError("stopped")

    def _wait_for_copy(self, job_id: str) -> None:
        while (copy := self.calls.call(partial(self.client.status, job_id))["results"])["state"] == "waiting":
            if (self.calls.wait or self.calls.stop.wait)(MIN_POLL_SECONDS):
                raise StoppedError("stopped")
        if copy["state"] != "written":
            raise SourceFailedError(f"the results were not copied to {copy['uri']}: {copy['error']} (job {job_id})")

    def _read(self, summary: Summary, status: dict[str, Any]) -> None:
        job_id, source = summary.job_ids[0], status["source"]
        for code, count in source["skipped"].items():
            if code == NO_IMAGE:
                summary.skipped = {SKIPPED[code]: count}
            else:
                summary.statuses["rejected"] += count
                summary.codes[SKIPPED.get(code, code)] += count
        if self.out is None:
            for result in self.client.results(job_id):
                summary.add(row_of(str(result["filename"]), job_id, result, result.get("truth")))
        else:
            with ResultRowsFile(self.out) as file:
                for result in self.client.results(job_id):
                    row = row_of(str(result["filename"]), job_id, result, result.get("truth"))
                    file.write(row)
                    summary.add(row)
        if source["state"] != "complete":
            reason = source["error"] or "the job was cancelled"
            raise SourceFailedError(f"not all images of {self.source} were classified: {reason} (job {job_id})")
