"""DynamoDB's calls on items, made on the rows of the store.

Each call holds the lock of the store, so it is atomic, and tests its conditions before it writes. The parameters of
2012, such as `Expected` and `KeyConditions`, are refused: expressions have replaced them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from moto.core.exceptions import JsonRESTError
from moto.dynamodb import exceptions
from moto.dynamodb.exceptions import ConditionalCheckFailed, MockValidationException
from moto.dynamodb.models import DynamoDBBackend, dynamodb_backends
from moto.dynamodb.models.table import Table

from localcloud.clock import wall_seconds
from localcloud.dispatch import DirectRequest, DirectResponse, json_answer, operation_of, processed
from localcloud.dynamodb.capacity import consumed, count_read, count_write, counting
from localcloud.dynamodb.expressions import EXPRESSIONS, check_placeholders, conditions, updated
from localcloud.dynamodb.pages import MAX_PAGE_BYTES, Answer, query, scan
from localcloud.dynamodb.tables import item_at, read, write
from localcloud.dynamodb.values import Attributes, Key, key_of, measured
from localcloud.store import data

_MAX_BATCH_BYTES: Final = 16 * MAX_PAGE_BYTES  # of items that a BatchGetItem answers
_MAX_TRANSACTION_BYTES: Final = 4 * MAX_PAGE_BYTES  # of items that a TransactWriteItems writes
_MAX_WRITES: Final = 25  # entries of a BatchWriteItem
_MAX_READS: Final = 100  # keys of a BatchGetItem, and entries of a transaction

TOKEN_SECONDS: Final = 600.0
"""Seconds in which a second transaction with the same token is the first one."""

# As the duplicates of no queue; `id` is a digest of the entries.
_TRANSACTION: Final = "SELECT id FROM duplicates WHERE queue = 0 AND key = ? AND ends > ?"
_ADD_TRANSACTION: Final = "INSERT OR REPLACE INTO duplicates VALUES (0, ?, ?, ?, 0)"
_FORGET_TRANSACTIONS: Final = "DELETE FROM duplicates WHERE queue = 0 AND ends <= ?"

_OF_MOTO: Final = frozenset(
    {
        *("CreateTable", "DeleteTable", "DescribeContinuousBackups", "DescribeEndpoints", "DescribeTable"),
        *("DescribeTimeToLive", "ListTables", "ListTagsOfResource", "RestoreTableToPointInTime", "TagResource"),
        *("UntagResource", "UpdateContinuousBackups", "UpdateTable", "UpdateTimeToLive"),
    }
)
"""Calls on tables, which moto answers; all others that are not in `_CALLS` are refused."""

_TYPES: Final[Mapping[str, type]] = {
    **dict.fromkeys(EXPRESSIONS | {"ClientRequestToken", "ReturnValues", "Select", "TableName"}, str),
    "ReturnConsumedCapacity": str,
    **dict.fromkeys(("ConsistentRead", "ScanIndexForward"), bool),
    **dict.fromkeys(("ExclusiveStartKey", "ExpressionAttributeNames", "ExpressionAttributeValues"), dict),
    **dict.fromkeys(("Item", "Key", "RequestItems"), dict),
    **dict.fromkeys(("Keys", "TransactItems"), list),
    "Limit": int,
    "ReturnValuesOnConditionCheckFailure": str,
}
"""The types of the parameters."""

_CHOICES: Final = {
    "ReturnConsumedCapacity": {"NONE", "TOTAL"},
    "ReturnValues": {"NONE", "ALL_OLD", "UPDATED_OLD", "ALL_NEW", "UPDATED_NEW"},
    "ReturnValuesOnConditionCheckFailure": {"NONE", "ALL_OLD"},
    "Select": {"ALL_ATTRIBUTES", "COUNT"},
}

Change = tuple[Table, Key, Attributes | None, int]
"""What `write` takes."""


def answer(request: DirectRequest) -> DirectResponse | None:
    """Return the answer to a call; None if moto answers it."""
    operation = operation_of("dynamodb", request.environ)
    if operation in _OF_MOTO:
        return None
    try:
        status, content = "200 OK", _json_of(_members(request, operation))
    except JsonRESTError as error:
        status, content = "400 Bad Request", error.description
    return replace(json_answer(content.encode()), status=status)


def _members(request: DirectRequest, operation: str) -> Answer:
    if operation not in _CALLS:
        raise JsonRESTError("UnknownOperationException", f"{operation} is not available in the local cloud")
    call, needed = _CALLS[operation]
    given = _checked(request.read_json(), needed)
    is_asked = given.get("ReturnConsumedCapacity") == "TOTAL"
    with data().lock, counting(is_asked=is_asked) as units:
        answered = call(dynamodb_backends[request.account][request.region], given)
    return answered | {"ConsumedCapacity": consumed(operation, units)} if is_asked else answered


def _json_of(members: Answer) -> str:
    return "{" + ", ".join(f'"{name}": {text}' for name, text in members.items()) + "}"


def _checked(given: Any, needed: tuple[str, ...]) -> dict[str, Any]:
    """Return the parameters of a call, or of an entry, if all are known, of their types, and none is missing."""
    if type(given) is not dict:
        raise MockValidationException("The parameters must be an object")
    for name, value in given.items():
        if name not in _TYPES:
            raise MockValidationException(f"The parameter {name} is not available in the local cloud")
        if type(value) is not _TYPES[name]:
            raise MockValidationException(f"The parameter {name} must be of the type {_TYPES[name].__name__}")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise MockValidationException(f"Value {value!r} at {name} must be one of {sorted(_CHOICES[name])}")
    if missing := [name for name in needed if name not in given]:
        raise MockValidationException(f"The parameter {missing[0]} must not be null")
    check_placeholders(given)
    return given


def _entries(given: Any, kinds: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the kind and the parameters of each entry of a batch or transaction."""
    if type(given) is not list or not 1 <= len(given) <= _MAX_READS:
        raise MockValidationException(f"The call takes a list of 1 to {_MAX_READS} entries")
    for entry in given:
        if type(entry) is not dict or len(entry) != 1 or not entry.keys() <= kinds.keys():
            raise MockValidationException(f"An entry must have one member of {', '.join(kinds)}")
        [(kind, asked)] = entry.items()
        yield kind, _checked(asked, kinds[kind])


def _require(given: dict[str, Any], old: Attributes | None) -> None:
    """Raise `ConditionalCheckFailed` if the condition of a call does not hold for an item."""
    if "ConditionExpression" in given and not all(conditions(given, "ConditionExpression", [old])):
        is_shown = given.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
        raise ConditionalCheckFailed(item=old if is_shown else None)


def _put(table: Table, given: dict[str, Any]) -> Change:
    key, size = measured(table, given["Item"])
    return table, key, given["Item"], size


def _deletion(table: Table, given: dict[str, Any]) -> Change:
    return table, key_of(table, given["Key"]), None, 0


def _replace(change_of: Callable[..., Change], backend: DynamoDBBackend, given: dict[str, Any]) -> Answer:
    """Put or delete an item if its condition holds."""
    change = change_of(backend.get_table(given["TableName"]), given)
    if (wanted := given.get("ReturnValues", "NONE")) not in {"NONE", "ALL_OLD"}:
        raise MockValidationException(f"Return values set to invalid value: {wanted}")
    old = item_at(*change[:2]) if wanted == "ALL_OLD" or "ConditionExpression" in given else None
    _require(given, old)
    write(*change)
    return {"Attributes": json.dumps(old)} if old and wanted == "ALL_OLD" else {}


def _update_item(backend: DynamoDBBackend, given: dict[str, Any]) -> Answer:
    table, wanted = backend.get_table(given["TableName"]), given.get("ReturnValues", "NONE")
    key = key_of(table, given["Key"])
    old = item_at(table, key)
    _require(given, old)
    before = old or given["Key"]
    new = updated(table, given, before)
    text = write(table, key, new, measured(table, new)[1])
    if wanted == "ALL_NEW":
        return {"Attributes": text}
    shown = old if wanted == "ALL_OLD" else {}
    if wanted.startswith("UPDATED"):
        source = before if wanted == "UPDATED_OLD" else new
        shown = {name: value for name, value in source.items() if before.get(name) != new.get(name)}
    return {"Attributes": json.dumps(shown)} if shown else {}


def _get_item(backend: DynamoDBBackend, given: dict[str, Any]) -> Answer:
    table = backend.get_table(given["TableName"])
    found = read(table, key_of(table, given["Key"]))
    count_read(table.name, found[0] if found else 0, is_consistent=given.get("ConsistentRead", False))
    return {} if found is None else {"Item": found[1]}


def _check_batch(places: list[tuple[int, Key]], most: int) -> None:
    """Raise `MockValidationException` if a batch is empty or too long, or has a key twice."""
    if not 1 <= len(places) <= most:
        raise MockValidationException(f"Too many items requested: the call takes 1 to {most}, not {len(places)}")
    if len(set(places)) < len(places):
        raise MockValidationException("Provided list of item keys contains duplicates")


def _processed(count: int) -> int:
    """Return how many entries of a batch are processed, as `dispatch.processed` does; none is an error."""
    if not (kept := processed(count)):
        error = "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"
        raise exceptions.DynamodbException(error, "The level of throughput is exceeded")
    return kept


def _batch_write_item(backend: DynamoDBBackend, given: dict[str, Any]) -> Answer:
    kinds, changes = {"PutRequest": ("Item",), "DeleteRequest": ("Key",)}, list[Change]()
    for name, entries in given["RequestItems"].items():
        table = backend.get_table(name)
        for kind, asked in _entries(entries, kinds):
            changes.append(_put(table, asked) if kind == "PutRequest" else _deletion(table, asked))
    _check_batch([(table.owner, key) for table, key, *_ in changes], _MAX_WRITES)
    kept, left = _processed(len(changes)), dict[str, list[Any]]()
    with data().change():
        for change in changes[:kept]:
            write(*change)
    for name, entry in [(name, each) for name, some in given["RequestItems"].items() for each in some][kept:]:
        left.setdefault(name, []).append(entry)
    return {"UnprocessedItems": json.dumps(left)}


def _batch_get_item(backend: DynamoDBBackend, given: dict[str, Any]) -> Answer:
    wanted = list[tuple[str, Table, Key, Attributes]]()
    for name, asked in given["RequestItems"].items():
        table, keys = backend.get_table(name), _checked(asked, ("Keys",))["Keys"]
        wanted += [(name, table, key_of(table, each), each) for each in keys]
    _check_batch([(table.owner, key) for _, table, key, _ in wanted], _MAX_READS)
    texts, left, total = {name: list[str]() for name in given["RequestItems"]}, dict[str, Any](), 0
    kept = _processed(len(wanted))
    for number, (name, table, key, attributes) in enumerate(wanted):
        size, text = (read(table, key) or (0, "")) if number < kept else (0, "")
        total += size
        if number >= kept or total > _MAX_BATCH_BYTES:
            left.setdefault(name, {**given["RequestItems"][name], "Keys": []})["Keys"].append(attributes)
            continue
        count_read(name, size, is_consistent=given["RequestItems"][name].get("ConsistentRead", False))
        if text:
            texts[name].append(text)
    responses = _json_of({json.dumps(name)[1:-1]: f"[{', '.join(some)}]" for name, some in texts.items()})
    return {"Responses": responses, "UnprocessedKeys": json.dumps(left)}


_WRITES: Final = {
    "Put": ("TableName", "Item"),
    "Delete": ("TableName", "Key"),
    "Update": ("TableName", "Key", "UpdateExpression"),
    "ConditionCheck": ("TableName", "Key", "ConditionExpression"),
}


def _transact_write_items(backend: DynamoDBBackend, given: dict[str, Any]) -> Answer:
    """Write items together; a call with the token of one that was made in the last ten minutes changes nothing."""
    token, now = f"{backend.account_id} {backend.region_name} {given.get('ClientRequestToken')}", wall_seconds()
    entries = hashlib.sha256(json.dumps(given["TransactItems"]).encode()).hexdigest()
    before = data().read(_TRANSACTION, token, now) if "ClientRequestToken" in given else []
    if before and before[0][0] != entries:
        error = "com.amazonaws.dynamodb.v20120810#IdempotentParameterMismatchException"
        raise exceptions.DynamodbException(error, "The token was used for other parameters")
    changes = [] if before else _checked_writes(backend, given)
    for table, key in _places(backend, given) if before else ():  # it is found out what the first call has written
        count_read(table.name, (read(table, key) or (0,))[0], is_consistent=True)
    with data().change():
        for change in changes:
            write(*change)
        if "ClientRequestToken" in given and not before:
            data().write(_FORGET_TRANSACTIONS, now)
            data().write(_ADD_TRANSACTION, token, now + TOKEN_SECONDS, entries)
    return {}


def _places(backend: DynamoDBBackend, given: dict[str, Any]) -> Iterator[tuple[Table, Key]]:
    """Yield the table and the key of each write of a transaction."""
    for kind, asked in _entries(given["TransactItems"], _WRITES):
        table = backend.get_table(asked["TableName"])
        yield (_put if kind == "Put" else _deletion)(table, asked)[:2]


def _checked_writes(backend: DynamoDBBackend, given: dict[str, Any]) -> list[Change]:
    """Return the changes of a transaction if all of its conditions hold."""
    changes, places, reasons = list[Change](), set[tuple[int, Key]](), list[Any]()
    for kind, asked in _entries(given["TransactItems"], _WRITES):
        table = backend.get_table(asked["TableName"])
        _, key, item, size = _put(table, asked) if kind == "Put" else _deletion(table, asked)
        if (table.owner, key) in places:
            raise exceptions.MultipleTransactionsException
        places.add((table.owner, key))
        old = item_at(table, key)
        try:
            _require(asked, old)
        except ConditionalCheckFailed as error:
            reasons.append(("ConditionalCheckFailed", error.message, json.loads(error.description).get("Item")))
            continue
        reasons.append((None, None, None))
        if kind == "Update":
            item = updated(table, asked, old or asked["Key"])
            size = measured(table, item)[1]
        if kind == "ConditionCheck":
            count_write(table.name, (read(table, key) or (0,))[0])
        else:
            changes.append((table, key, item, size))
    if any(code for code, *_ in reasons):
        raise exceptions.TransactionCanceledException(reasons)
    if sum(size for *_, size in changes) > _MAX_TRANSACTION_BYTES:
        raise MockValidationException("Transaction request size has exceeded the maximum of 4 MB")
    return changes


_CALLS: Final[Mapping[str, tuple[Callable[[DynamoDBBackend, dict[str, Any]], Answer], tuple[str, ...]]]] = {
    "BatchGetItem": (_batch_get_item, ("RequestItems",)),
    "BatchWriteItem": (_batch_write_item, ("RequestItems",)),
    "DeleteItem": (partial(_replace, _deletion), ("TableName", "Key")),
    "GetItem": (_get_item, ("TableName", "Key")),
    "PutItem": (partial(_replace, _put), ("TableName", "Item")),
    "Query": (query, ("TableName", "KeyConditionExpression")),
    "Scan": (scan, ("TableName",)),
    "TransactWriteItems": (_transact_write_items, ("TransactItems",)),
    "UpdateItem": (_update_item, _WRITES["Update"]),
}
"""By name: the function of each call, which the caller makes holding the store's lock, and its needed parameters."""
