"""Takes in single images, each sent in a request of its own: steps 3 to 5 for all that arrive at the same moment.

A job for each would flood the list of jobs, and three calls for each would keep the job table busy: so each process
has one job for them at a time, and one thread that records and sends together what waits (a group commit).
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from services.errors import NotFoundError
from services.ids import new_id
from services.job_records import ImageRecord, Job
from web_tier.intake.multipart import Upload
from web_tier.intake.store import CLOUD_ERRORS, Intake, Outcome, unavailable

JOB_NAME = "Single images"
JOB_IMAGES = 1_000
JOB_AGE = timedelta(minutes=1)
"""A job takes single images until it has so many, or is so old."""

COMMIT_SECONDS = 120.0
"""Longest that an image waits to be recorded and sent; the calls' own retries end before."""

_log = logging.getLogger(__name__)


@dataclass
class _OpenJob:
    """A job that takes single images; `recorded` once it is in the job table, with its first image."""

    job: Job
    images: int = 0
    recorded: bool = False


@dataclass(frozen=True)
class _Waiting:
    """An image that was put, and waits to be recorded and sent."""

    record: ImageRecord
    into: _OpenJob
    outcome: "Future[Outcome]" = field(default_factory=Future)


@dataclass
class SingleIntake:
    """Takes single images in, for all threads of one process; to be made after a fork.

    Attributes:
        intake: puts, records and sends them.
        clock: the time of day, for the age of a job.
    """

    intake: Intake
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _open: _OpenJob | None = field(default=None, init=False)
    _waiting: list[_Waiting] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _committer: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="single-intake"), init=False
    )

    def take(self, uploads: Iterable[Upload]) -> Outcome | None:
        """Take the one image of a request; return what became of it, or None when `uploads` yields nothing.

        When reading `uploads` fails, nothing is accepted and the error passes through.
        """
        into = self._job_to_use()
        put = self.intake.put(into.job.job_id, uploads)
        if not put:
            return None
        return self._committed(put[0], into) if isinstance(put[0], ImageRecord) else put[0]

    def _job_to_use(self) -> _OpenJob:
        with self._lock:
            if self._open is None or self._is_full(self._open):
                self._open = _OpenJob(Job(new_id(), JOB_NAME, self.clock()))
            self._open.images += 1
            return self._open

    def _is_full(self, job: _OpenJob) -> bool:
        return job.images >= JOB_IMAGES or self.clock() - job.job.created_at >= JOB_AGE

    def _committed(self, record: ImageRecord, into: _OpenJob) -> Outcome:
        waiting = _Waiting(record, into)
        with self._lock:
            self._waiting.append(waiting)
        self._committer.submit(self._commit_waiting)
        try:
            return waiting.outcome.result(COMMIT_SECONDS)
        except TimeoutError:
            return unavailable(record.filename)

    def _commit_waiting(self) -> None:
        """Commit all that wait now; the runs that were asked for by those others will find nothing."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        by_job: dict[str, list[_Waiting]] = {}
        for image in waiting:
            by_job.setdefault(image.into.job.job_id, []).append(image)
        for images in by_job.values():
            self._commit(images)

    def _commit(self, images: Sequence[_Waiting]) -> None:
        records = [image.record for image in images]
        try:
            outcomes = self._record_and_send(images[0].into, records)
        except (*CLOUD_ERRORS, NotFoundError):
            _log.exception("the job for single images is not there")
            outcomes = self._refused(images[0].into, records)
        except Exception as error:  # noqa: BLE001 - each request that waits is told, and answers as for any error
            for image in images:
                image.outcome.set_exception(error)
            return
        for image, outcome in zip(images, outcomes, strict=True):
            image.outcome.set_result(outcome)

    def _record_and_send(self, into: _OpenJob, records: Sequence[ImageRecord]) -> list[Outcome]:
        if into.recorded:
            self.intake.store.job(into.job.job_id)  # somebody may have deleted it, as any job
        else:
            self.intake.store.create(into.job)
            into.recorded = True
        return self.intake.commit(into.job.job_id, records)

    def _refused(self, into: _OpenJob, records: Sequence[ImageRecord]) -> list[Outcome]:
        """Accept none of `records`, and use their job no more."""
        with self._lock:
            if self._open is into:
                self._open = None
        self.intake.discard(records)
        return [unavailable(record.filename) for record in records]
