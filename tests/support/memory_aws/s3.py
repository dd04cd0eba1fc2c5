"""S3 in memory: a bucket, and buckets of others, with the classes by which the product uses them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, cast

from services.clock import utc_now
from services.errors import NotFoundError, ObjectRefusedError, ObjectTooLargeError
from services.s3 import Bucket, FolderPage, ListedObject, SourceBuckets, StoredObject
from tests.support.memory_aws.calls import ATTEMPTS, Call, Leave, leave_none, refusal, run_effect


class MemoryBucket(Bucket):
    """A bucket in memory.

    Attributes:
        objects: by key.
        types: the content types of the objects, by key.
        tags: the tags of the objects, by key; None for an object without tags.
        put_at: when the objects were put, by key.
        now: the service's clock.
        call: makes every call of the service; a test may delay, repeat, lose or refuse it there.
        fails: returns the error with which `put` refuses a body, or None.
        leave: how many objects of a delete call S3 does not delete.
    """

    def __init__(
        self,
        call: Call = run_effect,
        fails: Callable[[bytes], Exception | None] = lambda body: None,
        leave: Leave = leave_none,
        name: str = "memory",
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(cast(Any, None), name)
        self.call, self.fails, self.leave, self.now = call, fails, leave, now
        self.objects: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.tags: dict[str, Mapping[str, str] | None] = {}
        self.put_at: dict[str, datetime] = {}

    def put(
        self, key: str, body: bytes | bytearray, content_type: str, tags: Mapping[str, str] | None = None
    ) -> None:
        """Store an object; replace an existing one."""
        error = self.fails(bytes(body))
        if error is not None:
            raise error
        self.call("put", lambda: self.store_object(key, bytes(body), content_type, tags))

    def put_new(self, key: str, body: bytes, content_type: str) -> bool:
        """Store an object where there is none; return True if it was stored."""

        def effect() -> bool:
            if key in self.objects:
                return False
            self.store_object(key, body, content_type)
            return True

        return bool(self.call("put", effect))

    def put_over(self, key: str, body: bytes, content_type: str, etag: str) -> bool:
        """Store an object over one that still has this ETag; return True if it was stored."""

        def effect() -> bool:
            if key not in self.objects or etag_of(self.objects[key]) != etag:
                return False
            self.store_object(key, body, content_type)
            return True

        return bool(self.call("put", effect))

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Return an object and its ETag."""
        body = self.get(key)
        return body, etag_of(body)

    def put_parts(self, key: str, parts: Iterator[bytes], content_type: str) -> None:
        """Store an object that is made while it is sent."""
        body = b"".join(parts)
        self.put(key, body, content_type)

    def get(self, key: str, max_bytes: int | None = None) -> bytes:
        """Return an object, up to a size."""
        body = self.call("get", lambda: self.objects.get(key))
        if body is None:
            raise NotFoundError(f"there is no object {key!r}")
        if max_bytes is not None and len(body) > max_bytes:
            raise ObjectTooLargeError(key, len(body), max_bytes)
        return bytes(body)

    def get_ranges(self, key: str, starts: Sequence[int], sizes: Sequence[int]) -> Iterator[bytes]:
        """Yield parts of an object, by one call."""
        body = self.get(key)
        return (body[start : start + size] for start, size in zip(starts, sizes, strict=True))

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object in one part."""
        yield self.get(key)

    def head(self, key: str) -> StoredObject | None:
        """Return size and type of an object, or None."""

        def effect() -> StoredObject | None:
            if (body := self.objects.get(key)) is None:
                return None
            return StoredObject(len(body), self.types[key], etag_of(body), self.put_at[key])

        found: StoredObject | None = self.call("head", effect)
        return found

    def exists(self, key: str) -> bool:
        """Return True if there is an object."""
        return bool(self.call("head", lambda: key in self.objects))

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        self.delete_all([key])

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete objects, those that are there. As by obstore, a call that S3 answers in part is made again."""
        left = list(keys)

        def effect() -> int:
            kept = self.leave(len(left))
            for key in left[: len(left) - kept]:
                self.objects.pop(key, None)
            return kept

        for _ in range(ATTEMPTS):
            if not left:
                return
            kept = self.call("delete", effect)
            left = left[len(left) - kept :]
        if left:
            raise refusal("InternalError", "DeleteObjects", 500)

    def list_keys(self, folder: str, limit: int) -> list[str]:
        """Return up to `limit` keys in a folder, in order."""
        inside = f"{folder}/"
        found = self.call("list", lambda: sorted(key for key in self.objects if key.startswith(inside)))
        return list(found[:limit])

    def untag(self, key: str) -> None:
        """Remove the tags of an object."""
        self.call("untag", lambda: self.tags.update({key: None}))

    def store_object(self, key: str, body: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
        """Store an object without a call."""
        self.objects[key], self.types[key], self.tags[key] = body, content_type, tags
        self.put_at[key] = self.now()


class MemorySource(SourceBuckets):
    """Buckets of others in memory.

    Attributes:
        objects: by bucket and key.
        archived: those of the objects that must be restored first.
        unreadable: those of the objects that may not be read.
        gone: names of buckets that were deleted.
        refuses_copies: whether the bucket of the copies refuses them.
        unwritable: returns the error with which a copy into a bucket is refused, or None.
        fails: returns the error with which a page of a bucket is refused, or None.
        call: as of a `MemoryBucket`.
    """

    def __init__(self, call: Call = run_effect) -> None:
        super().__init__(cast(Any, None))
        self.call = call
        self.objects: dict[tuple[str, str], bytes] = {}
        self.archived: set[tuple[str, str]] = set()
        self.unreadable: set[tuple[str, str]] = set()
        self.gone: set[str] = set()
        self.refuses_copies = False
        self.fails: Callable[[str], Exception | None] = lambda bucket: None
        self.unwritable: Callable[[str], Exception | None] = lambda bucket: None

    def page(self, bucket: str, prefix: str, after: str, limit: int) -> tuple[list[ListedObject], bool]:
        """Return objects in the order of their keys, and whether there are more."""
        if (error := self.fails(bucket)) is not None:
            raise error
        if bucket in self.gone:
            raise refusal("NoSuchBucket", "ListObjectsV2", 404)

        def effect() -> list[ListedObject]:
            return [
                ListedObject(key, len(body), (bucket, key) in self.archived, etag_of(body).strip('"'))
                for (place, key), body in sorted(self.objects.items(), key=lambda each: each[0][1].encode())
                if place == bucket and key.startswith(prefix) and key.encode() > after.encode()
            ]

        found = self.call("list", effect)
        return found[:limit], len(found) > limit

    def folder(self, of: Bucket, folder: str, token: str, limit: int) -> FolderPage:
        """Return a page of the objects of a bucket in memory, and its time."""
        assert isinstance(of, MemoryBucket)

        def effect() -> FolderPage:
            found = sorted(key for key in of.objects if key.startswith(f"{folder}/") and key > token)
            page, is_last = found[:limit], len(found) <= limit
            return FolderPage({key: of.put_at[key] for key in page}, of.now(), "" if is_last else page[-1])

        page: FolderPage = of.call("list", effect)
        return page

    def copy(
        self, bucket: str, key: str, to: Bucket, to_key: str, content_type: str, tags: Mapping[str, str] | None = None
    ) -> None:
        """Copy an object."""
        if self.refuses_copies or (bucket, key) in self.unreadable:
            raise refusal("AccessDenied", "CopyObject", 403)
        if bucket in self.gone:
            raise refusal("NoSuchBucket", "CopyObject", 404)
        body = self.call("get", lambda: self.objects.get((bucket, key)))
        if body is None:
            raise NotFoundError(f"there is no object {key!r}")
        to.put(to_key, body, content_type, tags)

    def copy_new(
        self, bucket: Bucket, key: str, etag: str, to_key: str, content_type: str, tags: Mapping[str, str] | None
    ) -> bool:
        """Copy an object within a bucket in memory, if it has the ETag and there is none at the other key."""
        assert isinstance(bucket, MemoryBucket)

        def effect() -> bool:
            body = bucket.objects.get(key)
            if body is None:
                raise NotFoundError(f"there is no object {key!r}")
            if etag_of(body) != etag or to_key in bucket.objects:
                return False
            bucket.store_object(to_key, body, content_type, tags)
            return True

        return bool(bucket.call("put", effect))

    def read(self, bucket: str, key: str, etag: str, size: int, start: int | None = None) -> bytes:
        """Return an object with this ETag, or a part of it."""
        if bucket in self.gone:
            raise ObjectRefusedError("NoSuchBucket")
        if (bucket, key) in self.unreadable:
            raise ObjectRefusedError("AccessDenied")
        if (bucket, key) in self.archived:
            raise ObjectRefusedError("InvalidObjectState")
        body: bytes | None = self.call("get", lambda: self.objects.get((bucket, key)))
        if body is None:
            raise ObjectRefusedError("NoSuchKey")
        part = body if start is None else body[start : start + size]
        if etag_of(body).strip('"') != etag or len(part) != size:
            raise ObjectRefusedError("PreconditionFailed")
        return part

    def first_bytes(self, bucket: str, key: str, count: int) -> bytes | None:
        """Return the first bytes of an object; None if it does not exist or may not be read."""
        if bucket in self.gone or (bucket, key) in self.unreadable:
            return None
        body = self.objects.get((bucket, key))
        return None if body is None else body[:count]

    def is_readable(self, bucket: str, key: str) -> bool:
        """Return whether an object exists and may be read."""
        return self.first_bytes(bucket, key, 1) is not None

    def copy_out(self, of: Bucket, key: str, bucket: str, to_key: str, content_type: str) -> None:
        """Copy an object to a bucket of another."""
        body = of.get(key)
        if (error := self.unwritable(bucket)) is not None:
            raise error
        if bucket in self.gone:
            raise refusal("NoSuchBucket", "CopyObject", 404)
        self.call("put", lambda: self.objects.update({(bucket, to_key): body}))


def etag_of(body: bytes) -> str:
    """Return the ETag of an object."""
    return f'"{sha256(body).hexdigest()}"'
