"""DynamoDB with atomic operations.

Stock moto reads, evaluates the condition and writes without a lock: of several threads that put one key on condition
that it does not exist, more than one can win, and a Query during a put can fail.
"""

import functools
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from localcloud.patches import Patch

_locks: dict[str, threading.RLock] = {}


def lock_of(table: str) -> threading.RLock:
    """Return the lock of a table, given by name or ARN; the same object for every caller."""
    return _locks.setdefault(table.rpartition("/")[2], threading.RLock())


def _atomic(tables_of: Any) -> Any:
    def build(original: Any) -> Any:
        @functools.wraps(original)
        def operation(self: Any) -> Any:
            with ExitStack() as held:
                for table in sorted(set(tables_of(self.body))):  # one order for all: no deadlock
                    held.enter_context(lock_of(table))
                return original(self)

        return operation

    return build


def _one_table(body: dict[str, Any]) -> Iterable[str]:
    return [body["TableName"]]


def _batch_tables(body: dict[str, Any]) -> Iterable[str]:
    return list(body["RequestItems"])


def _transaction_tables(body: dict[str, Any]) -> Iterable[str]:
    return [operation["TableName"] for item in body["TransactItems"] for operation in item.values()]


def is_plain(attribute: Any) -> bool:
    """Return True if a DynamoDB attribute value is JSON as it stands: everything but binary is."""
    if type(attribute) is not dict or len(attribute) != 1:
        return False
    ((kind, value),) = attribute.items()
    if kind in {"S", "N", "BOOL", "NULL", "SS", "NS"}:
        return True
    if kind == "L":
        return all(map(is_plain, value))
    return kind == "M" and all(map(is_plain, value.values()))


def _pass_plain_attributes(original: Any) -> Any:
    @functools.wraps(original)
    def serialize(self: Any, serialized: Any, value: Any, shape: Any, key: str) -> None:
        """Serialize a structure as stock does, and an attribute value that is JSON already as it is."""
        if shape.name == "AttributeValue" and key and is_plain(value):
            self._default_serialize(serialized, value, shape, key)
        else:
            original(self, serialized, value, shape, key)

    return serialize


_RACY = "evaluates its condition, or reads, without a lock against other writers"
_RESPONSE = "moto.dynamodb.responses:DynamoHandler"
_OPERATIONS = {
    "put_item": _one_table,
    "update_item": _one_table,
    "delete_item": _one_table,
    "get_item": _one_table,
    "query": _one_table,
    "scan": _one_table,
    "batch_write_item": _batch_tables,
    "batch_get_item": _batch_tables,
    "transact_write_items": _transaction_tables,
}
PATCHES = (
    *(Patch(f"{_RESPONSE}.{name}", ("self",), _atomic(tables), _RACY) for name, tables in _OPERATIONS.items()),
    Patch(
        "moto.core.serialize:JSONSerializer._serialize_type_structure",
        ("self", "serialized", "value", "shape", "key"),
        _pass_plain_attributes,
        "looks for each of ten types in each attribute value",
    ),
)
