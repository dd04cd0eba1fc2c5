"""The collector: takes responses from their queue, records them as results, then deletes the messages.

In that order, so that after a failure in between a response is delivered again, and recording it again changes
nothing. A response that cannot be recorded delays no other: it alone is given back, each time for longer. After
`MAX_RECEIVES` it is dropped, and the reconciler reads its result from the output bucket.

On AWS each call takes some milliseconds. So a round takes many messages while many wait, and its calls are made side
by side. While the messages of a round are recorded, those of the next one are received, and those of the last one are
deleted.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from core.ids import ImageRef
from core.jobs.buckets import OutputBucket
from core.jobs.models import ImageRecord
from core.messages import ClassificationResult, Heartbeat, Prediction, Response, StoredResults, parse_worker_message
from core.telemetry import SPANS
from core.tracing import child_of, trace_id
from services.clock import epoch_seconds
from services.errors import MessageError
from services.lease import Tenure
from services.side_by_side import outcomes, side_by_side
from services.sqs import BATCH, Queue, ReceivedMessage
from web_tier.autoscaler.liveness import WorkerRegistry
from web_tier.controller.result_writer import ResultWriter

_log = logging.getLogger(__name__)

POLL_SECONDS = 1
"""Longest wait for the first message: the loop may need so long to stop."""
MAX_BATCHES = 30
"""Receives of a round, of up to ten messages each."""

MAX_RECEIVES = 8
"""A response that could not be recorded after so many receives, some 20 minutes, is dropped."""
FIRST_DELAY_SECONDS = 10
"""How long a response that could not be recorded is hidden the first time; twice as long each time."""

EMPTY_POLLS = 3
"""After so many long polls in a row without a message the queue counts as empty. A long poll asks all servers of a
queue, a short one some of them, so fewer messages than were asked for do not mean that there are no more
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html)."""
COUNT_SECONDS = 10.0
"""Time between two reads of the queue's own count, while polls are never empty."""
COUNT_AGE_SECONDS = 60.0
"""How old that count may be
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html)."""

_Received = tuple[ReceivedMessage, ClassificationResult | Heartbeat]


@dataclass
class Collector:
    """The consumer of the response queue.

    Attributes:
        outputs: the output bucket, with the predictions of responses that were too large for the queue.
        registry: records the heartbeats of the workers.
        pool: receives side by side; None: one after another.
        beside: receives the messages of the next round and deletes those of the last one, both during a round; None:
            one after another.
    """

    responses: Queue
    outputs: OutputBucket
    results: ResultWriter
    tenure: Tenure
    registry: WorkerRegistry = field(default_factory=WorkerRegistry)
    pool: Executor | None = None
    beside: Executor | None = None
    _ended: "Future[None] | None" = field(default=None, init=False)
    """The end of the last round."""
    _next: "Future[tuple[float, list[ReceivedMessage]]] | None" = field(default=None, init=False)
    """What `_receive` returns for the next round, while many messages wait."""
    _empty_polls: list[float] = field(default_factory=list, init=False)
    _counted_at: float = field(default=float("-inf"), init=False)
    _received: int = field(default=0, init=False)
    """Messages of the last round."""

    def tick(self) -> float:
        """Collect the messages; return the seconds until the next round: 0, since receiving waits."""
        received, self._next = self._next, None
        asked_at, messages = self._receive() if received is None else received.result()
        if self.tenure.active():
            if self.beside is not None and len(messages) > BATCH:
                self._next = self.beside.submit(self._receive)
            self._collect(messages)
        else:
            self._return_to_next_holder(messages)
        if not self.tenure.active():
            if self._next is not None:
                self._return_to_next_holder(self._next.result()[1])
            return 0.0
        if (until := self._received_until(asked_at, is_empty=not messages)) is not None:
            self.registry.mark_read_until(until)
        return 0.0

    def _return_to_next_holder(self, messages: Sequence[ReceivedMessage]) -> None:
        """Make messages visible now, so that the next holder of the lease receives them at once."""
        self.responses.change_visibility([message.receipt for message in messages], 0)

    def _receive(self) -> tuple[float, list[ReceivedMessage]]:
        """Return the messages of a round, and when they were asked for.

        They are those of one receive, or of several at once while many messages wait. A receive may bring fewer
        messages than wait, so the number of the last round counts, too.
        """
        asked_at = self.registry.clock.monotonic()
        messages = self.responses.receive(wait_seconds=POLL_SECONDS)
        waiting = max(len(messages), self._received) if messages else 0
        further = min(MAX_BATCHES - 1, 2 * waiting // BATCH)
        for batch in side_by_side(self.pool, self._receive_more, range(further)):
            messages += batch
        self._received = len(messages)
        return asked_at, messages

    def _receive_more(self, _number: int) -> list[ReceivedMessage]:
        try:
            return self.responses.receive(wait_seconds=0)
        except (BotoCoreError, ClientError):
            _log.warning("further responses could not be received; those of this round are recorded", exc_info=True)
            return []

    def _collect(self, messages: Sequence[ReceivedMessage]) -> None:
        """Record the messages, then delete them; make those visible again later that could not be recorded."""
        received, unread = self._read(messages)
        answers = [(message, each) for message, each in received if isinstance(each, ClassificationResult)]
        errors, settled = self._record([response for _, response in answers])
        failed = {message.receipt for message in unread}
        failed |= {message.receipt for message, each in answers if each.ref in errors}
        self.registry.record(each for message, each in received if message.receipt not in failed)

        def end() -> None:
            undeleted = self.results.delete_inputs(settled)
            left = {message.receipt for message, each in answers if each.ref in undeleted}
            self._end(messages, failed | left)

        before, self._ended = self._ended, None
        if before is not None:
            before.result()
        if self.beside is None or not messages:
            end()
        else:
            self._ended = self.beside.submit(end)

    def _end(self, messages: Sequence[ReceivedMessage], failed: Collection[str]) -> None:
        """Delete messages, but give back those with `failed` receipts: for longer each time, and not for ever."""
        if not self.tenure.active():
            self._return_to_next_holder(messages)
            return
        delays = dict[str, int]()
        for message in messages:
            if message.receipt in failed and message.receive_count < MAX_RECEIVES:
                delays[message.receipt] = FIRST_DELAY_SECONDS << (message.receive_count - 1)
            elif message.receipt in failed:
                _log.error("dropped a response that cannot be recorded", extra={"message_id": message.id})
        self.responses.delete([message.receipt for message in messages if message.receipt not in delays])
        for seconds in set(delays.values()):
            back = [receipt for receipt, delay in delays.items() if delay == seconds]
            self.responses.change_visibility(back, seconds)

    def _read(self, messages: Sequence[ReceivedMessage]) -> tuple[list[_Received], list[ReceivedMessage]]:
        """Return the messages with a result or a heartbeat, and those with a prediction that could not be read."""
        received, unread = list[_Received](), list[ReceivedMessage]()
        stored = list[tuple[ReceivedMessage, StoredResults]]()
        for message in messages:
            try:
                content = parse_worker_message(message.body)
            except MessageError as error:
                _log.warning("dropped a malformed response", extra={"message_id": message.id, "reason": str(error)})
                continue
            match content:
                case StoredResults():
                    stored.append((message, content))
                case Response():
                    received += ((message, each) for each in content.results)
                case Heartbeat():
                    received.append((message, content))
        for message, results in self._read_stored(stored):
            if results is None:
                unread.append(message)
            else:
                received += ((message, each) for each in results)
        return received, unread

    def _read_stored(
        self, stored: Sequence[tuple[ReceivedMessage, StoredResults]]
    ) -> Iterator[tuple[ReceivedMessage, list[ClassificationResult] | None]]:
        """Yield messages with the results that the output bucket has for them, None if it cannot be read."""

        def read(found: tuple[ReceivedMessage, StoredResults]) -> dict[str, Prediction]:
            _, each = found
            return self.outputs.predictions(each.job_id, each.pack_id, is_lone=each.images == 1)

        for (message, each), predictions in outcomes(self.pool, read, stored):
            if isinstance(predictions, Exception):
                extra = {"job": each.job_id, "pack": each.pack_id}
                _log.warning("predictions could not be read", extra=extra, exc_info=predictions)
                yield message, None
            else:
                found = ((place, predictions.get(each.ref_at(place).image_id)) for place in each.places)
                # If one has no prediction, its job has been deleted.
                yield message, [each.result(place, prediction) for place, prediction in found if prediction]

    def _record(
        self, responses: Sequence[ClassificationResult]
    ) -> tuple[Mapping[ImageRef, Exception], list[ImageRecord]]:
        """Record responses of all jobs as `ResultWriter.store_each` does; log what was recorded, and why not."""
        if not responses:
            return {}, []
        began = epoch_seconds()
        errors, settled = self.results.store_each(responses)
        for error in {str(each): each for each in errors.values()}.values():
            left = [ref for ref, each in errors.items() if str(each) == str(error)]
            extra = {"n": len(left), "job": left[0].job_id}
            _log.warning("responses could not be recorded", extra=extra, exc_info=error)
        self._report([response for response in responses if response.ref not in errors], began)
        return errors, settled

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
        self._empty_polls = [*self._empty_polls, asked_at][-EMPTY_POLLS:] if is_empty else []
        if is_empty:
            return self._empty_polls[0] if len(self._empty_polls) == EMPTY_POLLS else None
        if asked_at - self._counted_at < COUNT_SECONDS:
            return None
        self._counted_at = asked_at
        return asked_at - COUNT_AGE_SECONDS if self.responses.counts().visible <= BATCH else None
