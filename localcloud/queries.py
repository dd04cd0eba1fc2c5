"""DynamoDB's Query, which reads what it answers: one range of one partition.

Stock moto sorts the whole table for each page, then sizes, compares and copies item after item. Queries of a table by
a text sort key are answered here; those of an index, with a filter or a projection are stock's, over one partition.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from moto.dynamodb.comparisons import OpDefault
from moto.dynamodb.models.table import RESULT_SIZE_LIMIT

from localcloud.patches import Patch

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


class _Asked(NamedTuple):
    """What stock's `Table.query` is given by position."""

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
        """Query as stock does, reading no more than one partition of the table."""
        asked = _Asked(*arguments)
        in_range = _range(asked.range_comparison, asked.range_objs)
        if in_range is not None and _is_plain(self, asked, conditions):
            return _page(self, _sorted_items(self, asked, in_range), asked.limit)
        with _reading(asked.hash_key if asked.index_name is None else None):
            return original(self, *arguments, **conditions)

    return query


def _is_plain(table: Any, asked: _Asked, conditions: dict[str, Any]) -> bool:
    filtered = conditions.keys() - {"hash_key_conditions", "range_key_conditions"}
    narrowed = filtered or asked.projection_expressions or asked.index_name
    return not narrowed and table.range_key_type == "S" and type(asked.filter_expression) in {OpDefault, type(None)}


def _range(comparison: str | None, values: list[Any]) -> InRange | None:
    """Return what tells whether a sort key is asked for, or None where stock must compare."""
    if comparison is None:
        return lambda _key: True
    build = _COMPARISONS.get(comparison.upper())
    if build is None or any(value.type != "S" for value in values):
        return None
    return build(*(value.value for value in values))


def _sorted_items(table: Any, asked: _Asked, in_range: InRange) -> list[Any]:
    partition, forward = table.items.get(asked.hash_key, {}), asked.scan_index_forward
    found = [(key.value, item) for key, item in partition.items() if in_range(key.value)]
    if asked.exclusive_start_key is not None:
        start = asked.exclusive_start_key[table.range_key_attr]["S"]
        found = [pair for pair in found if (pair[0] > start if forward else pair[0] < start)]
    found.sort(key=lambda pair: pair[0], reverse=not forward)
    return [item for _, item in found]


def _page(table: Any, items: list[Any], limit: int | None) -> tuple[list[Any], int, dict[str, Any] | None]:
    """Return the first of `items` that `limit` and DynamoDB's 1 MB allow, their number, and the key to go on from."""
    size = 0
    for number, item in enumerate(items):
        size += item.size()
        if number == limit or (number and size > RESULT_SIZE_LIMIT):
            return items[:number], number, table._get_last_evaluated_key(items[number - 1], None)
    return items, len(items), None


@contextmanager
def _reading(partition: Any) -> Iterator[None]:
    """Let `all_items` return the items of one partition in this thread meanwhile; of None, all."""
    _queried.partition = partition
    try:
        yield
    finally:
        _queried.partition = None


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
PATCHES = (
    Patch(
        f"{_TABLE}.query", _QUERY_PARAMETERS, _query, "sorts the whole table and copies what it found for each page"
    ),
    Patch(f"{_TABLE}.all_items", ("self",), _items_of_partition, "knows no partitions"),
)
