"""The collector: takes responses from their queue, records them as results, then deletes the messages.

In that order, so that whatever happens in between, a response is delivered again, and recording it again changes
nothing.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.errors import MessageError
from services.messages import Response
from services.sqs import BATCH, Queue, Received
from web_tier.controller.ledger import Ledger

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
        active: whether this process may still act; asked before anything is written.
    """

    responses: Queue
    ledger: Ledger
    active: Callable[[], bool]

    def tick(self) -> float:
        """Collect what there is; return the seconds until the next round: none, since receiving waits."""
        messages = self._receive()
        if messages:
            self._record_or_give_back(messages)
        return 0.0

    def _receive(self) -> list[Received]:
        """Return up to `MOST_RECEIVES` batches, waiting only for the first."""
        batch = self.responses.receive(wait_seconds=POLL_SECONDS)
        messages = list(batch)
        for _ in range(MOST_RECEIVES - 1):
            if len(batch) < BATCH:
                break
            batch = self.responses.receive(wait_seconds=0)
            messages += batch
        return messages

    def _record_or_give_back(self, messages: Sequence[Received]) -> None:
        receipts = [message.receipt for message in messages]
        recorded = False
        try:
            if self.active():
                self.ledger.record(parse(messages))
                recorded = True
        finally:
            # What was not recorded is for the next round, or for the next holder: it need not wait for its timeout.
            if not recorded:
                self.responses.change_visibility(receipts, 0)
        if recorded:
            self.responses.delete(receipts)


def parse(messages: Sequence[Received]) -> list[Response]:
    """Return the responses that `messages` hold; those that hold none are logged with the reason."""
    responses = []
    for message in messages:
        try:
            responses.append(Response.from_json(message.body))
        except MessageError as error:
            _log.warning("dropped a malformed response", extra={"message_id": message.id, "reason": str(error)})
    return responses
