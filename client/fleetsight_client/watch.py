"""The watch: a classification that goes on with new and replaced files."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

from fleetsight_client.api import RejectedError
from fleetsight_client.classification import WATCH_PATIENCE_SECONDS, Classification, Summary
from fleetsight_client.folders import FolderWalk
from fleetsight_client.journal import Outcome
from fleetsight_client.retries import GaveUpError, StoppedError
from fleetsight_client.row_reader import MAX_PAGE
from fleetsight_client.rows import NOT_FOUND, ResultRow
from fleetsight_client.uploader import JobClosedError, read_unchanged

WATCH_SECONDS: Final = 2.0
"""The pause between two searches for new files; a file is complete if both find it with the same size and time."""

COLLECTED: Final = 500
"""Number of images for which results are read, written and synchronized together."""

SPARSE_PAGE: Final = 20
"""Results that are read at a time if most of the images around them have their row already."""


@dataclass
class Watch(Classification):
    """Classifies the images in folders until the user stops it, by one job or by several."""

    _answered: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    """By job: its answers when its results were last read to the end, and from which position on to read now."""

    def watch(self, *, searches: bool = True) -> Summary:
        """Classify the folders, and then new and replaced files in them, until the user stops the command.

        Without `searches`, classify what an interrupted watch has taken, and end.

        A file is taken when two searches find it with the same size and time. Each result is appended to the file of
        results when it is there, so that no file waits for another one. A server that does not answer is called for
        ever.

        Raises:
            StoppedError: the user has stopped the command, and there are files without a row; `--resume` continues.
            ApiError: the server rejects the job or a request for good.
        """
        self._prepare()
        self.journal.begin_watch()
        self._load_truth()
        summary, sends_from = self._summary(), float("-inf")
        while True:
            if searches:
                self._search(summary)
            self.progress.note = ""
            if self.calls.clock() >= sends_from:
                try:
                    self._upload(summary)
                except GaveUpError as error:
                    sends_from = self.calls.clock() + WATCH_PATIENCE_SECONDS
                    self.progress.note = str(error)
                except JobClosedError:
                    pass  # another job was closed, too: the next round releases its files
            self._collect(summary)
            self._show_watch(summary)
            left = sum(self.journal.counts().values())
            if not left and not searches:
                return summary
            if (self.calls.wait or self.calls.stop.wait)(WATCH_SECONDS):
                if left:
                    raise StoppedError(f"stopped (files without a result: {left:,})")
                return summary

    def _search(self, summary: Summary) -> None:
        walk = FolderWalk(self.folders, self.own)
        added, replaced = self.journal.list_stable_files(self._counted(walk))
        summary.skipped = {str(reason): count for reason, count in walk.skipped.items()}
        summary.examples = {str(reason): tuple(found) for reason, found in walk.examples.items()}
        summary.replaced += replaced
        if added + replaced:
            self._load_truth()
        for file, digest in self.journal.doubtful_files():
            content = read_unchanged(file, self._limits.max_image_bytes)
            is_same = not isinstance(content, bytes) or sha256(content).digest() == digest
            self.journal.known.confirm(file.position, is_same=is_same)

    def _show_watch(self, summary: Summary) -> None:
        self._count(summary)
        progress = self.progress
        progress.phase, progress.replaced = "watching", summary.replaced
        progress.classified = summary.statuses["done"] + summary.statuses["failed"]
        progress.waiting = self.journal.counts()["accepted"]
        if progress.waiting and not (progress.note or progress.blocked):
            progress.note = self._reason_to_wait()
        self.show(progress)

    def _collect(self, summary: Summary) -> None:
        """Append the rows of rejected files, and of images that have a result by now."""
        while rejected := list(islice(self.journal.outcomes(state="rejected"), COLLECTED)):
            self._append(summary, list(self._reader.rows(rejected, self.calls)))
        jobs = {job_id: images for job_id, images in self.journal.jobs() if images}
        self._answered = {job_id: each for job_id, each in self._answered.items() if job_id in jobs}
        self.progress.blocked = ""
        for job_id, images in jobs.items():
            try:
                self._collect_job(summary, job_id, images)
            except GaveUpError as error:
                self.progress.note = str(error)

    def _collect_job(self, summary: Summary, job_id: str, images: int) -> None:
        """Append the rows of a job's images; calls are made once, since the next round repeats them.

        As long as many images have a result, all are read; else the next round goes on where this one ended.
        """
        once = replace(self.calls, patience_seconds=-1.0)
        try:
            status = once.call(partial(self.client.status, job_id))
        except RejectedError as error:
            if error.status != 404:
                raise
            status = {"done": 0, "failed": 0, "waiting": 0}  # the job is gone, and so are its images
        self._set_scores(status)
        answers, waiting = int(status["done"]) + int(status["failed"]), int(status["waiting"])
        self.progress.blocked = status.get("blocked") or self.progress.blocked
        before, after = self._answered.get(job_id, (-1, -1))
        if answers == before and after < 0 and images <= waiting:
            return  # no image of this command has a new result
        while True:
            outcomes = list(islice(self.journal.outcomes(after, job_id=job_id), COLLECTED))
            span = outcomes[-1].file.position - outcomes[0].file.position + 1 if outcomes else 1
            page = min(span, MAX_PAGE) if span <= 2 * len(outcomes) else SPARSE_PAGE
            in_order = sorted(outcomes, key=lambda each: each.file.job_position)
            rows = [
                (outcome, row)
                for outcome, row in self._reader.rows(in_order, once, page)
                if row.status != "waiting" and not (row.error_code == NOT_FOUND and waiting)
            ]
            self._send_truth(job_id, (outcome for outcome, _ in rows), once)
            self._append(summary, rows)
            after = outcomes[-1].file.position if len(outcomes) == COLLECTED else -1
            self._answered[job_id] = answers, after
            if after < 0 or not rows:
                return

    def _append(self, summary: Summary, rows: Sequence[tuple[Outcome, ResultRow]]) -> None:
        """Append rows to the file of results, and forget their files; both are durable, in this order.

        A killed command leaves rows that the journal does not know: they are cut off, and written again. If the file
        was moved away, the rows begin a new one.
        """
        if not rows:
            return
        size = int(self.journal.fact("end of file") or 0) if self.journal.fact("out") == str(self.out) else None
        if size is not None and self.out not in {None, "-"}:
            file = Path(str(self.out))
            size = min(size, file.stat().st_size) if file.exists() else None
        end = self._write(summary, iter(rows), size)
        self.journal.finish((outcome.file for outcome, _ in rows), {"out": str(self.out), "end of file": str(end)})
