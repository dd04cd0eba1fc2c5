"""A storage of PyPI's `limits` in the job table, so that all processes of the web tier count together.

An item for each key and minute (`RATE#key`, the minute's beginning) is added to in one step, at one write; some time
after its minute it expires. Minutes are those of the clock: when one ends needs not be read.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from botocore.exceptions import BotoCoreError, ClientError
from limits.storage import Storage

from services.clients import Clients
from services.config import Config
from services.table import EXPIRES_AT, Table

WAIT_SECONDS = 1.0
"""Longest that a request waits for its count."""

CONNECTIONS = 16
SECONDS = 60
_KEPT_SECONDS = 3600


class TableStorage(Storage):
    """Counts by minute in `table`; a failed call is raised as `limits.errors.StorageError`.

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

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:  # noqa: ARG002 (the minute is the clock's)
        """Count `amount` more in this minute; return how many there are."""
        began = self._began()
        item = self._table.add(
            _partition(key), str(began), {"hits": amount}, {EXPIRES_AT: began + SECONDS + _KEPT_SECONDS}
        )
        return 0 if item is None else int(item["hits"])

    def get(self, key: str) -> int:
        """Return how many there are in this minute."""
        item = self._table.get(_partition(key), str(self._began()))
        return 0 if item is None else int(item["hits"])

    def get_expiry(self, key: str) -> float:  # noqa: ARG002 (one clock for all keys)
        """Return when this minute ends, in seconds since the epoch."""
        return float(self._began() + SECONDS)

    def check(self) -> bool:
        """Tell whether the table answers."""
        self._table.get(_partition("check"), "0")
        return True

    def clear(self, key: str) -> None:
        """Forget this minute of a key."""
        self._table.delete_all([(_partition(key), str(self._began()))])

    def reset(self) -> int | None:
        """Forget nothing: what is counted expires by itself."""
        return None

    def _began(self) -> int:
        return int(self._clock() // SECONDS * SECONDS)


def hurried_table(config: Config) -> Table:
    """Return the job table, called once each time and not waited for longer than `WAIT_SECONDS`."""
    endpoint = replace(
        config.aws.endpoint(CONNECTIONS), max_attempts=1, connect_timeout=WAIT_SECONDS, read_timeout=WAIT_SECONDS
    )
    return Table(Clients(endpoint).dynamodb, config.names.job_table)


def _partition(key: str) -> str:
    return f"RATE#{key}"
