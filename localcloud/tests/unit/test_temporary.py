"""The temporary files have what grows with images: memory holds no items, objects or contents."""

import copy
import errno
import gc
import hashlib
import os
import tracemalloc
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.s3.models import S3_UPLOAD_PART_MIN_SIZE, FakeKey, S3Backend, s3_backends

from localcloud import temporary
from localcloud.dispatch import CallCounter, CountedCalls
from localcloud.launch import REGION
from localcloud.patches import apply_patches
from localcloud.s3.stored_keys import StoredKeys
from localcloud.sqs.fair_order import MEMORY_MESSAGES
from localcloud.sqs.messages import StoredMessage
from localcloud.sqs.queues import MessageQueue
from localcloud.temporary import (
    BLOCK_BYTES,
    LARGE_BYTES,
    JoinedContent,
    StoredContent,
    TemporaryDatabase,
    TemporaryStorageError,
    body_of,
    database,
    folder,
)
from localcloud.tests.support.wsgi_clients import ClientPair, WsgiClient

_names = count()
IMAGES = 200


def rows(table: str) -> int:
    """How many rows a table of the database has, after what destructors have left to do."""
    return int(database().execute(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 - a constant of a test


def objects_of(kind: type) -> int:
    """How many objects of a type memory holds."""
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


@pytest.fixture(autouse=True)
def _no_garbage_of_earlier_tests() -> None:
    """Delete what earlier tests left in cycles of references: its rows would go between two counts of a test."""
    gc.collect()


@pytest.fixture
def backend() -> S3Backend:
    apply_patches("core")
    apply_patches("s3")
    found: S3Backend = s3_backends["123456789012"]["aws"]
    found.create_bucket(f"temporary-{next(_names)}", REGION)
    return found


@pytest.mark.parametrize("large_bytes", [0, 100])
@pytest.mark.parametrize("content", [b"", b"x", b"0123456789", b"01234567"])
def test_a_content_is_read_as_it_was_also_in_pieces(
    content: bytes, large_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary, "PIECE_BYTES", 4)
    monkeypatch.setattr(temporary, "LARGE_BYTES", large_bytes)
    others = [StoredContent.create(b"other") for _ in range(2)]
    assert StoredContent.create(content).read() == content
    assert [each.read() for each in others] == [b"other", b"other"]


def test_a_deleted_large_content_leaves_no_blocks_on_the_disk() -> None:
    own = TemporaryDatabase()
    kept, deleted = (own.add_content(bytes([each]) * (LARGE_BYTES + 1)) for each in (1, 2))
    own.execute("DELETE FROM contents WHERE number = ?", deleted)
    os.fsync(own._file.fileno())
    assert os.fstat(own._file.fileno()).st_blocks * 512 <= LARGE_BYTES + 2 * BLOCK_BYTES
    assert own.content(kept) == b"\1" * (LARGE_BYTES + 1)


def test_an_object_of_parts_is_joined_and_read_with_one_part_at_a_time_in_memory(backend: S3Backend) -> None:
    [bucket, *_] = reversed(backend.buckets)
    upload = backend.create_multipart_upload(bucket, "k", {}, None, None, None, None, None).id
    parts = {number: bytes([number]) * S3_UPLOAD_PART_MIN_SIZE for number in range(1, 7)}
    named = [(number, backend.upload_part(bucket, upload, number, part).etag) for number, part in parts.items()]
    whole = hashlib.sha256(b"".join(parts.values())).digest()
    tracemalloc.start()
    try:
        stored = backend.complete_multipart_upload(bucket, upload, iter(named))
        read = hashlib.sha256()
        body = body_of(stored._content)
        assert isinstance(body, JoinedContent)
        for piece in body:
            read.update(piece)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (read.digest(), stored.size) == (whole, len(parts) * S3_UPLOAD_PART_MIN_SIZE)
    assert most < 2.5 * S3_UPLOAD_PART_MIN_SIZE
    backend.delete_object(bucket, "k")


def test_a_body_is_not_in_memory_after_its_answer(moto: ClientPair) -> None:
    bucket = f"temporary-{next(_names)}"
    moto.stock.request("s3", "PUT", f"/{bucket}")
    moto.stock.request("s3", "PUT", f"/{bucket}/first", b"x")
    gc.disable()
    tracemalloc.start()
    try:
        moto.stock.request("s3", "PUT", f"/{bucket}/k", b"x" * S3_UPLOAD_PART_MIN_SIZE)
        assert tracemalloc.get_traced_memory()[0] < S3_UPLOAD_PART_MIN_SIZE
    finally:
        tracemalloc.stop()
        gc.enable()


def test_a_content_is_deleted_with_its_last_reader_and_an_object_with_its_bucket(backend: S3Backend) -> None:
    [bucket, *_] = reversed(backend.buckets)
    before = rows("contents")
    old = backend.put_object(bucket, "k", b"old")
    held = copy.deepcopy(old)
    backend.put_object(bucket, "k", b"new")
    del old
    assert (held.value, rows("contents")) == (b"old", before + 2)
    del held
    assert rows("contents") == before + 1
    backend.delete_object(bucket, "k")
    assert rows("contents") == before
    backend.put_object(bucket, "k", b"of a bucket that goes")
    del backend.buckets[bucket]
    gc.collect()
    assert rows("contents") == before


def test_memory_holds_no_object_of_a_bucket(moto: ClientPair) -> None:
    bucket, before = f"temporary-{next(_names)}", objects_of(FakeKey)
    moto.stock.request("s3", "PUT", f"/{bucket}")
    for number in range(IMAGES):
        moto.direct.request("s3", "PUT", f"/{bucket}/{number}", b"content", CONTENT_TYPE="image/png")
    assert moto.direct.request("s3", "GET", f"/{bucket}/7").headers["content-type"] == "image/png"
    assert (objects_of(FakeKey), len(s3_backends["123456789012"]["aws"].buckets[bucket].keys)) == (before, IMAGES)


def test_memory_holds_no_tags_of_objects_however_they_got_them(backend: S3Backend, moto: ClientPair) -> None:
    [bucket, *_] = reversed(backend.buckets)
    moto.direct.request("s3", "PUT", f"/{bucket}/put", b"x", HTTP_X_AMZ_TAGGING="kept=put")
    tagging = b"<Tagging><TagSet><Tag><Key>kept</Key><Value>later</Value></Tag></TagSet></Tagging>"
    moto.stock.request("s3", "PUT", f"/{bucket}/put?tagging", tagging)
    moto.stock.request("s3", "PUT", f"/{bucket}/copy", HTTP_X_AMZ_COPY_SOURCE=f"/{bucket}/put")
    keys = backend.buckets[bucket].keys
    assert [keys[name].tags for name in ("put", "copy")] == [[{"Key": "kept", "Value": "later"}]] * 2
    moto.stock.request("s3", "DELETE", f"/{bucket}/put?tagging")
    assert (list(keys["put"].tags), keys["copy"].response_dict["x-amz-tagging-count"]) == ([], "1")
    assert not [arn for arn in backend.tagger.tags if bucket in arn]


def test_a_change_of_an_object_is_written_unless_another_has_replaced_it(backend: S3Backend) -> None:
    [bucket, *_] = reversed(backend.buckets)
    keys = backend.buckets[bucket].keys
    replaced = backend.put_object(bucket, "k", b"old")
    backend.put_object(bucket, "k", b"new").set_metadata({"Content-Type": "image/png"})
    replaced.set_metadata({"Content-Type": "image/gif"})
    assert (keys["k"].value, keys["k"].metadata["content-type"]) == (b"new", "image/png")
    copy.deepcopy(keys["k"]).set_metadata({"Content-Type": "image/gif"})
    assert keys["k"].metadata["content-type"] == "image/png"


def test_an_object_keeps_its_content_when_its_bucket_begins_to_have_versions(backend: S3Backend) -> None:
    [bucket, *_] = reversed(backend.buckets)
    backend.put_object(bucket, "k", b"first")
    backend.put_bucket_versioning(bucket, "Enabled")
    backend.put_object(bucket, "k", b"second")
    keys = backend.buckets[bucket].keys
    assert [each.value for each in keys.getlist("k")] == [b"first", b"second"]
    backend.put_object(bucket, "l", b"")
    backend.delete_object(bucket, "l")
    assert [each.name for each in keys.page("", b"", 9)] == ["k"]
    for key in ("k", "l"):
        for version in keys.getlist(key):  # the last one of `l` is a delete marker
            assert backend.delete_object(bucket, key, version.version_id)[0]
    assert not keys


def test_pages_of_a_list_have_each_key_of_the_prefix_once_and_in_order(moto: ClientPair) -> None:
    bucket = f"temporary-{next(_names)}"
    moto.stock.request("s3", "PUT", f"/{bucket}")
    for name in ("b/3", "a/2", "b/1", "b/2", "b", "c/1"):
        moto.direct.request("s3", "PUT", f"/{bucket}/{name}", b"x")
    backend = s3_backends["123456789012"]["aws"]
    asked = {"prefix": "b/", "delimiter": None, "start_after": None, "max_keys": 2}
    found, is_cut, token = backend.list_objects_v2(backend.buckets[bucket], continuation_token=None, **asked)
    rest, is_rest_cut, _ = backend.list_objects_v2(backend.buckets[bucket], continuation_token=token, **asked)
    assert [each.name for each in [*found, *rest]] == ["b/1", "b/2", "b/3"]
    assert (is_cut, is_rest_cut) == (True, False)


@given(
    names=st.sets(st.text("ab/", min_size=1, max_size=5), max_size=40),
    prefix=st.sampled_from(["", "a", "a/", "b/a/"]),
    delimiter=st.sampled_from([None, "/", "b/"]),
    page=st.integers(1, 4),
)
def test_a_list_has_each_key_or_common_prefix_once_whatever_its_pages(
    names: set[str], prefix: str, delimiter: str | None, page: int
) -> None:
    apply_patches("s3")
    stored, owner = StoredKeys(), {"account_id": "123456789012", "region_name": REGION}
    for name in names:
        stored.setlist(name, [FakeKey(name, b"", **owner)])
    found, after = list[str](), ""
    while some := [getattr(each, "name", each) for each in stored.entries(prefix, delimiter, after, page)]:
        found, after = found + some, some[-1]
    wanted = [name for name in names if name.startswith(prefix)]
    if delimiter:
        splits = [name[len(prefix) :].partition(delimiter) for name in wanted]
        wanted = [prefix + first + mark for first, mark, _ in splits]
    assert found == sorted(set(wanted))


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


@pytest.mark.parametrize("tenants", [1, 4, 100])
def test_memory_holds_a_bounded_number_of_the_messages_of_a_backlog(tenants: int) -> None:
    queue: MessageQueue[int] = MessageQueue()
    messages, before, stored = 20_000, rows("contents"), objects_of(StoredMessage)
    for number in range(messages):
        queue.send(str(number), number, group=str(number % tenants))
    assert objects_of(StoredMessage) <= stored + MEMORY_MESSAGES
    assert rows("contents") > before
    received = list[int]()
    while deliveries := queue.receive(10, 60):
        received += [delivery.payload for delivery in deliveries]
        for delivery in deliveries:
            queue.delete(delivery.receipt_handle)
        if len(received) == messages // 2:
            assert objects_of(StoredMessage) <= stored + 2 * MEMORY_MESSAGES
    assert sorted(received) == list(range(messages))
    assert rows("contents") == before


def test_a_disk_that_fails_is_reported_before_the_error_is_raised() -> None:
    own, failures = TemporaryDatabase(), list[Exception]()
    own.on_failure = failures.append
    with pytest.raises(TemporaryStorageError):
        own.execute("SELECT * FROM missing")
    with pytest.raises(TemporaryStorageError):
        list(own.rows("SELECT * FROM missing"))
    assert len(failures) == 2


def test_a_full_disk_is_answered_with_its_folder_and_the_remedy(
    moto: ClientPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    bucket = f"temporary-{next(_names)}"
    moto.stock.request("s3", "PUT", f"/{bucket}")
    monkeypatch.setattr(os, "pwrite", fail)
    monkeypatch.setattr(database(), "on_failure", lambda _error: None)  # a test of a state lets it end the process
    client = WsgiClient(CountedCalls(moto.direct._application, CallCounter()))
    answer = client.request("s3", "PUT", f"/{bucket}/a", bytes(LARGE_BYTES))
    assert answer.status == 503
    assert f"temporary files in {folder()} cannot be written" in answer.body.decode()
    assert "name another folder in TMPDIR" in answer.body.decode()
    monkeypatch.undo()
    assert moto.direct.request("s3", "GET", f"/{bucket}/a").status == 404
