"""Takes in single images, each sent in a request of its own: steps 3 to 5 for all that arrive at the same moment.

A job for each would flood the list of jobs, and three calls for each would keep the job table busy: so each process
has one job at a time for those of a user, and one thread that records and sends together what waits, whosever it is
(a group commit).

Anybody may delete such a job while it is open, as any other. An image that finds its job deleted goes into a new one
at once; its bytes are kept until it is accepted.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from core.ids import ImageRef, new_id
from core.job_records import ImageRecord, Job
from services.errors import NotFoundError
from web_tier.intake.budget import MemoryLimiter
from web_tier.intake.multipart import Upload
from web_tier.intake.store import CLOUD_ERRORS, MEMORY_BYTES, SLICE, ImageIngest, Outcome, unavailable
from web_tier.intake.tally import Tally
from web_tier.limits.allowance import UNLIMITED, Allowance

JOB_NAME = "Single images"
JOB_IMAGES = 1_000
JOB_AGE = timedelta(minutes=1)
"""A job takes single images until it has so many, or is so old."""

MAX_OPEN = 1_000
"""Users with such a job at the same time; the next image of one that is passed over begins another job."""

MAX_JOBS_TRIED = 5
"""How many jobs are tried for an image; each but the last was deleted before the image was in it."""

MAX_WAIT_SECONDS = 120.0
"""How long an image waits for its commit to begin, in seconds. A commit that has begun is waited for: its calls end,
and the image may be accepted."""

_log = logging.getLogger(__name__)


@dataclass
class _OpenJob:
    """A job that takes single images; `recorded` once it is in the job table, with its first image."""

    job: Job
    images: int = 0
    recorded: bool = False


@dataclass(frozen=True)
class _Waiting:
    """An image that was put, and waits to be recorded and sent; its outcome is None if its job has been deleted."""

    record: ImageRecord
    into: _OpenJob
    outcome: "Future[Outcome | None]" = field(default_factory=Future)


@dataclass
class SingleIntake:
    """Takes single images in, for all threads of one process; to be made after a fork.

    Attributes:
        intake: puts, records and sends them.
        clock: the time of day, for the age of a job.
        budget: the bytes of images that are kept until they are accepted.
    """

    intake: ImageIngest
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    budget: MemoryLimiter = field(default_factory=lambda: MemoryLimiter(MEMORY_BYTES))
    _open: "OrderedDict[str, _OpenJob]" = field(default_factory=OrderedDict, init=False)
    _waiting: list[_Waiting] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _committer: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="single-intake"), init=False
    )

    def __post_init__(self) -> None:
        """Count apart: the figures of several jobs are stored together, so no other process may store them."""
        self.intake = replace(self.intake, tally=Tally())

    def take(self, owner: str, uploads: Iterable[Upload], allowance: Allowance = UNLIMITED) -> Outcome | None:
        """Take the one image of a request of `owner`; return what became of it, None when `uploads` yields nothing.

        When reading `uploads` fails, nothing is accepted and the error passes through.

        Raises:
            BusyError: when no memory came free for it.
            QuotaExceededError: when it is more than the `allowance`.
        """
        files = list(uploads)
        if not files:
            return None
        [upload] = files
        with self.budget.held(len(upload.data)):
            for _ in range(MAX_JOBS_TRIED):
                outcome = self._taken_into(self._job_to_use(owner), upload, allowance)
                if outcome is not None:
                    return outcome
        return unavailable(upload.filename)

    def _taken_into(self, into: _OpenJob, upload: Upload, allowance: Allowance) -> Outcome | None:
        """Take an image into a job; return what became of it, or None if the job has been deleted."""
        put = self.intake.put(into.job, [upload])
        if not isinstance(put[0], ImageRecord):
            return put[0]
        with self.intake.charged(put, allowance) as receipt:
            outcome = self._committed(put[0], into)
            if isinstance(outcome, ImageRecord):
                receipt.keep([outcome])
            return outcome

    def _job_to_use(self, owner: str) -> _OpenJob:
        with self._lock:
            into = self._open.get(owner)
            if into is None or self._is_full(into):
                into = self._open[owner] = _OpenJob(Job(new_id(), JOB_NAME, self.clock(), owner=owner))
            self._open.move_to_end(owner)
            if len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
            into.images += 1
            return into

    def _is_full(self, job: _OpenJob) -> bool:
        return job.images >= JOB_IMAGES or self.clock() - job.job.created_at >= JOB_AGE

    def _committed(self, record: ImageRecord, into: _OpenJob) -> Outcome | None:
        waiting = _Waiting(record, into)
        with self._lock:
            self._waiting.append(waiting)
        self._committer.submit(self._commit_waiting)
        try:
            return waiting.outcome.result(MAX_WAIT_SECONDS)
        except TimeoutError:
            if not waiting.outcome.cancel():
                return waiting.outcome.result()
        self.intake.discard([record])
        return unavailable(record.filename)

    def _commit_waiting(self) -> None:
        """Commit all that wait now; the runs that were asked for by those others will find nothing."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        waiting = [image for image in waiting if image.outcome.set_running_or_notify_cancel()]
        try:
            outcomes = self._record_and_send(waiting)
        except CLOUD_ERRORS:
            _log.exception("jobs for single images are not there")
            self._give_up(waiting)
            outcomes = {image.record.ref: unavailable(image.record.filename) for image in waiting}
        except Exception as error:  # noqa: BLE001 - each request that waits is told, and answers as for any error
            for image in waiting:
                image.outcome.set_exception(error)
            return
        for image in waiting:
            image.outcome.set_result(outcomes.get(image.record.ref))

    def _record_and_send(self, waiting: Sequence[_Waiting]) -> dict[ImageRef, Outcome]:
        """Commit the images if their jobs exist; return the outcome of each."""
        there = self._jobs_there([image.into for image in waiting])
        self._give_up([image for image in waiting if image.record.ref.job_id not in there])
        existing = [image for image in waiting if image.record.ref.job_id in there]
        outcomes = dict[ImageRef, Outcome]()
        for start in range(0, len(existing), SLICE):
            part = existing[start : start + SLICE]
            try:
                committed = self.intake.commit([image.record for image in part])
            except NotFoundError:
                # A job was deleted while these were recorded: none of them was accepted.
                self._give_up(part)
            else:
                outcomes |= zip([image.record.ref for image in part], committed, strict=True)
        return outcomes

    def _jobs_there(self, intos: Iterable[_OpenJob]) -> Collection[str]:
        """Record the jobs that are not yet; return the ids of those that exist now."""
        jobs = {into.job.job_id: into for into in intos}
        new = {job_id: into for job_id, into in jobs.items() if not into.recorded}
        self.intake.store.create_all([into.job for into in new.values()])
        for into in new.values():
            into.recorded = True
        # Users may have deleted some of the others, as any job.
        return new.keys() | self.intake.store.existing(jobs.keys() - new.keys())

    def _give_up(self, images: Sequence[_Waiting]) -> None:
        """Delete the objects of `images`, and use their jobs no more."""
        with self._lock:
            for into in [image.into for image in images]:
                if self._open.get(into.job.owner) is into:
                    del self._open[into.job.owner]
        self.intake.discard([image.record for image in images])
