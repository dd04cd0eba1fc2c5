"""A storage of PyPI's `limits` in the job table, so that all processes of the web tier count together.

An item for each key and window (`RATE#key`, the window's beginning) is added to in one step, at one write; some time
after its window it expires. A window is a minute or an hour of the clock, as the end of the key says. So its end
needs not be read.
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
"""Longest that a request waits for its count."""

CONNECTIONS = 16
SECONDS = {"minute": 60, "hour": 3600}
"""Of a window, by the end of a key."""

_KEPT_SECONDS = 3600


class TableStorage(Storage):
    """Counts by minute and hour in `table`; a failed call is raised as `limits.errors.StorageError`.

    Args:
        table: the job table, called by a client that does not wait for long.
        clock: seconds since the epoch.
    """

    STORAGE_SCHEME = None

    def __init__(self, table: Table, clock: Callable[[], float] = time.time) -> None:
        super().__init__(wrap_exceptions=True)
        self._table, self._clock = table, clock

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """What a call of the table may raise."""
        return (BotoCoreError, ClientError)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:  # noqa: ARG002 (the window is the clock's)
        """Count `amount` more in this window; return how many there are."""
        expires_at = self._ends(key) + _KEPT_SECONDS
        item = self._table.add(_partition(key), self._began(key), {"hits": amount}, {EXPIRES_AT: expires_at})
        return 0 if item is None else int(item["hits"])

    def get(self, key: str) -> int:
        """Return how many there are in this window."""
        item = self._table.get(_partition(key), self._began(key))
        return 0 if item is None else int(item["hits"])

    def get_expiry(self, key: str) -> float:
        """Return when this window ends, in seconds since the epoch."""
        return float(self._ends(key))

    def check(self) -> bool:
        """Return whether the table answers."""
        self._table.get(_partition("check"), "0")
        return True

    def clear(self, key: str) -> None:
        """Forget this window of a key."""
        self._table.delete_all([(_partition(key), self._began(key))])

    def reset(self) -> int | None:
        """Forget nothing: what is counted expires by itself."""
        return None

    def _began(self, key: str) -> str:
        return str(self._ends(key) - _seconds(key))

    def _ends(self, key: str) -> int:
        return int(self._clock() // _seconds(key) + 1) * _seconds(key)


def _seconds(key: str) -> int:
    return SECONDS[key.rpartition("/")[2]]


def hurried_table(config: Config) -> Table:
    """Return the job table, called once each time and not waited for longer than `WAIT_SECONDS`."""
    endpoint = replace(
        config.aws.endpoint(CONNECTIONS), max_attempts=1, connect_timeout=WAIT_SECONDS, read_timeout=WAIT_SECONDS
    )
    return Table(Clients(endpoint).dynamodb, config.names.job_table)


def _partition(key: str) -> str:
    return f"RATE#{key}"
