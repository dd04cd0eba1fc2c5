"""The requests that a worker held when its instance ended: they become visible at once.

Otherwise they would wait for their visibility timeout, while other workers are idle. A worker that ends in good order
returns its requests itself, and its last heartbeat names none.

**Which.** Those that its last heartbeat names, once EC2 says that nothing runs on the instance any more. A missing
description is not enough, nor an instance that a call terminates and that still shuts down. A heartbeat that is older
than a visibility timeout does not count: by then its requests are visible, or other workers have them.

**An old receipt.** A request may have been deleted since, or received by another worker. A FIFO queue refuses its
old receipt. Of a standard queue AWS says only that the latest receipt is needed, so it may accept an old one. Then a
second worker classifies the image, too, which changes no result. A released request counts as received once more, as
after its timeout.
"""

import logging
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from services.ec2 import Fleet
from services.lease import Tenure
from services.sqs import Queue
from web_tier.autoscaler.liveness import WorkerRegistry
from web_tier.autoscaler.observe import DESCRIPTION_SECONDS, GONE

_log = logging.getLogger(__name__)


@dataclass
class RequestReleaser:
    """Makes the requests visible that were held by workers of instances that have ended.

    Attributes:
        visibility_seconds: visibility timeout of the requests.
    """

    requests: Queue
    fleet: Fleet
    registry: WorkerRegistry
    tenure: Tenure
    visibility_seconds: float
    _described_at: float = field(default=float("-inf"), init=False)

    def release(self, capacity_ids: frozenset[str]) -> None:
        """Release what is held by workers of instances that have ended; those of `capacity_ids` run or start."""
        held, now = self.registry.held(self.visibility_seconds), self.registry.clock.monotonic()
        missing = held.keys() - capacity_ids
        if not missing or now - self._described_at < DESCRIPTION_SECONDS or not self.tenure.active():
            return
        self._described_at = now
        try:
            for instance in self.fleet.instances(GONE):
                worker = instance.instance_id
                if instance.has_ended and worker in missing:
                    refused = self.requests.change_visibility(held[worker], 0)
                    self.registry.forget_held(worker, held[worker])
                    extra = {"instance": worker, "named": len(held[worker]), "refused": len(refused)}
                    _log.info("released the requests of a worker that is gone", extra=extra)
        except (BotoCoreError, ClientError) as error:
            _log.warning("could not release the requests of a worker that is gone", extra={"error": str(error)})
