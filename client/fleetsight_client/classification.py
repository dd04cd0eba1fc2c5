"""One classification of folders: list, upload, wait, write results; and the watch for new files."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from fleetsight_client.api import ApiClient, RejectedError
from fleetsight_client.folders import FolderError, FolderWalk
from fleetsight_client.journal import Journal, Outcome
from fleetsight_client.output import ResultRow, ResultsFile, row_of
from fleetsight_client.retries import PatientCalls, StoppedError
from fleetsight_client.sorting import SortedFolder
from fleetsight_client.truth import Accuracy, Truth, truth_parts
from fleetsight_client.uploader import JobClosedError, Uploader, UploadLimits, first_id

MIN_POLL_SECONDS: Final = 0.25
MAX_POLL_SECONDS: Final = 2.0
"""Pauses between two polls of a job: as long as the last poll found nothing new, they grow."""

WATCH_SECONDS: Final = 2.0
"""The pause between two searches for new files; a file is complete if both find it with the same size."""

MAX_POSITION: Final = 9_999_999
"""The highest position of an image in a job."""

STATUSES: Final = ("done", "failed", "rejected", "waiting", "missing")
"""What a file ends as: with a label, without one, never accepted, without a result yet, or without its job."""


@dataclass
class Progress:
    """The state of a classification, for the progress bar; counts are files."""

    phase: str = "listing"
    total: int = 0
    sent: int = 0
    rejected: int = 0
    classified: int = 0
    note: str = ""
    """Why the upload waits, or empty."""


@dataclass
class Summary:
    """The outcome of a classification.

    Attributes:
        statuses: files by status, of `STATUSES`; without waiting for results, accepted files are `waiting`.
        labels: images by label.
        codes: failed and rejected files by code.
        skipped: files and folders that were left out, by reason.
    """

    job_ids: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    skipped: Mapping[str, int] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    sorted: SortedFolder | None = None

    @property
    def total(self) -> int:
        """The number of files."""
        return sum(self.statuses.values())

    @property
    def ok(self) -> bool:
        """Whether every file has a label, and was sorted if that was wanted."""
        unsorted = 0 if self.sorted is None else self.sorted.counts["problem"]
        return self.statuses["done"] == self.total and not unsorted

    def add(self, row: ResultRow) -> None:
        """Count a row."""
        self.statuses[row.status] += 1
        if row.label is not None:
            self.labels[row.label] += 1
        if row.error_code is not None:
            self.codes[row.error_code] += 1
        if self.accuracy is not None:
            self.accuracy.add(row)


@dataclass
class Classification:
    """Classifies the images in folders by one job, or by several if the first one is closed while it watches.

    Attributes:
        folders: absolute.
        own: files and folders that the command writes, never uploaded.
        name: of the job.
        model: name of the model, or None for the server's choice.
        out: file of the results, `-` for the standard output, or None.
        show: receives the progress.
    """

    client: ApiClient
    journal: Journal
    calls: PatientCalls
    folders: Sequence[Path]
    own: Sequence[Path]
    name: str
    keep: bool = False
    model: str | None = None
    out: str | None = None
    sorted: SortedFolder | None = None
    truth: Truth | None = None
    show: Callable[[Progress], None] = lambda _progress: None
    progress: Progress = field(default_factory=Progress, init=False)
    _limits: UploadLimits = field(default_factory=UploadLimits, init=False)

    def __post_init__(self) -> None:
        """Show why calls are repeated."""
        self.calls = replace(self.calls, waiting=self._note)

    def run(self, *, waits: bool = True) -> Summary:
        """Classify the folders once; without `waits`, end when all images are accepted.

        Raises:
            StoppedError: the user has stopped the command.
            GaveUpError, ApiError: the server does not answer or rejects the job.
        """
        self._prepare()
        walk = FolderWalk(self.folders, self.own)
        if not self.journal.is_started:
            self.journal.clear()
            self.journal.note_found(self._counted(walk))
            self.journal.set_facts({f"skipped {reason}": str(count) for reason, count in walk.skipped.items()})
            self.journal.list_found()
            if self.journal.last_position() > MAX_POSITION:
                raise FolderError(f"a job has at most {MAX_POSITION + 1:,} images: classify parts of the folders")
        self._load_truth()
        self._upload(watches=False)
        summary = self._summary()
        if waits:
            self._await_results()
            self._write(summary, self.journal.outcomes())
            self._send_truth()
        else:
            counts = self.journal.counts()
            summary.statuses.update(waiting=counts["accepted"], rejected=counts["rejected"])
            summary.codes.update(self.journal.rejections())
        return summary

    def watch(self, started: Callable[[], None] = lambda: None) -> Summary:
        """Classify the folders, and then new files in them, until the user stops the command.

        A file is taken when it has the same size twice. Results are appended to the file of results after each
        round. What was taken when the user stops is still uploaded, but not waited for.
        """
        self._prepare()
        if not self.journal.is_started:
            self.journal.clear()
        summary = self._summary()
        started()
        while True:
            walk = FolderWalk(self.folders, self.own)
            self.journal.list_stable_files(self._counted(walk))
            summary.skipped = {str(reason): count for reason, count in walk.skipped.items()}
            if (
                self.journal.counts()["listed"]
                or self.journal.unknown_slices()
                or self.journal.last_position() > self._written
            ):
                self._round(summary)
            self.progress.phase = "watching"
            self.show(self.progress)
            if (self.calls.wait or self.calls.stop.wait)(WATCH_SECONDS):
                summary.job_ids = [job_id for job_id, _ in self.journal.jobs()]
                return summary

    def _round(self, summary: Summary) -> None:
        """Classify what the watch has found."""
        self._load_truth()
        try:
            self._upload(watches=True)
        except JobClosedError:
            return  # also the new job was closed: the next round has another one
        self._await_results()
        self._append(summary)
        self._send_truth()

    def _prepare(self) -> None:
        # Not repeated: a wrong address is reported at once.
        try:
            self._limits = UploadLimits.of(self.client.limits())
        except RejectedError as error:
            if error.status in {401, 403}:
                raise
        if self.sorted is not None:
            self.sorted.prepare(tuple(self.folders))

    def _counted(self, walk: FolderWalk) -> Iterator[Any]:
        """Yield the found files, and show their number while they are listed."""
        for number, found in enumerate(walk, 1):
            if number % 1_000 == 0:
                if self.calls.stop.is_set():
                    raise StoppedError("stopped")
                if self.progress.phase == "listing":
                    self.progress.total = number
                    self.show(self.progress)
            yield found

    def _load_truth(self) -> None:
        if self.truth is not None:
            self.truth.load()

    def _summary(self) -> Summary:
        facts = self.journal.fact_names("skipped ")
        skipped = {name.removeprefix("skipped "): int(self.journal.fact(name) or 0) for name in facts}
        accuracy = None if self.truth is None else Accuracy()
        job_ids = [job_id for job_id, _ in self.journal.jobs()]
        return Summary(job_ids, skipped=skipped, accuracy=accuracy, sorted=self.sorted)

    # Upload

    def _upload(self, *, watches: bool) -> None:
        self.progress.phase = "uploading"
        uploader = Uploader(
            *(self.client, self.journal, self.calls, self._limits, self.name),
            keep=self.keep,
            model=self.model,
            progressed=self._count,
            watches=watches,
        )
        counts = self.journal.counts()
        if not (counts["listed"] or counts["sent"]):
            return
        try:
            uploader.run()
        except JobClosedError:
            if not watches:
                raise
            # The job was cancelled, deleted, or has expired: what it has not accepted goes into a new one.
            self.journal.release_unknown()
            self.journal.begin_job()
            uploader.run()
        self.progress.note = ""

    def _note(self, reason: str) -> None:
        """Show why a call is repeated."""
        self.progress.note = reason
        self.show(self.progress)

    def _count(self) -> None:
        counts = self.journal.counts()
        self.progress.total = sum(counts.values())
        if counts["accepted"] + counts["rejected"] != self.progress.sent + self.progress.rejected:
            self.progress.note = ""
        self.progress.sent, self.progress.rejected = counts["accepted"], counts["rejected"]
        self.show(self.progress)

    # Results

    def _await_results(self) -> None:
        """Wait until every accepted image of each job that still exists has a result."""
        self._count()
        self.progress.phase = "waiting"
        before = 0
        for job_id, images in self.journal.jobs():
            pause, last = MIN_POLL_SECONDS, -1
            while images:
                try:
                    status = self.calls.call(partial(self.client.status, job_id))
                except RejectedError as error:
                    if error.status == 404:
                        break
                    raise
                classified = int(status["done"]) + int(status["failed"])
                self.progress.note = ""
                self.progress.classified = before + min(classified, images)
                self.show(self.progress)
                if classified >= images and not status["waiting"]:
                    break
                pause = MIN_POLL_SECONDS if classified != last else min(MAX_POLL_SECONDS, pause * 1.5)
                last = classified
                if (self.calls.wait or self.calls.stop.wait)(pause):
                    raise StoppedError("stopped")
            before += images

    def rows(self, outcomes: Iterator[Outcome]) -> Iterator[tuple[Outcome, ResultRow]]:
        """Yield files at rising positions with their results; reads each page of results once, one at a time.

        Images with a position are in the order of their positions, as the files are.
        """
        results = dict[str, _JobResults]()
        for outcome in outcomes:
            file, job_id = outcome.file, outcome.job_id
            truth = None if self.truth is None else self.truth.label(file)
            if outcome.rejected is not None:
                rejected = outcome.rejected
                row = ResultRow(
                    file.name, "rejected", error_code=rejected.code, error_message=rejected.message, truth=truth
                )
            elif not outcome.image_id:
                row = ResultRow(file.name, "missing", error_code="not_sent", error_message="it was not sent")
            else:
                if job_id not in results:
                    results[job_id] = _JobResults(self.client, self.calls, job_id, file.position)
                found = results[job_id].find(outcome.image_id)
                if found is None:
                    gone = "the server has no such image any more"
                    row = ResultRow(file.name, "missing", None, None, "not_found", gone, outcome.image_id, job_id)
                else:
                    row = row_of(file.name, job_id, found, truth)
            yield outcome, row

    def _write(self, summary: Summary, outcomes: Iterator[Outcome], end_of_file: int | None = None) -> int:
        """Write, sort and count the rows of these files; return the size of the file of results."""
        self.progress.phase = "writing"
        self.show(self.progress)
        summary.job_ids = [job_id for job_id, _ in self.journal.jobs()]
        if self.out is None:
            for outcome, row in self.rows(outcomes):
                self._finish(summary, outcome, row)
            return 0
        with ResultsFile(self.out, end_of_file) as file:
            for outcome, row in self.rows(outcomes):
                file.write(row)
                self._finish(summary, outcome, row)
        return file.end_of_file

    def _finish(self, summary: Summary, outcome: Outcome, row: ResultRow) -> None:
        summary.add(row)
        if self.sorted is not None and row.status in {"done", "failed", "rejected"}:
            self.sorted.add(outcome.file, row.label if row.status == "done" else None)

    @property
    def _written(self) -> int:
        """The position of the last row in the file of results; an earlier command may have had another file."""
        has_rows = self.journal.fact("out") == str(self.out)
        return int(self.journal.fact("written") or -1) if has_rows else -1

    def _append(self, summary: Summary) -> None:
        """Write the rows that an earlier round has not written; a killed command repeats its last round.

        If the file was moved away, the rows begin a new one.
        """
        written, size = self._written, int(self.journal.fact("end of file") or 0)
        file = None if self.out in {None, "-"} else Path(str(self.out))
        is_continued = written >= 0 and (file is None or (file.exists() and file.stat().st_size >= size))
        end = self._write(summary, self.journal.outcomes(written), size if is_continued else None)
        last = str(self.journal.last_position())
        self.journal.set_facts({"out": str(self.out), "written": last, "end of file": str(end)})

    # True labels

    def _send_truth(self) -> None:
        """Give the true labels to the jobs, so that their pages show the accuracy; only those of new images."""
        if self.truth is None:
            return
        sent = int(self.journal.fact("truth sent") or -1)
        for job_id, images in self.journal.jobs():
            if images:
                for part in truth_parts(self._truths(job_id, sent)):
                    with suppress(RejectedError):  # the job has expired
                        self.calls.call(partial(self.client.send_truth_file, job_id, part))
        self.journal.set_fact("truth sent", str(self.journal.last_position()))

    def _truths(self, job_id: str, after: int) -> Iterator[tuple[str, str]]:
        for outcome in self.journal.outcomes(after):
            if outcome.job_id == job_id and outcome.image_id and self.truth is not None:
                label = self.truth.label(outcome.file)
                if label is not None:
                    yield outcome.image_id, label


class _JobResults:
    """The results of a job from a position on, read a page at a time in the order of their ids."""

    def __init__(self, client: ApiClient, calls: PatientCalls, job_id: str, position: int) -> None:
        self._client, self._calls, self._job_id = client, calls, job_id
        self._after: str | None = first_id(job_id, position)
        self._page: list[dict[str, Any]] = []
        self._at = 0

    def find(self, image_id: str) -> dict[str, Any] | None:
        """Return the result of an image whose id is greater than any before, or None if the job does not have it."""
        while True:
            while self._at < len(self._page):
                result = self._page[self._at]
                if result["image_id"] > image_id:
                    return None
                self._at += 1
                if result["image_id"] == image_id:
                    return result
            if self._after is None:
                return None
            try:
                self._page, self._after = self._calls.call(
                    partial(self._client.results_page, self._job_id, self._after)
                )
            except RejectedError as error:
                if error.status != 404:
                    raise
                self._page, self._after = [], None
            self._at = 0
