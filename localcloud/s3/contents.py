"""The bytes of S3 objects, outside of the objects of moto, in the store's contents."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from localcloud.store import Content, data


class StoredContent:
    """Bytes that are read when asked for.

    They are removed with the last reference to this object, or with the row of their object, whichever is later: a
    reader of a replaced or deleted object still gets its content.
    """

    __slots__ = ("__weakref__", "_small", "_store", "has_row", "row")

    def __init__(self, row: Content, *, has_row: bool, small: bytes | None = None) -> None:
        self.row, self.has_row, self._small, self._store = row, has_row, small, data()
        self._store.readers[row.number] = self

    @classmethod
    def create(cls, content: bytes) -> "StoredContent":
        """Store bytes; those of a small content are in memory until a row has them."""
        row = data().new_content(content)
        return cls(row, has_row=False, small=None if row.is_large else content)

    @classmethod
    def of_row(cls, row: Content) -> "StoredContent":
        """Return the content of an object's row; the caller has held the lock since it read the row."""
        found = data().readers.get(row.number)
        return cls(row, has_row=True) if found is None else found

    def __len__(self) -> int:
        """Return the size in bytes."""
        return self.row.size

    def read(self) -> bytes:
        """Return the bytes."""
        if self.row.is_large:
            return self._store.content(self.row)
        with self._store.lock:
            return self._store.content(self.row) if self._small is None else self._small

    def add_row(self) -> None:
        """Add the row, within a change that adds the row of an object with this content."""
        self._store.add_content(self.row, self._small)
        self._store.when_done(self._row_added)

    def _row_added(self) -> None:
        self.has_row, self._small = True, None

    def lose_row(self, small: bytes | None) -> None:
        """Hold the bytes, of which a small content has no others now."""
        self.has_row, self._small = False, small

    def __del__(self) -> None:
        """Remove the bytes, unless a row has them."""
        if not self.has_row and self.row.is_large:
            self._store.remove_file(self.row.number)


def drop_rows(rows: Iterable[Content]) -> None:
    """Remove the contents of an object within the change that removes its row; a reader keeps the bytes."""
    for row in rows:
        data().when_done(partial(_release, row, data().drop_content(row.number)))


def _release(row: Content, small: bytes | None) -> None:
    store = data()
    if (reader := store.readers.get(row.number)) is not None:
        reader.lose_row(small)
    elif row.is_large:
        store.remove_file(row.number)


class JoinedContent:
    """Contents one after the other as one, which need not be in memory as a whole."""

    def __init__(self, parts: Sequence[StoredContent]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        """Return the size in bytes."""
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes of each content."""
        return (part.read() for part in self.parts)

    def __bytes__(self) -> bytes:
        """Return all bytes."""
        return b"".join(self)


Body = bytes | JoinedContent
"""What is sent of a content."""


def body_of(content: StoredContent | JoinedContent) -> Body:
    """Return the bytes of a content; if it has parts, itself, which reads them one after the other."""
    return content if isinstance(content, JoinedContent) else content.read()


def pieces_of(body: Body) -> Iterable[bytes]:
    """Return the bytes of a body in pieces; those of parts are read one after the other."""
    return (body,) if isinstance(body, bytes) else body
