"""A storage of PyPI's `limits` in the job table, so that all processes of the web tier count together.

Each key and window has an item (`RATE#key`, the window's start), which one write increments; the item expires some
time after its window. A window is a minute or an hour of the clock, as the end of the key names it, so its end is
known without a read.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from botocore.exceptions import BotoCoreError, ClientError
from limits.storage import Storage

from core.config import Config
from services.clients import Clients
from services.table import EXPIRES_AT, Table

WAIT_SECONDS = 1.0
"""Seconds that a request waits for its count."""

CONNECTIONS = 16
SECONDS = {"minute": 60, "hour": 3600}
"""Seconds of a window, by the end of a key."""

_KEPT_SECONDS = 3600


class TableStorage(Storage):
    """Counts by minute and hour in `table`; a failed call is raised as `limits.errors.StorageError`.

    Args:
        table: the job table, with a client of short timeouts.
        clock: seconds since the epoch.
    """

    STORAGE_SCHEME = None

    def __init__(self, table: Table, clock: Callable[[], float] = time.time) -> None:
        super().__init__(wrap_exceptions=True)
        self._table, self._clock = table, clock

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """The errors that a call of the table may raise."""
        return (BotoCoreError, ClientError)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:  # noqa: ARG002 (the clock decides the window)
        """Add `amount` to the count of this window; return the count."""
        expires_at = self._end(key) + _KEPT_SECONDS
        item = self._table.add(_partition(key), self._start(key), {"hits": amount}, {EXPIRES_AT: expires_at})
        return 0 if item is None else int(item["hits"])

    def get(self, key: str) -> int:
        """Return the count of this window."""
        item = self._table.get(_partition(key), self._start(key))
        return 0 if item is None else int(item["hits"])

    def get_expiry(self, key: str) -> float:
        """Return when this window ends, in seconds since the epoch."""
        return float(self._end(key))

    def check(self) -> bool:
        """Return whether the table answers."""
        self._table.get(_partition("check"), "0")
        return True

    def clear(self, key: str) -> None:
        """Delete the count of this window."""
        self._table.delete_all([(_partition(key), self._start(key))])

    def reset(self) -> int | None:
        """Do nothing: counts expire by themselves."""
        return None

    def _start(self, key: str) -> str:
        return str(self._end(key) - _seconds(key))

    def _end(self, key: str) -> int:
        return int(self._clock() // _seconds(key) + 1) * _seconds(key)


def _seconds(key: str) -> int:
    return SECONDS[key.rpartition("/")[2]]


def hurried_table(config: Config) -> Table:
    """Return the job table with a client that does not retry, and waits for `WAIT_SECONDS` at most."""
    endpoint = replace(
        config.aws.endpoint(CONNECTIONS), max_attempts=1, connect_timeout=WAIT_SECONDS, read_timeout=WAIT_SECONDS
    )
    return Table(Clients(endpoint).dynamodb, config.names.job_table)


def _partition(key: str) -> str:
    return f"RATE#{key}"
