"""DynamoDB of the local cloud: atomic operations, fast items and queries, and direct calls on items.

Stock moto reads, evaluates the condition and writes without a lock: if several threads put a key on condition that it
does not exist, more than one can succeed, and a Query during a put can fail. It measures an item anew for each
attribute that is added, and tests a value for all other types before its own, which is most of the time of a
BatchWriteItem. It sorts the whole table for each page of a Query.

For direct calls moto's handler still validates, evaluates and stores. They skip the general parsing of URL, headers
and body, and the serializing of an answer that is already JSON.
"""

import base64
import binascii
import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from moto.core.exceptions import ServiceException
from moto.dynamodb.comparisons import OpDefault
from moto.dynamodb.exceptions import ItemSizeTooLarge
from moto.dynamodb.models.dynamo_type import DynamoType, LimitedSizeDict
from moto.dynamodb.models.table import RESULT_SIZE_LIMIT
from moto.dynamodb.responses import DynamoHandler
from werkzeug.exceptions import HTTPException

from localcloud.dispatch import DirectRequest, DirectResponse, json_answer
from localcloud.patches import Patch

_locks: dict[str, threading.RLock] = {}


def lock_of(table: str) -> threading.RLock:
    """Return the lock of a table, by its name or ARN."""
    return _locks.setdefault(table.rpartition("/")[2], threading.RLock())


def _atomic(tables_of: Any) -> Any:
    def build(original: Any) -> Any:
        @functools.wraps(original)
        def operation(self: Any) -> Any:
            with ExitStack() as held:
                for table in sorted(set(tables_of(self.body))):  # the same order in all threads prevents deadlock
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


def is_json_value(attribute: Any) -> bool:
    """Return True if a DynamoDB attribute value is JSON already, which all but binary values are."""
    if type(attribute) is not dict or len(attribute) != 1:
        return False
    ((kind, value),) = attribute.items()
    if kind in {"S", "N", "BOOL", "NULL", "SS", "NS"}:
        return True
    if kind == "L":
        return all(map(is_json_value, value))
    return kind == "M" and all(map(is_json_value, value.values()))


def _pass_plain_attributes(original: Any) -> Any:
    @functools.wraps(original)
    def serialize(self: Any, serialized: Any, value: Any, shape: Any, key: str) -> None:
        """Serialize a structure as stock does; pass an attribute value that is already JSON."""
        if shape.name == "AttributeValue" and key and is_json_value(value):
            self._default_serialize(serialized, value, shape, key)
        else:
            original(self, serialized, value, shape, key)

    return serialize


_RACY = "evaluates its condition, or reads, without a lock against other writers"

_HANDLER = "moto.dynamodb.responses:DynamoHandler"

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

_TABLE_PATCHES = (
    *(Patch(f"{_HANDLER}.{name}", ("self",), _atomic(tables), _RACY) for name, tables in _OPERATIONS.items()),
    Patch(
        "moto.core.serialize:JSONSerializer._serialize_type_structure",
        ("self", "serialized", "value", "shape", "key"),
        _pass_plain_attributes,
        "tests each attribute value for ten types",
    ),
)

MAX_ITEM_BYTES = 405_000
"""Largest item in bytes, as in stock moto; AWS documents 400 KB."""

_BYTES_A_CHARACTER = 4


def _size(original: Any) -> Any:
    def size(self: Any) -> int:
        """Return the size of a value in bytes."""
        value = self.value
        if type(value) is str and value.isascii() and self.type in {"S", "N"}:
            return len(value)
        return original(self)  # type: ignore[no-any-return]

    return size


def _cast_value(original: Any) -> Any:
    def cast_value(self: Any) -> Any:
        """Return the Python value."""
        return self.value if self.type == "S" else original.fget(self)

    return property(cast_value)


def _item_init(_original: Any) -> Any:
    def init(self: Any, hash_key: Any, range_key: Any, attrs: dict[str, Any]) -> None:
        """Store the attributes, unless the item is too large."""
        self.hash_key, self.range_key = hash_key, range_key
        known = [key for key in (hash_key, range_key) if key is not None]
        self.attrs = LimitedSizeDict()
        for name, value in attrs.items():
            dict.__setitem__(self.attrs, name, _typed(value, known))
        if not _is_surely_small(self.attrs) and self.size() > MAX_ITEM_BYTES:
            raise ItemSizeTooLarge

    return init


def _typed(value: Any, known: list[Any]) -> Any:
    """Return the typed value; a value equal to a key is the key's object, which halves the memory of the key."""
    if type(value) is dict and "S" in value:
        for key in known:
            if key.type == "S" and key.value == value["S"]:
                return key
    return DynamoType(value)


def _is_surely_small(attrs: dict[str, Any]) -> bool:
    characters = 0
    for name, value in attrs.items():
        if type(value.value) is not str:
            return False
        characters += len(name) + len(value.value)
    return characters * _BYTES_A_CHARACTER <= MAX_ITEM_BYTES


def _to_dict(original: Any) -> Any:
    def to_dict(obj: Any) -> Any:
        """Return the members of an answer as plain JSON."""
        kind = type(obj)
        if kind is DynamoType and obj.type in _JSON_AS_IT_IS:
            return {obj.type: obj.value}
        if kind is dict or kind is LimitedSizeDict:
            return {name: to_dict(member) for name, member in obj.items()}
        if kind is list:
            return [to_dict(member) for member in obj]
        return obj if kind is str or kind is int else original(obj)

    return to_dict


_JSON_AS_IT_IS = frozenset({"S", "N", "BOOL", "NULL"})

_DYNAMO_TYPE = "moto.dynamodb.models.dynamo_type:DynamoType"

_ITEM_PATCHES = (
    Patch(f"{_DYNAMO_TYPE}.size", ("self",), _size, "makes seven tests of a text before it measures it"),
    Patch(f"{_DYNAMO_TYPE}.cast_value", ("self",), _cast_value, "makes five tests of a text before it returns it"),
    Patch("moto.dynamodb.responses:dynamo_to_dict", ("obj",), _to_dict, "tests whether each text is a date"),
    Patch(
        "moto.dynamodb.models.dynamo_type:Item.__init__",
        ("self", "hash_key", "range_key", "attrs"),
        _item_init,
        "measures the whole item for each attribute that it adds",
    ),
)

_queried = threading.local()

InRange = Callable[[str], bool]

_COMPARISONS: dict[str, Callable[..., InRange]] = {
    "=": lambda low: lambda key: key == low,
    "<": lambda low: lambda key: key < low,
    "<=": lambda low: lambda key: key <= low,
    ">": lambda low: lambda key: key > low,
    ">=": lambda low: lambda key: key >= low,
    "BETWEEN": lambda low, high: lambda key: low <= key <= high,
    "BEGINS_WITH": lambda low: lambda key: key.startswith(low),
}


class _QueryArguments(NamedTuple):
    """The positional arguments of moto's `Table.query`."""

    hash_key: Any
    range_comparison: str | None
    range_objs: list[Any]
    limit: int | None
    exclusive_start_key: dict[str, Any] | None
    scan_index_forward: bool
    projection_expressions: Any
    index_name: str | None = None
    consistent_read: bool = False
    filter_expression: Any = None


def _query(original: Any) -> Any:
    @functools.wraps(original)
    def query(self: Any, *arguments: Any, **conditions: Any) -> Any:
        """Query as stock does, but read only one partition of the table."""
        query_arguments = _QueryArguments(*arguments)
        in_range = _range_test(query_arguments.range_comparison, query_arguments.range_objs)
        if in_range is not None and _is_plain_query(self, query_arguments, conditions):
            return _first_page(self, _sorted_items(self, query_arguments, in_range), query_arguments.limit)
        with _reading_partition(query_arguments.hash_key if query_arguments.index_name is None else None):
            return original(self, *arguments, **conditions)

    return query


def _is_plain_query(table: Any, query_arguments: _QueryArguments, conditions: dict[str, Any]) -> bool:
    filtered = conditions.keys() - {"hash_key_conditions", "range_key_conditions"}
    narrowed = filtered or query_arguments.projection_expressions or query_arguments.index_name
    return (
        not narrowed
        and table.range_key_type == "S"
        and type(query_arguments.filter_expression) in {OpDefault, type(None)}
    )


def _range_test(comparison: str | None, values: list[Any]) -> InRange | None:
    """Return a test of sort keys, or None if stock moto must compare them."""
    if comparison is None:
        return lambda _key: True
    build = _COMPARISONS.get(comparison.upper())
    if build is None or any(value.type != "S" for value in values):
        return None
    return build(*(value.value for value in values))


def _sorted_items(table: Any, query_arguments: _QueryArguments, in_range: InRange) -> list[Any]:
    partition, forward = table.items.get(query_arguments.hash_key, {}), query_arguments.scan_index_forward
    found = [(key.value, item) for key, item in partition.items() if in_range(key.value)]
    if query_arguments.exclusive_start_key is not None:
        start = query_arguments.exclusive_start_key[table.range_key_attr]["S"]
        found = [pair for pair in found if (pair[0] > start if forward else pair[0] < start)]
    found.sort(key=lambda pair: pair[0], reverse=not forward)
    return [item for _, item in found]


def _first_page(table: Any, items: list[Any], limit: int | None) -> tuple[list[Any], int, dict[str, Any] | None]:
    """Return the first page of `items` by `limit` and DynamoDB's 1 MB, its length, and the key of the next page."""
    size = 0
    for number, item in enumerate(items):
        size += item.size()
        if number == limit or (number and size > RESULT_SIZE_LIMIT):
            return items[:number], number, table._get_last_evaluated_key(items[number - 1], None)
    return items, len(items), None


@contextmanager
def _reading_partition(partition: Any) -> Iterator[None]:
    """Restrict `all_items` to one partition in this thread while the block runs; None restricts nothing."""
    _queried.partition = partition
    try:
        yield
    finally:
        _queried.partition = None


def _items_of_partition(original: Any) -> Any:
    def all_items(self: Any) -> list[Any]:
        """Return the items of the partition that this thread queries, or all items of the table."""
        partition = getattr(_queried, "partition", None)
        if partition is None:
            return list(original(self))
        found = self.items.get(partition)
        if found is None:
            return []
        return list(found.values()) if self.range_key_attr else [found]

    return all_items


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

_QUERY_PATCHES = (
    Patch(
        f"{_TABLE}.query", _QUERY_PARAMETERS, _query, "sorts the whole table and copies what it found for each page"
    ),
    Patch(f"{_TABLE}.all_items", ("self",), _items_of_partition, "knows no partitions"),
)

PATCHES = (*_ITEM_PATCHES, *_QUERY_PATCHES, *_TABLE_PATCHES)

_METHODS = {
    "BatchGetItem": "batch_get_item",
    "BatchWriteItem": "batch_write_item",
    "DeleteItem": "delete_item",
    "GetItem": "get_item",
    "PutItem": "put_item",
    "Query": "query",
    "UpdateItem": "update_item",
}

_CALL_PARAMETERS: dict[str, type] = {
    "ConditionExpression": str,
    "ConsistentRead": bool,
    "ExclusiveStartKey": dict,
    "ExpressionAttributeNames": dict,
    "ExpressionAttributeValues": dict,
    "Item": dict,
    "Key": dict,
    "KeyConditionExpression": str,
    "Limit": int,
    "RequestItems": dict,
    "ScanIndexForward": bool,
    "Select": str,
    "TableName": str,
    "UpdateExpression": str,
}

_MEMBERS = frozenset(
    {
        "Attributes",
        "ConsumedCapacity",
        "Count",
        "Item",
        "ItemCollectionMetrics",
        "Items",
        "LastEvaluatedKey",
        "Responses",
        "ScannedCount",
        "UnprocessedItems",
        "UnprocessedKeys",
    }
)
"""Members of an answer; stock's serializer drops the others that moto's handler returns."""

_BINARY = re.compile(rb'"BS?"\s*:')  # base64 on the wire, bytes in moto


def answer(request: DirectRequest) -> DirectResponse | None:
    """Return the answer to a plain call on items, or None if stock moto must answer.

    A call that moto rejects goes to stock moto, too, which writes the error: nothing was written before, or a part of
    a batch of puts and deletes, which the second call repeats.
    """
    method = _METHODS.get(request.target)
    if method is None or _BINARY.search(request.read_body()):
        return None
    parameters = request.read_json()
    if not parameters or any(type(value) is not _CALL_PARAMETERS.get(name) for name, value in parameters.items()):
        return None
    handler = DynamoHandler()
    handler.current_account, handler.region = request.account, request.region
    handler.body = handler.params = parameters
    try:
        result = getattr(handler, method)().result
    except (ServiceException, HTTPException):
        return None
    members = {name: member for name, member in result.items() if name in _MEMBERS}
    body = json.dumps(members, default=lambda binary: base64.b64encode(binary).decode()).encode()
    return json_answer(body, ("x-amz-crc32", str(binascii.crc32(body))))
