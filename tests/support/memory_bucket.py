"""A bucket in memory, with S3's answers: read-after-write, and conditional puts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, cast

from services.errors import NotFoundError, ObjectTooLargeError
from services.s3 import Bucket, StoredObject

Call = Callable[[str, Callable[[], Any]], Any]
"""Makes a call: is given the operation and its effect, and returns what the effect returned."""


class MemoryBucket(Bucket):
    """A bucket that holds its objects in `objects`, by key.

    Args:
        call: makes every call of the service; a test may delay, repeat, lose or refuse it there.
    """

    objects: dict[str, bytes]
    types: dict[str, str]
    call: Call

    def __init__(self, call: Call = lambda _operation, effect: effect()) -> None:
        super().__init__(cast(Any, None), "memory")
        object.__setattr__(self, "objects", {})
        object.__setattr__(self, "types", {})
        object.__setattr__(self, "call", call)

    def put(self, key: str, body: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
        """Store an object; replace an existing one."""
        self.call("put", lambda: self._store(key, body, content_type))

    def put_new(self, key: str, body: bytes, content_type: str) -> bool:
        """Store an object where there is none; return True if it was stored."""

        def effect() -> bool:
            if key in self.objects:
                return False
            self._store(key, body, content_type)
            return True

        return bool(self.call("put", effect))

    def put_over(self, key: str, body: bytes, content_type: str, etag: str) -> bool:
        """Store an object over one that still has this ETag; return True if it was stored."""

        def effect() -> bool:
            if key not in self.objects or etag_of(self.objects[key]) != etag:
                return False
            self._store(key, body, content_type)
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

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object in one part."""
        yield self.get(key)

    def head(self, key: str) -> StoredObject | None:
        """Return size and type of an object, or None."""
        body = self.call("head", lambda: self.objects.get(key))
        return None if body is None else StoredObject(len(body), self.types[key])

    def exists(self, key: str) -> bool:
        """Return True if there is an object."""
        return bool(self.call("head", lambda: key in self.objects))

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        self.delete_all([key])

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete objects, those that are there."""
        if keys:
            self.call("delete", lambda: [self.objects.pop(key, None) for key in keys])

    def list_keys(self, folder: str, limit: int) -> list[str]:
        """Return up to `limit` keys in a folder, in order."""
        inside = f"{folder}/"
        found = self.call("list", lambda: sorted(key for key in self.objects if key.startswith(inside)))
        return list(found[:limit])

    def _store(self, key: str, body: bytes, content_type: str) -> None:
        self.objects[key], self.types[key] = body, content_type


def etag_of(body: bytes) -> str:
    """Return the ETag of an object."""
    return f'"{sha256(body).hexdigest()}"'
