"""The collector: takes responses from their queue, records them as results, then deletes the messages.

In that order, so that whatever happens in between, a response is delivered again, and recording it again changes
nothing.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.cache import ResultCache
from services.errors import MessageError
from services.messages import Heartbeat, Response, from_worker
from services.sqs import BATCH, Queue, Received
from web_tier.controller.ledger import Ledger
from web_tier.controller.roster import Roster

_log = logging.getLogger(__name__)

POLL_SECONDS = 1
"""Longest wait for the first response: so long may the end of a shift take."""
MOST_RECEIVES = 10
"""Receives before what is in hand is recorded: each up to ten messages, while they come in full batches."""


@dataclass(frozen=True)
class Collector:
    """One consumer of the response queue.

    Attributes:
        responses: the response queue.
        ledger: where results are recorded.
        cache: remembers them for images with the same bytes.
        active: whether this process may still act; asked before anything is written.
        roster: takes in which workers were heard of.
    """

    responses: Queue
    ledger: Ledger
    cache: ResultCache
    active: Callable[[], bool]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    roster: Roster = field(default_factory=Roster)

    def tick(self) -> float:
        """Collect what there is; return the seconds until the next round: none, since receiving waits."""
        messages, drained_at = self._receive()
        if self._record_or_give_back(messages) and drained_at is not None:
            self.roster.heard_all(drained_at)
        return 0.0

    def _receive(self) -> tuple[list[Received], float | None]:
        """Return up to `MOST_RECEIVES` batches, waiting only for the first, and when the last of them was asked for.

        That is None when there may be more: one that brought fewer than it asked for left nothing of what had been
        sent before.
        """
        messages: list[Received] = []
        for number in range(MOST_RECEIVES):
            asked_at = self.roster.clock()
            batch = self.responses.receive(wait_seconds=0 if number else POLL_SECONDS)
            messages += batch
            if len(batch) < BATCH:
                return messages, asked_at
        return messages, None

    def _record_or_give_back(self, messages: Sequence[Received]) -> bool:
        """Record what was received, or give it back; tell whether it was recorded."""
        if not messages:
            return True
        receipts = [message.receipt for message in messages]
        recorded = False
        try:
            if self.active():
                told = parse(messages)
                responses = [each for each in told if isinstance(each, Response)]
                # First, so that whoever sees a result may send the same image again and has the answer at once.
                self.cache.put(responses, self.now(), self.ledger.owners(response.job_id for response in responses))
                self.ledger.record(responses)
                self.roster.note(told)
                recorded = True
        finally:
            # What was not recorded is for the next round, or for the next holder: it need not wait for its timeout.
            if not recorded:
                self.responses.change_visibility(receipts, 0)
        if recorded:
            self.responses.delete(receipts)
        return recorded


def parse(messages: Sequence[Received]) -> list[Response | Heartbeat]:
    """Return the responses and heartbeats that `messages` hold; what is neither is logged with the reason."""
    told = []
    for message in messages:
        try:
            told.append(from_worker(message.body))
        except MessageError as error:
            _log.warning("dropped a malformed response", extra={"message_id": message.id, "reason": str(error)})
    return told
