"""DynamoDB whose operations are atomic, and whose Query reads one partition.

Stock moto reads, evaluates the condition and writes without a lock: of several threads that put one key on condition
that it does not exist, more than one can win, and a Query during a put can fail. Its Query sorts the whole table.
"""

import functools
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from services.embedded.mend import Mend

_locks: dict[str, threading.RLock] = {}
_queried = threading.local()


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


def _query_one_partition(original: Any) -> Any:
    @functools.wraps(original)
    def query(self: Any, hash_key: Any, *args: Any, **kwargs: Any) -> Any:
        """Query as stock does, over the items of one partition where the table's own key is queried."""
        index_name = args[_INDEX_POSITION] if len(args) > _INDEX_POSITION else kwargs.get("index_name")
        _queried.partition = hash_key if index_name is None else None
        try:
            return original(self, hash_key, *args, **kwargs)
        finally:
            _queried.partition = None

    return query


def _items_of_partition(original: Any) -> Any:
    def all_items(self: Any) -> list[Any]:
        """Return the items of the partition that this thread queries, or of the table."""
        partition = getattr(_queried, "partition", None)
        if partition is None:
            return list(original(self))
        found = self.items.get(partition)
        if found is None:
            return []
        return list(found.values()) if self.range_key_attr else [found]

    return all_items


def is_plain(attribute: Any) -> bool:
    """Say whether a DynamoDB attribute value is JSON as it stands: everything but binary is."""
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
_TABLE = "moto.dynamodb.models.table:Table"
_QUERY_PARAMETERS = (
    "self",
    "hash_key",
    "range_comparison",
    "range_objs",
    "limit",
    "exclusive_start_key",
    "scan_index_forward",
    "projection_expressions",
    "index_name",
    "consistent_read",
    "filter_expression",
    "hash_key_conditions",
    "range_key_conditions",
    "filter_kwargs",
)
_INDEX_POSITION = _QUERY_PARAMETERS.index("index_name") - 2  # among those after hash_key
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
MENDS = (
    *(Mend(f"{_RESPONSE}.{name}", ("self",), _atomic(tables), _RACY) for name, tables in _OPERATIONS.items()),
    Mend(f"{_TABLE}.query", _QUERY_PARAMETERS, _query_one_partition, "sorts the whole table for each page"),
    Mend(f"{_TABLE}.all_items", ("self",), _items_of_partition, "knows no partitions"),
    Mend(
        "moto.core.serialize:JSONSerializer._serialize_type_structure",
        ("self", "serialized", "value", "shape", "key"),
        _pass_plain_attributes,
        "looks for each of ten types in each attribute value",
    ),
)
