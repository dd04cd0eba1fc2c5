"""The temporary database has what grows with images: memory holds no items, and only the newest large contents."""

import copy
import gc
import sqlite3
from itertools import count
from typing import Any

import pytest
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.s3.models import FakeAcl, S3Backend, s3_backends

from localcloud import temporary
from localcloud.launch import REGION
from localcloud.patches import apply_patches
from localcloud.temporary import LARGE_BYTES, Contents, StoredContent, TemporaryDatabase, database
from localcloud.tests.support.wsgi_clients import ClientPair

_names = count()
IMAGES = 200


def rows(table: str) -> int:
    """How many rows a table of the database has, after what destructors have left to do."""
    return int(database().execute(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 - a constant of a test


def written_contents() -> int:
    """How many contents the database has, after what destructors have left to do."""
    StoredContent(bytes(LARGE_BYTES))
    return rows("contents")


def objects_of(kind: type) -> int:
    """How many objects of a type memory holds."""
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


@pytest.fixture
def backend() -> S3Backend:
    apply_patches("core")
    apply_patches("s3")
    found: S3Backend = s3_backends["123456789012"]["aws"]
    found.create_bucket(f"temporary-{next(_names)}", REGION)
    return found


@pytest.mark.parametrize("content", [b"", b"x", b"0123456789", b"01234567"])
def test_a_content_is_read_as_it_was_also_in_pieces(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "PIECE_BYTES", 4)
    assert StoredContent(content).read() == content


def test_the_newest_large_contents_alone_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "RECENT_BYTES", 10)
    monkeypatch.setattr(temporary, "LARGE_BYTES", 8)
    own_database = TemporaryDatabase()
    own = Contents(own_database)

    def written() -> list[bytes]:
        return [content for (content,) in own_database.execute("SELECT content FROM contents ORDER BY number")]

    numbers = [own.add(content) for content in (b"1 oldest", b"2 middle", b"3 newest")]
    assert written() == [b"1 oldest", b"2 middle"]
    small = own.add(b"small")
    assert (written()[-1], own.read(small)) == (b"small", b"small")
    own.forget(small)
    own.forget(numbers[2])
    own.forget(numbers[0])
    numbers.append(own.add(b"4 ten more"))
    assert written() == [b"2 middle"]
    assert [own.read(number) for number in numbers[1::2]] == [b"2 middle", b"4 ten more"]


def test_a_content_is_deleted_with_its_last_reader_and_an_object_with_its_bucket(backend: S3Backend) -> None:
    [bucket, *_] = reversed(backend.buckets)
    before = written_contents()
    old = backend.put_object(bucket, "k", b"old")
    held = copy.deepcopy(old)
    backend.put_object(bucket, "k", b"new")
    del old
    assert (held.value, written_contents()) == (b"old", before + 2)
    del held
    assert written_contents() == before + 1
    backend.delete_object(bucket, "k")
    assert written_contents() == before


def test_an_object_in_memory_has_no_content_and_shares_what_is_equal(moto: ClientPair) -> None:
    bucket = f"temporary-{next(_names)}"
    moto.stock.request("s3", "PUT", f"/{bucket}")
    for name in "ab":
        moto.direct.request("s3", "PUT", f"/{bucket}/{name}", b"content", CONTENT_TYPE="image/png")
    kinds = objects_of(FakeAcl)
    first, second = (s3_backends["123456789012"]["aws"].buckets[bucket].keys[name] for name in "ab")
    assert bytes not in map(type, vars(first).values())
    assert first.metadata is second.metadata
    backend = s3_backends["123456789012"]["aws"]
    backend.put_object(bucket, "c", b"content")
    assert objects_of(FakeAcl) == kinds
    second.set_metadata({"Content-Type": "image/gif"})
    assert (first.metadata["content-type"], second.metadata["content-type"]) == ("image/png", "image/gif")


def test_copies_of_an_object_do_not_change_its_metadata(moto: ClientPair) -> None:
    bucket = f"temporary-{next(_names)}"
    moto.stock.request("s3", "PUT", f"/{bucket}")
    moto.stock.request("s3", "PUT", f"/{bucket}/a", b"x", HTTP_CONTENT_ENCODING="gzip")
    moto.stock.request("s3", "PUT", f"/{bucket}/b", HTTP_X_AMZ_COPY_SOURCE=f"/{bucket}/a")
    for name in "ab":
        assert moto.stock.request("s3", "GET", f"/{bucket}/{name}").headers["content-encoding"] == "gzip"


def new_table(moto: ClientPair, sort_type: str = "S") -> str:
    name = f"temporary-{next(_names)}"
    types = {"pk": "S", "sk": sort_type}
    moto.stock.call(
        "dynamodb",
        "CreateTable",
        TableName=name,
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in (("pk", "HASH"), ("sk", "RANGE"))],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind} for key, kind in types.items()],
        BillingMode="PAY_PER_REQUEST",
    )
    return name


def put(moto: ClientPair, table: str, pk: str, sk: Any) -> None:
    item = {"pk": {"S": pk}, "sk": sk, "v": {"M": {"n": {"L": [{"N": "1"}, {"B": "AAE="}]}}}}
    assert moto.direct.call("dynamodb", "PutItem", TableName=table, Item=item).status == 200


def test_memory_holds_no_item_of_a_table_however_many_partitions_it_has(moto: ClientPair) -> None:
    table = new_table(moto)
    kinds = [objects_of(kind) for kind in (Item, DynamoType)]
    for number in range(IMAGES):
        put(moto, table, "JOB", {"S": f"IMAGE#{number}"})
        put(moto, table, f"CACHE#{number}", {"S": "-"})
    found = moto.direct.call("dynamodb", "GetItem", TableName=table, Key={"pk": {"S": "JOB"}, "sk": {"S": "IMAGE#7"}})
    assert found.json["Item"]["v"] == {"M": {"n": {"L": [{"N": "1"}, {"B": "AAE="}]}}}
    assert [objects_of(kind) for kind in (Item, DynamoType)] == kinds


def test_items_are_deleted_with_their_table(moto: ClientPair) -> None:
    before, table = rows("items"), new_table(moto)
    put(moto, table, "p", {"S": "s"})
    assert rows("items") == before + 1
    moto.stock.call("dynamodb", "DeleteTable", TableName=table)
    gc.collect()
    assert rows("items") == before


def test_a_failed_transaction_leaves_the_items_as_they_were(moto: ClientPair) -> None:
    table = new_table(moto)
    put(moto, table, "p", {"S": "a"})
    key = {"pk": {"S": "p"}, "sk": {"S": "a"}}
    update = {"UpdateExpression": "SET v = :v", "ExpressionAttributeValues": {":v": {"S": "x"}}}
    absent = {"Key": {**key, "sk": {"S": "b"}}, "ConditionExpression": "attribute_exists(pk)"}
    operations = [
        {"Update": {"TableName": table, "Key": key, **update}},
        {"ConditionCheck": {"TableName": table, **absent}},
    ]
    assert moto.stock.call("dynamodb", "TransactWriteItems", TransactItems=operations).status == 400
    found = moto.direct.call("dynamodb", "GetItem", TableName=table, Key=key)
    assert found.json["Item"]["v"] == {"M": {"n": {"L": [{"N": "1"}, {"B": "AAE="}]}}}


def test_a_table_with_numbers_as_keys_is_sorted_by_their_values(moto: ClientPair) -> None:
    table = new_table(moto, "N")
    for number in ("10", "9"):
        put(moto, table, "p", {"N": number})
    values = {":p": {"S": "p"}}
    found = moto.direct.call(
        "dynamodb",
        "Query",
        TableName=table,
        KeyConditionExpression="pk = :p",
        ExpressionAttributeValues=values,
    )
    assert [item["sk"] for item in found.json["Items"]] == [{"N": "9"}, {"N": "10"}]


def test_a_disk_that_fails_is_reported_before_the_error_is_raised() -> None:
    own, failures = TemporaryDatabase(), list[Exception]()
    own.on_failure = failures.append
    with pytest.raises(sqlite3.OperationalError):
        own.execute("SELECT * FROM missing")
    with pytest.raises(sqlite3.OperationalError):
        list(own.rows("SELECT * FROM missing"))
    assert len(failures) == 2
