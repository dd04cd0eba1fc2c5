"""What is known of jobs and their images, as values; `core/jobs.py` stores them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from core.ids import ImageRef
from core.messages import Status

JobState = Literal["empty", "running", "finished"]


@dataclass(frozen=True, slots=True)
class Job:
    """A batch of images that belong together.

    Attributes:
        owner: id of its user; empty without sign-in.
        keep: whether the images and the records stay; else an image is deleted once its label is stored, and the
            job expires.
    """

    job_id: str
    name: str
    created_at: datetime
    keep: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image as it was accepted.

    Attributes:
        filename: what its owner called it, and only data.
        key: where it is in the input bucket, if it is still kept there.
        size: in bytes.
        cached: whether it was answered at once, from the result of an earlier image with the same bytes.
        retried_at: when it was last retried after it had failed; to show, not to compare.
        attempt: number of the last request: 0 for the first one, one more for each retry.
    """

    ref: ImageRef
    filename: str
    key: str
    size: int
    accepted_at: datetime
    cached: bool = False
    retried_at: datetime | None = None
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Resend:
    """The requests of one image that the controller sent again, because it presumed that a message was lost.

    Attributes:
        attempt: of the image, which the last one asked for.
        first_at, last_at: when the first and the last one were sent.
        waited_seconds: how long the controller had seen the image without a result before the last one.
        times: how many there were, over all attempts of the image.
    """

    attempt: int
    first_at: datetime
    last_at: datetime
    waited_seconds: int
    times: int = 1

    def after(self, earlier: "Resend | None") -> "Resend":
        """Return this one and the earlier ones of the same image together."""
        return self if earlier is None else replace(self, first_at=earlier.first_at, times=earlier.times + self.times)


@dataclass(frozen=True, slots=True)
class ResultSummary:
    """What the recorder needs of a result; the attributes are those of `Response`."""

    status: Status
    attempt: int = 0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Counts:
    """What has become of a job's images: absolute figures.

    Attributes:
        done: images with a label, `cached` of them from an earlier image with the same bytes.
        failed: images that cannot be classified.
        images: accepted images.
        first_result_at, last_result_at: of the results of workers, by the controller's clock.
        runs: how many answers of workers the job has had in which run of the fleet: number and answers, oldest first.
        system_retried: images that the system retried: received more than once, or requested again by the controller.
        resends: requests that the controller sent again.
        first_cached_at, last_cached_at: of the images that web processes answered at once, by their clocks.
    """

    done: int = 0
    failed: int = 0
    images: int = 0
    first_result_at: datetime | None = None
    last_result_at: datetime | None = None
    cached: int = 0
    runs: tuple[tuple[int, int], ...] = ()
    system_retried: int = 0
    resends: int = 0
    first_cached_at: datetime | None = None
    last_cached_at: datetime | None = None

    @property
    def first_at(self) -> datetime | None:
        """When the first image was answered; two clocks tell such times, so their difference is no duration."""
        return min(filter(None, (self.first_result_at, self.first_cached_at)), default=None)

    @property
    def last_at(self) -> datetime | None:
        """When the last image was answered; see `first_at`."""
        return max(filter(None, (self.last_result_at, self.last_cached_at)), default=None)


@dataclass(frozen=True, slots=True)
class AcceptedCount:
    """What one web process says of a job: absolute figures.

    Attributes:
        accepted: images that it has accepted, `cached` of them answered by itself.
        first_at, last_at: when it answered the first and the last of those.
    """

    accepted: int = 0
    cached: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MergedFile:
    """The object in the output bucket that holds all results of a job.

    Attributes:
        key: where it is.
        edition: of the results that it was made of.
        written_at: when.
    """

    key: str
    edition: str
    written_at: datetime


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job and where it stands.

    Attributes:
        retried_at: when failed images were last requested again, if ever.
        merged: where all results stand as one file, once they do.
    """

    job: Job
    accepted: int
    counts: Counts
    retried_at: datetime | None = None
    merged: MergedFile | None = None

    @property
    def waiting(self) -> int:
        """Images that have no result yet."""
        return max(0, self.accepted - self.counts.done - self.counts.failed)

    @property
    def state(self) -> JobState:
        """`empty` before the first image, `finished` when every image has its result."""
        if self.accepted == 0:
            return "empty"
        return "running" if self.waiting else "finished"

    @property
    def edition(self) -> str:
        """Names the results that there are: another whenever they may be others."""
        counts = self.counts
        return f"{self.accepted}/{counts.done}/{counts.failed}/{counts.last_at}/{self.retried_at}"


@dataclass(frozen=True, slots=True)
class DeletedJob:
    """A job that is gone for everybody, and of which something may be left.

    Attributes:
        marked_again: names the last write that may have come after its removal; empty if there was none.
    """

    job_id: str
    owner: str = ""
    marked_again: str = ""


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job that may have images without a result; `touched_at` is when images were last added."""

    job_id: str
    touched_at: str


def with_result(counts: Counts, before: Status | None, now: Status, at: datetime) -> Counts:
    """Return `counts` after an image's result went from `before` (None: it had none) to `now`."""
    if before in {now, "done"}:
        return counts
    done = counts.done + (now == "done")
    failed = counts.failed + (now == "failed") - (before == "failed")
    first = counts.first_result_at or at
    return replace(counts, done=done, failed=failed, first_result_at=first, last_result_at=at)


def with_cached(counts: Counts, at: Sequence[datetime]) -> Counts:
    """Return `counts` and more images, which web processes answered at once `at` these times."""
    times = [each for each in (counts.first_cached_at, counts.last_cached_at, *at) if each is not None]
    return replace(
        counts,
        done=counts.done + len(at),
        cached=counts.cached + len(at),
        first_cached_at=min(times, default=None),
        last_cached_at=max(times, default=None),
    )


MAX_RUNS = 200
"""Runs that a job remembers, the latest; so many hours of uninterrupted work, and more days than most jobs stand."""


def with_answers(counts: Counts, run: int, answers: int) -> Counts:
    """Return `counts` after workers have given so many `answers` more in a run of the fleet."""
    answered = dict(counts.runs)
    answered[run] = answered.get(run, 0) + answers
    return replace(counts, runs=tuple(sorted(answered.items()))[-MAX_RUNS:])


def with_accepted(counts: Counts, said: Sequence[AcceptedCount]) -> Counts:
    """Return what the collector counted, `counts`, completed by what the web processes say of the same job."""
    cached = max(counts.cached, sum(one.cached for one in said))
    return replace(
        counts,
        done=counts.done - counts.cached + cached,
        cached=cached,
        images=max(counts.images, sum(one.accepted for one in said)),
        first_cached_at=min(filter(None, (counts.first_cached_at, *(one.first_at for one in said))), default=None),
        last_cached_at=max(filter(None, (counts.last_cached_at, *(one.last_at for one in said))), default=None),
    )
