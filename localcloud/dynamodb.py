"""DynamoDB of the local cloud: atomic operations, fast items and queries, and direct calls on items.

Stock moto reads, evaluates the condition and writes without a lock: if several threads put a key on condition that it
does not exist, more than one can succeed, and a Query during a put can fail. It measures an item again for each
attribute that is added, and tests a value for all other types before its own, which is most of the time of a
BatchWriteItem. It sorts the whole table for each page of a Query; here a page costs as much as it holds, as on AWS.

For direct calls moto's handler still validates, evaluates and stores. They skip the general parsing of URL, headers
and body, and the serializing of an answer that is already JSON.
"""

import base64
import binascii
import copy
import inspect
import json
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from moto.core.exceptions import ServiceException
from moto.dynamodb.comparisons import OpDefault
from moto.dynamodb.exceptions import ItemSizeTooLarge
from moto.dynamodb.models.dynamo_type import DynamoType, LimitedSizeDict
from moto.dynamodb.models.table import RESULT_SIZE_LIMIT
from moto.dynamodb.responses import DynamoHandler
from moto.dynamodb.responses import dynamo_to_dict as stock_to_dict
from werkzeug.exceptions import HTTPException

from localcloud.dispatch import DirectRequest, DirectResponse, json_answer, read_body
from localcloud.patches import Patches
from localcloud.state.recorder import recorder
from localcloud.stored_items import PLAIN_TYPES, StoredItems, bytes_of
from localcloud.temporary import LAST, NEXT

_HANDLER = "moto.dynamodb.responses:DynamoHandler"

_DYNAMO_TYPE = "moto.dynamodb.models.dynamo_type:DynamoType"

_TABLE = "moto.dynamodb.models.table:Table"

PATCHES = Patches()

_locks: dict[str, threading.RLock] = {}


def lock_of(table: str) -> threading.RLock:
    """Return the lock of a table, by its name or ARN."""
    return _locks.setdefault(table.rpartition("/")[2], threading.RLock())


def tables_of(body: dict[str, Any]) -> set[str]:
    """Return the tables of a call on items, by name or ARN."""
    if "RequestItems" in body:
        return set(body["RequestItems"])
    if "TransactItems" in body:
        return {operation["TableName"] for item in body["TransactItems"] for operation in item.values()}
    return {body["TableName"]}


def atomic(operation: str) -> Callable[[Any, Any], Any]:
    """Return a function that makes a call on items while it holds the locks of its tables."""

    def call(original: Any, self: Any) -> Any:
        with ExitStack() as held:
            for table in sorted(tables_of(self.body)):  # the same order in all threads prevents deadlock
                held.enter_context(lock_of(table))
            try:
                return original(self)
            finally:  # also after an error, before which a batch may have written some items
                recorder.items_changed(operation, self)

    return call


for _operation in (
    *("put_item", "update_item", "delete_item", "get_item", "query", "scan"),
    *("batch_write_item", "batch_get_item", "transact_write_items"),
):
    PATCHES.wrap(
        f"{_HANDLER}.{_operation}", "evaluates its condition, or reads, without a lock against other writers"
    )(atomic(_operation))


MAX_ITEM_BYTES = 405_000
"""Largest item in bytes, as in stock moto; AWS documents 400 KB."""

_BYTES_A_CHARACTER = 4


# Replaced, not wrapped: they are called for each attribute of each item.
_stock_size, _stock_value = DynamoType.size, inspect.getattr_static(DynamoType, "cast_value").fget


@PATCHES.replace(f"{_DYNAMO_TYPE}.size", "makes seven tests of a text before it measures it")
def size(self: Any) -> int:
    """Return the size of a value in bytes."""
    value = self.value
    if type(value) is str and value.isascii() and self.type in {"S", "N"}:
        return len(value)
    return _stock_size(self)  # type: ignore[no-any-return]


@PATCHES.replace(f"{_DYNAMO_TYPE}.cast_value", "makes five tests of a text before it returns it")
def cast_value(self: Any) -> Any:
    """Return the Python value."""
    return self.value if self.type == "S" else _stock_value(self)


@PATCHES.replace(
    "moto.dynamodb.models.dynamo_type:Item.__init__", "measures the whole item for each attribute that it adds"
)
def init(self: Any, hash_key: Any, range_key: Any, attrs: dict[str, Any]) -> None:
    """Store the attributes, unless the item is too large."""
    self.hash_key, self.range_key = hash_key, range_key
    # A value equal to a key is the key's object, which halves the memory of the key.
    known = {key.value: key for key in (range_key, hash_key) if key is not None and key.type == "S"}
    self.attrs = LimitedSizeDict()
    characters = 0
    for name, value in attrs.items():
        text = value.get("S") if type(value) is dict else None
        typed = known[text] if type(text) is str and text in known else DynamoType(value)
        dict.__setitem__(self.attrs, name, typed)
        # Other values than text are not measured here.
        characters += len(name) + len(typed.value) if type(typed.value) is str else MAX_ITEM_BYTES
    if characters * _BYTES_A_CHARACTER > MAX_ITEM_BYTES and self.size() > MAX_ITEM_BYTES:
        raise ItemSizeTooLarge


@PATCHES.replace("moto.dynamodb.models.dynamo_type:Item.size", "calls three functions for each attribute")
def item_size(self: Any) -> int:
    """Return the size of an item in bytes: of its names and values."""
    total = 0
    for name, typed in self.attrs.items():
        value = typed.value
        is_short = type(value) is str and value.isascii() and typed.type in {"S", "N"}
        total += len(name if name.isascii() else name.encode()) + (len(value) if is_short else typed.size())
    return total


@PATCHES.replace("moto.dynamodb.responses:dynamo_to_dict", "tests whether each text is a date")
def to_dict(obj: Any) -> Any:
    """Return the members of an answer as plain JSON."""
    kind = type(obj)
    if kind is DynamoType and obj.type in PLAIN_TYPES:
        return {obj.type: obj.value}
    if kind is dict or kind is LimitedSizeDict:
        return {name: to_dict(member) for name, member in obj.items()}
    if kind is list:
        return [to_dict(member) for member in obj]
    return obj if kind is str or kind is int else stock_to_dict(obj)


_queried = threading.local()


@PATCHES.wrap(
    f"{_TABLE}.__init__",
    "keeps all items in memory, and those of a partition in the order in which they were added",
    "self table_name account_id region schema attr throughput billing_mode indexes global_indexes streams "
    "sse_specification tags deletion_protection_enabled warm_throughput",
)
def init_table(original: Any, self: Any, *arguments: Any, **more: Any) -> None:
    """Keep the items in the temporary database, sorted."""
    original(self, *arguments, **more)
    if self.hash_key_type == self.range_key_type == "S":
        self.items = StoredItems()


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


@PATCHES.wrap(
    f"{_TABLE}.query",
    "sorts the whole table and copies what it found for each page",
    "self hash_key range_comparison range_objs limit exclusive_start_key scan_index_forward projection_expressions "
    "index_name consistent_read filter_expression hash_key_conditions range_key_conditions filter_kwargs",
)
def query(original: Any, self: Any, *arguments: Any, **conditions: Any) -> Any:
    """Query as stock does, but read only one partition of the table."""
    asked = _QueryArguments(*arguments)
    narrowed = asked.projection_expressions or asked.index_name
    narrowed = narrowed or conditions.keys() - {"hash_key_conditions", "range_key_conditions"}
    if not narrowed and type(self.items) is StoredItems and type(asked.filter_expression) in {OpDefault, type(None)}:
        page = _first_page(self, asked)
        if page is not None:
            return page
    _queried.partition = asked.hash_key if asked.index_name is None else None
    try:
        return original(self, *arguments, **conditions)
    finally:
        _queried.partition = None


def _first_page(table: Any, asked: _QueryArguments) -> tuple[list[Any], int, dict[str, Any] | None] | None:
    """Return the first page of a query by its limit and DynamoDB's 1 MB, its length, and the key of the next page.

    Return None if stock moto must compare the sort keys.
    """
    if any(value.type != "S" for value in asked.range_objs):
        return None
    span = _span(asked.range_comparison, [bytes_of(value) for value in asked.range_objs])
    if span is None:
        return None
    (low, high), forward = span, asked.scan_index_forward
    if asked.exclusive_start_key is not None:
        start = bytes_of(DynamoType(asked.exclusive_start_key[table.range_key_attr]))
        low, high = (max(low, start + NEXT), high) if forward else (low, min(high, start))
    items, total = list[Any](), 0
    with closing(table.items[asked.hash_key].between(low, high, forward=forward)) as found:
        for item in found:
            total += item.size()
            if len(items) == asked.limit or (items and total > RESULT_SIZE_LIMIT):
                return items, len(items), table._get_last_evaluated_key(items[-1], None)
            items.append(item)
    return items, len(items), None


def _span(comparison: str | None, values: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Return the first key that fulfils a condition and the first one after those, or None if moto must test them."""
    if comparison is None:
        return b"", LAST
    first, end = values[0], values[-1] + NEXT
    spans = {
        "=": (first, end),
        "BETWEEN": (first, end),
        "<": (b"", first),
        "<=": (b"", end),
        ">": (end, LAST),
        ">=": (first, LAST),
        "BEGINS_WITH": (first, first + LAST),
    }
    return spans.get(comparison.upper())


@PATCHES.wrap(f"{_TABLE}.all_items", "knows no partitions")
def all_items(original: Any, self: Any) -> list[Any]:
    """Return the items of the partition that this thread queries, or all items of the table."""
    partition = getattr(_queried, "partition", None)
    if partition is None:
        return list(original(self))
    found = self.items.get(partition)
    if found is None:
        return []
    return list(found.values()) if self.range_key_attr else [found]


_BACKEND = "moto.dynamodb.models:DynamoDBBackend"


@PATCHES.wrap(
    f"{_BACKEND}.update_item",
    "changes the item that it has read",
    "self table_name key update_expression expression_attribute_names expression_attribute_values attribute_updates "
    "expected condition_expression return_values_on_condition_check_failure",
)
def update_item(original: Any, self: Any, table_name: str, *arguments: Any, **more: Any) -> Any:
    """Update an item, and put it again."""
    item, items = original(self, table_name, *arguments, **more), self.get_table(table_name).items
    if type(items) is StoredItems:
        items[item.hash_key][item.range_key] = item
    return item


@PATCHES.wrap(
    f"{_BACKEND}.create_table",
    "forgets how a table was created, which a state must hold",
    "self name schema throughput attr global_indexes indexes streams billing_mode sse_specification tags "
    "deletion_protection_enabled warm_throughput",
)
def create_table(original: Any, self: Any, name: str, **settings: Any) -> Any:
    """Create a table that has its settings as they were given."""
    given = copy.deepcopy(settings)  # moto changes them
    table = original(self, name, **settings)
    table.created_with = given
    return table


@PATCHES.wrap(f"{_BACKEND}.delete_table", "leaves the items of a deleted table in the state")
def delete_table(original: Any, self: Any, name: str) -> Any:
    """Delete a table and its items."""
    with lock_of(name):
        table = original(self, name)
        recorder.table_deleted(table)
        return table


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
    if method is None or _BINARY.search(read_body(request.environ)):
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
