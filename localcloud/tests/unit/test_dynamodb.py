"""DynamoDB: calls on items answer as moto does, and cost as much as they read and write."""

import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.core.utils import camelcase_to_underscores
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from werkzeug.exceptions import HTTPException

from localcloud.dynamodb.pages import MAX_PAGE_BYTES
from localcloud.dynamodb.values import MAX_ITEM_BYTES, sortable
from localcloud.patches import apply_patches
from localcloud.store import StorageError, data
from localcloud.tests.support.memory import objects_of
from localcloud.tests.support.wsgi_clients import ClientPair

apply_patches("dynamodb")

ITEMS_OF_A_TABLE = 4_000
_names = count()


class StockDynamoDB:
    """moto's DynamoDB without our patches: its modules, imported anew."""

    def __init__(self) -> None:
        importlib.import_module("moto.dynamodb.responses")  # ours
        ours = {name: sys.modules.pop(name) for name in list(sys.modules) if f"{name}.".startswith("moto.dynamodb.")}
        self._responses = importlib.import_module("moto.dynamodb.responses")
        sys.modules.update(ours)

    def call(self, operation: str, **parameters: Any) -> tuple[int, Any]:
        """Make a call; return its status and its answer, of an error its name."""
        handler = self._responses.DynamoHandler()
        handler.current_account, handler.region = "123456789012", "us-east-1"
        handler.body = handler.params = parameters
        try:
            return 200, getattr(handler, camelcase_to_underscores(operation))().result
        except HTTPException as error:
            return error.code or 0, _without_text(json.loads(error.description or ""))


def _without_text(error: dict[str, Any]) -> Any:
    reasons = error.get("CancellationReasons")
    return error["__type"].rpartition("#")[2], reasons, error.get("Item")


_stock = StockDynamoDB()

MEMBERS = {"Attributes", "Item", "Responses", "UnprocessedItems", "UnprocessedKeys"}


def table_of(sort_type: str = "S", **more: Any) -> dict[str, Any]:
    """Parameters of CreateTable with a new name."""
    types = {"pk": "S", "sk": sort_type}
    attributes = [{"AttributeName": key, "AttributeType": kind} for key, kind in types.items()]
    return {
        "TableName": f"table-{next(_names)}",
        "KeySchema": [{"AttributeName": key, "KeyType": kind} for key, kind in (("pk", "HASH"), ("sk", "RANGE"))],
        "AttributeDefinitions": [*attributes, *more.pop("AttributeDefinitions", [])],
        "BillingMode": "PAY_PER_REQUEST",
        **more,
    }


def new_table(moto: ClientPair, sort_type: str = "S", **more: Any) -> str:
    settings = table_of(sort_type, **more)
    assert moto.stock.call("dynamodb", "CreateTable", **settings).status == 200
    return str(settings["TableName"])


def key_of(pk: str, sk: str | int) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk} if isinstance(sk, str) else {"N": str(sk)}}


def put(moto: ClientPair, table: str, pk: str, sk: str | int, **attributes: Any) -> None:
    item = {**key_of(pk, sk), **attributes}
    assert moto.direct.call("dynamodb", "PutItem", TableName=table, Item=item).status == 200


def fill(moto: ClientPair, table: str, items: int) -> None:
    for first in range(0, items, 25):
        entries = [{"PutRequest": {"Item": key_of("p", f"{first + each:06}")}} for each in range(25)]
        assert moto.direct.call("dynamodb", "BatchWriteItem", RequestItems={table: entries}).status == 200


ALL_KEYS = [key_of(pk, sk) for pk in "pq" for sk in ("a", "ab", "b", "é", "z")]
PARTITIONS = st.sampled_from("pq")
VALUES = st.one_of(
    st.text(max_size=8).map(lambda text: {"S": text}),
    st.integers(-5, 5).map(lambda number: {"N": str(number)}),
    st.booleans().map(lambda value: {"BOOL": value}),
    st.just({"NULL": True}),
    st.just({"L": [{"S": "x"}, {"M": {"n": {"N": "1"}}}]}),
    st.sampled_from([{"SS": ["x", "y"]}, {"SS": ["y", "z"]}]),
)
UPDATES = st.one_of(
    st.tuples(st.just("SET #v = :v"), VALUES),
    st.tuples(st.just("ADD #v :v"), st.sampled_from([{"N": "2"}, {"SS": ["y", "z"]}])),  # moto keeps a refused one
)
MORE = st.dictionaries(st.sampled_from("vw"), VALUES, max_size=2)
KEYS = st.sampled_from(ALL_KEYS)
ITEMS = st.builds(lambda key, more: {**key, **more}, KEYS, MORE)
TABLES = st.tuples(
    *(st.none() | st.builds(lambda key, more: {**key, **more}, st.just(key), MORE) for key in ALL_KEYS)
)
CONDITIONS = st.sampled_from(
    [
        {},
        {"ConditionExpression": "attribute_not_exists(pk)"},
        {"ConditionExpression": "attribute_exists(v)", "ReturnValuesOnConditionCheckFailure": "ALL_OLD"},
    ]
)
KEY_CONDITIONS = st.sampled_from(
    [
        *("pk = :p", "pk = :p AND sk < :l", "pk = :p AND begins_with(sk, :l)", "pk = :p AND sk BETWEEN :l AND :h"),
        *("pk = :p AND sk > :l", "pk = :p AND sk >= :h", "pk = :p AND sk <= :h", "pk = :p AND sk = :l"),
    ]
)
FILTERS = st.sampled_from(
    [{}, {"FilterExpression": "attribute_exists(v)"}, {"FilterExpression": "attribute_not_exists(w)"}]
)
LIMITS = st.sampled_from([{}, {"Limit": 1}, {"Limit": 2}, {"Limit": 3}])


def query_call(condition: str, partition: str, forward: bool, *more: dict[str, Any]) -> dict[str, Any]:
    values = {":p": {"S": partition}, ":l": {"S": "a"}, ":h": {"S": "b"}}
    call = {
        "KeyConditionExpression": condition,
        "ExpressionAttributeValues": {name: value for name, value in values.items() if name in condition},
        "ScanIndexForward": forward,
    }
    return call | {name: value for each in more for name, value in each.items()}


def update_call(key: dict[str, Any], update: tuple[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
    call = {
        "Key": key,
        "UpdateExpression": update[0],
        "ExpressionAttributeNames": {"#v": "v"},
        "ExpressionAttributeValues": {":v": update[1]},
    }
    return call | {name: value for each in more for name, value in each.items()}


def write_of(kind: str, item: dict[str, Any], condition: dict[str, Any]) -> dict[str, Any]:
    key, table = {name: item[name] for name in ("pk", "sk")}, {"TableName": "TABLE"}
    if kind == "Put":
        return {kind: {**table, "Item": item, **condition}}
    if kind == "Update":
        return {kind: {**table, **update_call(key, ("SET #v = :v", {"S": "u"}), condition)}}
    return {kind: {**table, "Key": key, **(condition or {"ConditionExpression": "attribute_exists(w)"})}}


def in_key(item: dict[str, Any]) -> str:
    return json.dumps(key_of(item["pk"]["S"], item["sk"]["S"]))


OLD = st.sampled_from([{}, {"ReturnValues": "ALL_OLD"}])
RETURNED = st.sampled_from([{}, *({"ReturnValues": kind} for kind in ("ALL_OLD", "ALL_NEW", "UPDATED_OLD"))])
CALLS = st.one_of(
    st.tuples(
        st.just("PutItem"), st.builds(lambda item, *more: {"Item": item} | merged(more), ITEMS, CONDITIONS, OLD)
    ),
    st.tuples(
        st.just("DeleteItem"), st.builds(lambda key, *more: {"Key": key} | merged(more), KEYS, CONDITIONS, OLD)
    ),
    st.tuples(st.just("GetItem"), KEYS.map(lambda key: {"Key": key, "ConsistentRead": True})),
    st.tuples(st.just("UpdateItem"), st.builds(update_call, KEYS, UPDATES, CONDITIONS, RETURNED)),
    st.tuples(st.just("Query"), st.builds(query_call, KEY_CONDITIONS, PARTITIONS, st.booleans(), LIMITS, FILTERS)),
    st.tuples(st.just("Scan"), st.builds(lambda *more: merged(more), LIMITS, FILTERS)),
    st.tuples(
        st.just("BatchWriteItem"),
        st.lists(ITEMS, min_size=1, max_size=3, unique_by=in_key).map(
            lambda items: {"RequestItems": {"TABLE": [{"PutRequest": {"Item": item}} for item in items]}}
        ),
    ),
    st.tuples(
        st.just("BatchGetItem"),
        st.lists(KEYS, min_size=1, max_size=3).map(
            lambda keys: {"RequestItems": {"TABLE": {"Keys": keys, "ConsistentRead": True}}}
        ),
    ),
    st.tuples(
        st.just("TransactWriteItems"),
        st.lists(
            st.builds(write_of, st.sampled_from(["Put", "Update", "Delete", "ConditionCheck"]), ITEMS, CONDITIONS),
            min_size=1,
            max_size=3,
        ).map(lambda entries: {"TransactItems": entries}),
    ),
)


def merged(parts: Any) -> dict[str, Any]:
    return {name: value for each in parts for name, value in each.items()}


@settings(max_examples=200, deadline=None)
@given(items=TABLES, calls=st.lists(CALLS, max_size=10))
def test_any_calls_are_answered_as_by_stock_moto(
    moto: ClientPair, items: tuple[Any, ...], calls: list[tuple[str, dict[str, Any]]]
) -> None:
    table = new_table(moto)
    _stock.call("CreateTable", **table_of() | {"TableName": table})

    def ours(operation: str, **parameters: Any) -> tuple[int, Any]:
        reply = moto.direct.call("dynamodb", operation, **parameters)
        return reply.status, reply.json if reply.status == 200 else _without_text(reply.json)

    for operation, parameters in [*(("PutItem", {"Item": item}) for item in items if item), *calls]:
        has_tables = operation.startswith(("Batch", "Transact"))
        call = json.dumps(parameters if has_tables else {"TableName": table, **parameters}).replace("TABLE", table)
        assert all_pages(ours, operation, call) == all_pages(_stock.call, operation, call)


def all_pages(call: Callable[..., tuple[int, Any]], operation: str, parameters: str) -> Any:
    """Return the answer to a call; of pages their items, since the last one may say that there are more."""
    status, answer = call(operation, **json.loads(parameters))
    if status != 200 or operation not in {"Query", "Scan"}:
        return status, {name: answer[name] for name in MEMBERS & answer.keys()} if status == 200 else answer
    items = list(answer["Items"])
    while "LastEvaluatedKey" in answer:
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        _, answer = call(operation, **json.loads(parameters), **start)
        items += answer["Items"]
    return status, items


NUMBERS = st.builds(
    lambda sign, digits, exponent: f"{sign}{digits[0]}.{digits[1:]}E{exponent}",
    st.sampled_from(["", "-"]),
    st.text("0123456789", min_size=1, max_size=38),
    st.integers(-130 + 37, 125),
)


def test_an_update_of_a_set_returns_the_item_as_it_was(moto: ClientPair) -> None:
    table, call = (
        new_table(moto),
        update_call(key_of("p", "s"), ("ADD #v :v", {"SS": ["y"]}), {"ReturnValues": "ALL_OLD"}),
    )
    put(moto, table, "p", "s", v={"SS": ["x"]})
    returned = [moto.direct.call("dynamodb", "UpdateItem", TableName=table, **call).json["Attributes"] for _ in "12"]
    assert [item["v"] for item in returned] == [{"SS": ["x"]}, {"SS": ["x", "y"]}]


def test_an_update_returns_the_attributes_that_it_changed(moto: ClientPair) -> None:
    table, returned = new_table(moto), list[Any]()
    for number in "12":
        for wanted in ("UPDATED_NEW", "UPDATED_OLD"):
            call = update_call(key_of("p", wanted), ("SET #v = :v", {"N": number}), {"ReturnValues": wanted})
            returned.append(
                moto.direct.call("dynamodb", "UpdateItem", TableName=table, **call).json.get("Attributes")
            )
    assert returned == [{"v": {"N": "1"}}, None, {"v": {"N": "2"}}, {"v": {"N": "1"}}]


SHORT_NUMBERS = st.builds(lambda number, exponent: f"{number}E{exponent}", st.integers(-20, 20), st.integers(-2, 2))


@settings(max_examples=100)
@given(long=st.lists(NUMBERS, max_size=5), short=st.lists(SHORT_NUMBERS, min_size=5, max_size=10))
def test_numbers_sort_as_their_values_and_equal_ones_are_one_key(long: list[str], short: list[str]) -> None:
    numbers = [*long, *short]
    keys = {text: sortable({"N": text}) for text in numbers}
    for one in numbers:
        for other in numbers:
            assert (keys[one] < keys[other]) is (Decimal(one) < Decimal(other))
            assert (keys[one] == keys[other]) is (Decimal(one) == Decimal(other))


def test_limits_of_numbers_sort_and_a_query_has_the_order_of_a_number_key(
    moto: ClientPair,
) -> None:
    limits = ["-9.9E125", "-1E-130", "0", "1E-130", "9.9E125"]
    assert sorted(limits, key=lambda text: sortable({"N": text})) == limits
    table = new_table(moto, "N")
    for number in (10, -2, 9, 0, -10):
        put(moto, table, "p", number)
    call = query_call("pk = :p", "p", True)
    found = moto.direct.call("dynamodb", "Query", TableName=table, **call).json["Items"]
    assert [item["sk"]["N"] for item in found] == ["-10", "-2", "0", "9", "10"]


def test_two_spellings_of_a_number_in_a_batch_are_one_key_twice(moto: ClientPair) -> None:
    table = new_table(moto, "N")
    keys = [{"pk": {"S": "p"}, "sk": {"N": spelling}} for spelling in ("1", "1.0")]
    writes = {table: [{"PutRequest": {"Item": keys[0]}}, {"DeleteRequest": {"Key": keys[1]}}]}
    for operation, items in (("BatchWriteItem", writes), ("BatchGetItem", {table: {"Keys": keys}})):
        refused = moto.direct.call("dynamodb", operation, RequestItems=items)
        assert (refused.status, refused.json["message"]) == (400, "Provided list of item keys contains duplicates")


@pytest.mark.parametrize("character", ["x", "é"])
def test_the_largest_item_is_accepted_and_one_byte_more_refused(moto: ClientPair, character: str) -> None:
    table, room = new_table(moto), MAX_ITEM_BYTES - len("pkpsksv")
    text = character * (room // len(character.encode()))
    text += "x" * (room - len(text.encode()))
    put(moto, table, "p", "s", v={"S": text})
    for value in ({"S": text + "x"}, {"L": [{"S": "x" * 1000}] * 500}):
        item = {**key_of("p", "s"), "v": value}
        refused = moto.direct.call("dynamodb", "PutItem", TableName=table, Item=item)
        assert (refused.status, refused.json["message"]) == (400, "Item size has exceeded the maximum allowed size")


def test_a_page_is_no_larger_than_dynamodb_answers_at_once(moto: ClientPair) -> None:
    table = new_table(moto)
    for number in range(12):
        put(moto, table, "p", f"{number:02}", v={"S": "x" * 100_000})
    pages = MAX_PAGE_BYTES // 100_000
    for operation, call in (("Query", query_call("pk = :p", "p", True)), ("Scan", {})):
        page = moto.direct.call("dynamodb", operation, TableName=table, **call).json
        assert (len(page["Items"]), page["LastEvaluatedKey"]["sk"]) == (pages, {"S": f"{pages - 1:02}"})
        start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
        last = moto.direct.call("dynamodb", operation, TableName=table, **call, **start).json
        assert (len(last["Items"]), "LastEvaluatedKey" in last) == (12 - pages, False)


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("PutItem", {"Item": {"pk": {"S": "p"}}}),
        ("PutItem", {"Item": {"pk": {"S": ""}, "sk": {"S": "s"}}}),
        ("PutItem", {"Item": [1]}),
        ("PutItem", {"Item": {**key_of("p", "s"), "v": {"N": "1_0"}}}),
        ("PutItem", {"Item": {**key_of("p", "s"), "v": {"N": "1E126"}}}),
        ("PutItem", {"Item": {**key_of("p", "s"), "v": {"N": "1" * 39}}}),
        ("PutItem", {"Item": {**key_of("p", "s"), "v": {"B": "no Base64"}}}),
        ("PutItem", {"Item": {**key_of("p", "s"), "v": {"SS": ["a", "a"]}}}),
        ("PutItem", {"Item": {**key_of("p", "s"), "v": {"S": "a", "N": "1"}}}),
        ("PutItem", {"Item": key_of("p", "s"), "Expected": {}}),
        ("PutItem", {"Item": key_of("p", "s"), "ReturnValues": "ALL_NEW"}),
        ("PutItem", {"Item": key_of("p", "s"), "ConditionExpression": "(" * 4_000}),
        ("PutItem", {"Item": key_of("p", "s"), "ConditionExpression": "pk ="}),
        ("PutItem", {"Item": key_of("p", "s"), "ConditionExpression": "size(pk, sk)"}),
        ("PutItem", {"Item": key_of("p", "s"), "ConditionExpression": "sk = :x"}),
        ("PutItem", {"Item": key_of("p", "s"), "ExpressionAttributeNames": {"#x": "x"}}),
        ("PutItem", {}),
        ("GetItem", {"Key": {"pk": {"S": "p"}}}),
        ("GetItem", {"Key": {**key_of("p", "s"), "v": {"S": "x"}}}),
        ("GetItem", {"Key": key_of("p", "s"), "ProjectionExpression": "sk"}),
        ("UpdateItem", {"Key": key_of("p", "s"), "UpdateExpression": "SET"}),
        ("UpdateItem", {"Key": key_of("p", "s"), "UpdateExpression": "SET pk = sk"}),
        ("Query", {"KeyConditionExpression": "nonsense"}),
        ("Query", {"KeyConditionExpression": "pk = p"}),
        ("Query", {}),
        ("Query", query_call("pk = :p", "p", True) | {"Limit": 0}),
        ("Query", query_call("pk = :p", "p", True) | {"IndexName": "none"}),
        ("Scan", {"Limit": 1, "Segment": 1, "TotalSegments": 2}),
        ("BatchWriteItem", {}),
        ("TransactWriteItems", {"TransactItems": ["x"]}),
    ],
)
def test_a_malformed_call_is_refused_and_writes_nothing(
    moto: ClientPair, operation: str, parameters: dict[str, Any]
) -> None:
    table = new_table(moto)
    named = {} if operation.startswith(("Batch", "Transact")) else {"TableName": table}
    refused = moto.direct.call("dynamodb", operation, **named, **parameters)
    assert (refused.status, refused.json["__type"].rpartition("#")[2]) == (400, "ValidationException"), refused.body
    assert moto.direct.call("dynamodb", "Scan", TableName=table).json["Items"] == []


JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, 0, -1, 1.5, True, "", "x", "#v", ":v", "(", "\ud800", [], {}, [1], {"x": 1}),
        *({"S": 1}, {"N": "x"}, {"N": "1"}, {"B": "!"}, {"B": "AAE="}, {"L": [1]}, {"M": {"x": 1}}, {"SS": []}),
        *("size(x)", "a = b", ":v = :v", "a[1", "SET", "SET x = :v", "ADD v :v", "pk = :p", "v BETWEEN :p AND :l"),
    ]
)


def paths_of(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    members = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, member in members:
        yield (*path, name)
        yield from paths_of(member, (*path, name))


@given(call=CALLS, junk=JUNK, draw=st.data())
def test_a_call_with_junk_in_any_place_is_answered_or_refused(
    moto: ClientPair, call: tuple[str, dict[str, Any]], junk: Any, draw: st.DataObject
) -> None:
    operation, parameters = call[0], json.loads(json.dumps(call[1]).replace("TABLE", _junk_table(moto)))
    if not operation.startswith(("Batch", "Transact")):
        parameters["TableName"] = _junk_table(moto)
    *outer, last = draw.draw(st.sampled_from(list(paths_of(parameters))))
    part = parameters
    for name in outer:
        part = part[name]
    part[last] = junk
    assert moto.direct.call("dynamodb", operation, **parameters).status in {200, 400}


@cache
def _junk_table(moto: ClientPair) -> str:
    return new_table(moto)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b'{"TableName": null}'])
def test_a_body_that_is_no_call_is_refused(moto: ClientPair, body: bytes) -> None:
    headers: dict[str, Any] = {
        "CONTENT_TYPE": "application/x-amz-json-1.0",
        "HTTP_X_AMZ_TARGET": "DynamoDB_20120810.PutItem",
    }
    assert moto.direct.request("dynamodb", "POST", "/", body, **headers).status == 400


def test_a_call_with_headers_for_moto_is_answered_from_the_same_items(moto: ClientPair) -> None:
    table, item = new_table(moto), {**key_of("p", "s"), "v": {"M": {"b": {"B": "AAE="}, "bs": {"BS": ["AAE="]}}}}
    call = json.dumps({"TableName": table, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}).encode()
    steered: dict[str, Any] = {"HTTP_X_AMZ_TARGET": "DynamoDB_20120810.PutItem", "HTTP_ORIGIN": "http://localhost"}
    found = [moto.direct.request("dynamodb", "POST", "/", call, **steered).status for _ in "12"]
    assert found == [200, 400]
    assert moto.direct.call("dynamodb", "GetItem", TableName=table, Key=key_of("p", "s")).json == {"Item": item}


@pytest.mark.parametrize("target", ["DynamoDB_20120810.ExecuteStatement", "DynamoDBStreams_20120810.GetRecords"])
def test_an_operation_that_is_not_available_is_refused_with_its_name(moto: ClientPair, target: str) -> None:
    refused = moto.direct.request("dynamodb", "POST", "/", b"{}", HTTP_X_AMZ_TARGET=target)
    message = f"{target.partition('.')[2]} is not available in the local cloud"
    assert (refused.status, refused.json["message"]) == (400, message)


@pytest.mark.parametrize(
    "more",
    [
        {
            "GlobalSecondaryIndexes": [
                {"IndexName": "i", "KeySchema": table_of()["KeySchema"], "Projection": {"ProjectionType": "ALL"}}
            ]
        },
        {"StreamSpecification": {"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"}},
    ],
)
def test_a_table_with_an_index_or_a_stream_is_refused(moto: ClientPair, more: dict[str, Any]) -> None:
    refused = moto.direct.call("dynamodb", "CreateTable", **table_of(**more))
    assert (refused.status, "not available in the local cloud" in refused.json["message"]) == (400, True)


def transaction(table: str, *entries: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    kinds = {"Put": "Item", "Delete": "Key", "Update": "Key"}
    return {
        "TransactItems": [
            {kind: {"TableName": table, kinds[kind]: key_of("p", sk), **more}} for kind, sk, more in entries
        ]
    }


def test_a_cancelled_transaction_gives_its_reasons_in_order_and_writes_nothing(moto: ClientPair) -> None:
    table = new_table(moto)
    put(moto, table, "p", "b", v={"N": "1"})
    absent = {"ConditionExpression": "attribute_not_exists(pk)", "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    call = transaction(table, ("Put", "a", absent), ("Put", "b", absent), ("Delete", "c", {}))
    refused = moto.direct.call("dynamodb", "TransactWriteItems", **call)
    assert refused.status == 400
    old = {**key_of("p", "b"), "v": {"N": "1"}}
    failed = {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed", "Item": old}
    assert refused.json["CancellationReasons"] == [{"Code": "None"}, failed, {"Code": "None"}]
    twice = transaction(table, ("Put", "d", {}), ("Delete", "d", {}))
    assert moto.direct.call("dynamodb", "TransactWriteItems", **twice).json["__type"].endswith("#ValidationException")
    assert moto.direct.call("dynamodb", "Scan", TableName=table).json["Items"] == [old]


def test_a_repeated_transaction_changes_nothing_and_its_token_is_of_its_items(moto: ClientPair) -> None:
    table = new_table(moto)
    addition = {"UpdateExpression": "ADD n :n", "ExpressionAttributeValues": {":n": {"N": "1"}}}
    call = {**transaction(table, ("Update", "a", addition)), "ClientRequestToken": f"token of {table}"}
    for _ in range(2):
        assert moto.direct.call("dynamodb", "TransactWriteItems", **call).status == 200
    assert moto.direct.call("dynamodb", "Scan", TableName=table).json["Items"] == [
        {**key_of("p", "a"), "n": {"N": "1"}}
    ]
    other = moto.direct.call("dynamodb", "TransactWriteItems", **call | transaction(table, ("Delete", "a", {})))
    assert other.json["__type"].endswith("#IdempotentParameterMismatchException")


@contextmanager
def counted_cost() -> Iterator[Counter[str]]:
    """Count the statements of the store, and SQLite's steps: some for each row that is read or written."""
    found, connection = Counter[str](), data()._connection
    connection.set_trace_callback(lambda _statement: found.update(["statement"]))
    connection.set_progress_handler(lambda: found.update(["step"]), 1)
    try:
        yield found
    finally:
        connection.set_trace_callback(None)
        connection.set_progress_handler(None, 1)


def test_calls_cost_the_same_for_a_table_of_any_size(moto: ClientPair) -> None:
    first = query_call("pk = :p", "p", True) | {"Limit": 5}
    costs = list[Counter[str]]()
    for items in (25, ITEMS_OF_A_TABLE):
        table = new_table(moto)
        fill(moto, table, items)
        with counted_cost() as cost:
            call = transaction(table, ("Put", "x", {}), ("Delete", "000003", {}), ("Put", "000004", {}))
            assert moto.direct.call("dynamodb", "TransactWriteItems", **call).status == 200
            pages = [("Query", first), ("Query", {**first, "ScanIndexForward": False}), ("Scan", {"Limit": 5})]
            for operation, page in pages:
                assert moto.direct.call("dynamodb", operation, TableName=table, **page).json["Count"] == 5
        costs.append(cost)
    assert costs[0] == costs[1]
    assert costs[0].keys() == {"statement", "step"}


def test_memory_holds_no_item_of_a_table(moto: ClientPair) -> None:
    table = new_table(moto)
    kinds = [objects_of(kind) for kind in (Item, DynamoType)]
    value = {"M": {"n": {"L": [{"N": "1"}, {"B": "AAE="}]}}}
    for number in range(200):
        put(moto, table, "JOB", f"IMAGE#{number}", v=value)
        put(moto, table, f"CACHE#{number}", "-", v=value)
    found = moto.direct.call("dynamodb", "GetItem", TableName=table, Key=key_of("JOB", "IMAGE#7"))
    assert found.json["Item"]["v"] == value
    assert [objects_of(kind) for kind in (Item, DynamoType)] == kinds


def rows() -> int:
    return int(data().read("SELECT count(*) FROM items")[0][0])


def test_a_table_s_items_are_restored_to_another_and_deleted_with_it(moto: ClientPair) -> None:
    before, table, copied = rows(), new_table(moto), f"table-{next(_names)}"
    for number in range(3):
        put(moto, table, "p", f"{number}")
    recovery = {"PointInTimeRecoveryEnabled": True}
    moto.stock.call("dynamodb", "UpdateContinuousBackups", TableName=table, PointInTimeRecoverySpecification=recovery)
    moto.stock.call("dynamodb", "RestoreTableToPointInTime", SourceTableName=table, TargetTableName=copied)
    put(moto, copied, "p", "only here")
    assert [moto.direct.call("dynamodb", "Scan", TableName=each).json["Count"] for each in (table, copied)] == [3, 4]
    for name in (table, copied):
        assert moto.stock.call("dynamodb", "DeleteTable", TableName=name).status == 200
    assert rows() == before


def test_a_damaged_row_is_not_answered(moto: ClientPair) -> None:
    table = new_table(moto)
    put(moto, table, "p", "s", v={"S": "right"})
    data().write("UPDATE items SET item = replace(item, 'right', 'wrong') WHERE item LIKE '%right%'")
    with pytest.raises(StorageError, match="is damaged"):
        moto.direct.call("dynamodb", "GetItem", TableName=table, Key=key_of("p", "s"))


KB = 1024


def sized(sk: str, size: int) -> dict[str, Any]:
    """Return an item of the partition p with so many bytes, names included."""
    key = key_of("p", sk)
    return {**key, "v": {"S": "x" * (size - len(f"pkpsk{sk}v"))}}


def test_a_call_answers_the_capacity_that_it_consumes(moto: ClientPair) -> None:
    """The examples of https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html."""
    table = new_table(moto)

    def units(operation: str, **given: Any) -> float:
        if not operation.startswith(("Batch", "Transact")):
            given["TableName"] = table
        reply = moto.direct.call("dynamodb", operation, ReturnConsumedCapacity="TOTAL", **given)
        assert reply.status == 200, reply.body
        capacity = json.loads(reply.body)["ConsumedCapacity"]
        [capacity] = capacity if isinstance(capacity, list) else [capacity]
        assert capacity["TableName"] == table
        return float(capacity["CapacityUnits"])

    def entries(*items: dict[str, Any]) -> list[Any]:
        return [{"Put": {"TableName": table, "Item": item}} for item in items]

    # Writes, rounded up to 1 KB: the larger of the item before and after; in a batch each item of its own.
    assert units("PutItem", Item=sized("a", 500)) == 1
    assert units("PutItem", Item=sized("a", 3 * KB)) == 3
    assert units("PutItem", Item=sized("a", 500)) == 3, "the replaced item is larger"
    size = {"UpdateExpression": "SET v = :v", "ExpressionAttributeValues": {":v": {"S": "x" * 1_500}}}
    assert units("UpdateItem", Key=key_of("p", "a"), **size) == 2
    assert units("DeleteItem", Key=key_of("p", "a")) == 2
    assert units("DeleteItem", Key=key_of("p", "a")) == 1, "there is no such item"
    batch = [{"PutRequest": {"Item": sized("b", 500)}}, {"PutRequest": {"Item": sized("c", 3 * KB + KB // 2)}}]
    assert units("BatchWriteItem", RequestItems={table: batch}) == 5
    # Twice in a transaction, for a condition as well; its repeat reads what it has written.
    transaction: dict[str, Any] = {"TransactItems": entries(sized("d", 500), sized("e", 500), sized("f", 500))}
    assert units("TransactWriteItems", **transaction, ClientRequestToken="t") == 6
    assert units("TransactWriteItems", **transaction, ClientRequestToken="t") == 6
    check = {"TableName": table, "Key": key_of("p", "c"), "ConditionExpression": "attribute_exists(pk)"}
    assert units("TransactWriteItems", TransactItems=[{"ConditionCheck": check}, *entries(sized("g", 500))]) == 10
    # Reads, rounded up to 4 KB, half for eventual consistency; in a batch each item of its own, in a page together.
    for sk, bytes_ in (("h", 3 * KB + KB // 2), ("i", 10 * KB), ("j", KB + KB // 2), ("k", 6 * KB + KB // 2)):
        units("PutItem", Item=sized(sk, bytes_))
    assert units("GetItem", Key=key_of("p", "h"), ConsistentRead=True) == 1
    assert units("GetItem", Key=key_of("p", "i"), ConsistentRead=True) == 3
    assert units("GetItem", Key=key_of("p", "i")) == 1.5
    assert units("GetItem", Key=key_of("p", "none")) == 0.5
    keys = {"Keys": [key_of("p", "j"), key_of("p", "k")], "ConsistentRead": True}
    assert units("BatchGetItem", RequestItems={table: keys}) == 3
    page = {"KeyConditionExpression": "pk = :p", "ExpressionAttributeValues": {":p": {"S": "q"}}}
    assert units("Query", ConsistentRead=True, **page) == 1
    for first in range(0, 1_500, 25):
        small = [
            {"PutRequest": {"Item": {**key_of("q", f"{first + at:04}"), "v": {"S": "x" * 54}}}} for at in range(25)
        ]
        units("BatchWriteItem", RequestItems={table: small})
    assert units("Query", ConsistentRead=True, **page) == 24, "1,500 items of 64 bytes are 96 KB"
    assert units("Query", Select="COUNT", Limit=70, **page) == 1, "4,480 bytes"
