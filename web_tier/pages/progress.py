"""What the job page says about the whole job."""

from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from services.jobs import JobState, JobStatus
from services.messages import FleetSnapshot
from web_tier.pages.words import duration, fleet_sentence, rate_words
from web_tier.results.query import images_per_second

REFRESH_SECONDS = 2
SETTLED_SECONDS = 10.0
"""A job that finished this recently may still get images from the same upload, so its page goes on refreshing."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A job's progress: shares in percent of its images, rates in images/s, times in seconds."""

    status: JobStatus
    done_share: float
    failed_share: float
    rate: float | None
    left_seconds: float | None
    refresh_seconds: int | None

    @classmethod
    def of(cls, status: JobStatus, now: datetime | None = None) -> "Progress":
        """Return the progress that `status` tells."""
        rate = images_per_second(status)
        whole = max(1, status.accepted)
        return cls(
            status=status,
            done_share=100 * status.counts.done / whole,
            failed_share=100 * status.counts.failed / whole,
            rate=rate,
            left_seconds=status.waiting / rate if rate and status.waiting else None,
            refresh_seconds=None if _is_settled(status, now or datetime.now(UTC)) else REFRESH_SECONDS,
        )


class ProgressBody(BaseModel):
    """The same for a page that refreshes itself; figures that read as words are in words already.

    Attributes:
        state: of the job.
        accepted, done, failed, waiting: images.
        rate, left: such as `46 /s` and `3 s`; None when they cannot be told.
        workers: that run or start.
        sentence: what is going on and why.
        problem: what is in the way, if anything is.
        settled: whether nothing more is to come.
    """

    model_config = ConfigDict(frozen=True)

    state: JobState
    accepted: int
    done: int
    failed: int
    waiting: int
    rate: str | None
    left: str | None
    workers: int
    sentence: str
    problem: str | None
    settled: bool

    @classmethod
    def of(cls, progress: Progress, fleet: FleetSnapshot | None) -> "ProgressBody":
        """Return what there is to say of a job, with what the fleet does for it."""
        status, finished = progress.status, progress.status.state == "finished"
        return cls(
            state=status.state,
            accepted=status.accepted,
            done=status.counts.done,
            failed=status.counts.failed,
            waiting=status.waiting,
            rate=rate_words(progress.rate) if progress.rate else None,
            left=duration(progress.left_seconds) if progress.left_seconds else None,
            workers=fleet.running + fleet.pending if fleet else 0,
            sentence=_finished_sentence(status) if finished else fleet_sentence(fleet),
            problem=fleet.problem if fleet and not finished else None,
            settled=progress.refresh_seconds is None,
        )


def _finished_sentence(status: JobStatus) -> str:
    last = status.counts.last_result_at
    if last is None:
        return "Every image has its result."
    return f"Every image has its result, {duration((last - status.job.created_at).total_seconds())} after the start."


def _is_settled(status: JobStatus, now: datetime) -> bool:
    last = status.counts.last_result_at
    return status.state == "finished" and last is not None and (now - last).total_seconds() > SETTLED_SECONDS
