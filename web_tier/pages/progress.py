"""What the job page says about the whole job."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from core.cost import JobCost
from core.fleet.models import FleetSnapshot
from core.format import PAUSE_MEANS, dollars, duration, fleet_sentence, plural, rate_words
from core.jobs.models import JobState, JobStatus
from web_tier.results.query import images_per_second

REFRESH_SECONDS = 2
SETTLED_SECONDS = 10.0
"""A job that finished this recently may still get images from the same upload, so its page goes on refreshing."""

MAX_SETTLING_SECONDS = 60.0
"""So long a page waits for the file of all results, and for images that are tried again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A job's progress: shares in percent of its images, rates in images/s, times in seconds.

    Attributes:
        refresh_seconds: after which a page without JavaScript loads itself anew; None when it need not.
        settled: whether nothing more is to come, not even the file of all results.
        retried: whether failed images were requested again a moment ago.
        answered_at: when the last image was answered, by the web tier's clock.
    """

    status: JobStatus
    done_share: float
    failed_share: float
    rate: float | None
    left_seconds: float | None
    refresh_seconds: int | None
    settled: bool
    retried: bool
    answered_at: datetime | None

    @classmethod
    def of(
        cls, status: JobStatus, now: datetime | None = None, controller_ahead: timedelta = timedelta()
    ) -> "Progress":
        """Return the progress that `status` tells.

        Args:
            status: of the job.
            now: by the web tier's clock.
            controller_ahead: how far the controller's clock, which tells when workers' results came, is ahead of it.
        """
        rate = images_per_second(status)
        whole, now = max(1, status.accepted), now or datetime.now(UTC)
        result_at, cached_at = status.counts.last_result_at, status.counts.last_cached_at
        answered_at = max(filter(None, (result_at and result_at - controller_ahead, cached_at)), default=None)

        def has_ended(for_seconds: float) -> bool:
            if status.state != "finished" or answered_at is None or _was_retried(status, now):
                return False
            return (now - answered_at).total_seconds() > for_seconds

        return cls(
            status=status,
            done_share=100 * status.counts.done / whole,
            failed_share=100 * status.counts.failed / whole,
            rate=rate,
            left_seconds=status.waiting / rate if rate and status.waiting else None,
            refresh_seconds=None if has_ended(SETTLED_SECONDS) else REFRESH_SECONDS,
            settled=has_ended(SETTLED_SECONDS if has_file(status) else MAX_SETTLING_SECONDS),
            retried=_was_retried(status, now),
            answered_at=answered_at,
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
        repeats: how many images were answered at once, in words, if any were.
        system_retries: how many images the system retried and why, in words, if any were.
        resends: how many requests the system sent again.
        cost: of the job so far, such as `$0.0012`; None when it cannot be told.
        price: what that is made of.
        retried: whether failed images were requested again a moment ago.
        file: whether all results stand as one file, as they are.
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
    repeats: str | None
    system_retries: str | None
    resends: int
    cost: str | None
    price: str | None
    retried: bool
    file: bool

    @classmethod
    def of(
        cls, progress: Progress, fleet: FleetSnapshot | None, cost: JobCost | None, silent_seconds: float = 0.0
    ) -> "ProgressBody":
        """Return what there is to say of a job, with what the fleet does for it, and its cost if that is known.

        `silent_seconds` is how long the controller has not reported.
        """
        if progress.status.counts.done + progress.status.counts.failed == 0:
            cost = None  # as long as there is nothing to show for it
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
            sentence=_finished_sentence(progress) if finished else fleet_sentence(fleet, silent_seconds),
            problem=None if finished or fleet is None else _in_the_way(fleet),
            settled=progress.settled,
            repeats=_repeats(status),
            system_retries=_system_retries(status),
            resends=status.counts.resends,
            cost=None if cost is None else dollars(cost.dollars),
            price=None if cost is None else price_words(cost),
            retried=progress.retried,
            file=has_file(status),
        )


def price_words(cost: JobCost) -> str:
    """Say what the cost of a job is made of."""
    if cost.dollars_per_thousand is None:
        return "No worker was needed: every image so far was answered from an earlier result."
    instances, requests = dollars(cost.instances.dollars), dollars(cost.request_dollars)
    return (
        f"{instances} for {cost.instances.seconds:,.0f} instance-seconds, with boots, idle time and paid minutes; "
        f"{requests} for some {_about(cost.requests.total)} requests. "
        f"{dollars(cost.dollars_per_thousand)} for 1,000 images."
    )


def _about(count: int) -> str:
    """Return a count to two digits."""
    return f"{float(f'{count:.2g}'):,.0f}"


def _repeats(status: JobStatus) -> str | None:
    cached = status.counts.cached
    return f"{cached:,} of {status.accepted:,} answered at once: they were classified before." if cached else None


def _system_retries(status: JobStatus) -> str | None:
    retried = status.counts.system_retried
    if not retried:
        return None
    return f"The system retried {plural(retried, 'image')}: a worker failed, or a message was presumed lost."


def has_file(status: JobStatus) -> bool:
    """Return whether all results of a job stand as one file, as they are."""
    return status.merged is not None and status.merged.edition == status.edition


def _in_the_way(fleet: FleetSnapshot) -> str | None:
    return fleet.problem if fleet.paused is None else PAUSE_MEANS


def _finished_sentence(progress: Progress) -> str:
    if progress.answered_at is None:
        return "Every image has its result."
    seconds = (progress.answered_at - progress.status.job.created_at).total_seconds()
    return f"Every image has its result, {duration(seconds)} after the start."


def _was_retried(status: JobStatus, now: datetime) -> bool:
    at = status.retried_at
    return at is not None and (now - at).total_seconds() <= MAX_SETTLING_SECONDS
