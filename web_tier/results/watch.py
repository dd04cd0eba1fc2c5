"""Watches one job for all the pages of this process that show it, so that many open tabs read the table once.

There is no thread for it: whichever viewer waits when a look is due does the looking, and the others get what it saw.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from core.ids import new_id
from core.jobs.models import Counts, ImageRecord, JobStatus
from core.jobs.store import JobStore
from web_tier.results.known import Known
from web_tier.results.rows import Row, Rows

LOOK_SECONDS = 0.5
"""Between two looks at the table."""

MAX_HISTORY = 4_000_000
"""Characters of events that are kept for viewers who come back."""

SEARCH_SECONDS = 5.0
"""Between two searches for images everywhere, which read all of them; twice as long after each that found none."""

MAX_SEARCH_SECONDS = 120.0

EventKind = Literal["resync", "images", "results", "progress", "end"]
Tell = Callable[[JobStatus], tuple[str, bool]]
"""Says a job's progress as JSON, and whether nothing more is to come."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that viewers are told: `number` is its place in the order, from 1; `data` is JSON.

    `resync` means that the viewer may have missed something and has to read all rows; `images` and `results` carry
    rows; `progress` says how far the job is, and `end` the same when nothing more is to come.
    """

    number: int
    kind: EventKind
    data: str


class Watch:
    """What has been seen of one job, as events that a viewer can take up again where it was.

    A viewer's cursor is `run-number`, of the last event that it got. A cursor of another run (of another process, or
    from before results were taken back), or one that is older than the history, gets `resync`.

    Args:
        store: the job table.
        job_id: the job.
        tell: says its progress.
        clock: in seconds, never set back.
        max_history: characters of events that are kept.
    """

    def __init__(
        self,
        store: JobStore,
        job_id: str,
        tell: Tell,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_history: int = MAX_HISTORY,
    ) -> None:
        self.job_id, self._store, self._tell, self._clock = job_id, store, tell, clock
        self._max_history = max_history
        self._changed = threading.Condition()
        self._looking, self._next_look = False, clock()
        self._known: Known | None = None
        self._counts = Counts()
        self._begin_again()

    def _begin_again(self) -> None:
        self._run, self._last, self._forgotten = new_id(), 0, 0
        self._history: deque[Event] = deque()
        self._history_size = 0
        self._progress: Event | None = None
        self._search_pause = SEARCH_SECONDS
        self._next_search = self._clock() + SEARCH_SECONDS

    def wait(self, cursor: str | None, seconds: float) -> list[tuple[str, Event]]:
        """Return what came after `cursor`, each with the cursor after it; waits up to `seconds` for something.

        Raises:
            NotFoundError: when the job is gone.
        """
        until = self._clock() + seconds
        while True:
            with self._changed:
                found, now = self._since(cursor), self._clock()
                if found or now >= until:
                    return [(f"{self._run}-{event.number}", event) for event in found]
                if self._looking or now < self._next_look:
                    self._changed.wait((until if self._looking else min(until, self._next_look)) - now)
                    continue
                self._looking = True
            self._look_and_wake()

    def _look_and_wake(self) -> None:
        try:
            self.look()
        finally:
            with self._changed:
                self._looking = False
                self._next_look = self._clock() + LOOK_SECONDS
                self._changed.notify_all()

    def _since(self, cursor: str | None) -> list[Event]:
        if self._progress is None:
            return []
        number = self._number(cursor)
        if number is None:
            return [Event(self._last, "resync", "{}"), Event(self._last, self._progress.kind, self._progress.data)]
        news = [event for event in self._history if event.number > number]
        return [*news, self._progress] if self._progress.number > number else news

    def _number(self, cursor: str | None) -> int | None:
        """Return the number in `cursor` if everything that came after it is still here."""
        run, _, digits = (cursor or "").partition("-")
        if run != self._run or not (digits.isascii() and digits.isdigit() and len(digits) < 12):
            return None
        return int(digits) if self._forgotten <= int(digits) <= self._last else None

    def look(self) -> None:
        """Read what is new in the table and tell it; one thread at a time.

        Raises:
            NotFoundError: when the job is gone.
        """
        status = self._store.status(self.job_id)
        if self._known is None or _results(status.counts) < _results(self._counts):  # results were taken back
            known = self._known = Known.now(self._store, self.job_id)
            with self._changed:
                self._begin_again()
        else:
            known = self._known
            self._tell_rows("images", [Row.of_record(image) for image in self._added(known, status.accepted)])
            if status.counts.failed < self._counts.failed:
                known.doubt_failed()
            if len(known.answered) < _results(status.counts):
                self._tell_rows("results", [Row.of_response(response) for response in known.newly_answered()])
        resends = known.newly_resent(status.counts.resends)
        self._tell_rows("results", [Row.of_resend(image_id, resend) for image_id, resend in resends.items()])
        known.note_retries(status.retried_at)
        self._tell_rows("results", [Row.of_result(item) for item in known.newly_retrying()])
        self._tell_rows("results", [Row.of_response(response) for response in known.newly_retried()])
        self._counts = status.counts
        data, ended = self._tell(status)
        all_told = len(known.answered) >= _results(status.counts) and not known.retries_open
        self._publish("end" if ended and all_told else "progress", data)

    def _added(self, known: Known, accepted: int) -> list[ImageRecord]:
        """Return new images if the job has more than are known; those in between are searched for now and then."""
        if accepted <= len(known.ids):
            return []
        new = known.added(everywhere=False)
        now = self._clock()
        if accepted > len(known.ids) and now >= self._next_search:
            found = known.added(everywhere=True)
            self._search_pause = SEARCH_SECONDS if found else min(2 * self._search_pause, MAX_SEARCH_SECONDS)
            self._next_search = now + self._search_pause
            new += found
        return new

    def _tell_rows(self, kind: EventKind, rows: list[Row]) -> None:
        if rows:
            self._publish(kind, Rows(rows=tuple(rows)).to_json())

    def _publish(self, kind: EventKind, data: str) -> None:
        """Tell every viewer; of progress only the latest counts, and only when it is another."""
        with self._changed:
            if kind in {"progress", "end"}:
                if self._progress is None or (self._progress.kind, self._progress.data) != (kind, data):
                    self._last += 1
                    self._progress = Event(self._last, kind, data)
                return
            self._last += 1
            self._history.append(Event(self._last, kind, data))
            self._history_size += len(data)
            while self._history_size > self._max_history:
                oldest = self._history.popleft()
                self._history_size -= len(oldest.data)
                self._forgotten = oldest.number


def _results(counts: Counts) -> int:
    return counts.done + counts.failed
