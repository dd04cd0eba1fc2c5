"""Dead letters: requests that were received too often. Each becomes a failed result, unless it has one already."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from services.errors import MessageError
from services.messages import Failure, RequestMessage
from services.sqs import Queue, Received
from web_tier.controller.ledger import Ledger
from web_tier.controller.repair import Repair

_log = logging.getLogger(__name__)

MOST_BATCHES = 100
"""Receives of one sweep; the rest waits for the next."""


@dataclass(frozen=True)
class DeadLetters:
    """Turns dead letters into results.

    Attributes:
        receives: how often a request was received before it came here; the queue's maxReceiveCount.
        active: whether this process may still act.
    """

    queue: Queue
    repair: Repair
    ledger: Ledger
    receives: int
    active: Callable[[], bool]

    def sweep(self) -> None:
        """Bury all dead letters there are, each deleted only after its image has a result."""
        for _ in range(MOST_BATCHES):
            messages = self.queue.receive(wait_seconds=0) if self.active() else []
            if not messages:
                return
            for message in messages:
                self._bury(message)
            self.queue.delete([message.receipt for message in messages])

    def _bury(self, message: Received) -> None:
        try:
            request = RequestMessage.from_json(message.body)
        except MessageError as error:
            _log.warning("dropped a malformed dead letter", extra={"message_id": message.id, "reason": str(error)})
            return
        if not self.ledger.knows(request.ref):
            _log.warning("dropped a dead letter of no accepted image", extra={"message_id": message.id})
        elif result := self.repair.result(request.ref):
            self.ledger.record([result])
        else:
            self.repair.fail(request.ref, self._failure(), self.receives)

    def _failure(self) -> Failure:
        return Failure(
            code="crashed_worker",
            message=f"could not be classified: the worker stopped {self.receives} times while this image was in hand",
        )
