"""The queues of a simulated fleet: counts that may be old or wrong, and a listener that may lag."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import ClientError

from core.messages import Heartbeat, Response
from services.sqs import QueueCounts

VISIBILITY_SECONDS: Final = 30.0
REMEMBERED_SECONDS: Final = 120
"""How old counts may be."""


def refusal(code: str, operation: str) -> ClientError:
    """Return the error with which AWS refuses."""
    reply: Any = {"Error": {"Code": code, "Message": "simulated"}}
    return ClientError(reply, operation)


@dataclass
class Queues:
    """The request queue and the response queue, with counts that may be old or wrong, and a listener that may lag.

    Attributes:
        counts_lag: the counts are those of so many seconds ago.
        counts_factor: and so many times what they should be.
        counts_fail: they cannot be had.
        listener_lag: the collector is so many seconds behind.
    """

    now: Callable[[], float]
    counts_lag: float = 0.0
    counts_factor: float = 1.0
    counts_fail: bool = False
    listener_lag: float = 0.0
    sent: int = 0
    answered: int = 0
    visible: int = 0
    in_hand: int = 0
    lost: list[float] = field(default_factory=list)
    said: deque[tuple[float, Response | Heartbeat]] = field(default_factory=deque)
    _past: deque[tuple[float, QueueCounts]] = field(default_factory=lambda: deque(maxlen=REMEMBERED_SECONDS))

    def send(self, images: int) -> None:
        """Accept images."""
        self.sent += images
        self.visible += images

    def live(self) -> None:
        """Make visible what workers have lost, once its visibility timeout is over."""
        back = [at for at in self.lost if at <= self.now()]
        self.lost = [at for at in self.lost if at > self.now()]
        self.visible += len(back)
        self._past.append((self.now(), QueueCounts(self.visible, self.in_hand + len(self.lost), 0)))

    # What workers do

    def take(self) -> bool:
        """Receive an image; tell whether there was one."""
        if not self.visible:
            return False
        self.visible -= 1
        self.in_hand += 1
        return True

    def answer(self) -> None:
        """Delete the image that was received."""
        self.in_hand -= 1
        self.answered += 1

    def lose(self) -> None:
        """Let the image that was received come again."""
        self.in_hand -= 1
        self.lost.append(self.now() + VISIBILITY_SECONDS)

    def say(self, word: Response | Heartbeat) -> None:
        """Put a message into the response queue."""
        self.said.append((self.now(), word))

    # What the controller sees

    def counts(self) -> QueueCounts:
        """Return the approximate counts."""
        if self.counts_fail:
            raise refusal("ServiceUnavailable", "GetQueueAttributes")
        moment = self.now() - self.counts_lag
        then = next((counts for at, counts in reversed(self._past) if at <= moment), QueueCounts(0, 0, 0))
        if self.counts_factor == 1.0:
            return then
        return QueueCounts(round(then.visible * self.counts_factor), round(then.in_flight * self.counts_factor), 0)

    def heard(self) -> tuple[list[Response | Heartbeat], bool]:
        """Return what the collector receives now, and whether that was all there is."""
        moment, heard = self.now() - self.listener_lag, list[Response | Heartbeat]()
        while self.said and self.said[0][0] <= moment:
            heard.append(self.said.popleft()[1])
        return heard, not self.said
