"""The collector: takes responses from their queue, records them as results, then deletes the messages.

In that order, so that after a failure in between a response is delivered again, and recording it again changes
nothing. A response that cannot be recorded delays no other: it alone is given back, each time for longer. After
`MAX_RECEIVES` it is dropped, and the reconciler reads its result from the output bucket.

Several threads collect while there is work: a response is received while others are recorded or deleted. In each
round the jobs with the fewest responses come first, so that a single image does not wait for a large job.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError

from core.messages import ClassificationResult, Heartbeat, StoredResult, parse_worker_message
from core.predictions import stored_prediction
from core.result_cache import ResultCache
from services.errors import MessageError
from services.s3 import Bucket
from services.sqs import BATCH, Queue, ReceivedMessage
from services.table import is_throttled
from web_tier.autoscaler.liveness import WorkerRegistry
from web_tier.controller.result_recorder import ResultRecorder

_log = logging.getLogger(__name__)

POLL_SECONDS = 1
"""Longest wait for the first message: the loop may need so long to stop."""
MAX_BATCHES = 3
"""Receives, of up to ten messages each, before responses are recorded, while every batch is full."""
HELPERS = 2
"""Threads that collect while there is work, besides the one that always does."""
HELP_SECONDS = 5.0
"""How long after the last message the helpers stop polling, since SQS charges for each poll."""

MAX_RECEIVES = 8
"""A response that could not be recorded after so many receives, some 20 minutes, is dropped."""
FIRST_DELAY_SECONDS = 10
"""How long a response that could not be recorded is hidden the first time; twice as long each time."""
MAX_FAILURES = 3
"""Responses of one job that cannot be recorded before its other ones are not tried either."""

EMPTY_POLLS = 3
"""After so many long polls in a row without a message the queue counts as empty. A long poll asks all servers of a
queue, a short one some of them, so fewer messages than were asked for do not mean that there are no more
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html)."""
COUNT_SECONDS = 10.0
"""Time between two reads of the queue's own count, while polls are never empty."""
COUNT_AGE_SECONDS = 60.0
"""How old that count may be
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html)."""

_RecordState = Literal["recorded", "refused", "throttled"]


@dataclass
class Collector:
    """The consumer of the response queue; its ticks may be called from several threads.

    Attributes:
        responses: the response queue.
        outputs: the output bucket, with the predictions of responses that were too large for the queue.
        recorder: where results are recorded.
        cache: remembers them for images with the same bytes.
        active: returns whether this process may still act; asked before anything is written.
        registry: records the heartbeats of the workers.
    """

    responses: Queue
    outputs: Bucket
    recorder: ResultRecorder
    cache: ResultCache
    active: Callable[[], bool]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    registry: WorkerRegistry = field(default_factory=WorkerRegistry)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _rounds: "count[int]" = field(default_factory=count, init=False)
    _open_rounds: set[int] = field(default_factory=set, init=False)
    _claims: list[tuple[float, set[int]]] = field(default_factory=list, init=False)
    """Times, each with the rounds that were open then. Once these have ended, all messages that were sent before the
    time have been recorded."""
    _filled_at: float = field(default=float("-inf"), init=False)
    """When a round last received a message."""
    _empty_polls: list[float] = field(default_factory=list, init=False)
    _counted_at: float = field(default=float("-inf"), init=False)
    _suspended: dict[str, float] = field(default_factory=dict, init=False)
    """Until when responses of a job are given back without a try."""

    def tick(self) -> float:
        """Collect the messages; return the seconds until the next round: 0, since receiving waits."""
        asked_at, read_until = self.registry.clock(), None
        with self._lock:
            self._open_rounds.add(number := next(self._rounds))
        try:
            read_until = self._run_round(asked_at)
        finally:
            self._end_round(number, read_until)
        return 0.0

    def help_tick(self) -> float:
        """Collect messages if there were some just now; return the seconds until the next round."""
        return self.tick() if self.registry.clock() - self._filled_at < HELP_SECONDS else POLL_SECONDS

    def _run_round(self, asked_at: float) -> float | None:
        """Collect messages once; return until when every message has been received, if that is known."""
        messages = self.responses.receive(wait_seconds=POLL_SECONDS)
        for batches in range(1, MAX_BATCHES):
            if len(messages) < batches * BATCH:
                break
            try:
                messages += self.responses.receive(wait_seconds=0)
            except (BotoCoreError, ClientError):
                _log.exception("further responses could not be received; those of this round are recorded")
                break
        if not self.active():
            # For the next holder, which need not wait for the visibility timeout.
            self.responses.change_visibility([message.receipt for message in messages], 0)
            return None
        if messages:
            self._filled_at = self.registry.clock()
        self._collect(messages)
        return self._received_until(asked_at, is_empty=not messages)

    def _end_round(self, number: int, received_until: float | None) -> None:
        """Report to the registry until when every message has been recorded.

        What was received until then was received in this round, in one that has ended, or in one that is open now.
        """
        with self._lock:
            self._open_rounds.discard(number)
            if received_until is not None:
                self._claims.append((received_until, set(self._open_rounds)))
            for _, rounds in self._claims:
                rounds.discard(number)
            for until in [until for until, rounds in self._claims if not rounds]:
                self.registry.mark_read_until(until)
            self._claims = [claim for claim in self._claims if claim[1]]

    def _collect(self, messages: Sequence[ReceivedMessage]) -> None:
        """Record the messages and delete them; make those visible again later that could not be recorded."""
        parsed, unread = self._read_stored(parse(messages))
        unrecorded = unread | self._record(
            [(message, each) for message, each in parsed if isinstance(each, ClassificationResult)]
        )
        self.registry.record(each for message, each in parsed if message.receipt not in unrecorded)
        delays: dict[int, list[str]] = {}
        for message in unrecorded.values():
            if message.receive_count < MAX_RECEIVES:
                delays.setdefault(_delay_seconds(message), []).append(message.receipt)
            else:
                _log.error("dropped a response that cannot be recorded", extra={"message_id": message.id})
        kept = {receipt for receipts in delays.values() for receipt in receipts}
        for seconds, receipts in delays.items():
            self.responses.change_visibility(receipts, seconds)
        self.responses.delete([message.receipt for message in messages if message.receipt not in kept])

    def _read_stored(
        self, parsed: Sequence[tuple[ReceivedMessage, ClassificationResult | StoredResult | Heartbeat]]
    ) -> tuple[list[tuple[ReceivedMessage, ClassificationResult | Heartbeat]], dict[str, ReceivedMessage]]:
        """Return the messages with the results of stored predictions, and those with one that could not be read."""
        found: list[tuple[ReceivedMessage, ClassificationResult | Heartbeat]] = []
        unread: dict[str, ReceivedMessage] = {}
        for message, each in parsed:
            if not isinstance(each, StoredResult):
                found.append((message, each))
                continue
            try:
                prediction = stored_prediction(each.ref, self.outputs)
            except Exception:  # noqa: BLE001 (it must not delay other messages; it is logged)
                _log.exception("a prediction could not be read", extra={"job": each.job_id, "image": each.image_id})
                unread[message.receipt] = message
                continue
            if prediction is not None:  # if there is none, its job has been deleted
                attempt = max(prediction.attempt, each.attempt)
                found.append((message, prediction.response().model_copy(update={"attempt": attempt})))
        return found, unread

    def _record(self, received: Sequence[tuple[ReceivedMessage, ClassificationResult]]) -> dict[str, ReceivedMessage]:
        """Record responses job by job; return the messages of those that could not be recorded, by their receipts.

        If the responses of a job are refused, they are recorded one by one; not if the table throttles the job, since
        each would wait as long as all of them, and delay other jobs.
        """
        now = self.registry.clock()
        with self._lock:
            self._suspended = {job_id: until for job_id, until in self._suspended.items() if until > now}
        by_job: dict[str, list[tuple[ReceivedMessage, ClassificationResult]]] = {}
        for message, response in received:
            by_job.setdefault(response.job_id, []).append((message, response))
        unrecorded: list[ReceivedMessage] = []
        for job_id, of_job in sorted(by_job.items(), key=lambda each: len(each[1])):
            failed = [message for message, _ in of_job]
            if job_id not in self._suspended:
                outcome = self._try_to_record(of_job)
                if outcome == "recorded":
                    continue
                if outcome == "refused" and len(of_job) > 1:
                    failed = []
                    for message, response in of_job:
                        if len(failed) >= MAX_FAILURES or self._try_to_record([(message, response)]) != "recorded":
                            failed.append(message)
                if len(failed) >= min(MAX_FAILURES, len(of_job)):
                    with self._lock:
                        self._suspended[job_id] = now + max(_delay_seconds(message) for message in failed)
            unrecorded += failed
        return {message.receipt: message for message in unrecorded}

    def _try_to_record(self, received: Sequence[tuple[ReceivedMessage, ClassificationResult]]) -> _RecordState:
        """Record responses of one job; they are also refused if this process may no longer act."""
        if not self.active():
            return "refused"
        responses = [response for _, response in received]
        try:
            # First, so that a user who sees a result can send the same image again and get the answer at once.
            self.cache.put(responses, self.now(), self.recorder.owners(response.job_id for response in responses))
            self.recorder.record(responses)
        except Exception as error:  # noqa: BLE001 (it must not delay other jobs; it is logged)
            extra = {"n": len(responses), "job": responses[0].job_id}
            _log.exception("responses could not be recorded", extra=extra)
            return "throttled" if is_throttled(error) else "refused"
        return "recorded"

    def _received_until(self, asked_at: float, *, is_empty: bool) -> float | None:
        """Return until when every message that was sent has been received, if that is known."""
        with self._lock:
            self._empty_polls = [*self._empty_polls, asked_at][-EMPTY_POLLS:] if is_empty else []
            if is_empty:
                return self._empty_polls[0] if len(self._empty_polls) == EMPTY_POLLS else None
            if asked_at - self._counted_at < COUNT_SECONDS:
                return None
            self._counted_at = asked_at
        return asked_at - COUNT_AGE_SECONDS if self.responses.counts().visible <= BATCH else None


def _delay_seconds(message: ReceivedMessage) -> int:
    return FIRST_DELAY_SECONDS << min(message.receive_count - 1, MAX_RECEIVES)


def parse(
    messages: Sequence[ReceivedMessage],
) -> list[tuple[ReceivedMessage, ClassificationResult | StoredResult | Heartbeat]]:
    """Return the messages that hold a response or a heartbeat, with it; others are logged with the reason."""
    parsed: list[tuple[ReceivedMessage, ClassificationResult | StoredResult | Heartbeat]] = []
    for message in messages:
        try:
            parsed.append((message, parse_worker_message(message.body)))
        except MessageError as error:
            _log.warning("dropped a malformed response", extra={"message_id": message.id, "reason": str(error)})
    return parsed
