"""Dead letters: requests that were received too often. Each becomes a failed result, unless it has one already.

When the recorder records such a result, it also records the image for operators: `core/dead_letters.py`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from core.messages import RequestMessage, crashed_worker
from services.errors import MessageError
from services.sqs import Queue, ReceivedMessage
from web_tier.controller.repair import ResultRecovery
from web_tier.controller.result_recorder import ResultRecorder

_log = logging.getLogger(__name__)

MAX_BATCHES = 100
"""Receives of one sweep; the rest waits for the next."""


@dataclass(frozen=True)
class DeadLetters:
    """Turns dead letters into results.

    Attributes:
        receives: how often a request was received before it came here; the queue's maxReceiveCount.
        active: whether this process may still act.
    """

    queue: Queue
    repair: ResultRecovery
    recorder: ResultRecorder
    receives: int
    active: Callable[[], bool]

    def sweep(self) -> None:
        """Bury all dead letters there are, each deleted only after its image has a result."""
        for _ in range(MAX_BATCHES):
            messages = self.queue.receive(wait_seconds=0) if self.active() else []
            if not messages:
                return
            self.queue.delete([message.receipt for message in messages if self._is_buried(message)])

    def _is_buried(self, message: ReceivedMessage) -> bool:
        """Bury a letter; return False if that failed, so that it comes again and delays no other."""
        try:
            self._bury(message)
        except Exception:  # noqa: BLE001 (it is logged)
            _log.exception("a dead letter could not become a result", extra={"message_id": message.id})
            return False
        return True

    def _bury(self, message: ReceivedMessage) -> None:
        try:
            request = RequestMessage.from_json(message.body)
        except MessageError as error:
            _log.warning("dropped a malformed dead letter", extra={"message_id": message.id, "reason": str(error)})
            return
        if not self.recorder.knows(request.ref):
            _log.warning("dropped a dead letter of no accepted image", extra={"message_id": message.id})
        else:
            tries = request.crashes + self.receives
            self.repair.fail(request.ref, crashed_worker(tries), attempt=request.attempt, attempts=tries)
