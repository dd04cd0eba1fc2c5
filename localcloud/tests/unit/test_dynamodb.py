"""DynamoDB: items, queries and direct calls answer as stock moto does."""

import binascii
import json
from collections.abc import Iterable
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.dynamodb import responses
from moto.dynamodb.exceptions import ItemSizeTooLarge
from moto.dynamodb.models import dynamodb_backends, utilities
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.dynamodb.models.table import RESULT_SIZE_LIMIT, Table

from localcloud.dynamodb import MAX_ITEM_BYTES
from localcloud.launch import REGION
from localcloud.patches import apply_patches
from localcloud.tests.support.wsgi_clients import ClientPair, WsgiClient

TEXT = st.text(max_size=6)
ATTRIBUTES = st.recursive(
    st.one_of(
        TEXT.map(lambda text: {"S": text}),
        st.integers().map(lambda number: {"N": str(number)}),
        st.booleans().map(lambda value: {"BOOL": value}),
        st.just({"NULL": True}),
        st.just({"SS": ["a", "b"]}),
        st.just({"B": "AAE="}),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda some: {"L": some}),
        st.dictionaries(TEXT, inner, max_size=3).map(lambda some: {"M": some}),
    ),
    max_leaves=6,
)


@pytest.fixture(autouse=True, scope="module")
def _mended() -> None:
    apply_patches("dynamodb")


def item_of(attributes: dict[str, Any], key: str = "p") -> Item:
    return Item(DynamoType({"S": key}), None, {"pk": {"S": key}, **attributes})


@given(value=ATTRIBUTES)
def test_a_value_is_answered_as_by_stock_moto(value: dict[str, Any]) -> None:
    typed = item_of({"v": value}).attrs
    assert responses.dynamo_to_dict(typed) == utilities.dynamo_to_dict(typed)


@given(text=TEXT)
def test_a_text_counts_for_its_bytes_and_is_its_own_value(text: str) -> None:
    assert DynamoType({"S": text}).size() == len(text.encode())
    assert DynamoType({"S": text}).cast_value == text


def test_numbers_are_still_compared_as_numbers() -> None:
    assert DynamoType({"N": "9"}) < DynamoType({"N": "10"})


@pytest.mark.parametrize("character", ["x", "é"])
def test_largest_item_is_accepted_and_one_byte_more_rejected(character: str) -> None:
    room = MAX_ITEM_BYTES - len("pkpv")
    text = character * (room // len(character.encode()))
    text += "x" * (room - len(text.encode()))
    assert item_of({"v": {"S": text}}).size() == MAX_ITEM_BYTES
    for value in ({"S": text + "x"}, {"L": [{"S": "x" * 1000}] * 500}):
        with pytest.raises(ItemSizeTooLarge):
            item_of({"v": value})


_names = count()
SORT_KEYS = st.sampled_from(["", "a", "ab", "abc", "b", "é", "z", "\U0010ffff"])
RANGES: st.SearchStrategy[tuple[Any, Any]] = st.one_of(
    st.just((None, [])),
    st.tuples(st.sampled_from(["=", "<", "<=", ">", ">=", "BEGINS_WITH"]), st.tuples(SORT_KEYS)),
    st.tuples(st.just("BETWEEN"), st.tuples(SORT_KEYS, SORT_KEYS)),
)


def table_of(keys: Iterable[tuple[str, str]], text: str = "x") -> Table:
    apply_patches("dynamodb")
    backend = dynamodb_backends["123456789012"][REGION]
    unused = dict.fromkeys(
        ["throughput", "indexes", "global_indexes", "streams", "sse_specification", "deletion_protection_enabled"]
    )
    table: Table = backend.create_table(
        f"queried-{next(_names)}",
        schema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        attr=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
        billing_mode="PAY_PER_REQUEST",
        tags=[],
        warm_throughput=None,
        **unused,
    )
    for pk, sk in keys:
        table.put_item({"pk": {"S": pk}, "sk": {"S": sk}, "v": {"S": text}})
    return table


def pages(query: Any, table: Table, key_range: tuple[Any, Any], limit: int | None, forward: bool) -> list[list[Item]]:
    """All pages of a query, each from the last key of the previous one."""
    values = [DynamoType({"S": value}) for value in key_range[1]]
    found, start = [], None
    while True:
        items, scanned, last = query(table, DynamoType({"S": "p"}), key_range[0], values, limit, start, forward, None)
        assert scanned == len(items)
        found.append(items)
        if last is None:
            return found
        start = {name: {"S": key.value} for name, key in last.items()}


@given(
    keys=st.sets(st.tuples(st.sampled_from(["p", "q"]), SORT_KEYS.filter(bool))),
    later=st.lists(st.tuples(st.sampled_from(["put", "delete"]), SORT_KEYS.filter(bool)), max_size=4),
    key_range=RANGES,
    limit=st.none() | st.integers(1, 4),
    forward=st.booleans(),
)
def test_pages_of_a_query_are_those_of_stock_moto(
    keys: set[tuple[str, str]],
    later: list[tuple[str, str]],
    key_range: tuple[Any, Any],
    limit: int | None,
    forward: bool,
) -> None:
    table = table_of(keys)
    pages(Table.query, table, key_range, limit, forward)
    for change, sk in later:
        if change == "put":
            table.put_item({"pk": {"S": "p"}, "sk": {"S": sk}, "v": {"S": "y"}})
        else:
            table.delete_item(DynamoType({"S": "p"}), DynamoType({"S": sk}))
    stock = getattr(Table.query, "__wrapped__")  # noqa: B009 - set by functools.wraps
    ours = [item for page in pages(Table.query, table, key_range, limit, forward) for item in page]
    assert ours == [item for page in pages(stock, table, key_range, limit, forward) for item in page]


def test_a_page_is_no_larger_than_dynamodb_answers_at_once() -> None:
    table = table_of([("p", f"{number:03}") for number in range(30)], text="x" * 100_000)
    found = pages(Table.query, table, (None, []), None, True)
    assert [len(page) for page in found] == [9, 9, 9, 3]
    assert all(sum(item.size() for item in page) <= RESULT_SIZE_LIMIT for page in found)


PARTITIONS, SORTS = st.sampled_from(["p", "q"]), st.sampled_from(["a", "ab", "b", "é", "z"])
VALUES = st.one_of(
    st.text(max_size=8).map(lambda text: {"S": text}),
    st.integers(-5, 5).map(lambda number: {"N": str(number)}),
    st.booleans().map(lambda value: {"BOOL": value}),
    st.just({"NULL": True}),
    st.just({"L": [{"S": "x"}, {"M": {"n": {"N": "1"}}}]}),
    st.just({"SS": ["x", "y"]}),
)
ITEMS = st.builds(
    lambda pk, sk, extra: {"pk": {"S": pk}, "sk": {"S": sk}, **extra},
    PARTITIONS,
    SORTS,
    st.dictionaries(st.sampled_from(["v", "w"]), VALUES, max_size=2),
)
KEYS = st.builds(lambda pk, sk: {"pk": {"S": pk}, "sk": {"S": sk}}, PARTITIONS, SORTS)
CONDITIONS = st.sampled_from(
    [{}, {"ConditionExpression": "attribute_not_exists(pk)"}, {"ConditionExpression": "attribute_exists(v)"}]
)
KEY_CONDITIONS = st.sampled_from(
    ["pk = :p", "pk = :p AND sk < :l", "pk = :p AND begins_with(sk, :l)", "pk = :p AND sk BETWEEN :l AND :h"]
)


def query_call(condition: str, partition: str, forward: bool, limit: int | None) -> dict[str, Any]:
    values = {":p": {"S": partition}, ":l": {"S": "a"}, ":h": {"S": "b"}}
    return {
        "KeyConditionExpression": condition,
        "ExpressionAttributeValues": {name: value for name, value in values.items() if name in condition},
        "ScanIndexForward": forward,
        **({} if limit is None else {"Limit": limit}),
    }


CALLS = st.one_of(
    st.tuples(st.just("PutItem"), st.builds(lambda item, c: {"Item": item, **c}, ITEMS, CONDITIONS)),
    st.tuples(st.just("DeleteItem"), st.builds(lambda key, c: {"Key": key, **c}, KEYS, CONDITIONS)),
    st.tuples(st.just("GetItem"), KEYS.map(lambda key: {"Key": key, "ConsistentRead": True})),
    st.tuples(
        st.just("UpdateItem"),
        st.builds(
            lambda key, value, c: {
                "Key": key,
                "UpdateExpression": "SET #v = :v",
                "ExpressionAttributeNames": {"#v": "v"},
                "ExpressionAttributeValues": {":v": value},
                **c,
            },
            KEYS,
            VALUES,
            CONDITIONS,
        ),
    ),
    st.tuples(
        st.just("Query"),
        st.builds(query_call, KEY_CONDITIONS, PARTITIONS, st.booleans(), st.none() | st.integers(1, 3)),
    ),
    st.tuples(
        st.just("BatchWriteItem"),
        st.lists(ITEMS, min_size=1, max_size=3).map(
            lambda items: {"RequestItems": {"TABLE": [{"PutRequest": {"Item": item}} for item in items]}}
        ),
    ),
    st.tuples(
        st.just("BatchGetItem"),
        st.lists(KEYS, min_size=1, max_size=3).map(
            lambda keys: {"RequestItems": {"TABLE": {"Keys": keys, "ConsistentRead": True}}}
        ),
    ),
)


def new_table(moto: ClientPair) -> str:
    name = f"table-{next(_names)}"
    keys = (("pk", "HASH"), ("sk", "RANGE"))
    moto.stock.call(
        "dynamodb",
        "CreateTable",
        TableName=name,
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in keys],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key, _ in keys],
        BillingMode="PAY_PER_REQUEST",
    )
    return name


def play(door: WsgiClient, table: str, calls: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    answers = []
    for operation, parameters in calls:
        given_to = parameters if operation.startswith("Batch") else {"TableName": table, **parameters}
        filled = json.loads(json.dumps(given_to).replace("TABLE", table))
        reply = door.call("dynamodb", operation, **filled)
        answers.append((reply.status, json.loads(reply.body.replace(table.encode(), b"TABLE"))))
    return answers


@settings(max_examples=60)
@given(calls=st.lists(CALLS, max_size=10))
def test_any_calls_are_answered_as_by_stock_moto(moto: ClientPair, calls: list[tuple[str, dict[str, Any]]]) -> None:
    direct, stock = new_table(moto), new_table(moto)
    assert play(moto.direct, direct, calls) == play(moto.stock, stock, calls)


def test_plain_calls_are_answered_directly_with_the_checksum_of_the_body(moto: ClientPair) -> None:
    table = new_table(moto)
    key = {"pk": {"S": "p"}, "sk": {"S": "s"}}
    item = {**key, "v": {"N": "1"}}
    before = moto.stock_application.times
    assert moto.direct.call("dynamodb", "PutItem", TableName=table, Item=item).status == 200
    reply = moto.direct.call("dynamodb", "Query", TableName=table, **query_call("pk = :p", "p", True, None))
    assert (reply.json["Items"], reply.headers["x-amz-crc32"]) == ([item], str(binascii.crc32(reply.body)))
    assert moto.direct.call("dynamodb", "GetItem", TableName=table, Key=key).json["Item"] == item
    batch = moto.direct.call("dynamodb", "BatchGetItem", RequestItems={table: {"Keys": [key]}})
    assert batch.json["Responses"] == {table: [item]}
    assert moto.stock_application.times == before


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("PutItem", {"Item": {"pk": {"S": "p"}, "sk": {"S": "s"}, "v": {"B": "AAE="}}}),
        ("PutItem", {"Item": {"pk": {"S": "p"}, "sk": {"S": "s"}}, "ReturnValues": "ALL_OLD"}),
        ("PutItem", {"Item": {"pk": {"S": "p"}}}),
        ("PutItem", {"Item": {"pk": {"S": ""}, "sk": {"S": "s"}}}),
        ("GetItem", {"Key": {"no": {"S": "p"}}}),
        ("Query", {"KeyConditionExpression": "nonsense"}),
        ("Query", {**query_call("pk = :p", "p", True, None), "Limit": None}),
        ("Scan", {}),
    ],
)
def test_an_unusual_call_or_a_refusal_is_stock_moto_s(
    moto: ClientPair, operation: str, parameters: dict[str, Any]
) -> None:
    direct, stock = moto.stock_replies(
        lambda client: client.call("dynamodb", operation, TableName=new_table(moto), **parameters)
    )
    assert (direct.status, direct.json) == (stock.status, stock.json)
