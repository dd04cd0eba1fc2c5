"""The objects of a bucket in the temporary database, by key.

moto has a list of the versions of each key, which takes 700 bytes of memory, and reads all of them for each page of a
list. Here an object is a row. Each read makes an object of its own, and a change of it is written at once. The
objects of multipart uploads, and those of a bucket with versions, are in memory, as in moto.
"""

import functools
import pickle  # nosec B403 (reads only what this process has written)
import secrets
import weakref
from typing import Any, Final

from moto.s3.models import FakeBucket, FakeKey, LowercaseDict
from moto.s3.utils import _VersionedKeyStore

from localcloud.temporary import LAST, NEXT, StoredContent, database

_NOT_IN_ROW: Final = frozenset({"_content", "_tick", "name", "stored_keys"})
"""Attributes that an object gets otherwise when it is read, or need not have."""

_FETCHED: Final = 16
"""Objects that are read together for a list with common prefixes: only the first of a prefix is needed."""

_ONE: Final = "SELECT content, attributes FROM objects WHERE owner = ? AND name = ?"
_PAGE: Final = (
    "SELECT name, content, attributes FROM objects WHERE owner = ? AND name >= ? AND name < ? ORDER BY name LIMIT ?"
)
_PUT: Final = "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)"
_CHANGE: Final = "UPDATE objects SET attributes = ? WHERE owner = ? AND name = ?"
_DELETE: Final = "DELETE FROM objects WHERE owner = ? AND name = ? RETURNING content"


ETAG_DIGITS: Final = 32
"""Digits of an ETag, as of an MD5: random where a client signs no SHA-256 of the content, else the beginning of that.

S3 does not promise an MD5 (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html).
"""


@functools.lru_cache(maxsize=1_000)
def shared_metadata(metadata: tuple[tuple[str, str], ...]) -> LowercaseDict:
    """Return this metadata, once for all objects that have it; it must not be changed."""
    return LowercaseDict(metadata)


def random_etag() -> str:
    """Return the ETag of a content of which no SHA-256 was signed."""
    return secrets.token_hex(ETAG_DIGITS // 2)


def describe(stored: FakeKey, bucket: FakeBucket, metadata: dict[str, str], tags: list[dict[str, str]]) -> None:
    """Set metadata, tags and ACL of a new object, the last as its bucket has it; its row is written once."""
    described: dict[str, Any] = {"_metadata": shared_metadata(tuple(metadata.items()))}
    if tags:
        described["tags"] = tags
    if bucket.acl is not FakeKey.acl:  # which objects have without an attribute of their own
        described["acl"] = bucket.acl
    vars(stored).update(described)
    if stored.stored_keys is not None:
        stored.stored_keys.write(stored)


class StoredKeys(_VersionedKeyStore):  # type: ignore[misc] # moto is untyped
    """The versions of each key; those that are not rows are in the dictionary itself."""

    def __init__(self) -> None:
        super().__init__()
        self._owner = database().new_number()
        delete = "DELETE FROM objects WHERE owner = ?"
        weakref.finalize(self, database().execute_later, delete, self._owner).atexit = False

    def __sgetitem__(self, key: str) -> list[Any]:
        """Return the versions of a key; moto's other methods read by this one. Raises `KeyError` without any."""
        with database().lock:
            if dict.__contains__(self, key):
                return list(dict.__getitem__(self, key))
            if not (found := database().execute(_ONE, self._owner, key.encode())):
                raise KeyError(key)
            return [self._key(key, *found[0])]

    def __setitem__(self, key: str, version: Any) -> None:
        """Add a version."""
        self.setlist(key, [*self.getlist(key, []), version])

    def setlist(self, key: str, versions: list[Any]) -> None:
        """Replace the versions of a key."""
        stored, *others = versions or [None]
        with database().lock:
            before: list[Any] = dict.get(self, key, [])
            if others or type(stored) is not FakeKey or stored._is_versioned or stored.multipart:
                database().execute(_DELETE, self._owner, key.encode())
                dict.__setitem__(self, key, versions)
            else:
                database().execute(_PUT, self._owner, key.encode(), stored._content.number, _row_of(stored))
                stored._content.has_row, vars(stored)["stored_keys"] = True, self
                dict.pop(self, key, None)
        _dispose([version for version in before if version not in versions])

    def write(self, changed: FakeKey) -> None:
        """Write an object that was read from its row, or put, and has changed; if it was replaced, do nothing."""
        with database().lock:
            found = database().execute(_ONE, self._owner, changed.name.encode())
            if found and found[0][0] == changed._content.number:
                database().execute(_CHANGE, _row_of(changed), self._owner, changed.name.encode())

    def pop(self, key: str) -> None:
        """Delete the versions of a key; raises `KeyError` without any."""
        with database().lock:
            versions: list[Any] | None = dict.pop(self, key, None)
            if not database().execute(_DELETE, self._owner, key.encode()) and versions is None:
                raise KeyError(key)
        _dispose(versions or [])

    def entries(self, prefix: str, delimiter: str | None, after: str, limit: int) -> list[FakeKey | str]:
        """Return up to `limit` objects and common prefixes, by name: those with a prefix, after another name."""
        found, passed = list[FakeKey | str](), _last_of(after, prefix, delimiter)
        while len(found) < limit:
            fetched = min(limit - len(found), _FETCHED if delimiter else limit)
            if not (page := self.page(prefix, passed, fetched)):
                break
            for stored in page:
                shared = _common_prefix(stored.name, prefix, delimiter)
                found.append(shared or stored)
                if shared:
                    break
            passed = _last_of(stored.name, prefix, delimiter)
        return found

    def page(self, prefix: str, after: bytes, limit: int) -> list[FakeKey]:
        """Return up to `limit` objects, by key: those with a prefix, after another key in UTF-8."""
        low, high = prefix.encode(), prefix.encode() + LAST
        low = max(low, after + NEXT) if after else low
        with database().lock:
            rows = database().execute(_PAGE, self._owner, low, high, limit)
            found = [self._key(name.decode(), *rest) for name, *rest in rows]
            others: dict[str, Any] = dict.copy(self)
        newest = [versions[-1] for key, versions in others.items() if low <= key.encode() < high and versions]
        objects = found + [each for each in newest if isinstance(each, FakeKey)]
        return sorted(objects, key=lambda stored: stored.name)[:limit]

    def __contains__(self, key: object) -> bool:
        """Return whether a key has a version."""
        return self.get(key) is not None

    def __bool__(self) -> bool:
        """Return whether any key has a version."""
        return dict.__len__(self) > 0 or bool(self.page("", b"", 1))

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._self_iterable())

    def _self_iterable(self) -> dict[str, Any]:
        """Return a dictionary with all keys; moto's other methods look up each."""
        names = database().execute("SELECT name FROM objects WHERE owner = ?", self._owner)
        return {name.decode(): [] for (name,) in names} | dict.copy(self)

    def _key(self, name: str, content: int, row: bytes) -> FakeKey:
        stored: FakeKey = object.__new__(FakeKey)
        attributes = pickle.loads(row)  # noqa: S301  # nosec B301 (this process has written it)
        attributes["_metadata"] = shared_metadata(attributes["_metadata"])
        vars(stored).update(attributes, name=name, _content=StoredContent.of_row(content), stored_keys=self)
        return stored


def _common_prefix(name: str, prefix: str, delimiter: str | None) -> str | None:
    """Return what a list with a delimiter shows for all keys that begin as this one; None if it shows the key."""
    if not (delimiter and name.startswith(prefix)):
        return None
    first, found, _ = name[len(prefix) :].partition(delimiter)
    return prefix + first + found if found else None


def _last_of(name: str, prefix: str, delimiter: str | None) -> bytes:
    """Return a key that sorts after all that share the entry of this one in a list, and before all others."""
    shared = _common_prefix(name, prefix, delimiter)
    return shared.encode() + LAST if shared else name.encode()


def _dispose(versions: list[Any]) -> None:
    for version in versions:
        if isinstance(version, FakeKey):  # and not a delete marker, which has no content
            version.dispose()


def _row_of(stored: FakeKey) -> bytes:
    attributes = {name: value for name, value in vars(stored).items() if name not in _NOT_IN_ROW}
    attributes["_metadata"] = tuple(attributes["_metadata"].items())
    return pickle.dumps(attributes, pickle.HIGHEST_PROTOCOL)
