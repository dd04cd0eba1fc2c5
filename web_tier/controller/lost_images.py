"""Which images are presumed lost: pure rules over what the reconciler has observed, without a wall clock.

An image without a result may be waiting in a queue, in flight in a worker, or lost. The queues report only how many
messages there are, approximately, never which. So an image is presumed lost for one of these reasons:

- **It was overtaken.** Images of its message group that were requested much later (`patience`) have had their results
  for as long. Queues keep the order of sending roughly, so a request that still waits is not far behind them.
- **Its group was passed over.** Such images of other groups have had their results for as long, and no image of its
  group got one in that time. A fair queue serves a group that has no message in flight. Since a group may also have
  a slow model, a few of its images are tried at a time.
- **The system is at rest.** The queues have held no message for a while.

The order of two requests is known from sweeps: an image was requested later than another one if it was unknown when
the other one was seen. While nothing is answered, nothing is overtaken, so a backlog is not multiplied by waiting.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MessageGroup = tuple[str, str]
"""Images that queues deliver roughly in the order of their requests: `Job.group` and model."""

PATIENCE_FACTOR = 3
"""The patience is so many times `lost_after_seconds`, and a visibility timeout: a message may be delivered late, and
again after a worker has ended."""

MAX_GAP_FACTOR = 2
"""Longest time between two answers that counts, in the same unit: nothing is overtaken while nothing is answered."""

MAX_WAIT_SECONDS = 12 * 3_600.0
"""Longest wait between two repairs of the same image."""

MAX_SEEN = 1_000
"""Entries of `RequestTimes`, an even number; then two of them become one."""

MAX_REQUESTS = 3
"""Requests of one attempt of an image, including the first, while the queues hold messages. Another one is sent
only if the queues are empty, so that no message of this image can be left."""

MAX_REPAIRS = 100
"""Images that are repaired in one sweep while the queues hold messages."""

MAX_REPAIRS_AT_REST = 10_000
"""The same while they hold none."""

MAX_PASSED_OVER = 10
"""Images of a group that is passed over that are repaired at a time."""


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """Since when an image has been missing; seconds are monotonic seconds of this process.

    Attributes:
        attempt: the attempt that has no result yet.
        since: since when it is known to have had no result, or when it was last repaired.
        requests: requests of this attempt that this process knows of; failed ones and mere searches count.
    """

    attempt: int
    since: float
    requests: int = 1

    def is_due(self, now: float, lost_after_seconds: float) -> bool:
        """Return whether it has waited long enough since its last repair: twice as long after each of them."""
        return now - self.since >= min(lost_after_seconds * 2.0 ** (self.requests - 1), MAX_WAIT_SECONDS)


@dataclass
class RequestTimes:
    """When images of a job had not been requested yet, by their ids.

    A job may have a million images, and most come in the order of their ids. So an entry says until when all images
    up to an id that are in no earlier entry were unknown. An image that comes late counts as an earlier one.
    """

    _seen: list[tuple[str, float]] = field(default_factory=list, init=False)

    def update(self, newest: str, unknown_at: float) -> None:
        """Take over the id of the last image; images that were not seen before were unknown at `unknown_at`."""
        if newest > (self._seen[-1][0] if self._seen else ""):
            self._seen.append((newest, unknown_at))
            if len(self._seen) > MAX_SEEN:
                # The images of both count as unknown until the earlier ones.
                pairs = zip(self._seen[:-1:2], self._seen[1:-1:2], strict=True)
                self._seen[:-1] = [(later, unknown_at) for (_, unknown_at), (later, _) in pairs]

    def requested_after(self, image_id: str) -> float:
        """Return a time at which an image was not requested yet; minus infinity if it is unknown."""
        position = bisect_left(self._seen, image_id, key=lambda entry: entry[0])
        return self._seen[position][1] if position < len(self._seen) else float("-inf")


@dataclass
class IdleTime:
    """Since when the queues have held no message.

    SQS's counts are approximate and up to a minute old
    (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html), so one sample
    proves nothing.
    """

    _since: float | None = field(default=None, init=False)

    def update(self, messages: int, now: float) -> float:
        """Take over how many messages there are; return for how long there have been none."""
        if messages:
            self._since = None
        elif self._since is None:
            self._since = now
        return 0.0 if self._since is None else now - self._since


@dataclass
class GroupAnswers:
    """How far the images of a message group are answered; times `at` are those of `AnswerOrder`.

    Attributes:
        answered_at: when an image was last answered, or images of the group were last repaired.
    """

    answered_at: float
    _requested: deque[tuple[float, float]] = field(default_factory=lambda: deque([(float("-inf"), float("-inf"))]))
    """When images were answered that were requested later than all before, and when those were requested."""

    def add(self, requested: float, at: float) -> None:
        """Note that an image was answered which had not been requested yet at the time `requested`."""
        self.answered_at = at
        if requested > self._requested[-1][1]:
            self._requested.append((at, requested))

    def overtaken(self, at: float) -> float:
        """Return the time before which an image was requested that was overtaken at `at` or before."""
        while len(self._requested) > 1 and self._requested[1][0] <= at:
            self._requested.popleft()
        return self._requested[0][1]


@dataclass
class AnswerOrder:
    """How far the images of each message group are answered.

    Its time goes on only while images are answered. Else the groups that wait in a paused fleet, or in one without
    capacity, would be passed over.

    Attributes:
        patience: an image is lost if images that were requested so many seconds later were answered that long ago.
        max_gap: longest time between two answers that counts.
    """

    patience: float
    max_gap: float
    _time: float = field(default=0.0, init=False)
    _answered_at: float = field(default=float("-inf"), init=False)
    _groups: dict[MessageGroup, GroupAnswers] = field(default_factory=dict, init=False)
    _all: GroupAnswers = field(default_factory=lambda: GroupAnswers(0.0), init=False)

    def update(self, groups: Iterable[MessageGroup], answered: Mapping[MessageGroup, float], now: float) -> None:
        """Take over which groups have open jobs, and which got answers since the last time.

        Args:
            groups: those with open jobs; the others are forgotten.
            answered: groups with answers, each with a time at which an answered image had not been requested yet.
            now: monotonic seconds.
        """
        if answered:
            self._time += min(now - self._answered_at, self.max_gap)
            self._answered_at = now
        self._groups = {group: self._groups.get(group) or GroupAnswers(self._time) for group in groups}
        for group, requested in answered.items():
            self._groups[group].add(requested, self._time)
            self._all.add(requested, self._time)

    def overtaken(self, group: MessageGroup) -> float:
        """Return the time before which the images of a group were requested that are lost."""
        return self._groups[group].overtaken(self._time - self.patience) - self.patience

    def passed_over(self, group: MessageGroup) -> float:
        """Return the same if no image of the group was answered while those of others were; else minus infinity."""
        latest = self._time - self.patience
        is_waiting = self._groups[group].answered_at <= latest
        return self._all.overtaken(latest) - self.patience if is_waiting else float("-inf")

    def answered_at(self, group: MessageGroup) -> float:
        """Return when an image of a group was last answered, or images of it were last repaired."""
        return self._groups[group].answered_at

    def repair(self, group: MessageGroup) -> None:
        """Note that images of a group that is passed over are repaired: the next ones have to wait again."""
        self._groups[group].answered_at = self._time
