"""The collector: takes responses from their queue, records them as results, then deletes the messages.

In that order, so that after a failure in between a response is delivered again, and recording it again changes
nothing. A response that cannot be recorded delays no other: it alone is given back, each time for longer. After
`MAX_RECEIVES` it is dropped, and the reconciler reads its result from the output bucket.

On AWS each call takes some milliseconds. So the calls of a round are made side by side, the results of all jobs are
recorded together, and several threads run rounds while there is work. If results of a job could not be recorded with
the others, the job is tried alone after them.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from typing import Literal

from botocore.exceptions import BotoCoreError, ClientError

from core.ids import ImageRef
from core.jobs.buckets import OutputBucket
from core.messages import ClassificationResult, Heartbeat, StoredResult, parse_worker_message
from core.telemetry import SPANS
from core.tracing import child_of, trace_id
from services.clock import CLOCK, Clock, epoch_seconds
from services.errors import MessageError
from services.lease import Tenure
from services.side_by_side import outcomes, side_by_side
from services.sqs import BATCH, Queue, ReceivedMessage
from services.table import is_throttled
from web_tier.autoscaler.liveness import WorkerRegistry
from web_tier.controller.counts_store import CountsNotStoredError, CountsStore
from web_tier.controller.job_cache import JobCache, JobLoadingError
from web_tier.controller.result_writer import ResultWriter

_log = logging.getLogger(__name__)

POLL_SECONDS = 1
"""Longest wait for the first message: the loop may need so long to stop."""
MAX_BATCHES = 10
"""Receives of a round, of up to ten messages each."""
HELPERS = 3
"""Threads that collect while there is work, besides the one that always does."""
MAX_ALONE = 2
"""Threads that may wait for a throttled job at the same time, for up to a quarter of a minute. The others go on."""
HELP_SECONDS = 5.0
"""How long after the last message the helpers stop polling, since SQS charges for each poll."""

MAX_RECEIVES = 8
"""A response that could not be recorded after so many receives, some 20 minutes, is dropped."""
FIRST_DELAY_SECONDS = 10
"""How long a response that could not be recorded is hidden the first time; twice as long each time."""
SOON_SECONDS = 2
"""How long a response is hidden if its job is still being read, or if another thread is storing the job's counts."""
MAX_SUSPENDED_SECONDS = 60
"""Longest time for which the responses of a job that could not be recorded are given back without a try."""
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
_Received = tuple[ReceivedMessage, ClassificationResult | Heartbeat]
_Answer = tuple[ReceivedMessage, ClassificationResult]


@dataclass
class Collector:
    """The consumer of the response queue; its ticks may be called from several threads.

    Attributes:
        outputs: the output bucket, with the predictions of responses that were too large for the queue.
        jobs: what is known of jobs.
        registry: records the heartbeats of the workers.
        pool: receives side by side; None: one after another.
    """

    responses: Queue
    outputs: OutputBucket
    jobs: JobCache
    results: ResultWriter
    counts: CountsStore
    tenure: Tenure
    clock: Clock = CLOCK
    registry: WorkerRegistry = field(default_factory=WorkerRegistry)
    pool: Executor | None = None
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
    _received: int = field(default=0, init=False)
    """Messages of the last round."""
    _alone: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_ALONE), init=False)

    def tick(self) -> float:
        """Collect the messages; return the seconds until the next round: 0, since receiving waits."""
        asked_at, read_until = self.registry.clock.monotonic(), None
        with self._lock:
            self._open_rounds.add(number := next(self._rounds))
        try:
            read_until = self._run_round(asked_at)
        finally:
            self._end_round(number, read_until)
        return 0.0

    def is_busy(self) -> bool:
        """Return whether there were messages just now."""
        return self.registry.clock.monotonic() - self._filled_at < HELP_SECONDS

    def _run_round(self, asked_at: float) -> float | None:
        """Collect messages once; return until when every message has been received, if that is known."""
        messages = self._receive()
        if not self.tenure.active():
            self._return_to_next_holder(messages)
            return None
        if messages:
            self._filled_at = self.registry.clock.monotonic()
        self._collect(messages)
        return self._received_until(asked_at, is_empty=not messages)

    def _return_to_next_holder(self, messages: Sequence[ReceivedMessage]) -> None:
        """Make messages visible now, so that the next holder of the lease receives them at once."""
        self.responses.change_visibility([message.receipt for message in messages], 0)

    def _receive(self) -> list[ReceivedMessage]:
        """Return the messages of a round: of one receive, or of several at once while many messages wait.

        A receive may bring fewer messages than wait, so the number of the last round counts, too.
        """
        messages = self.responses.receive(wait_seconds=POLL_SECONDS)
        waiting = max(len(messages), self._received) if messages else 0
        further = min(MAX_BATCHES - 1, 2 * waiting // BATCH)
        for batch in side_by_side(self.pool, self._receive_more, range(further)):
            messages += batch
        self._received = len(messages)
        return messages

    def _receive_more(self, _number: int) -> list[ReceivedMessage]:
        try:
            return self.responses.receive(wait_seconds=0)
        except (BotoCoreError, ClientError):
            _log.warning("further responses could not be received; those of this round are recorded", exc_info=True)
            return []

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
        received, unread = self._read(messages)
        answers = [(message, each) for message, each in received if isinstance(each, ClassificationResult)]
        suspended = self._suspended_jobs()
        tried = [(message, each) for message, each in answers if each.job_id not in suspended]
        delays = {message.receipt: suspended[each.job_id] for message, each in answers if each.job_id in suspended}
        errors = self._record([response for _, response in tried])
        by_job: dict[str, list[_Answer]] = {}
        for message, response in tried:
            if isinstance(errors.get(response.ref), JobLoadingError | CountsNotStoredError):
                delays[message.receipt] = SOON_SECONDS
            elif response.ref in errors:
                by_job.setdefault(response.job_id, []).append((message, response))
        alone = {message.receipt for answers in by_job.values() for message, _ in answers}
        self._end([each for each in messages if each.receipt not in alone], received, unread, delays)
        if by_job:
            self._record_left(by_job, errors)
        if tried:  # those that were not stored just now: a single image is counted at once
            self.counts.write({each.job_id for _, each in tried})

    def _record_left(self, by_job: Mapping[str, Sequence[_Answer]], errors: Mapping[ImageRef, Exception]) -> None:
        """Record responses that were left, job by job, those with the fewest first.

        A job that the table throttles is tried for seconds. So it is given back untried if enough threads try such
        jobs, or if another one was throttled in this round.
        """
        may_wait = is_slot = self._alone.acquire(blocking=False)
        try:
            for job_id, received in sorted(by_job.items(), key=lambda each: len(each[1])):
                failed, untried = list[ReceivedMessage](), dict[str, int]()
                if not may_wait and is_throttled(errors[received[0][1].ref]):
                    untried = {message.receipt: FIRST_DELAY_SECONDS for message, _ in received}
                else:
                    failed, outcome = self._record_alone(job_id, received)
                    may_wait = may_wait and outcome != "throttled"
                self._end([message for message, _ in received], received, failed, untried)
        finally:
            if is_slot:
                self._alone.release()

    def _end(
        self,
        messages: Sequence[ReceivedMessage],
        received: Sequence[_Received],
        failed: Sequence[ReceivedMessage],
        untried: Mapping[str, int],
    ) -> None:
        """Delete `messages`, but give back those that `failed` and the `untried`, by receipt, for so many seconds.

        Those that failed are given back for longer each time, and dropped in the end.
        """
        if not self.tenure.active():
            # Another controller may have read these jobs before their results were stored here: it has to count them.
            self._return_to_next_holder(messages)
            return
        delays, unrecorded = dict(untried), {message.receipt for message in failed} | untried.keys()
        for message in failed:
            if message.receive_count < MAX_RECEIVES:
                delays[message.receipt] = _delay_seconds(message)
            else:
                _log.error("dropped a response that cannot be recorded", extra={"message_id": message.id})
        receipts = [message.receipt for message in messages]
        ended = set(receipts) - unrecorded
        self.registry.record(each for message, each in received if message.receipt in ended)
        self.responses.delete([receipt for receipt in receipts if receipt not in delays])
        for seconds in set(delays.values()):
            back = [receipt for receipt in receipts if delays.get(receipt) == seconds]
            self.responses.change_visibility(back, seconds)

    def _read(self, messages: Sequence[ReceivedMessage]) -> tuple[list[_Received], list[ReceivedMessage]]:
        """Return the messages with a result or a heartbeat, and those with a prediction that could not be read."""
        received, unread = list[_Received](), list[ReceivedMessage]()
        stored = list[tuple[ReceivedMessage, StoredResult]]()
        for message in messages:
            try:
                content = parse_worker_message(message.body)
            except MessageError as error:
                _log.warning("dropped a malformed response", extra={"message_id": message.id, "reason": str(error)})
                continue
            if isinstance(content, StoredResult):
                stored.append((message, content))
            else:
                received.append((message, content))
        for (message, each), prediction in outcomes(
            self.pool, lambda pair: self.outputs.prediction(pair[1].ref), stored
        ):
            if isinstance(prediction, Exception):
                extra = {"job": each.job_id, "image": each.image_id}
                _log.warning("a prediction could not be read", extra=extra, exc_info=prediction)
                unread.append(message)
            elif prediction is not None:  # if there is none, its job has been deleted
                own = {"attempt": max(prediction.attempt, each.attempt), "repeated": each.repeated}
                received.append((message, prediction.response().model_copy(update=own)))
        return received, unread

    def _suspended_jobs(self) -> Mapping[str, int]:
        """Return the jobs that are not tried now, with the seconds until they are."""
        now = self.registry.clock.monotonic()
        with self._lock:
            self._suspended = {job_id: until for job_id, until in self._suspended.items() if until > now}
            return {job_id: ceil(until - now) for job_id, until in self._suspended.items()}

    def _record(self, responses: Sequence[ClassificationResult]) -> Mapping[ImageRef, Exception]:
        """Record responses of all jobs; return the reason for each that was not recorded."""
        if not responses:
            return {}
        began = epoch_seconds()
        try:
            errors = self.results.record_each(responses)
        except Exception as error:  # noqa: BLE001 (each job is tried alone; its own error is logged)
            return {response.ref: error for response in responses}
        self._report([response for response in responses if response.ref not in errors], began)
        return errors

    def _record_alone(self, job_id: str, received: Sequence[_Answer]) -> tuple[list[ReceivedMessage], _RecordState]:
        """Record responses of a job; return the messages of those that failed, and the state of the first try.

        If they are refused, they are recorded one by one; not if the table throttles the job, since each would wait
        as long as all of them. Then a job is not tried for a while.
        """
        state = self._try_to_record(received)
        if state == "recorded":
            return [], state
        failed = [message for message, _ in received]
        if state == "refused" and len(received) > 1:
            failed = []
            for message, response in received:
                if len(failed) >= MAX_FAILURES or self._try_to_record([(message, response)]) != "recorded":
                    failed.append(message)
        if state == "throttled" or len(failed) >= MAX_FAILURES:
            seconds = min(MAX_SUSPENDED_SECONDS, max(_delay_seconds(message) for message in failed))
            with self._lock:
                self._suspended[job_id] = self.registry.clock.monotonic() + seconds
        return failed, state

    def _try_to_record(self, received: Sequence[_Answer]) -> _RecordState:
        """Record responses of one job; they are also refused if this process may no longer act."""
        if not self.tenure.active():
            return "refused"
        responses, began = [response for _, response in received], epoch_seconds()
        try:
            self.results.record(responses)
        except Exception as error:  # noqa: BLE001 (it must not delay other jobs; it is logged)
            extra = {"n": len(responses), "job": responses[0].job_id}
            _log.warning("responses could not be recorded", extra=extra, exc_info=True)
            return "throttled" if is_throttled(error) else "refused"
        self._report(responses, began)
        return "recorded"

    def _report(self, recorded: Sequence[ClassificationResult], began: float) -> None:
        """Log the images of results that were recorded in one line, and export their spans."""
        images = [
            {
                "image": each.image_id,
                "job": each.job_id,
                "trace": None if each.traceparent is None else trace_id(each.traceparent),
                "status": each.status,
            }
            for each in recorded
        ]
        if images:
            _log.info("recorded", extra={"images": images})
        for each in recorded:
            if each.traceparent is not None and SPANS.wants(each.traceparent):
                ids = {"image": each.image_id, "job": each.job_id}
                own = child_of(each.traceparent)
                SPANS.export(
                    "recorded", own, each.traceparent, began, epoch_seconds(), kind="CONSUMER", attributes=ids
                )

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


@dataclass(frozen=True)
class CollectorHelper:
    """Another thread of the collector, which collects while there is work."""

    collector: Collector

    def tick(self) -> float:
        """Collect messages if there were some just now; return the seconds until the next round."""
        return self.collector.tick() if self.collector.is_busy() else POLL_SECONDS


def _delay_seconds(message: ReceivedMessage) -> int:
    return FIRST_DELAY_SECONDS << min(message.receive_count - 1, MAX_RECEIVES)
