"""One classification of folders: list, upload, wait, write results."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from fleetsight_client.api import ApiClient, ApiError, JobFields, RejectedError
from fleetsight_client.decisions import MinScores
from fleetsight_client.estimates import note_upload_rate
from fleetsight_client.events import Events
from fleetsight_client.folders import FolderError, FolderWalk
from fleetsight_client.formats import CamtrapPackage
from fleetsight_client.journal import MAX_POSITION, Journal, Outcome
from fleetsight_client.lists import FileList
from fleetsight_client.output import ResultRowsFile
from fleetsight_client.photos import PhotoReader
from fleetsight_client.retries import PatientCalls, StoppedError
from fleetsight_client.row_reader import RowReader
from fleetsight_client.rows import NOT_FOUND, NOT_SENT, ResultRow, RowLayout, plain_label
from fleetsight_client.sorting import SortedFolder
from fleetsight_client.truth import Accuracy, Truth, truth_parts
from fleetsight_client.uploader import JobClosedError, Uploader, UploadLimits

FIRST_POLL_SECONDS: Final = 0.05
MIN_POLL_SECONDS: Final = 0.25
MAX_POLL_SECONDS: Final = 2.0
"""Pauses between two polls of a job: they grow from the first up to the second while results come, else the third."""

WATCH_PATIENCE_SECONDS: Final = 60.0
"""For this time a watch repeats an upload before it reads results, and for this time it then sends nothing."""

REASON_SECONDS: Final = 10.0
"""The pause between two questions why images have no result yet."""

STATUSES: Final = ("done", "failed", "rejected", "waiting")
"""What a file ends as: with a label, without one, never accepted, or without a result yet."""


@dataclass
class Progress:
    """The state of a classification, for the progress bar; counts are files."""

    phase: str = "listing"
    total: int = 0
    sent: int = 0
    rejected: int = 0
    classified: int = 0
    replaced: int = 0
    """Files that a watch has sent again since another one has their name."""
    waiting: int = 0
    """Accepted images without a result."""
    note: str = ""
    """Why the command waits, or empty."""
    blocked: str = ""
    """Why the server classifies no image at the moment, or empty."""


@dataclass
class Summary:
    """The outcome of a classification.

    Attributes:
        statuses: files by status, of `STATUSES`; without waiting for results, accepted files are `waiting`.
        labels: images by label.
        codes: failed and rejected files by code.
        skipped: files and folders that were left out, by reason.
        examples: paths of the first ones of each reason.
        replaced: files that a watch has sent again since another one has their name.
        missed: files that were replaced or removed before a watch could send them.
        renamed: files with names that cannot be shown as they are.
    """

    job_ids: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    skipped: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    replaced: int = 0
    missed: int = 0
    renamed: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that the format of the results cannot have, by the reason."""
    accuracy: Accuracy | None = None
    files: FileList | None = None
    sorted: SortedFolder | None = None
    photos: PhotoReader | None = None
    events: Events | None = None

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
        if row.decision is not None:
            self.labels[row.decision] += 1
        if row.error_code is not None:
            self.codes[row.error_code] += 1
        if self.accuracy is not None:
            self.accuracy.add(row)


@dataclass
class Classification:
    """Classifies the images in folders by one job.

    Attributes:
        folders: absolute.
        own: files and folders that the command writes, never uploaded.
        name: of the job.
        model: name of the model, or None for the server's choice.
        fields: further fields of the job.
        out: file of the results, `-` for the standard output, or None.
        layout: the columns of that file.
        package: of Camtrap DP, if that file is to be one.
        shrink: returns what is sent of a file's content.
        files: the files to classify, all below the one folder; None finds the images in the folders.
        photos: reads further columns from the files.
        events: groups the rows, unless they are written while it watches.
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
    fields: JobFields = field(default_factory=JobFields)
    out: str | None = None
    layout: RowLayout = field(default_factory=RowLayout)
    package: CamtrapPackage | None = None
    shrink: Callable[[bytes], bytes] = bytes
    files: FileList | None = None
    photos: PhotoReader | None = None
    events: Events | None = None
    sorted: SortedFolder | None = None
    truth: Truth | None = None
    show: Callable[[Progress], None] = lambda _progress: None
    progress: Progress = field(default_factory=Progress, init=False)
    _reader: RowReader = field(init=False)
    _limits: UploadLimits = field(default_factory=UploadLimits, init=False)
    _asked: float = field(default=float("-inf"), init=False)
    _reason: str = field(default="", init=False)

    def __post_init__(self) -> None:
        """Show why calls are repeated."""
        self.calls = replace(self.calls, waiting=self._note)
        self._reader = RowReader(self.client, self.truth, self.files, self.photos)

    def run(self, *, waits: bool = True) -> Summary:
        """Classify the folders once; without `waits`, end when all images are accepted.

        Raises:
            StoppedError: the user has stopped the command.
            GaveUpError, ApiError: the server does not answer or rejects the job.
        """
        self._prepare()
        walk = self.files or FolderWalk(self.folders, self.own)
        if not self.journal.is_started:
            self.journal.list_files(self._counted(walk))
            self.journal.set_fact("base", self._base)
            self.journal.set_facts({f"skipped {reason}": str(count) for reason, count in walk.skipped.items()})
            self.journal.set_facts(
                {f"left out {reason}": json.dumps(found) for reason, found in walk.examples.items()}
            )
            if self.journal.next_position > MAX_POSITION + 1:
                raise FolderError(f"a job has at most {MAX_POSITION + 1:,} images: classify parts of the folders")
        self._load_truth()
        self._upload()
        summary = self._summary()
        if waits:
            self._await_results()
            for job_id in summary.job_ids:
                self._send_truth(job_id, self.journal.outcomes(job_id=job_id), self.calls)
            rows = self._reader.rows(self.journal.outcomes(), self.calls)
            self._write(summary, rows if self.events is None else self.events.group(rows))
        else:
            counts = self.journal.counts()
            summary.statuses.update(waiting=counts["accepted"], rejected=counts["rejected"])
            summary.codes.update(self.journal.rejections())
        return summary

    def _reason_to_wait(self) -> str:
        """Return what the fleet does, or why it does nothing; empty if the server does not say."""
        if self.calls.clock() >= self._asked + REASON_SECONDS:
            self._asked = self.calls.clock()
            try:
                fleet = self.client.fleet() or {}
            except ApiError:
                fleet = {}
            self._reason = "; ".join(str(fleet[each]) for each in ("reason", "problem") if fleet.get(each))
        return self._reason

    def _prepare(self) -> None:
        # Not repeated: a wrong address is reported at once.
        try:
            self._limits = UploadLimits.from_response(self.client.limits())
        except RejectedError as error:
            if error.status in {401, 403}:
                raise
        if self.sorted is not None:
            self.sorted.prepare(tuple(self.folders))
        labels = json.dumps(self.fields.get("labels"))
        if not self.journal.is_started:
            self.journal.clear()
            self.journal.set_fact("labels", labels)
        elif self.journal.fact("base") not in {None, self._base}:
            raise FolderError("the list names other files than before: begin anew with --restart")
        elif (self.journal.fact("labels") or "null") != labels:
            raise FolderError("--only names other labels than before: begin anew with --restart")

    @property
    def _base(self) -> str:
        return json.dumps(str(self.folders[0]))

    def _counted(self, walk: FolderWalk | FileList) -> Iterator[Any]:
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
        skipped = {reason: int(count) for reason, count in self.journal.facts("skipped ").items()}
        examples = {reason: json.loads(found) for reason, found in self.journal.facts("left out ").items()}
        accuracy = None if self.truth is None else Accuracy(self.truth)
        job_ids = [job_id for job_id, _ in self.journal.jobs()]
        return Summary(
            job_ids,
            skipped=skipped,
            examples=examples,
            accuracy=accuracy,
            files=self.files,
            sorted=self.sorted,
            photos=self.photos,
            events=self.events,
        )

    # Upload

    def _upload(self, watched: Summary | None = None) -> None:
        """Send what is listed; a watch, whose summary is given, begins another job when one is full or closed."""
        self.progress.phase = "uploading"
        counts = self.journal.counts()
        if not (counts["listed"] or counts["sent"]):
            return
        calls = self.calls
        if watched is not None:
            calls = replace(calls, patience_seconds=WATCH_PATIENCE_SECONDS)
            if self.journal.is_job_full:
                self.journal.begin_job()
        uploader = Uploader(
            *(self.client, self.journal, calls, self._limits, self.name),
            keep=self.keep,
            model=self.model,
            progressed=partial(self._count, watched),
            shrink=self.shrink,
            watches=watched is not None,
            fields=self.fields,
        )
        begun = calls.clock()
        try:
            uploader.run()
        except JobClosedError as error:
            if watched is None:
                raise
            # The job was cancelled, deleted, or has expired: what it has not accepted goes into the present one.
            self.journal.release_unknown(error.job_id)
            present = self.journal.job()
            if present is None or present[1] == error.job_id:
                self.journal.begin_job()
            uploader.run()
        finally:
            if watched is not None:
                watched.missed += uploader.missed
        if self.shrink is bytes:
            note_upload_rate(self.client.base_url, uploader.sent_bytes, calls.clock() - begun)
        self.progress.note = ""

    def _note(self, reason: str) -> None:
        """Show why a call is repeated."""
        self.progress.note = reason
        self.show(self.progress)

    def _count(self, watched: Summary | None = None) -> None:
        """Show how many files are sent; the journal of a watch has forgotten those in its summary."""
        counts, written = self.journal.counts(), watched or Summary()
        total, rejected = sum(counts.values()) + written.total, counts["rejected"] + written.statuses["rejected"]
        sent = total - rejected - counts["listed"] - counts["sent"]
        if sent + rejected != self.progress.sent + self.progress.rejected:
            self.progress.note = ""
        self.progress.total, self.progress.sent, self.progress.rejected = total, sent, rejected
        self.show(self.progress)

    # Results

    def _await_results(self) -> None:
        """Wait until every accepted image of each job that still exists has a result."""
        self._count()
        self.progress.phase = "waiting"
        before = 0
        for job_id, images in self.journal.jobs():
            pause, last = FIRST_POLL_SECONDS, -1
            while images:
                try:
                    status = self.calls.call(partial(self.client.status, job_id))
                except RejectedError as error:
                    if error.status == 404:
                        break
                    raise
                self._set_scores(status)
                if status.get("stopped"):  # older servers do not say
                    raise JobClosedError(job_id, f"stopped: {status['stopped']}")
                classified = int(status["done"]) + int(status["failed"])
                self.progress.classified = before + min(classified, images)
                self.progress.waiting = images - min(classified, images)
                self.progress.blocked = status.get("blocked") or ""  # older servers do not say
                asks = self.progress.waiting and not self.progress.blocked
                self.progress.note = self._reason_to_wait() if asks else ""
                self.show(self.progress)
                if classified >= images and not status["waiting"]:
                    break
                if (self.calls.wait or self.calls.stop.wait)(pause):
                    raise StoppedError("stopped")
                pause = min(MIN_POLL_SECONDS if classified != last else MAX_POLL_SECONDS, pause * 1.5)
                last = classified
            before += images

    def _set_scores(self, job: Mapping[str, Any]) -> None:
        if self.events is not None:
            self.events.scores = MinScores.of_job(job)

    def _write(
        self, summary: Summary, rows: Iterator[tuple[Outcome, ResultRow]], end_of_file: int | None = None
    ) -> int:
        """Write, sort and count these rows; return the size of the file of results."""
        self.progress.phase = "writing"
        self.show(self.progress)
        summary.job_ids = [job_id for job_id, _ in self.journal.jobs()]
        if self.out is None:
            for outcome, row in rows:
                self._finish(summary, outcome, row)
            return 0
        with ResultRowsFile(self.out, end_of_file, self.layout, self.package) as file:
            for outcome, row in rows:
                file.write(row)
                self._finish(summary, outcome, row)
        summary.left_out.update(file.left_out)
        return file.end_of_file

    def _finish(self, summary: Summary, outcome: Outcome, row: ResultRow) -> None:
        summary.add(row)
        summary.renamed += outcome.file.is_renamed
        if self.sorted is not None and row.status != "waiting" and row.error_code not in {NOT_FOUND, NOT_SENT}:
            decision = row.decision if self.events is None else row.further["event_decision"]
            self.sorted.add(outcome.file, decision if row.status == "done" else None)

    # True labels

    def _send_truth(self, job_id: str, outcomes: Iterable[Outcome], calls: PatientCalls) -> None:
        """Send the true labels of images to their job, for its page; record those that are no class of the model."""
        if (truth := self.truth) is None:
            return
        accepted = ((each.image_id, truth.label(each.file)) for each in outcomes if each.image_id)
        for part in truth_parts((image_id, label) for image_id, label in accepted if label is not None):
            with suppress(RejectedError):  # the job has expired
                reply = calls.call(partial(self.client.send_truth_file, job_id, part))
                truth.unknown.update(map(plain_label, reply.get("unknown_classes", ())))
