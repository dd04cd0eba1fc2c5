"""What the job page says about the whole job."""

from dataclasses import dataclass
from datetime import UTC, datetime

from services.jobs import JobStatus
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


def _is_settled(status: JobStatus, now: datetime) -> bool:
    last = status.counts.last_result_at
    return status.state == "finished" and last is not None and (now - last).total_seconds() > SETTLED_SECONDS
