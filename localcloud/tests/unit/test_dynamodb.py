"""DynamoDB: items, queries and direct calls answer as stock moto does."""

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.dynamodb.exceptions import ItemSizeTooLarge
from moto.dynamodb.models.dynamo_type import DynamoType, Item

from localcloud.dynamodb import MAX_ITEM_BYTES
from localcloud.patches import apply_patches
from localcloud.tests.support.wsgi_clients import ClientPair, WsgiClient


@pytest.fixture(autouse=True, scope="module")
def _mended() -> None:
    apply_patches("dynamodb")


def item_of(attributes: dict[str, Any], key: str = "p") -> Item:
    return Item(DynamoType({"S": key}), None, {"pk": {"S": key}, **attributes})


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


@given(calls=st.lists(CALLS, max_size=10))
def test_any_calls_are_answered_as_by_stock_moto(moto: ClientPair, calls: list[tuple[str, dict[str, Any]]]) -> None:
    direct, stock = new_table(moto), new_table(moto)
    assert play(moto.direct, direct, calls) == play(moto.stock, stock, calls)


def test_a_page_is_no_larger_than_dynamodb_answers_at_once(moto: ClientPair) -> None:
    table = new_table(moto)
    for number in range(12):
        item = {"pk": {"S": "p"}, "sk": {"S": f"{number:02}"}, "v": {"S": "x" * 100_000}}
        moto.direct.call("dynamodb", "PutItem", TableName=table, Item=item)
    page = moto.direct.call("dynamodb", "Query", TableName=table, **query_call("pk = :p", "p", True, None)).json
    assert (len(page["Items"]), page["LastEvaluatedKey"]["sk"]) == (9, {"S": "08"})


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("PutItem", {"Item": {"pk": {"S": "p"}, "sk": {"S": "s"}, "v": {"B": "AAE="}}}),
        ("PutItem", {"Item": {"pk": {"S": "p"}, "sk": {"S": "s"}}, "ReturnValues": "ALL_OLD"}),
        ("PutItem", {"Item": {"pk": {"S": "p"}}}),
        ("Query", {"KeyConditionExpression": "nonsense"}),
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
