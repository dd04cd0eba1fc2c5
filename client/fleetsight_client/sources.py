"""A job of images that are in S3: the server lists and copies them, and the command waits for their results."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from fleetsight_client.api import ApiClient, FleetsightClientError, JobFields, RejectedError
from fleetsight_client.classification import MAX_POLL_SECONDS, MIN_POLL_SECONDS, Progress, Summary
from fleetsight_client.decisions import MinScores
from fleetsight_client.events import Events
from fleetsight_client.formats import CamtrapPackage
from fleetsight_client.lists import FileList
from fleetsight_client.output import ResultRowsFile
from fleetsight_client.retries import PatientCalls, StoppedError
from fleetsight_client.rows import ResultRow, RowLayout, row_of

NOT_CHOSEN: Final = frozenset({"not_an_image", "not_matched"})
"""The server's reasons to skip an object that is not meant to be classified; objects with other reasons are images
that are not classified."""

SKIPPED: Final = {
    "not_an_image": "no image by its name",
    "empty": "empty",
    "not_matched": "name does not match",
    "too_large": "too large",
    "archived": "archived",
    "gone": "deleted before it was copied",
    "not_readable": "not readable by Fleetsight",
    "damaged": "tars that cannot be read to their end",
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
        fields: further fields of the job.
        pattern: of the names of images below the source, such as `**/*.jpg`; others are left out.
        manifest: gives further columns to the images.
        events: groups the rows.
        layout: the columns of the file of results.
        package: of Camtrap DP, if that file is to be one.
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
    fields: JobFields = field(default_factory=JobFields)
    pattern: str | None = None
    manifest: FileList | None = None
    events: Events | None = None
    layout: RowLayout = field(default_factory=RowLayout)
    package: CamtrapPackage | None = None
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
        where: JobFields = {"source": self.source, "results": self.results, "source_pattern": self.pattern}
        fields: JobFields = {**self.fields, **where, "model": self.model}
        create = partial(self.client.create_job, self.name, keep=self.keep, key=uuid.uuid4().hex, **fields)
        # Not repeated: a wrong address is reported at once.
        with suppress(RejectedError):
            self.client.limits()
        self.job_id = self.calls.call(create)
        summary = Summary(job_ids=[self.job_id], files=self.manifest, events=self.events)
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
            blocked = status.get("blocked") or ""
            self.progress = Progress(phase, total, sent=total, classified=done, note=note, blocked=blocked)
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

    def _rows(self, job_id: str) -> Iterator[tuple[None, ResultRow]]:
        for result in self.client.results(job_id):
            row = row_of(str(result["filename"]), job_id, result, result.get("truth"))
            if self.manifest is not None:
                row = replace(row, further=self.manifest.cells(row.filename.encode()))
            yield None, row

    def _read(self, summary: Summary, status: dict[str, Any]) -> None:
        job_id, source = summary.job_ids[0], status["source"]
        if self.events is not None:
            self.events.scores = MinScores.of_job(status)
        for code, count in source["skipped"].items():
            if code in NOT_CHOSEN:
                summary.skipped = {**summary.skipped, SKIPPED[code]: count}
            else:
                summary.statuses["rejected"] += count
                summary.codes[SKIPPED.get(code, code)] += count
        with (
            nullcontext()
            if self.out is None
            else ResultRowsFile(self.out, layout=self.layout, package=self.package) as file
        ):
            rows = self._rows(job_id)
            for _, row in rows if self.events is None else self.events.group(rows):
                if file is not None:
                    file.write(row)
                summary.add(row)
        if file is not None:
            summary.left_out.update(file.left_out)
        stopped = status.get("stopped")  # older servers do not say
        if source["state"] != "complete" or stopped:
            remedy = f"stopped: {stopped}; fleetsight retry {job_id} goes on" if stopped else "the job was cancelled"
            reason = source["error"] or remedy
            raise SourceFailedError(f"not all images of {self.source} were classified: {reason} (job {job_id})")
