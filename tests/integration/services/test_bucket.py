"""Buckets by our wrapper: in memory, in the local cloud and in the emulator."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from services.errors import NotFoundError, ObjectRefusedError, ObjectTooLargeError
from services.s3 import CHANGED, Bucket, SourceBuckets, StoredObject
from tests.integration.services.conftest import MemoryPlace, Place, WirePlace
from tests.support.memory_aws.calls import InjectedFault, repeat_fault
from tests.support.memory_aws.s3 import MemorySource

pytestmark = pytest.mark.processes


JSON = "application/json"
CLOUD_ERRORS = (BotoCoreError, ClientError)


def test_an_object_is_stored_read_overwritten_and_deleted(place: Place) -> None:
    bucket = place.bucket()
    bucket.put("job/a.json", b"1", JSON)
    bucket.put("job/a.json", b"22", JSON)
    assert (bucket.get("job/a.json"), bucket.exists("job/a.json")) == (b"22", True)
    assert bucket.head("job/a.json") == StoredObject(2, JSON)
    assert b"".join(bucket.stream("job/a.json")) == b"22"
    with pytest.raises(ObjectTooLargeError):
        bucket.get("job/a.json", 1)
    bucket.delete("job/a.json")
    bucket.delete("job/a.json")
    bucket.delete_all(["job/a.json", "job/never"])
    bucket.delete_all([])
    assert (bucket.head("job/a.json"), bucket.exists("job/a.json")) == (None, False)
    with pytest.raises(NotFoundError):
        bucket.get("job/a.json")
    with pytest.raises(NotFoundError):
        bucket.get_with_etag("job/a.json")


def test_a_range_of_an_object_is_read_without_the_rest(place: Place) -> None:
    bucket = place.bucket()
    bucket.put("J/pack.tar", bytes(range(200)), "application/x-tar")
    parts = bucket.get_ranges("J/pack.tar", [100, 0, 0], [2, 1, 200])
    assert [*parts] == [b"de", b"\0", bytes(range(200))]
    with pytest.raises(NotFoundError):
        bucket.get_ranges("J/none.tar", [0], [1])


def test_a_conditional_put_stores_where_its_condition_holds(place: Place) -> None:
    bucket = place.bucket()
    assert bucket.put_new("job/b.json", b"1", JSON)
    assert not bucket.put_new("job/b.json", b"2", JSON)
    body, etag = bucket.get_with_etag("job/b.json")
    assert body == b"1"
    assert bucket.put_over("job/b.json", b"3", JSON, etag)
    assert not bucket.put_over("job/b.json", b"4", JSON, etag)
    assert bucket.get("job/b.json") == b"3"
    assert not bucket.put_over("job/never.json", b"5", JSON, etag)
    assert not bucket.exists("job/never.json")


def test_keys_of_a_folder_come_in_order_and_no_others(place: Place) -> None:
    bucket = place.bucket()
    for key in ("keys/b", "keys/a", "keys2/c", "other/keys/d"):
        bucket.put(key, b"", JSON)
    assert [bucket.exists(key) for key in ("keys/a", "keys", "keys/", "key")] == [True, False, False, False]
    bucket.put_parts("keys/parts", iter([b"1", b"2"]), JSON)
    assert bucket.list_keys("keys", 10) == ["keys/a", "keys/b", "keys/parts"]
    assert bucket.list_keys("keys", 1) == ["keys/a"]
    assert bucket.list_keys("nothing", 10) == []
    assert bucket.get("keys/parts") == b"12"
    bucket.delete_all(["keys/a", "keys/b", "keys/never"])
    assert bucket.list_keys("keys", 10) == ["keys/parts"]


def test_row_35_a_browser_saves_an_object_and_does_not_show_it(wire: WirePlace) -> None:
    bucket = wire.bucket()
    bucket.put("a/b.jpg", b"GIF89a<script>", "image/gif", {"kept": "no"})
    bucket.put_parts("a/results.jsonl", iter([b"{}"]), "application/x-ndjson")
    for key, content_type in (("a/b.jpg", "image/gif"), ("a/results.jsonl", "application/x-ndjson")):
        seen = wire.clients.s3.get_object(Bucket=bucket.name, Key=key)
        assert (seen["ContentDisposition"], seen["ContentType"]) == ("attachment", content_type)


PART = b"x" * 100_000
PARTS = 120
"""More than two parts of a multipart upload hold."""


def test_a_large_object_is_put_and_read_in_parts_and_one_that_stops_changes_nothing(wire: WirePlace) -> None:
    bucket = wire.bucket()

    class StoppedError(Exception):
        """Raised in the middle."""

    def stopped() -> Iterator[bytes]:
        yield from [PART] * PARTS
        raise StoppedError

    bucket.put_parts("J/large", iter([PART] * PARTS), "application/x-ndjson")
    assert b"".join(bucket.stream("J/large")) == PART * PARTS
    assert bucket.head("J/large") == StoredObject(len(PART) * PARTS, "application/x-ndjson")
    bucket.put("J/large", b"before", "text/plain")
    with pytest.raises(StoppedError):
        bucket.put_parts("J/large", stopped(), "application/x-ndjson")
    assert bucket.get("J/large") == b"before"
    with pytest.raises(NotFoundError):
        next(bucket.stream("J/none"))


def test_an_object_that_cannot_be_read_is_named_with_the_reason(wire: WirePlace) -> None:
    bucket = wire.bucket()
    with pytest.raises(NotFoundError, match=f"there is no object 'no/no' in the bucket '{bucket.name}'"):
        bucket.get("no/no")
    bucket.put("a", bytes(100), "image/jpeg")
    assert bucket.get("a", max_bytes=100) == bytes(100)
    with pytest.raises(ObjectTooLargeError, match="'a' has 100 bytes, more than the 99") as refused:
        bucket.get("a", max_bytes=99)
    assert refused.value.size == 100


@pytest.mark.parametrize(
    "call",
    [
        lambda bucket: bucket.get("a"),
        lambda bucket: bucket.head("a"),
        lambda bucket: bucket.exists("a"),
        lambda bucket: bucket.put_new("a", b"", "text/plain"),
    ],
    ids=["get", "head", "exists", "put_new"],
)
def test_a_missing_bucket_is_not_a_missing_object(wire: WirePlace, call: Callable[[Bucket], object]) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        call(Bucket.named(wire.clients, "fleetsight-never-made"))


@dataclass
class Sources:
    """Buckets of others.

    Attributes:
        buckets: our wrapper.
        name: of one bucket.
        copies: our bucket, for copies.
    """

    buckets: SourceBuckets
    name: str
    copies: Bucket

    def put(self, key: str, body: bytes) -> None:
        """Put an object into the bucket, as its owner."""
        if isinstance(self.buckets, MemorySource):
            self.buckets.objects[self.name, key] = body
        else:
            theirs = {"who": "them"}
            self.buckets.client.put_object(Bucket=self.name, Key=key, Body=body, Tagging="theirs=1", Metadata=theirs)


@pytest.fixture
def sources(place: Place) -> Sources:
    """Buckets of others in each place."""
    if isinstance(place, MemoryPlace):
        return Sources(MemorySource(), "photos", place.bucket())
    return Sources(SourceBuckets(place.clients.s3), place.bucket().name, place.bucket())


HARD_KEYS = ["in/%2F+ &=?.jpg", "in/a b.jpg", "in/it's.jpg", "in/ä/日本.jpg"]


def test_a_source_is_listed_in_order_page_by_page(sources: Sources) -> None:
    for key in (*HARD_KEYS, "inner.jpg", "in"):
        sources.put(key, key.encode())
    found, after, has_more = list[str](), "", True
    while has_more:
        page, has_more = sources.buckets.page(sources.name, "in/", after, 3)
        found += [each.key for each in page]
        assert [each.size for each in page] == [len(each.key.encode()) for each in page]
        after = found[-1]
    assert found == sorted(HARD_KEYS, key=str.encode)
    assert sources.buckets.page(sources.name, "nothing/", "", 3) == ([], False)


def test_a_folder_is_listed_in_pages_with_the_time_at_which_each_object_was_put(sources: Sources) -> None:
    bucket = sources.copies
    for key in ("J/a", "J/forms/b", "J/c", "J2/d"):
        bucket.put(key, b"1", JSON)
    first = sources.buckets.folder(bucket, "J", "", 2)
    second = sources.buckets.folder(bucket, "J", first.next_token, 2)
    assert [list(page.objects) for page in (first, second)] == [["J/a", "J/c"], ["J/forms/b"]]
    assert not second.next_token
    found = bucket.head("J/a")
    assert found is not None
    for put_at in (found.put_at, *first.objects.values()):
        assert abs(put_at - first.listed_at) < timedelta(hours=1)
    assert sources.buckets.folder(bucket, "none", "", 2).objects == {}


def test_an_object_is_readable_if_it_is_there(sources: Sources) -> None:
    sources.put("in/a b.jpg", b"content")
    assert sources.buckets.first_bytes(sources.name, "in/a b.jpg", 3) == b"con"
    assert sources.buckets.first_bytes(sources.name, "in/a b.jpg", 64) == b"content"
    assert sources.buckets.is_readable(sources.name, "in/a b.jpg")
    assert not sources.buckets.is_readable(sources.name, "in/none.jpg")


def test_an_object_is_read_only_as_it_was_listed(sources: Sources) -> None:
    for key in HARD_KEYS:
        sources.put(key, key.encode())
    listed = {each.key: each for each in sources.buckets.page(sources.name, "in/", "", 9)[0]}
    for key, each in listed.items():
        assert sources.buckets.read(sources.name, key, each.etag, each.size) == key.encode()
        assert sources.buckets.read(sources.name, key, each.etag, 3, 2) == key.encode()[2:5]
    changed = listed[HARD_KEYS[1]]
    sources.put(changed.key, bytes(changed.size))
    for key, etag, size, code in (
        (changed.key, changed.etag, changed.size, CHANGED),
        (HARD_KEYS[0], listed[HARD_KEYS[0]].etag, 1, CHANGED),
        ("in/none.jpg", changed.etag, changed.size, "NoSuchKey"),
    ):
        with pytest.raises(ObjectRefusedError, match=code):
            sources.buckets.read(sources.name, key, etag, size)
    if sources.buckets.client is not None:
        with pytest.raises(ObjectRefusedError, match="NoSuchBucket"):
            sources.buckets.read("no-such-bucket-here", "a.jpg", changed.etag, 1)


def test_a_copy_has_the_content_and_nothing_else_of_the_object(sources: Sources) -> None:
    for number, key in enumerate(HARD_KEYS):
        sources.put(key, key.encode())
        sources.buckets.copy(
            sources.name, key, sources.copies, f"J/{number}.jpg", "image/jpeg", {"kept": "no"} if number else None
        )
        assert sources.copies.get(f"J/{number}.jpg") == key.encode()
        assert sources.copies.head(f"J/{number}.jpg") == StoredObject(len(key.encode()), "image/jpeg")
    client = sources.buckets.client
    if client is not None:
        seen = client.get_object(Bucket=sources.copies.name, Key="J/1.jpg")
        assert (seen["Metadata"], seen["ContentDisposition"]) == ({}, "attachment")
        tags = [
            client.get_object_tagging(Bucket=sources.copies.name, Key=f"J/{number}.jpg")["TagSet"]
            for number in (0, 1)
        ]
        assert tags == [[], [{"Key": "kept", "Value": "no"}]]
    with pytest.raises(NotFoundError):
        sources.buckets.copy(sources.name, "in/none.jpg", sources.copies, "J/none.jpg", "image/jpeg")


def test_a_conditional_copy_is_made_of_an_unchanged_object_to_a_free_key(sources: Sources) -> None:
    bucket, buckets = sources.copies, sources.buckets

    def copy(etag: str, key: str = "J/b.jpg") -> bool:
        return buckets.copy_new(bucket, "J/forms/b.jpg", etag, key, "image/jpeg", {"kept": "no"})

    bucket.put("J/forms/b.jpg", b"one", "image/jpeg", {"other": "tag"})
    found = bucket.head("J/forms/b.jpg")
    assert found is not None
    assert copy(found.etag)
    bucket.put("J/forms/b.jpg", b"two", "image/jpeg")
    changed = bucket.head("J/forms/b.jpg")
    assert changed is not None
    assert not copy(found.etag, "J/free.jpg")
    assert not copy(changed.etag)
    assert [bucket.exists(key) for key in ("J/b.jpg", "J/free.jpg")] == [True, False]
    assert bucket.get("J/b.jpg") == b"one"
    if buckets.client is not None:
        tags = buckets.client.get_object_tagging(Bucket=bucket.name, Key="J/b.jpg")["TagSet"]
        assert tags == [{"Key": "kept", "Value": "no"}]
    with pytest.raises(NotFoundError):
        buckets.copy_new(bucket, "J/forms/none.jpg", found.etag, "J/none.jpg", "image/jpeg", None)


def test_a_copy_to_a_bucket_of_another_replaces_the_one_before(sources: Sources) -> None:
    buckets, bucket, results = sources.buckets, sources.name, sources.copies
    sources.put("labels/J.jsonl", b"before")
    results.put("results/J.jsonl", b"{}", "application/x-ndjson")
    for _ in range(2):
        buckets.copy_out(results, "results/J.jsonl", bucket, "labels/J.jsonl", "application/x-ndjson")
    assert [(each.key, each.size) for each in buckets.page(bucket, "labels/", "", 3)[0]] == [("labels/J.jsonl", 2)]
    if buckets.client is not None:
        seen = buckets.client.get_object(Bucket=bucket, Key="labels/J.jsonl")
        assert (seen["Body"].read(), seen["ContentType"]) == (b"{}", "application/x-ndjson")
        with pytest.raises(ClientError) as raised:
            buckets.copy_out(results, "results/J.jsonl", "no-such-bucket-here", "J.jsonl", "application/x-ndjson")
        assert raised.value.response["Error"]["Code"] == "NoSuchBucket"
    with pytest.raises(NotFoundError):
        buckets.copy_out(results, "results/none.jsonl", bucket, "labels/J.jsonl", "application/x-ndjson")


def test_objects_that_a_delete_leaves_are_deleted_by_its_repeat(stand_in: Place) -> None:
    bucket, keys = stand_in.bucket(), [f"job/{number}" for number in range(5)]
    for key in keys:
        bucket.put(key, b"1", JSON)
    stand_in.fail("POST", "partial")
    bucket.delete_all(keys)
    assert bucket.list_keys("job", 10) == []


def test_objects_that_no_delete_deletes_are_an_error(stand_in: Place) -> None:
    bucket, keys = stand_in.bucket(), [f"job/{number}" for number in range(64)]
    for key in keys:
        bucket.put(key, b"1", JSON)
    stand_in.fail("POST", *repeat_fault("partial", 3))
    with pytest.raises(CLOUD_ERRORS):
        bucket.delete_all(keys)
    assert 0 < len(bucket.list_keys("job", 100)) < len(keys)


@pytest.mark.parametrize("fault", ["unavailable", "throttled", "reset", "lost_reply", "repeated"])
def test_an_object_is_stored_and_read_though_a_call_fails(stand_in: Place, fault: InjectedFault) -> None:
    bucket = stand_in.bucket()
    stand_in.fail("PUT", fault)
    bucket.put("job/a", b"1", JSON)
    stand_in.fail("GET", fault)
    assert bucket.get("job/a") == b"1"


def is_stored(put: Callable[[], bool]) -> bool:
    """Return the answer of a conditional put, or False if it is an error."""
    try:
        return put()
    except CLOUD_ERRORS:
        return False


def test_a_conditional_put_with_a_lost_reply_is_of_unknown_outcome_until_it_is_read(stand_in: Place) -> None:
    """Its repeat finds the object of the first attempt, or it is not repeated and its error does not say."""
    bucket = stand_in.bucket()
    stand_in.fail("PUT", "lost_reply")
    assert not is_stored(lambda: bucket.put_new("job/a", b"ours", JSON))
    body, etag = bucket.get_with_etag("job/a")
    assert body == b"ours"
    stand_in.fail("PUT", "lost_reply")
    assert not is_stored(lambda: bucket.put_over("job/a", b"later", JSON, etag))
    assert bucket.get("job/a") == b"later"


def test_a_service_that_stays_away_is_an_error_after_a_bounded_number_of_attempts(stand_in: Place) -> None:
    bucket = stand_in.bucket()
    stand_in.fail("PUT", *repeat_fault("unavailable", 3))
    with pytest.raises(CLOUD_ERRORS):
        bucket.put("job/a", b"1", JSON)
    assert not bucket.exists("job/a")
    bucket.put("job/a", b"1", JSON)
