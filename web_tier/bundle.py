"""The bundle that the configuration names, as far as the web tier needs to know it; read again now and then."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from core.bundle_facts import BundleFacts, BundleUnreadableError, read_facts
from services.errors import NotFoundError

FRESH_SECONDS = 5.0
"""How old the facts may be: a bundle that is built anew in its place is known after so long."""

MAX_FIRST_READ_SECONDS = 5.0
"""How long a thread waits for the first facts, which another thread is reading."""

_log = logging.getLogger(__name__)


@dataclass
class ConfiguredBundle:
    """Facts of the bundle at `place`, for all threads of a process.

    Attributes:
        place: as the configuration names it.
        get: returns an object of S3, by bucket and key.
        sha256: pins the bundle; None trusts every one.
        clock: seconds, never set back.
    """

    place: Path
    get: Callable[[str, str], bytes]
    sha256: str | None = None
    clock: Callable[[], float] = time.monotonic
    _facts: BundleFacts = field(default_factory=BundleFacts, init=False)
    _read_at: float = field(default=float("-inf"), init=False)
    _problem: str | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _first_read: threading.Event = field(default_factory=threading.Event, init=False)

    def facts(self) -> BundleFacts:
        """Return what is known of the bundle; nothing when it cannot be read from here, which is logged once.

        One thread reads the facts when they are due. The others wait for the first facts, and afterwards use those
        that were read last, since S3 may be slow.
        """
        with self._lock:
            now = self.clock()
            is_due = now - self._read_at >= FRESH_SECONDS
            self._read_at = now if is_due else self._read_at
        if not is_due:
            self._first_read.wait(MAX_FIRST_READ_SECONDS)
            return self._facts
        try:
            self._facts, problem = read_facts(self.place, self.get, self.sha256), None
        except (BundleUnreadableError, NotFoundError, BotoCoreError, ClientError) as error:
            self._facts, problem = BundleFacts(), str(error)
        finally:
            self._first_read.set()
        if problem != self._problem and problem is not None:
            _log.warning("classes have numbers, not names, and repeated images go to a worker: %s", problem)
        self._problem = problem
        return self._facts
