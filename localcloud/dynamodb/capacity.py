"""The capacity that calls consume, which a call with `ReturnConsumedCapacity` answers: request units by table.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

READ_UNIT_BYTES: Final = 4 * 1024
WRITE_UNIT_BYTES: Final = 1024

_units: ContextVar[dict[str, float] | None] = ContextVar("units", default=None)
"""Units of the present call by the name of the table; None if the call does not ask for them."""


def is_counted() -> bool:
    """Return whether the present call asks for its units."""
    return _units.get() is not None


def count_read(table: str, size: int, *, is_consistent: bool) -> None:
    """Count the read of an item, or of a page of items together, in bytes; of one that does not exist, 0."""
    _count(table, max(1, -(-size // READ_UNIT_BYTES)) * (1.0 if is_consistent else 0.5))


def count_write(table: str, size: int) -> None:
    """Count the write of an item by its size in bytes, before or after the write, whichever is larger."""
    _count(table, max(1, -(-size // WRITE_UNIT_BYTES)))


def _count(table: str, units: float) -> None:
    if (counted := _units.get()) is not None:
        counted[table] = counted.get(table, 0) + units


@contextmanager
def counting(*, is_asked: bool) -> Iterator[dict[str, float]]:
    """Yield the units by table, which the block counts if they are asked for."""
    counted = dict[str, float]()
    token = _units.set(counted if is_asked else None)
    try:
        yield counted
    finally:
        _units.reset(token)


def consumed(operation: str, units: dict[str, float]) -> str:
    """Return the member `ConsumedCapacity` of an answer as JSON: a list if the operation may have several tables.

    Each item of a transaction is written twice, once to prepare it and once to commit it.
    """
    times = 2 if operation.startswith("Transact") else 1
    tables = [{"TableName": name, "CapacityUnits": times * count} for name, count in units.items()]
    return json.dumps(tables if operation.startswith(("Batch", "Transact")) else tables[0])
