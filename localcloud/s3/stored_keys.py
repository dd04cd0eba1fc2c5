"""The objects of a bucket as rows of the store, by key.

moto has a list of the versions of each key, which takes 700 bytes of memory, and reads all of them for each page of a
list. Here a key has one object, which is a row: its contents, and its attributes as JSON with their names in moto.
Each read makes an object of its own, and a change of it is written at once.
"""

import json
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Final

from moto.s3.exceptions import MissingBucket
from moto.s3.models import FakeKey

from localcloud.s3.contents import JoinedContent, StoredContent, drop_rows
from localcloud.store import LAST, NEXT, Content, checksum, data

_NOT_ATTRIBUTES: Final = frozenset(
    {"_content", "account_id", "bucket_name", "contentsize", "name", "partition", "region_name", "stored_keys"}
)
"""Fields of an object in moto that its row has in another form, or that follow from its bucket."""

_ONE: Final = "SELECT * FROM objects WHERE bucket = ? AND name = ?"
_PAGE: Final = "SELECT * FROM objects WHERE bucket = ? AND name >= ? AND name < ? ORDER BY name LIMIT ?"
_PUT: Final = "INSERT INTO objects VALUES (?, ?, ?, ?, ?)"
_CHANGE: Final = "UPDATE objects SET attributes = ?, checksum = ? WHERE bucket = ? AND name = ? AND contents = ?"
_DELETE: Final = "DELETE FROM objects WHERE bucket = ? AND name = ? RETURNING contents"

_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode


class StoredKeys:
    """The objects of a bucket, with the methods by which moto reads and changes the keys of one without versions."""

    def __init__(self, account: str, partition: str, bucket: str) -> None:
        self._number, self._is_removed = data().resource_number("bucket", account, partition, bucket), False
        self._shared = {
            "account_id": account,
            "bucket_name": bucket,
            "partition": partition,
            "region_name": partition,  # as of moto's backend
            "stored_keys": self,
        }

    def get(self, key: str, default: Any = None) -> Any:
        """Return the object at a key, or the default."""
        with data().lock:
            found = data().read(_ONE, self._number, key.encode())
            return self._key(*found[0]) if found else default

    def __getitem__(self, key: str) -> Any:
        """Return the object at a key; raises `KeyError` without one."""
        if (found := self.get(key)) is None:
            raise KeyError(key)
        return found

    def getlist(self, key: str, default: Any) -> Any:
        """Return a list of the object at a key, or the default."""
        return default if (found := self.get(key)) is None else [found]

    def setlist(self, key: str, versions: list[FakeKey]) -> None:
        """Put an object; the one at its key is removed. Raises moto's `MissingBucket` if the bucket is."""
        [stored] = versions
        parts = _parts_of(stored)
        row = (self._number, key.encode(), _contents_of(parts), _attributes_of(stored))
        with data().change():
            if self._is_removed:
                raise MissingBucket(bucket=self._shared["bucket_name"])
            self._drop(key)
            for part in parts:
                part.add_row()
            data().write(_PUT, *row, checksum(*row))
        vars(stored)["stored_keys"] = self

    def write(self, changed: FakeKey) -> None:
        """Write an object that was read from its row, or put, and has changed; if it was replaced, do nothing."""
        contents, attributes, name = _contents_of(_parts_of(changed)), _attributes_of(changed), changed.name.encode()
        right = checksum(self._number, name, contents, attributes)
        data().write(_CHANGE, attributes, right, self._number, name, contents)

    def pop(self, key: str) -> None:
        """Delete the object at a key; raises `KeyError` without one."""
        with data().change():
            was_there = self._drop(key)
        if not was_there:
            raise KeyError(key)

    def _drop(self, key: str) -> bool:
        """Delete the row of a key; return whether there was one."""
        found = data().write(_DELETE, self._number, key.encode()).fetchall()
        for (contents,) in found:
            drop_rows(Content(*each) for each in json.loads(contents))
        return bool(found)

    def remove(self) -> None:
        """Remove the bucket, which is empty."""
        data().drop_resource(self._number)
        self._is_removed = True

    def entries(self, prefix: str, delimiter: str | None, after: str, limit: int) -> list[FakeKey | str]:
        """Return up to `limit` objects and common prefixes, by name: those with a prefix, after another name."""
        if not delimiter:
            return self.page(prefix, after.encode(), limit)
        found, passed = list[FakeKey | str](), _last_of(after, prefix, delimiter)
        while len(found) < limit and (page := self.page(prefix, passed, 1)):
            found.append(_common_prefix(page[0].name, prefix, delimiter) or page[0])
            passed = _last_of(page[0].name, prefix, delimiter)
        return found

    def page(self, prefix: str, after: bytes, limit: int) -> list[Any]:
        """Return up to `limit` objects, by key: those with a prefix, after another key in UTF-8."""
        low, high = prefix.encode(), prefix.encode() + LAST
        with data().lock:
            rows = data().read(_PAGE, self._number, max(low, after + NEXT) if after else low, high, limit)
            return [self._key(*row) for row in rows]

    def values(self) -> list[Any]:
        """Return all objects."""
        return self.page("", b"", -1)

    def items(self) -> list[tuple[str, FakeKey]]:
        """Return all keys and objects, for a list of the first version of the API."""
        return [(stored.name, stored) for stored in self.values()]

    def __contains__(self, key: str) -> bool:
        """Return whether a key has an object."""
        return self.get(key) is not None

    def __len__(self) -> int:
        """Return the number of objects."""
        return int(data().read("SELECT count(*) FROM objects WHERE bucket = ?", self._number)[0][0])

    def _key(self, bucket: int, name: bytes, contents: str, attributes: str, right: int) -> FakeKey:
        if checksum(bucket, name, contents, attributes) != right:
            raise data().damaged(f"the object {name!r}")
        parts = [StoredContent.of_row(Content(*each)) for each in json.loads(contents)]
        described = json.loads(attributes)
        if "multipart" in described:
            described["multipart"] = SimpleNamespace(id=described["multipart"])
        stored: FakeKey = object.__new__(FakeKey)
        vars(stored).update(
            described,
            **self._shared,
            name=name.decode(),
            last_modified=datetime.fromisoformat(described["last_modified"]),
            _content=parts[0] if len(parts) == 1 else JoinedContent(parts),
            contentsize=sum(map(len, parts)),
        )
        return stored


def _common_prefix(name: str, prefix: str, delimiter: str) -> str | None:
    """Return what a list with a delimiter shows for all keys that begin as this one; None if it shows the key."""
    if not name.startswith(prefix):
        return None
    first, found, _ = name[len(prefix) :].partition(delimiter)
    return prefix + first + found if found else None


def _last_of(name: str, prefix: str, delimiter: str) -> bytes:
    """Return a key that sorts after all that share the entry of this one in a list, and before all others."""
    shared = _common_prefix(name, prefix, delimiter)
    return shared.encode() + LAST if shared else name.encode()


def _parts_of(stored: FakeKey) -> list[StoredContent]:
    content = stored._content
    return list(content.parts) if isinstance(content, JoinedContent) else [content]


def _contents_of(parts: list[StoredContent]) -> str:
    return _to_json([part.row for part in parts])


def _attributes_of(stored: FakeKey) -> str:
    described = {name: value for name, value in vars(stored).items() if name not in _NOT_ATTRIBUTES}
    described |= {"last_modified": stored.last_modified.isoformat(), "_metadata": dict(stored._metadata)}
    if stored.multipart is not None:  # by its upload, a repeated completion is known
        described["multipart"] = stored.multipart.id
    return _to_json(described)
