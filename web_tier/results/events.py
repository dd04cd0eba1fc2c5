"""A job's news as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Each open stream holds a thread of the server, so their number is bounded, a connection ends after a while (the
browser comes back by itself, with the id of the last event it got), and a viewer that is refused asks now and then.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator

from botocore.exceptions import BotoCoreError, ClientError

from services.errors import NotFoundError
from web_tier.bulkheads import Bulkhead
from web_tier.results.watch import Event, Watch

STREAM_SECONDS = 120.0
"""How long a connection is used; a page that has gone without a word is noticed at a heartbeat or two."""

HEARTBEAT_SECONDS = 10.0
WAIT_SECONDS = 1.0
"""Longest wait before a stream asks whether its process is to end."""

RETRY_MILLISECONDS = 1_000
"""How long a browser waits before it connects again."""

LINGER_SECONDS = 30.0
"""How long a watch without a viewer is kept, so that one who comes back goes on where it was."""

_HEARTBEAT = ": alive\n\n"
_GONE = "event: gone\ndata: {}\n\n"

_log = logging.getLogger(__name__)


class FeedRegistry:
    """The watches of this process and how many viewers each has; for all threads.

    Args:
        bulkhead: bounds the viewers at once.
        watch: makes the watch of a job.
        clock: in seconds, never set back.
    """

    def __init__(
        self, bulkhead: Bulkhead, watch: Callable[[str], Watch], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bulkhead, self._watch, self._clock = bulkhead, watch, clock
        self._watches: dict[str, Watch] = {}
        self._viewers: dict[str, int] = {}
        self._left_at: dict[str, float] = {}
        self._turn = threading.Lock()

    def join(self, job_id: str, owner: str = "") -> Watch | None:
        """Return the watch of a job for one more viewer, who must `leave`; None when there are too many."""
        if not self._bulkhead.enter(owner):
            return None
        with self._turn:
            self._forget_unwatched()
            self._viewers[job_id] = self._viewers.get(job_id, 0) + 1
            if job_id not in self._watches:
                self._watches[job_id] = self._watch(job_id)
            return self._watches[job_id]

    def leave(self, job_id: str, owner: str = "") -> None:
        """Take one viewer from a job."""
        self._bulkhead.leave(owner)
        with self._turn:
            self._viewers[job_id] -= 1
            if self._viewers[job_id] == 0:
                del self._viewers[job_id]
                self._left_at[job_id] = self._clock()

    def _forget_unwatched(self) -> None:
        for job_id, left_at in list(self._left_at.items()):
            if job_id in self._viewers:
                del self._left_at[job_id]
            elif self._clock() - left_at > LINGER_SECONDS or len(self._watches) > self._bulkhead.size:
                del self._left_at[job_id], self._watches[job_id]


def event_lines(
    watch: Watch,
    cursor: str | None,
    is_stopping: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    is_allowed: Callable[[], bool] = lambda: True,
) -> Iterator[str]:
    """Yield the stream of one connection: what came after `cursor`, then what comes, until the end or for a while.

    Args:
        watch: the job's.
        cursor: of the last event that the viewer got.
        is_stopping: whether this process is told to end; the browser then comes back to another.
        clock: in seconds, never set back.
        is_allowed: whether the viewer may still follow the job; asked as often as there are heartbeats.
    """
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    until, said, checked = clock() + STREAM_SECONDS, clock(), clock()
    while clock() < until and not is_stopping():
        if clock() - checked >= HEARTBEAT_SECONDS:
            if not is_allowed():
                return
            checked = clock()
        try:
            news = watch.wait(cursor, WAIT_SECONDS)
        except NotFoundError:
            yield _GONE
            return
        except (BotoCoreError, ClientError) as error:
            _log.warning("a stream of job %s ends: %s", watch.job_id, error)
            return
        for place, event in news:
            cursor = place
            yield _lines(place, event)
            if event.kind == "end":
                return
        if not news and clock() - said < HEARTBEAT_SECONDS:
            continue
        if not news:
            yield _HEARTBEAT
        said = clock()


def _lines(cursor: str, event: Event) -> str:
    return f"id: {cursor}\nevent: {event.kind}\ndata: {event.data}\n\n"
