"""The merger: writes all results of a finished job as one file, `{job_id}/results.jsonl`, into the output bucket.

The table says which results the file holds (their edition), so the next controller goes on where it stood, and a job
that finished while no controller ran is found: it is open until its file is there. When results change later, since
failed images were tried again, the file is written anew; readers see the one before until all is there.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from core.ids import ImageRef, merged_key
from core.job_records import ImageRecord, JobStatus, MergedFile, OpenJob
from core.jobs import JobStore
from services.errors import NotFoundError
from services.s3 import Bucket
from web_tier.api.downloads import json_lines
from web_tier.api.queries import JSON_LINES
from web_tier.results.query import PAGE, ImageResult, all_results, is_retrying

_log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
JOB_SECONDS = 0.05
"""A job is looked at every `LOOK_SECONDS`, or so long for each open job where there are many."""
MAX_LOOK_SECONDS = 60.0
"""Between two looks at a job with a file that is as it should be."""
QUIET_SECONDS = 5.0
"""After the last result; images of the same upload may still be on their way."""
PATIENCE_SECONDS = 86_400.0
"""How long a job is kept open for its file at most."""


class ShiftOverError(Exception):
    """Raised when this process may no longer act, or another one has taken over; what is half written is given up."""


class UnfinishedJobError(Exception):
    """Raised when a job has more images than it says, or fewer; its file is written later."""


@dataclass
class Look:
    """What is remembered of an open job; times are monotonic seconds.

    Attributes:
        retrying: images that were being tried again when the file was written, of the edition `written`.
    """

    touched_at: str
    first_seen: float
    due: float
    pause: float = 0.0
    settled: bool = False
    written: str | None = None
    retrying: dict[ImageRef, ImageRecord] = field(default_factory=dict)


@dataclass
class Merger:
    """Keeps the files of open jobs as they should be.

    Attributes:
        outputs: the output bucket.
        active: whether this process may still act; asked before each page of images, and before the file is complete.
        token: the fencing token with which it is recorded that a file is there.
    """

    store: JobStore
    outputs: Bucket
    active: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    token: int = 0
    _looks: dict[str, Look] = field(default_factory=dict, init=False)

    def tick(self) -> float:
        """Look at the jobs that are due; return the seconds until the next round."""
        opened = self.store.open_jobs()
        self._looks = {job.job_id: self._remembered(job) for job in opened}
        pace = max(LOOK_SECONDS, JOB_SECONDS * len(opened))
        for job_id, look in self._looks.items():
            if self.active() and self.clock() >= look.due:
                self._look_safely(job_id, look)
                look.pause = min(MAX_LOOK_SECONDS, 2 * look.pause) if look.settled else 0.0
                look.pause = max(pace, look.pause)
                look.due = self.clock() + look.pause
        return LOOK_SECONDS

    def is_done_with(self, job_id: str) -> bool:
        """Return whether a finished job need not be kept open for its file; other threads may ask."""
        look = self._looks.get(job_id)
        return look is not None and (look.settled or self.clock() - look.first_seen > PATIENCE_SECONDS)

    def _remembered(self, job: OpenJob) -> Look:
        look = self._looks.get(job.job_id) or Look(job.touched_at, self.clock(), self.clock())
        if look.touched_at != job.touched_at:
            look.touched_at, look.settled, look.pause, look.due = job.touched_at, False, 0.0, self.clock()
        return look

    def _look_safely(self, job_id: str, look: Look) -> None:
        try:
            look.settled = self._look(job_id, look)
        except NotFoundError:
            look.settled = True  # the job is being deleted
        except UnfinishedJobError:
            look.settled = False
        except ShiftOverError:
            _log.info("gave up a file of results: this controller acts no longer", extra={"job": job_id})
        except Exception:  # noqa: BLE001 (the others must not wait for this one, which is looked at again; it is logged)
            _log.exception("the results of a job could not be written as one file", extra={"job": job_id})

    def _look(self, job_id: str, look: Look) -> bool:
        """Write the file if it is due; tell whether it is as it should be."""
        status = self.store.status(job_id)
        if not self._is_quiet(status):
            return status.state == "empty"
        if status.merged is not None and status.merged.edition == status.edition:
            return True
        if look.written != status.edition or not look.retrying or self._has_ended(look.retrying):
            self._write(status, look)
        return not look.retrying

    def _is_quiet(self, status: JobStatus) -> bool:
        last = status.counts.last_at
        return status.state == "finished" and last is not None and (self.now() - last).total_seconds() > QUIET_SECONDS

    def _has_ended(self, retrying: dict[ImageRef, ImageRecord]) -> bool:
        """Return whether an image that was being tried again has a newer result."""
        results = self.store.results_of(retrying)
        return any(not is_retrying(retrying[ref], result) for ref, result in results.items())

    def _write(self, status: JobStatus, look: Look) -> None:
        """Write the file, and then what it holds: who dies in between leaves a file that is written again."""
        job_id, retrying = status.job.job_id, dict[ImageRef, ImageRecord]()
        key = merged_key(job_id)
        is_refused = False
        try:
            self.outputs.put_parts(key, self._parts(status, retrying), JSON_LINES)
            edition = f"{status.edition}, {len(retrying)} tried again" if retrying else status.edition
            is_refused = not self.store.put_merged(job_id, MergedFile(key, edition, self.now()), self.token)
        finally:
            if is_refused or not self.active():
                # This controller may have been frozen, and have replaced the file of a later one by an old one.
                self.store.forget_merged(job_id, self.now())
        if is_refused:
            raise ShiftOverError
        look.written, look.retrying = status.edition, retrying
        _log.info("wrote the results of a job as one file", extra={"job": job_id, "images": status.accepted})

    def _parts(self, status: JobStatus, retrying: dict[ImageRef, ImageRecord]) -> Iterator[bytes]:
        """Yield the file a page of images at a time, and note in `retrying` those that are being tried again."""
        results, images = all_results(self.store, status.job.job_id), 0
        while page := list(islice(results, PAGE)):
            if not self.active():
                raise ShiftOverError
            images += len(page)
            retrying |= _retrying(page)
            yield "".join(json_lines(page)).encode()
        if images != status.accepted:
            # The web tier is adding images, or has recorded some that it takes back.
            raise UnfinishedJobError
        if not self.active():
            raise ShiftOverError


def _retrying(results: list[ImageResult]) -> dict[ImageRef, ImageRecord]:
    return {result.record.ref: result.record for result in results if result.retrying}
