"""Live feeds: changes of a job as server-sent events, for all pages of this process that show the job.

https://html.spec.whatwg.org/multipage/server-sent-events.html

A `JobFeed` polls the job table for all its viewers, so many open tabs cost as much as one. It has no thread: a viewer
that waits when a poll is due does the poll, and the other viewers receive what it found.

Each open stream holds a thread of the server. So their number is bounded, and a connection ends after
`STREAM_SECONDS`: the browser reconnects with the id of its last event. A viewer that is rejected polls the job's
status.

A stream that its viewer has left counts no more, so that a phone on a bad line is not rejected because of its own
earlier connections. The id of an event names the viewer: a connection with that id replaces the viewer's last one,
because the network may never report the end of that one. A connection that its client has closed ends within
`WAIT_SECONDS`, or at once if a new viewer needs its place.
"""

import logging
import math
import re
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError

from core.ids import new_id
from core.jobs.models import Counts, ImageRecord, JobStatus, MinScores
from core.jobs.store import JobStore
from services.clock import CLOCK, Clock
from services.errors import NotFoundError
from web_tier.http.bulkheads import Bulkhead
from web_tier.results.job_snapshot import ImageRow, ImageRows, JobSnapshot, NewAnswers

POLL_SECONDS = 0.5
"""Time between two polls of the table."""

SOON_SECONDS = 0.05
"""Shortest time between two polls, while new images have no result yet: a warm fleet answers within 0.1 s."""

WAITED_SHARE = 0.1
"""The time between two polls as a share of the time for which new images have waited: some 30 polls more for them."""

MAX_AGE_SECONDS = 2 * POLL_SECONDS
"""Age of the last poll up to which its events are sent without another poll."""

MAX_HISTORY = 4_000_000
"""Characters of events that are kept for viewers who reconnect."""

SEARCH_SECONDS = 5.0
"""Time between two searches for images among all ids, which read all of them; doubled after each without a find."""

MAX_SEARCH_SECONDS = 120.0

STREAM_SECONDS = 120.0
"""How long a connection is used, at most."""

HEARTBEAT_SECONDS = 10.0

WAIT_SECONDS = 1.0
"""Longest wait of a stream before it checks whether it must end."""

RETRY_MILLISECONDS = 1_000
"""Time after which a browser reconnects."""

LINGER_SECONDS = 30.0
"""How long a feed without a viewer is kept, so that a viewer who reconnects misses nothing."""

_VIEWER = re.compile(r"[0-9a-f]{16}")

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
    results were withdrawn or the border of doubt was changed) or one that is older than the history gets `resync`.
    Once the job is deleted, methods raise NotFoundError.

    Args:
        max_history: characters of events that are kept.
    """

    def __init__(
        self,
        store: JobStore,
        job_id: str,
        read_progress: ProgressReader,
        *,
        clock: Clock = CLOCK,
        max_history: int = MAX_HISTORY,
    ) -> None:
        self.job_id, self._store, self._read_progress, self._clock = job_id, store, read_progress, clock
        self._max_history = max_history
        self._changed = threading.Condition()
        self._polling, self._next_poll = False, clock.monotonic()
        self._polled_at = -math.inf
        self._snapshot: JobSnapshot | None = None
        self._counts, self._scores, self._accepted = Counts(), MinScores(), 0
        self._new_at = clock.monotonic()  # when images came that have no result yet; -inf from the first result on
        self._start_run()

    def _start_run(self) -> None:
        self._run, self._last, self._dropped = new_id(), 0, 0
        self._history: deque[FeedEvent] = deque()
        self._history_size = 0
        self._progress: FeedEvent | None = None
        self._search_pause = SEARCH_SECONDS
        self._next_search = self._clock.monotonic() + SEARCH_SECONDS

    def wait(
        self, cursor: str | None, seconds: float, is_over: Callable[[], bool] = lambda: False
    ) -> list[tuple[str, FeedEvent]]:
        """Return the events after `cursor`, each with its own cursor; wait up to `seconds` for the first.

        Args:
            cursor: of the last event that the viewer received.
            seconds: the longest wait.
            is_over: returns whether to wait no longer; `wake` lets every waiting thread check it.
        """
        until = self._clock.monotonic() + seconds
        while True:
            with self._changed:
                now = self._clock.monotonic()
                # Events of a feed that had no viewer may be old, and an old `end` would stop a page at its figures.
                is_current = now - self._polled_at <= MAX_AGE_SECONDS
                events = self._events_after(cursor) if is_current else []
                if events or now >= until or is_over():
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
                    self._next_poll = self._clock.monotonic() + self._pause_seconds()
                    self._changed.notify_all()

    def wake(self) -> None:
        """Let every waiting thread check whether it must wait any longer."""
        with self._changed:
            self._changed.notify_all()

    def _pause_seconds(self) -> float:
        """Return the time until the next poll: the longer new images have waited for a result, the longer it is."""
        waited = self._clock.monotonic() - self._new_at
        return min(max(SOON_SECONDS, WAITED_SHARE * waited), POLL_SECONDS)

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
        """Read what has changed in the table and publish it; one thread at a time."""
        status = self._store.status(self.job_id)
        results, scores = status.counts.done + status.counts.failed, status.job.min_scores
        earlier = self._counts.done + self._counts.failed
        were_withdrawn = results < earlier
        if results != earlier:
            self._new_at = -math.inf
        elif self._accepted == results < status.accepted:
            self._new_at = self._clock.monotonic()
        if self._snapshot is None or were_withdrawn or scores != self._scores:
            snapshot = self._snapshot = JobSnapshot.read(self._store, self.job_id)
            with self._changed:
                self._start_run()
        else:
            snapshot = self._snapshot
            new_images = self._new_images(snapshot, status.accepted)
            self._publish_rows("images", [ImageRow.of_record(image) for image in new_images])
            if status.counts.failed < self._counts.failed:
                snapshot.recheck_failed()
        self._publish_answers(snapshot.new_answers(results, status.counts.resends), scores)
        snapshot.set_retried_at(status.retried_at)
        self._publish_rows("results", [ImageRow.of_result(each) for each in snapshot.new_retries()])
        self._publish_answers(snapshot.new_retry_answers(), scores)
        self._counts, self._scores, self._accepted = status.counts, scores, status.accepted
        data, has_ended = self._read_progress(status)
        is_complete = snapshot.answered >= results and not snapshot.has_open_retries
        self._publish("end" if has_ended and is_complete else "progress", data)
        self._polled_at = self._clock.monotonic()

    def _new_images(self, snapshot: JobSnapshot, accepted: int) -> list[ImageRecord]:
        """Return new images if the job has more than the snapshot; search among all ids only now and then."""
        if accepted <= len(snapshot.statuses):
            return []
        new = snapshot.new_images(everywhere=False)
        now = self._clock.monotonic()
        if accepted > len(snapshot.statuses) and now >= self._next_search:
            found = snapshot.new_images(everywhere=True)
            self._search_pause = SEARCH_SECONDS if found else min(2 * self._search_pause, MAX_SEARCH_SECONDS)
            self._next_search = now + self._search_pause
            new += found
        return new

    def _publish_answers(self, answers: NewAnswers, scores: MinScores) -> None:
        results, resends = answers
        self._publish_rows("results", [ImageRow.of_response(each, scores) for each in results])
        self._publish_rows("results", [ImageRow.of_resend(*each) for each in resends.items()])

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


class Stream:
    """One connection of a viewer to the feed of a job, from `FeedRegistry.join` on.

    Args:
        owner: the user; the stream takes a place of this user's share of the bulkhead.
        cursor: of the last event that the viewer received, or empty.
        viewer: the same for all connections of a viewer that reconnects.
        connection: to the client, if the server exposes it, as gunicorn does.
    """

    def __init__(
        self, feed: JobFeed, owner: str, cursor: str, viewer: str, connection: socket.socket | None = None
    ) -> None:
        self.feed, self.owner, self.cursor, self.viewer = feed, owner, cursor, viewer
        self._connection = connection
        self._is_replaced = False

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies the viewer. It has the owner, so an id of an event ends no stream of another user."""
        return self.owner, self.feed.job_id, self.viewer

    def is_over(self) -> bool:
        """Return whether the viewer no longer reads this stream: it has another one, or has closed the connection."""
        return self._is_replaced or (self._connection is not None and is_closed(self._connection))

    def end(self) -> None:
        """Let the thread of this stream end at once, also if it waits for the client."""
        self._is_replaced = True
        if self._connection is not None:
            with suppress(OSError):  # the client has disconnected
                self._connection.shutdown(socket.SHUT_RDWR)
        self.feed.wake()


def is_closed(connection: socket.socket) -> bool:
    """Return whether the peer of a connection has closed it."""
    readable = select.poll()  # not `select`, which takes only the first 1,024 files of a process
    readable.register(connection, select.POLLIN)
    try:
        return bool(readable.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


class FeedRegistry:
    """The feeds of this process and the streams of each; for all threads.

    Args:
        on_change: called with 1 for a stream that opens, and with -1 for one that ends.
    """

    def __init__(
        self,
        bulkhead: Bulkhead,
        new_feed: Callable[[str], JobFeed],
        clock: Clock = CLOCK,
        on_change: Callable[[int], object] = lambda _streams: None,
    ) -> None:
        self._on_change = on_change
        self._bulkhead, self._new_feed, self._clock = bulkhead, new_feed, clock
        self._feeds: dict[str, JobFeed] = {}
        self._streams: dict[tuple[str, str, str], Stream] = {}
        self._left_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def join(
        self, job_id: str, owner: str = "", last_event_id: str = "", connection: socket.socket | None = None
    ) -> Stream | None:
        """Return a new stream of a job, which must `leave`, or None if there are too many.

        Args:
            job_id: the job.
            owner: the user; the stream takes a place of this user's share of the bulkhead.
            last_event_id: of the last event that the viewer received. Its earlier stream in this process ends.
            connection: to the client, if it is known.
        """
        cursor, _, viewer = last_event_id.partition(".")
        if not _VIEWER.fullmatch(viewer):
            viewer = token_hex(8)
        with self._lock:
            previous = self._streams.get((owner, job_id, viewer))
            if previous is not None:
                self._end(previous)
            if not self._bulkhead.enter(owner):
                for stream in list(self._streams.values()):
                    if stream.is_over():
                        self._end(stream)
                if not self._bulkhead.enter(owner):
                    return None
            self._on_change(1)
            self._forget_feeds()
            if job_id not in self._feeds:
                self._feeds[job_id] = self._new_feed(job_id)
            stream = Stream(self._feeds[job_id], owner, cursor, viewer, connection)
            self._streams[stream.key] = stream
            return stream

    def leave(self, stream: Stream) -> None:
        """Give the place of a stream back, unless another stream has it already."""
        with self._lock:
            if self._streams.get(stream.key) is stream:
                self._remove(stream)

    def _end(self, stream: Stream) -> None:
        self._remove(stream)
        stream.end()

    def _remove(self, stream: Stream) -> None:
        del self._streams[stream.key]
        self._left_at[stream.feed.job_id] = self._clock.monotonic()
        self._bulkhead.leave(stream.owner)
        self._on_change(-1)

    def _forget_feeds(self) -> None:
        """Forget feeds that have had no stream for a while, or all of these if there are many."""
        watched = {stream.feed.job_id for stream in self._streams.values()}
        for job_id, left_at in list(self._left_at.items()):
            if job_id in watched:
                del self._left_at[job_id]
            elif self._clock.monotonic() - left_at > LINGER_SECONDS or len(self._feeds) > self._bulkhead.size:
                del self._left_at[job_id], self._feeds[job_id]


def event_stream(
    stream: Stream,
    is_stopping: Callable[[], bool] = lambda: False,
    clock: Clock = CLOCK,
    is_allowed: Callable[[], bool] = lambda: True,
    data_of: Callable[[FeedEvent], str] = lambda event: event.data,
) -> Iterator[str]:
    """Yield the text of a stream: the events after its cursor, until it or the job ends, or for `STREAM_SECONDS`.

    Args:
        stream: the connection.
        is_stopping: returns whether this process is stopping; the browser then reconnects to another process.
        clock: measures the stream's length and its silence.
        is_allowed: returns whether the viewer may still read the job; checked once per `HEARTBEAT_SECONDS`.
        data_of: returns what the viewer may see of an event.
    """
    feed, cursor = stream.feed, stream.cursor
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    until, sent_at, checked_at = clock.monotonic() + STREAM_SECONDS, clock.monotonic(), clock.monotonic()
    while clock.monotonic() < until and not is_stopping() and not stream.is_over():
        if clock.monotonic() - checked_at >= HEARTBEAT_SECONDS:
            if not is_allowed():
                return
            checked_at = clock.monotonic()
        try:
            events = feed.wait(cursor, WAIT_SECONDS, stream.is_over)
        except NotFoundError:
            yield _GONE
            return
        except (BotoCoreError, ClientError) as error:
            _log.warning("closed a stream of job %s, since its feed failed: %s", feed.job_id, error)
            return
        for event_cursor, event in events:
            cursor = event_cursor
            yield f"id: {cursor}.{stream.viewer}\nevent: {event.kind}\ndata: {data_of(event)}\n\n"
            if event.kind == "end":
                return
        if not events and clock.monotonic() - sent_at < HEARTBEAT_SECONDS:
            continue
        if not events:
            yield _HEARTBEAT
        sent_at = clock.monotonic()
