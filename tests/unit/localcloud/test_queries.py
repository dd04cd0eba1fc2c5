"""A Query reads one range of one partition and answers what stock moto's answers from the whole table."""

from collections.abc import Iterable
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.dynamodb.models.table import RESULT_SIZE_LIMIT, Table

from localcloud.launch import REGION
from localcloud.patches import apply_patches

_names = count()
SORTS = st.sampled_from(["", "a", "ab", "abc", "b", "é", "z", "\U0010ffff"])
RANGES: st.SearchStrategy[tuple[Any, Any]] = st.one_of(
    st.just((None, [])),
    st.tuples(st.sampled_from(["=", "<", "<=", ">", ">=", "BEGINS_WITH"]), st.tuples(SORTS)),
    st.tuples(st.just("BETWEEN"), st.tuples(SORTS, SORTS)),
)


def table_of(keys: Iterable[tuple[str, str]], text: str = "x") -> Table:
    apply_patches("dynamodb")
    backend = dynamodb_backends["123456789012"][REGION]
    table: Table = backend.create_table(
        f"queried-{next(_names)}",
        schema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        attr=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
        throughput=None,
        indexes=None,
        global_indexes=None,
        streams=None,
        billing_mode="PAY_PER_REQUEST",
        sse_specification=None,
        tags=[],
        deletion_protection_enabled=None,
        warm_throughput=None,
    )
    for pk, sk in keys:
        table.put_item({"pk": {"S": pk}, "sk": {"S": sk}, "v": {"S": text}})
    return table


def pages(query: Any, table: Table, asked: tuple[Any, Any], limit: int | None, forward: bool) -> list[list[Item]]:
    """All pages of a query, each begun where the one before said."""
    values = [DynamoType({"S": value}) for value in asked[1]]
    found, start = [], None
    while True:
        items, scanned, last = query(table, DynamoType({"S": "p"}), asked[0], values, limit, start, forward, None)
        assert scanned == len(items)
        found.append(items)
        if last is None:
            return found
        start = {name: {"S": key.value} for name, key in last.items()}


@given(
    keys=st.sets(st.tuples(st.sampled_from(["p", "q"]), SORTS.filter(bool))),
    asked=RANGES,
    limit=st.none() | st.integers(1, 4),
    forward=st.booleans(),
)
def test_every_page_holds_what_stock_moto_s_query_finds(
    keys: set[tuple[str, str]], asked: tuple[Any, Any], limit: int | None, forward: bool
) -> None:
    table = table_of(keys)
    stock = getattr(Table.query, "__wrapped__")  # noqa: B009 - what functools.wraps keeps
    ours = [item for page in pages(Table.query, table, asked, limit, forward) for item in page]
    assert ours == [item for page in pages(stock, table, asked, limit, forward) for item in page]


def test_a_page_is_no_larger_than_dynamodb_answers_at_once() -> None:
    table = table_of([("p", f"{number:03}") for number in range(30)], text="x" * 100_000)
    found = pages(Table.query, table, (None, []), None, True)
    assert [len(page) for page in found] == [9, 9, 9, 3]
    assert all(sum(item.size() for item in page) <= RESULT_SIZE_LIMIT for page in found)


def test_a_partition_that_is_not_there_is_empty() -> None:
    assert pages(Table.query, table_of([("q", "a")]), (None, []), None, True) == [[]]
