"""Repeated images: what the configured model has answered the same user for the same bytes before."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from core.cache import ResultCache
from core.messages import Response
from web_tier.intake.store import CLOUD_ERRORS

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repeats:
    """Looks images up in the result cache.

    Attributes:
        cache: the result cache.
        model_digest: returns the digest of the bundle that workers start with now; None when it is not known.
        clock: the time of day.
    """

    cache: ResultCache
    model_digest: Callable[[], str | None]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def find(self, owner: str, digests: Collection[str]) -> Mapping[str, Response]:
        """Return the results of `owner` by the SHA-256 of their image, of those `digests` that are known.

        A table that does not answer makes images go to a worker, as if they were new.
        """
        model_digest = self.model_digest()
        if model_digest is None or not digests:
            return {}
        try:
            return self.cache.find(owner, digests, model_digest, self.clock())
        except CLOUD_ERRORS:
            _log.warning("repeated images could not be looked up", exc_info=True)
            return {}
