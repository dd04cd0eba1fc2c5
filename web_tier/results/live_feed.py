"""Live feeds: changes of a job as server-sent events, for all pages of this process that show the job.

https://html.spec.whatwg.org/multipage/server-sent-events.html

A `JobFeed` polls the job table for all its viewers, so many open tabs cost as much as one. It has no thread: a viewer
that waits when a poll is due does the poll, and the other viewers receive what it found.

Each open stream holds a thread of the server. So their number is bounded, and a connection ends after
`STREAM_SECONDS`: the browser reconnects with the id of its last event. A viewer that is rejected polls the job's
status.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError

from core.ids import new_id
from core.jobs.models import Counts, ImageRecord, JobStatus
from core.jobs.store import JobStore
from services.errors import NotFoundError
from web_tier.bulkheads import Bulkhead
from web_tier.results.job_snapshot import ImageRow, ImageRows, JobSnapshot

POLL_SECONDS = 0.5
"""Time between two polls of the table."""

MAX_AGE_SECONDS = 2 * POLL_SECONDS
"""Age of the last poll up to which its events are sent without another poll."""

MAX_HISTORY = 4_000_000
"""Characters of events that are kept for viewers who reconnect."""

SEARCH_SECONDS = 5.0
"""Time between two searches for images among all ids, which read all of them; doubled after each without a find."""

MAX_SEARCH_SECONDS = 120.0

STREAM_SECONDS = 120.0
"""How long a connection is used. A page that has disconnected is noticed when a heartbeat cannot be sent."""

HEARTBEAT_SECONDS = 10.0

WAIT_SECONDS = 1.0
"""Longest wait of a stream before it checks whether its process is stopping."""

RETRY_MILLISECONDS = 1_000
"""Time after which a browser reconnects."""

LINGER_SECONDS = 30.0
"""How long a feed without a viewer is kept, so that a viewer who reconnects misses nothing."""

_HEARTBEAT = "event: alive\ndata: {}\n\n"
_GONE = "event: gone\ndata: {}\n\n"

_log = logging.getLogger(__name__)

EventKind = Literal["resync", "images", "results", "progress", "end"]

ProgressReader = Callable[[JobStatus], tuple[str, bool]]
"""Returns a job's progress as JSON, and whether the job will not change any more."""


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """An event of a feed: `number` is its position in the run, from 1; `data` is JSON.

    After `resync` the viewer must read all rows, since it may have missed some. `images` and `results` have rows;
    `progress` has the progress of the job, and so has `end`, after which nothing changes any more.
    """

    number: int
    kind: EventKind
    data: str


class JobFeed:
    """The feed of one job.

    A viewer's cursor is `run-number` of its last event. A cursor of another run (of another process, or from before
    results were withdrawn) or one that is older than the history gets `resync`.

    Args:
        store: the job table.
        job_id: the job.
        read_progress: returns its progress.
        clock: monotonic seconds.
        max_history: characters of events that are kept.
    """

    def __init__(
        self,
        store: JobStore,
        job_id: str,
        read_progress: ProgressReader,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_history: int = MAX_HISTORY,
    ) -> None:
        self.job_id, self._store, self._read_progress, self._clock = job_id, store, read_progress, clock
        self._max_history = max_history
        self._changed = threading.Condition()
        self._polling, self._next_poll = False, clock()
        self._polled_at = -math.inf
        self._snapshot: JobSnapshot | None = None
        self._counts = Counts()
        self._start_run()

    def _start_run(self) -> None:
        self._run, self._last, self._dropped = new_id(), 0, 0
        self._history: deque[FeedEvent] = deque()
        self._history_size = 0
        self._progress: FeedEvent | None = None
        self._search_pause = SEARCH_SECONDS
        self._next_search = self._clock() + SEARCH_SECONDS

    def wait(self, cursor: str | None, seconds: float) -> list[tuple[str, FeedEvent]]:
        """Return the events after `cursor`, each with its own cursor; wait up to `seconds` for the first.

        Raises:
            NotFoundError: if the job was deleted.
        """
        until = self._clock() + seconds
        while True:
            with self._changed:
                now = self._clock()
                # Events of a feed that had no viewer may be old, and an old `end` would stop a page at its figures.
                is_current = now - self._polled_at <= MAX_AGE_SECONDS
                events = self._events_after(cursor) if is_current else []
                if events or now >= until:
                    return [(f"{self._run}-{event.number}", event) for event in events]
                if self._polling or now < self._next_poll:
                    self._changed.wait((until if self._polling else min(until, self._next_poll)) - now)
                    continue
                self._polling = True
            try:
                self.poll()
            finally:
                with self._changed:
                    self._polling = False
                    self._next_poll = self._clock() + POLL_SECONDS
                    self._changed.notify_all()

    def _events_after(self, cursor: str | None) -> list[FeedEvent]:
        if self._progress is None:
            return []
        run, _, digits = (cursor or "").partition("-")
        is_number = digits.isascii() and digits.isdigit() and len(digits) < 12
        number = int(digits) if run == self._run and is_number else -1
        if not self._dropped <= number <= self._last:
            return [
                FeedEvent(self._last, "resync", "{}"),
                FeedEvent(self._last, self._progress.kind, self._progress.data),
            ]
        events = [event for event in self._history if event.number > number]
        return [*events, self._progress] if self._progress.number > number else events

    def poll(self) -> None:
        """Read what has changed in the table and publish it; one thread at a time.

        Raises:
            NotFoundError: if the job was deleted.
        """
        status = self._store.status(self.job_id)
        results = status.counts.done + status.counts.failed
        if self._snapshot is None or results < self._counts.done + self._counts.failed:  # results were withdrawn
            snapshot = self._snapshot = JobSnapshot.read(self._store, self.job_id)
            with self._changed:
                self._start_run()
        else:
            snapshot = self._snapshot
            new_images = self._new_images(snapshot, status.accepted)
            self._publish_rows("images", [ImageRow.of_record(image) for image in new_images])
            if status.counts.failed < self._counts.failed:
                snapshot.recheck_failed()
            if len(snapshot.answered) < results:
                self._publish_rows("results", [ImageRow.of_response(each) for each in snapshot.new_results()])
        resends = snapshot.new_resends(status.counts.resends)
        self._publish_rows("results", [ImageRow.of_resend(*each) for each in resends.items()])
        snapshot.set_retried_at(status.retried_at)
        self._publish_rows("results", [ImageRow.of_result(each) for each in snapshot.new_retries()])
        self._publish_rows("results", [ImageRow.of_response(each) for each in snapshot.new_retry_results()])
        self._counts = status.counts
        data, has_ended = self._read_progress(status)
        is_complete = len(snapshot.answered) >= results and not snapshot.has_open_retries
        self._publish("end" if has_ended and is_complete else "progress", data)
        self._polled_at = self._clock()

    def _new_images(self, snapshot: JobSnapshot, accepted: int) -> list[ImageRecord]:
        """Return new images if the job has more than the snapshot; search among all ids only now and then."""
        if accepted <= len(snapshot.ids):
            return []
        new = snapshot.new_images(everywhere=False)
        now = self._clock()
        if accepted > len(snapshot.ids) and now >= self._next_search:
            found = snapshot.new_images(everywhere=True)
            self._search_pause = SEARCH_SECONDS if found else min(2 * self._search_pause, MAX_SEARCH_SECONDS)
            self._next_search = now + self._search_pause
            new += found
        return new

    def _publish_rows(self, kind: EventKind, rows: list[ImageRow]) -> None:
        if rows:
            self._publish(kind, ImageRows(rows=tuple(rows)).to_json())

    def _publish(self, kind: EventKind, data: str) -> None:
        """Add an event; only the last progress is kept, and it counts as new only if it has changed."""
        with self._changed:
            if kind in {"progress", "end"}:
                if self._progress is None or (self._progress.kind, self._progress.data) != (kind, data):
                    self._last += 1
                    self._progress = FeedEvent(self._last, kind, data)
                return
            self._last += 1
            self._history.append(FeedEvent(self._last, kind, data))
            self._history_size += len(data)
            while self._history_size > self._max_history:
                oldest = self._history.popleft()
                self._history_size -= len(oldest.data)
                self._dropped = oldest.number


class FeedRegistry:
    """The feeds of this process and the number of viewers of each; for all threads.

    Args:
        bulkhead: bounds the viewers at once.
        new_feed: returns a new feed of a job.
        clock: monotonic seconds.
        on_change: called with 1 for a viewer who joins, and with -1 for one who leaves.
    """

    def __init__(
        self,
        bulkhead: Bulkhead,
        new_feed: Callable[[str], JobFeed],
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[int], object] = lambda _viewers: None,
    ) -> None:
        self._on_change = on_change
        self._bulkhead, self._new_feed, self._clock = bulkhead, new_feed, clock
        self._feeds: dict[str, JobFeed] = {}
        self._viewers: dict[str, int] = {}
        self._left_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def join(self, job_id: str, owner: str = "") -> JobFeed | None:
        """Return the feed of a job for one more viewer, who must `leave`, or None if there are too many viewers."""
        if not self._bulkhead.enter(owner):
            return None
        self._on_change(1)
        with self._lock:
            for watched_id, left_at in list(self._left_at.items()):
                if watched_id in self._viewers:
                    del self._left_at[watched_id]
                elif self._clock() - left_at > LINGER_SECONDS or len(self._feeds) > self._bulkhead.size:
                    del self._left_at[watched_id], self._feeds[watched_id]
            self._viewers[job_id] = self._viewers.get(job_id, 0) + 1
            if job_id not in self._feeds:
                self._feeds[job_id] = self._new_feed(job_id)
            return self._feeds[job_id]

    def leave(self, job_id: str, owner: str = "") -> None:
        """Remove one viewer of a job."""
        self._on_change(-1)
        self._bulkhead.leave(owner)
        with self._lock:
            self._viewers[job_id] -= 1
            if self._viewers[job_id] == 0:
                del self._viewers[job_id]
                self._left_at[job_id] = self._clock()


def event_stream(
    feed: JobFeed,
    cursor: str | None,
    is_stopping: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    is_allowed: Callable[[], bool] = lambda: True,
) -> Iterator[str]:
    """Yield the text of one connection: the events after `cursor`, until the job ends or for `STREAM_SECONDS`.

    Args:
        feed: the feed of the job.
        cursor: of the last event that the viewer received.
        is_stopping: returns whether this process is stopping; the browser then reconnects to another process.
        clock: monotonic seconds.
        is_allowed: returns whether the viewer may still read the job; checked once per `HEARTBEAT_SECONDS`.
    """
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    until, sent_at, checked_at = clock() + STREAM_SECONDS, clock(), clock()
    while clock() < until and not is_stopping():
        if clock() - checked_at >= HEARTBEAT_SECONDS:
            if not is_allowed():
                return
            checked_at = clock()
        try:
            events = feed.wait(cursor, WAIT_SECONDS)
        except NotFoundError:
            yield _GONE
            return
        except (BotoCoreError, ClientError) as error:
            _log.warning("closed a stream of job %s, since its feed failed: %s", feed.job_id, error)
            return
        for event_cursor, event in events:
            cursor = event_cursor
            yield f"id: {cursor}\nevent: {event.kind}\ndata: {event.data}\n\n"
            if event.kind == "end":
                return
        if not events and clock() - sent_at < HEARTBEAT_SECONDS:
            continue
        if not events:
            yield _HEARTBEAT
        sent_at = clock()
