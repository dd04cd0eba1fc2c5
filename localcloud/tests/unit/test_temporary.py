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
    TemporaryDatabase,
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


def test_memory_holds_a_bounded_number_of_the_messages_of_a_backlog() -> None:
    queue: MessageQueue[int] = MessageQueue()
    messages, before, stored = 20_000, rows("contents"), objects_of(StoredMessage)
    for number in range(messages):
        queue.send(str(number), number, group=str(number % 100))
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
