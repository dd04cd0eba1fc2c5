"""Queries and scans: pages of a table, which are read row by row, so that each costs as much as it answers."""

import json
from contextlib import closing
from itertools import compress
from typing import Any, Final

from moto.dynamodb.exceptions import MockValidationException
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.table import Table

from localcloud.dynamodb.capacity import count_read
from localcloud.dynamodb.expressions import conditions, key_conditions
from localcloud.dynamodb.tables import ROW, verified
from localcloud.dynamodb.values import Key, key_bytes, key_of, key_types
from localcloud.store import LAST, NEXT, data

MAX_PAGE_BYTES: Final = 1024 * 1024
"""Most bytes of items that a page reads."""

_END: Final = LAST * 2_049  # sorts after every key: a binary one may have this byte only

Answer = dict[str, str]
"""The members of an answer by name, each as JSON."""


def query(backend: DynamoDBBackend, given: dict[str, Any]) -> Answer:
    """Return a page of a partition."""
    table, forward = backend.get_table(given["TableName"]), given.get("ScanIndexForward", True)
    types, spans = key_types(table), dict[str, tuple[bytes, bytes]]()
    for name, comparison, compared in key_conditions(given, table.schema):
        spans[name] = _span(comparison, types[name], [key_bytes(name, types[name], each) for each in compared])
    hash_key, _ = spans[table.hash_key_attr]
    low, high = spans.get(table.range_key_attr, (b"", _END))
    if (start := _start(table, given)) is not None:
        low, high = (max(low, start[1] + NEXT), high) if forward else (low, min(high, start[1]))
    statement = f"{ROW} AND hash_key = ? AND range_key >= ? AND range_key < ? ORDER BY range_key"
    return _page(given, table, statement if forward else f"{statement} DESC", hash_key, low, high)


def scan(backend: DynamoDBBackend, given: dict[str, Any]) -> Answer:
    """Return a page of a table."""
    table = backend.get_table(given["TableName"])
    statement = f"{ROW} AND (hash_key, range_key) > (?, ?) ORDER BY hash_key, range_key"
    return _page(given, table, statement, *(_start(table, given) or (b"", b"")))


def _start(table: Table, given: dict[str, Any]) -> Key | None:
    return key_of(table, given["ExclusiveStartKey"]) if "ExclusiveStartKey" in given else None


def _span(comparison: str, kind: str, values: list[bytes]) -> tuple[bytes, bytes]:
    """Return the first key that fulfils a condition, and the first one after those."""
    first, end = values[0], values[-1] + NEXT
    prefix = first.rstrip(LAST)
    spans = {
        "=": (first, end),
        "BETWEEN": (first, end),
        "<": (b"", first),
        "<=": (b"", end),
        ">": (end, _END),
        ">=": (first, _END),
        "BEGINS_WITH": (first, prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else _END),
    }
    if comparison not in spans or (comparison == "BEGINS_WITH" and kind == "N"):
        raise MockValidationException(f"Invalid KeyConditionExpression: {comparison} of a key of the type {kind}")
    return spans[comparison]


def _page(given: dict[str, Any], table: Table, statement: str, *bound: bytes) -> Answer:
    """Return the answer of a query or a scan: the first rows, as many as its limit and 1 MB allow."""
    limit, texts, total, members = given.get("Limit"), list[str](), 0, Answer()
    if limit is not None and limit < 1:
        raise MockValidationException("Limit must be greater than or equal to 1")
    with closing(data().rows(statement, table.owner, *bound)) as found:  # type: ignore[type-var]
        for row in found:
            size, text = verified(table, row)
            if len(texts) == limit or (texts and total + size > MAX_PAGE_BYTES):
                last = json.loads(texts[-1])
                members["LastEvaluatedKey"] = json.dumps({name: last[name] for name in table.table_key_attrs})
                break
            texts.append(text)
            total += size
    count_read(table.name, total, is_consistent=given.get("ConsistentRead", False))
    members["ScannedCount"] = str(len(texts))
    if "FilterExpression" in given:
        texts = list(compress(texts, conditions(given, "FilterExpression", map(json.loads, texts))))
    members["Count"] = str(len(texts))
    if given.get("Select") != "COUNT":
        members["Items"] = f"[{', '.join(texts)}]"
    return members
