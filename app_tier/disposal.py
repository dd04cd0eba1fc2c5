"""What becomes of images whose stage failed: a failed result, another try, or the end of this worker."""

import logging
import random
from collections.abc import Callable, Sequence

from app_tier.backoff import Backoff
from app_tier.faults import ImageFault, PassingFault, WorkerFault, meaning_of
from app_tier.keeper import Keeper
from app_tier.lifetime import Lifetime
from app_tier.task import Delivery, Task
from services.messages import Failure

RETRY_SECONDS = (2, 10)
"""An image whose stage failed for a passing reason comes again after so long, at least and at most."""

PIPELINE = "pipeline"
"""What the backoff knows the stages as."""

_log = logging.getLogger(__name__)


class Disposal:
    """Acts on what `meaning_of` says of an error.

    Args:
        keeper: gives back.
        lifetime: ends when the worker cannot go on.
        backoff: pauses the receiver.
        jitter: returns a random whole number between its arguments, both included.
    """

    def __init__(
        self,
        keeper: Keeper,
        lifetime: Lifetime,
        backoff: Backoff,
        jitter: Callable[[int, int], int] = random.randint,
    ) -> None:
        self._keeper, self._lifetime, self._backoff, self._jitter = keeper, lifetime, backoff, jitter

    def of(self, tasks: Sequence[Task[object]], error: Exception) -> Failure | None:
        """Return why the images failed for good; None when they have been given back instead."""
        images = [task.delivery.request.image_id for task in tasks]
        match meaning_of(error):
            case ImageFault(failure):
                _log.info("cannot be classified", extra={"images": images, "code": failure.code})
                return failure
            case WorkerFault(reason):
                self._lifetime.fail(reason)
                self._keeper.give_back([task.delivery for task in tasks])
            case PassingFault(reason):
                _log.warning("given back", extra={"images": images, "error": reason}, exc_info=error)
                self._backoff.failed(PIPELINE)
                self.retry_later([task.delivery for task in tasks])
        return None

    def retry_later(self, deliveries: Sequence[Delivery]) -> None:
        """Give `deliveries` back, for another try in some seconds."""
        self._keeper.give_back(deliveries, self._jitter(*RETRY_SECONDS))

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Give `deliveries` back at once, for nothing is wrong with them."""
        self._keeper.give_back(deliveries)

    def went_well(self) -> None:
        """Forget earlier failures: the services answer."""
        self._backoff.succeeded(PIPELINE)
