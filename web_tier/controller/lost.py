"""What counts as lost: pure rules over what the reconciler has seen, with no wall clock in them.

An image without a result may be waiting in a queue, be in a worker's hands, or be lost; the queues tell only how many
messages there are, approximately, never which.
"""

from collections import deque
from dataclasses import dataclass, field

VERY_OLD = 10
"""An image this many times older than `lost_after_seconds` may be lost even when the queue is not empty."""

OLDEST = 100
"""How many of the very old ones are presumed lost although there are as many messages as images."""


@dataclass
class Sightings:
    """When images were first seen, for one job: by this process's clock, so no skew between machines matters.

    Ids are ordered by time, so the greatest id seen at a sweep dates all that are not greater.
    """

    horizon_seconds: float
    _seen: deque[tuple[float, str]] = field(default_factory=deque, init=False)

    def note(self, now: float, greatest_id: str) -> None:
        """Remember that at `now` (monotonic seconds) images up to `greatest_id` were there."""
        if not self._seen or greatest_id > self._seen[-1][1]:
            self._seen.append((now, greatest_id))
        while len(self._seen) > 1 and self._seen[1][0] <= now - self.horizon_seconds:
            self._seen.popleft()

    def older_than(self, seconds: float, now: float, image_ids: list[str]) -> list[str]:
        """Return those of `image_ids` that were seen at least `seconds` ago."""
        mark = max((greatest for at, greatest in self._seen if at <= now - seconds), default="")
        return [image_id for image_id in image_ids if image_id <= mark]


@dataclass
class QueueWatch:
    """The messages of both queues, approximate, over two sweeps: one look alone proves nothing."""

    before: int | None = None
    now: int | None = None

    def note(self, total: int) -> None:
        """Take the count of this sweep: visible, in flight and delayed."""
        self.before, self.now = self.now, total

    @property
    def most(self) -> int | None:
        """The greater of the last two counts; None before the second look."""
        return None if self.before is None or self.now is None else max(self.before, self.now)


def presumed_lost(old: list[str], very_old: list[str], messages: int | None) -> list[str]:
    """Return which images probably have no message left that could bring their result, oldest first.

    Args:
        old: ids of images without a result that are older than `lost_after_seconds`.
        very_old: those of them that are `VERY_OLD` times as old.
        messages: what `QueueWatch.most` says.

    All old ones when the queues were empty twice. When they were not, very old ones: as many as there are images
    beyond messages, and at least a few of the oldest, since the messages may all be other jobs'. Of a long backlog
    each image has its message, so that asking for all of them again would only make it longer.
    """
    if messages is None:
        return []
    if messages == 0:
        return old
    return very_old[: max(OLDEST, len(old) - messages)]
