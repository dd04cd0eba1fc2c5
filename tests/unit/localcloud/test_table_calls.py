"""A plain call on items gets stock moto's answer without stock moto; every other call gets it from stock moto."""

import binascii
import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wsgi_clients import ClientPair, WsgiClient

_names = count()
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
RANGES = st.sampled_from(
    ["pk = :p", "pk = :p AND sk < :l", "pk = :p AND begins_with(sk, :l)", "pk = :p AND sk BETWEEN :l AND :h"]
)


def query(condition: str, partition: str, forward: bool, limit: int | None) -> dict[str, Any]:
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
    st.tuples(st.just("Query"), st.builds(query, RANGES, PARTITIONS, st.booleans(), st.none() | st.integers(1, 3))),
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


def new_table(doors: ClientPair) -> str:
    name = f"table-{next(_names)}"
    keys = (("pk", "HASH"), ("sk", "RANGE"))
    doors.stock.call(
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


@given(calls=st.lists(CALLS, max_size=10))
def test_any_calls_are_answered_as_by_stock_moto(doors: ClientPair, calls: list[tuple[str, dict[str, Any]]]) -> None:
    direct, stock = new_table(doors), new_table(doors)
    assert play(doors.direct, direct, calls) == play(doors.stock, stock, calls)


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("PutItem", {"Item": {"pk": {"S": "p"}, "sk": {"S": "s"}, "v": {"S": "x"}}}),
        ("GetItem", {"Key": {"pk": {"S": "p"}, "sk": {"S": "s"}}}),
        ("Query", query("pk = :p", "p", True, None)),
    ],
)
def test_a_plain_call_is_not_asked_of_stock_moto(
    doors: ClientPair, operation: str, parameters: dict[str, Any]
) -> None:
    table = new_table(doors)
    before = doors.stock_application.times
    assert doors.direct.call("dynamodb", operation, TableName=table, **parameters).status == 200
    assert doors.stock_application.times == before


def test_a_batch_of_reads_is_not_asked_of_stock_moto(doors: ClientPair) -> None:
    table = new_table(doors)
    key, item = {"pk": {"S": "p"}, "sk": {"S": "s"}}, {"pk": {"S": "p"}, "sk": {"S": "s"}, "v": {"N": "1"}}
    doors.direct.call("dynamodb", "PutItem", TableName=table, Item=item)
    before = doors.stock_application.times
    reply = doors.direct.call("dynamodb", "BatchGetItem", RequestItems={table: {"Keys": [key]}})
    assert (reply.status, json.loads(reply.body)["Responses"]) == (200, {table: [item]})
    assert doors.stock_application.times == before


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("PutItem", {"Item": {"pk": {"S": "p"}, "sk": {"S": "s"}, "v": {"B": "AAE="}}}),
        ("PutItem", {"Item": {"pk": {"S": "p"}, "sk": {"S": "s"}}, "ReturnValues": "ALL_OLD"}),
        ("PutItem", {"Item": {"pk": {"S": "p"}}}),
        ("PutItem", {"Item": {"pk": {"S": ""}, "sk": {"S": "s"}}}),
        ("GetItem", {"Key": {"no": {"S": "p"}}}),
        ("Query", {"KeyConditionExpression": "nonsense"}),
        ("Query", {**query("pk = :p", "p", True, None), "Limit": None}),
        ("Scan", {}),
    ],
)
def test_an_unusual_call_or_a_refusal_is_stock_moto_s(
    doors: ClientPair, operation: str, parameters: dict[str, Any]
) -> None:
    replies = []
    for door in (doors.direct, doors.stock):
        before = doors.stock_application.times
        reply = door.call("dynamodb", operation, TableName=new_table(doors), **parameters)
        assert doors.stock_application.times > before
        replies.append((reply.status, reply.json))
    assert replies[0] == replies[1]


def test_bytes_that_stock_moto_stored_are_read_directly_as_base64(doors: ClientPair) -> None:
    table = new_table(doors)
    item = {"pk": {"S": "p"}, "sk": {"S": "s"}, "b": {"B": "AAE="}, "bs": {"BS": ["AAE="]}}
    doors.stock.call("dynamodb", "PutItem", TableName=table, Item=item)
    key = {"pk": {"S": "p"}, "sk": {"S": "s"}}
    assert doors.direct.call("dynamodb", "GetItem", TableName=table, Key=key).json["Item"] == item


def test_the_checksum_of_an_answer_is_that_of_its_body(doors: ClientPair) -> None:
    reply = doors.direct.call("dynamodb", "Query", TableName=new_table(doors), **query("pk = :p", "p", True, None))
    assert reply.headers["x-amz-crc32"] == str(binascii.crc32(reply.body))
