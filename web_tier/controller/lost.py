"""Which images are requested again: pure rules over what the reconciler has seen, with no wall clock in them.

An image without a result may be waiting in a queue, be in a worker's hands, or be lost. The queues tell only how many
messages there are, approximately, never which. Each request or response that is under way is a message. So where
there are at least as many messages as missing images, none is presumed lost; where there are fewer, as many are as
messages are missing. A request that was sent again is a message, too, so a long backlog is never multiplied.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from core.ids import ImageRef

BUSY_PATIENCE = 10
"""How many times longer an image waits before it is requested again while there are messages."""

MAX_PATIENCE_SECONDS = 12 * 3_600.0
"""Longest wait between two requests of the same image."""

MAX_REQUESTS = 3
"""Requests of one attempt of an image, the first included, while there are messages. For another one, the queues must
be empty, so that no message of this image can be left."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How long an image has been missing; seconds are of this process's clock, so that no two machines are compared.

    Attributes:
        attempt: the attempt that has no result yet.
        since: when the image was first seen without its result, or requested again.
        requests: how often this attempt was requested, as far as this process knows; tries that failed count.
    """

    attempt: int
    since: float
    requests: int = 1

    def patience_seconds(self, lost_after_seconds: float) -> float:
        """Return how long to wait for the result of the last request; twice as long after each."""
        return min(lost_after_seconds * 2.0 ** (self.requests - 1), MAX_PATIENCE_SECONDS)


@dataclass
class Balance:
    """Counts of missing images and of messages within the last `seconds`.

    SQS's counts are approximate and up to a minute old
    (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html), so one look
    proves nothing.
    """

    seconds: float
    _looks: deque[tuple[float, int, int]] = field(default_factory=deque, init=False)

    def note(self, now: float, missing: int, messages: int) -> None:
        """Remember that at `now` so many images were missing and so many messages in the queues."""
        self._looks.append((now, missing, messages))
        while len(self._looks) > 1 and self._looks[1][0] <= now - self.seconds:
            self._looks.popleft()

    @property
    def is_known(self) -> bool:
        """Whether the looks span the whole time."""
        return self._looks[-1][0] - self._looks[0][0] >= self.seconds

    @property
    def is_empty(self) -> bool:
        """Whether no look has found a message."""
        return not any(messages for _, _, messages in self._looks)

    @property
    def lost(self) -> int:
        """The images that had no message at any of the looks: the fewest that were lost."""
        return max(0, min(missing - messages for _, missing, messages in self._looks))


def presumed_lost(
    waits: Iterable[tuple[ImageRef, Wait]], balance: Balance, now: float, lost_after_seconds: float
) -> list[ImageRef]:
    """Return which of the missing images, over all jobs, are to be requested again, oldest first."""
    if not (balance.is_known and balance.lost):
        return []
    slowness = 1 if balance.is_empty else BUSY_PATIENCE
    due = [
        ref
        for ref, wait in waits
        if now - wait.since >= wait.patience_seconds(slowness * lost_after_seconds)
        and (balance.is_empty or wait.requests < MAX_REQUESTS)
    ]
    due.sort(key=lambda ref: ref.image_id)
    return due[: balance.lost]
