"""The results file: all results of a finished job as one object, `results/{job_id}.jsonl`, in the output bucket.

A job of single images has none: its images do not belong together, and new ones arrive while it is open.

The table says which results the file has (their edition). So the next controller continues where the last one
stopped, and a job that finished while no controller ran is found: it stays open until its file is written. When
results change later, since failed images were retried, the file is written again; readers see the previous one until
then.

A user may have chosen a location in S3 for a copy of the file. Once the file is complete, S3 copies it there, and
the table says which file was copied. So a copy that was interrupted is repeated, and a file that is written again is
copied again. An error of the service delays the copy with a backoff, for as long as it lasts; the job stays open. If
S3 or the configuration refuses the copy, that is recorded for the user, and no copy is tried until the file changes.
The copy belongs to the user: nothing here deletes it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from botocore.exceptions import ClientError

from core.config import S3Grant, is_granted
from core.ids import ImageRef
from core.jobs.buckets import OutputBucket
from core.jobs.figures import JobFigures
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.models import ImageRecord, Job, JobStatus, MergedFile, ResultsCopy
from core.jobs.store import JobStore
from core.s3_locations import S3Location
from services.backoff import pause_seconds
from services.clock import CLOCK, Clock
from services.errors import NotFoundError
from services.lease import Tenure
from services.s3 import SourceBuckets, is_refusal
from web_tier.results.export import json_lines
from web_tier.results.query import PAGE, all_results, is_retrying

_log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
"""Time between two checks of a job."""
CHECK_SECONDS_PER_JOB = 0.05
"""With many open jobs, a job is checked after so many seconds for each of them."""
MAX_CHECK_SECONDS = 60.0
"""Longest time between two checks of a job with an up-to-date file."""
QUIET_SECONDS = 5.0
"""Time after the last result in which images of the same upload may still arrive."""
REST_CHECK_SECONDS = QUIET_SECONDS
"""Time between two checks for open jobs while there are none: no file of a new job is due earlier."""
MAX_OPEN_SECONDS = 86_400.0
"""Longest time for which a job with unchanged results stays open for its file; a copy that is due keeps it longer."""
FIRST_COPY_PAUSE_SECONDS = 1.0
MAX_COPY_PAUSE_SECONDS = 60.0
"""Longest pause after errors of a copy in a row."""
MAX_COPY_ERROR_CHARACTERS = 300
COPY_REFUSALS = {
    "AccessDenied": "S3 does not let Fleetsight write there: the controller's role needs s3:PutObject",
    "AllAccessDisabled": "S3 has disabled all access to it",
    "NoSuchBucket": "this bucket does not exist",
}
"""Error codes with which S3 refuses a copy for good, with their meaning for the user."""


class TenureOverError(Exception):
    """Raised when this process may no longer act, or another one has taken over; a file half written is abandoned."""


class UnfinishedJobError(Exception):
    """Raised when a job has more or fewer images than its counts say; its file is written later."""


@dataclass
class FileState:
    """What is known of an open job's file; times are monotonic seconds.

    Attributes:
        touched_at: when the job was last changed, as the table says.
        due: when it is checked next.
        pause: time until the check after that.
        edition: edition of the results at the last check.
        edition_since: when a check first saw that edition.
        settled: whether the file of that edition is up to date, or none is needed, or it was given up.
        written: edition of the last file that this controller has written.
        retrying: images that were being retried when that file was written.
        is_copying: whether the copy of the current file is due.
        copy_failures: errors of the copy in a row.
        copy_due: when the copy is tried next.
    """

    touched_at: str
    due: float
    pause: float = 0.0
    edition: str | None = None
    edition_since: float = 0.0
    settled: bool = False
    written: str | None = None
    retrying: dict[ImageRef, ImageRecord] = field(default_factory=dict)
    is_copying: bool = False
    copy_failures: int = 0
    copy_due: float = 0.0


@dataclass(frozen=True)
class ResultsCopier:
    """Copies results files to the locations in S3 that users have chosen for them; the bytes stay within S3."""

    buckets: SourceBuckets
    outputs: OutputBucket
    destinations: Sequence[S3Grant] = ()

    def copy(self, job: Job, merged: MergedFile) -> str:
        """Copy a file; return why S3 or the configuration refuses it for good, or an empty text.

        Raises:
            NotFoundError: there is no file.
            ClientError, BotoCoreError: another try may succeed.
        """
        location = S3Location.parse(job.results)
        # A user who was an operator when the job was created has the right to its copy.
        if not is_granted(self.destinations, location, to_operator=True):
            return f"{location}: imports.destinations in config.yaml does not allow it any more"
        try:
            to_key = f"{location.prefix}{job.job_id}.jsonl"
            self.outputs.copy_results_file(self.buckets, merged, location.bucket, to_key)
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            if code in COPY_REFUSALS or is_refusal(error):
                reason = COPY_REFUSALS.get(code) or error.response["Error"].get("Message", "S3 refuses the copy")
                return f"{location}: {reason} ({code})"[:MAX_COPY_ERROR_CHARACTERS]
            raise
        return ""


@dataclass
class ResultsFileWriter:
    """Keeps the results files of open jobs up to date.

    Attributes:
        on_finished: called with the id of a job once each of its images has its last result, before the file is
            recorded: again if the controller dies in between, or results change later, but not for another border
            of doubt.
    """

    store: JobStore
    outputs: OutputBucket
    tenure: Tenure
    copier: ResultsCopier
    clock: Clock = CLOCK
    on_finished: list[Callable[[str], object]] = field(default_factory=list)
    _states: dict[str, FileState] = field(default_factory=dict, init=False)

    def tick(self) -> float:
        """Check the jobs that are due; return the seconds until the next round."""
        opened, now = OpenJobs(self.store.table).find_all(), self.clock.monotonic()
        self._states = {job.job_id: self._states.get(job.job_id) or FileState(job.touched_at, now) for job in opened}
        for job in opened:
            state = self._states[job.job_id]
            if state.touched_at != job.touched_at:
                state.touched_at, state.settled, state.pause, state.due = job.touched_at, False, 0.0, now
        min_pause = max(CHECK_SECONDS, CHECK_SECONDS_PER_JOB * len(opened))
        for job_id, state in self._states.items():
            if self.tenure.active() and self.clock.monotonic() >= state.due:
                self._check_safely(job_id, state)
                pause = min(MAX_CHECK_SECONDS, 2 * state.pause) if state.settled else 0.0
                state.pause = max(min_pause, pause)
                state.due = self.clock.monotonic() + state.pause
        return CHECK_SECONDS if opened else REST_CHECK_SECONDS

    def is_done_with(self, job_id: str) -> bool:
        """Return whether a finished job need not be kept open for its file; other threads may ask."""
        state = self._states.get(job_id)
        edition = (
            state.edition if state is not None else None
        )  # read before `settled`, which is reset before it changes
        if state is None or not state.settled:
            return not OpenJobs(self.store.table).is_open(job_id)
        with suppress(NotFoundError):
            return self.store.status(job_id).edition == edition and self._are_all_retrying(state)
        return True  # the job is being deleted

    def _check_safely(self, job_id: str, state: FileState) -> None:
        try:
            state.settled = self._check(job_id, state)
        except NotFoundError:
            state.settled = True  # the job is being deleted
        except UnfinishedJobError:
            state.settled = False
        except TenureOverError:
            _log.info("abandoned a results file: this controller no longer acts", extra={"job": job_id})
        except Exception:  # noqa: BLE001 (it must not delay other jobs; it is logged and tried again)
            _log.warning(
                "the results of a job could not be written as one file", extra={"job": job_id}, exc_info=True
            )
        state.settled |= not state.is_copying and self.clock.monotonic() - state.edition_since > MAX_OPEN_SECONDS

    def _check(self, job_id: str, state: FileState) -> bool:
        """Write the file if it is due, or copy it; return whether both are up to date."""
        status = self.store.status(job_id)
        state.is_copying = False
        if status.edition != state.edition:
            # An image may have been added since, after the job was marked as open.
            state.settled, state.edition_since, state.edition = False, self.clock.monotonic(), status.edition
        if status.job.is_single:
            return True
        last, now = status.counts.last_result_at, self.clock.utc_now()
        if not status.is_answered or last is None or 0 <= (now - last).total_seconds() <= QUIET_SECONDS:
            return status.accepted == 0 and not status.is_listing
        if status.merged is not None and status.merged.edition == status.edition:
            state.retrying = {}  # the reply of the write that recorded this file may have been lost
            return not status.job.results or self._copy(status.job, status.merged, status.copy, state)
        if state.written == status.edition and state.retrying and self._are_all_retrying(state):
            return False
        self._write(status, state)
        state.is_copying = bool(status.job.results) and not state.retrying
        return not state.retrying and not state.is_copying

    def _are_all_retrying(self, state: FileState) -> bool:
        """Return whether no image that was being retried when the file was written has a newer result."""
        results = self.store.results_of(state.retrying)
        return all(is_retrying(state.retrying[ref], result) for ref, result in results.items())

    def _copy(self, job: Job, merged: MergedFile, copy: ResultsCopy | None, state: FileState) -> bool:
        """Copy the complete file if it is due, then record it; return whether there is nothing left to do.

        If the controller dies in between, the file is copied again. An earlier controller that was frozen in between
        copies what the file is at that time.
        """
        if copy is not None and copy.version == merged.version:
            return True
        state.is_copying = True
        if self.clock.monotonic() < state.copy_due:
            return False
        if not self.tenure.active():
            raise TenureOverError
        figures = JobFigures(self.store.table)
        try:
            error = self.copier.copy(job, merged)
        except NotFoundError:
            figures.delete_merged(job.job_id, self.clock.utc_now())  # the file is missing, so it is written again
            return False
        except Exception:  # noqa: BLE001 (it is logged and tried again)
            state.copy_failures += 1
            pause = pause_seconds(state.copy_failures, FIRST_COPY_PAUSE_SECONDS, MAX_COPY_PAUSE_SECONDS)
            state.copy_due = self.clock.monotonic() + pause
            extra = {"job": job.job_id, "next_try_seconds": round(pause, 2)}
            _log.warning("the results of a job could not be copied", extra=extra, exc_info=True)
            return False
        state.copy_failures = 0
        if not figures.put_copy(job.job_id, ResultsCopy(merged.version, error), self.tenure.token):
            raise TenureOverError
        DeletedJobs(self.store.table).mark_if_removed(job.job_id)
        _log.info("copied the results of a job", extra={"job": job.job_id, "refused": error})
        return True

    def _write(self, status: JobStatus, state: FileState) -> None:
        """Write the file, then record its edition: if the controller dies in between, the file is written again."""
        job_id, retrying = status.job.job_id, dict[ImageRef, ImageRecord]()
        figures, is_refused = JobFigures(self.store.table), False
        try:
            key = self.outputs.put_results_file(job_id, self._parts(status, retrying))
            edition = f"{status.edition}, {len(retrying)} tried again" if retrying else status.edition
            if not retrying and not status.is_only_decided_anew:
                for call in self.on_finished:
                    call(job_id)
            merged = MergedFile(key, edition, self.clock.utc_now())
            is_refused = not figures.put_merged(job_id, merged, self.tenure.token)
        finally:
            if is_refused or not self.tenure.active():
                # This controller may have been frozen and have replaced a later controller's file by an old one.
                figures.delete_merged(job_id, self.clock.utc_now())
        if is_refused:
            raise TenureOverError
        state.written, state.retrying = status.edition, retrying
        _log.info("wrote the results of a job as one file", extra={"job": job_id, "images": status.accepted})

    def _parts(self, status: JobStatus, retrying: dict[ImageRef, ImageRecord]) -> Iterator[bytes]:
        """Yield the file, a page of images at a time, and add the images that are being retried to `retrying`."""
        # What the model answered: users may set true labels at any time, and the file is not written again then.
        results, images = all_results(self.store, status.job.job_id, with_truths=False), 0
        while page := list(islice(results, PAGE)):
            if not self.tenure.active():
                raise TenureOverError
            images += len(page)
            retrying |= {result.record.ref: result.record for result in page if result.retrying}
            yield "".join(json_lines(page)).encode()
        if images != status.accepted:
            # The web tier is adding images, or has recorded some that it withdraws.
            raise UnfinishedJobError
        if not self.tenure.active():
            raise TenureOverError
