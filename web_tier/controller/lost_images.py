"""Which images are requested again: pure rules over what the reconciler has observed, without a wall clock.

An image without a result may be waiting in a queue, in flight in a worker, or lost. The queues report only how many
messages there are, approximately, never which. Each request or response that is under way is a message. So if there
are at least as many messages as missing images, no image counts as lost; if there are fewer, as many images as
messages are missing. A request that was sent again is a message, too, so a long backlog is never multiplied.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from heapq import nsmallest

from core.ids import ImageRef
from web_tier.controller.job_counts import MissingImages

BUSY_FACTOR = 10
"""While the queues hold messages, an image waits so many times longer before it is requested again."""

MAX_WAIT_SECONDS = 12 * 3_600.0
"""Longest wait between two requests of the same image."""

MAX_SEEN = 1_000
"""Entries of `WaitTimes` for images in order; then every other one is removed."""

MAX_REQUESTS = 3
"""Requests of one attempt of an image, including the first, while the queues hold messages. Another one is sent
only if the queues are empty, so that no message of this image can be left."""


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """Since when an image has been missing; seconds are monotonic seconds of this process.

    Attributes:
        attempt: the attempt that has no result yet.
        since: when the image was first seen without its result, or last requested again.
        requests: requests of this attempt that this process knows of; failed ones count.
    """

    attempt: int
    since: float
    requests: int = 1

    def wait_seconds(self, lost_after_seconds: float) -> float:
        """Return how long to wait for the result of the last request: twice as long after each request."""
        return min(lost_after_seconds * 2.0 ** (self.requests - 1), MAX_WAIT_SECONDS)


@dataclass
class WaitTimes:
    """Since when each missing image of a job has been missing.

    A job may have a million of them, and most are seen in the order of their ids. So an entry says when all images up
    to an id had been seen; only other images have entries of their own.
    """

    _seen: list[tuple[str, float]] = field(default_factory=list, init=False)
    _own: dict[str, FirstSeen] = field(default_factory=dict, init=False)

    @property
    def own(self) -> Collection[str]:
        """The images with entries of their own: retried ones, those added late, those requested again."""
        return self._own.keys()

    def update(self, missing: MissingImages, now: float) -> None:
        """Take over what is missing `now`."""
        before, self._own = self._own, {}
        for image_id, attempt in missing.attempts.items():
            known = before.get(image_id)
            self._own[image_id] = known if known and known.attempt == attempt else FirstSeen(attempt, now)
        if missing.newest > (self._seen[-1][0] if self._seen else ""):
            self._seen.append((missing.newest, now))
            if len(self._seen) > MAX_SEEN:
                # Images up to a removed entry count as first seen at the following one, which is later.
                del self._seen[:-1:2]

    def of(self, image_id: str, now: float) -> FirstSeen:
        """Return since when an image has been missing; one that was not seen yet, since `now`."""
        if image_id in self._own:
            return self._own[image_id]
        position = bisect_left(self._seen, (image_id, float("-inf")))
        return FirstSeen(0, self._seen[position][1] if position < len(self._seen) else now)

    def request_again(self, image_id: str, now: float) -> None:
        """Note that an image is requested again `now`."""
        wait = self.of(image_id, now)
        self._own[image_id] = replace(wait, since=now, requests=wait.requests + 1)


@dataclass
class BacklogTracker:
    """Counts of missing images and of messages within the last `seconds`.

    SQS's counts are approximate and up to a minute old
    (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html), so one sample
    proves nothing.
    """

    seconds: float
    _samples: deque[tuple[float, int, int]] = field(default_factory=deque, init=False)

    def add(self, now: float, missing: int, messages: int) -> None:
        """Add a sample: how many images were missing at `now`, and how many messages the queues held."""
        self._samples.append((now, missing, messages))
        while len(self._samples) > 1 and self._samples[1][0] <= now - self.seconds:
            self._samples.popleft()

    @property
    def is_known(self) -> bool:
        """Whether the samples span the whole time."""
        return self._samples[-1][0] - self._samples[0][0] >= self.seconds

    @property
    def is_empty(self) -> bool:
        """Whether no sample has a message."""
        return not any(messages for _, _, messages in self._samples)

    @property
    def lost(self) -> int:
        """Fewest images that had no message in any of the samples."""
        return max(0, min(missing - messages for _, missing, messages in self._samples))


def find_lost(
    waits: Iterable[tuple[ImageRef, FirstSeen]], backlog: BacklogTracker, now: float, lost_after_seconds: float
) -> list[ImageRef]:
    """Return which of the missing images of all jobs have to be requested again, oldest first."""
    if not (backlog.is_known and backlog.lost):
        return []
    factor = 1 if backlog.is_empty else BUSY_FACTOR
    due = (
        ref
        for ref, wait in waits
        if now - wait.since >= wait.wait_seconds(factor * lost_after_seconds)
        and (backlog.is_empty or wait.requests < MAX_REQUESTS)
    )
    return nsmallest(backlog.lost, due, key=lambda ref: ref.image_id)
