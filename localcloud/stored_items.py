"""The items of a DynamoDB table in the temporary database, by partition key and sort key, which must be texts.

moto keeps its items in a dictionary of dictionaries, for which these stand. Each read makes an item of its own: a
change of it counts when it is put again.
"""

import marshal
import weakref
from collections.abc import Iterator
from typing import Any, Final

from moto.dynamodb.models.dynamo_type import DynamoType, Item, LimitedSizeDict

from localcloud.state.resources import attribute_json
from localcloud.temporary import LAST, NEXT, database

PLAIN_TYPES: Final = frozenset({"S", "N", "BOOL", "NULL"})
"""Types of attributes that have the same values in memory as in DynamoDB's JSON."""

_PAGE: Final = "SELECT sort, attributes FROM items WHERE owner = ? AND partition = ? AND sort >= ? AND sort < ? "
_FIRST: Final = _PAGE + "LIMIT 1"
_PAGE_FORWARD: Final = _PAGE + "ORDER BY sort"
_PAGE_BACKWARD: Final = _PAGE + "ORDER BY sort DESC"


class StoredItems:
    """The partitions of a table by their key; like moto's dictionary, it has each that is asked for."""

    def __init__(self) -> None:
        self.number = database().new_number()
        delete = "DELETE FROM items WHERE owner = ?"
        weakref.finalize(self, database().execute_later, delete, self.number).atexit = False

    def __getitem__(self, key: DynamoType) -> "StoredPartition":
        """Return a partition, which may be empty."""
        return StoredPartition(self, key)

    def get(self, key: DynamoType) -> "StoredPartition | None":
        """Return a partition, or None if it is empty."""
        found = database().execute(_FIRST, self.number, bytes_of(key), b"", LAST)
        return StoredPartition(self, key) if found else None

    def values(self) -> list["StoredPartition"]:
        """Return the partitions that have items."""
        found = database().execute("SELECT DISTINCT partition FROM items WHERE owner = ?", self.number)
        return [StoredPartition(self, DynamoType({"S": text_of(key)})) for (key,) in found]

    def __deepcopy__(self, _memo: Any) -> "StoredItems":
        """Return a copy."""
        copied = StoredItems()
        database().execute(
            "INSERT INTO items SELECT ?, partition, sort, attributes FROM items WHERE owner = ?",
            copied.number,
            self.number,
        )
        return copied


class StoredPartition:
    """The items of a partition by their sort key."""

    def __init__(self, table: StoredItems, key: DynamoType) -> None:
        self._table, self.key = table, key  # the items of a table are deleted with the last reference to it
        self._name = (table.number, bytes_of(key))

    def __len__(self) -> int:
        """Return the number of items."""
        found = database().execute("SELECT count(*) FROM items WHERE owner = ? AND partition = ?", *self._name)
        return int(found[0][0])

    def __getitem__(self, key: DynamoType) -> Item:
        """Return an item; raises `KeyError` if there is none."""
        if (item := self.get(key)) is None:
            raise KeyError(key)
        return item

    def get(self, key: DynamoType) -> Item | None:
        """Return an item, or None if there is none."""
        sort = bytes_of(key)
        found = database().execute(_FIRST, *self._name, sort, sort + NEXT)
        return self._item(*found[0]) if found else None

    def __setitem__(self, key: DynamoType, item: Item) -> None:
        """Add or replace an item."""
        attributes = [
            (name, typed.type, typed.value if typed.type in PLAIN_TYPES else attribute_json(typed)[typed.type])
            for name, typed in item.attrs.items()
        ]
        row = (*self._name, bytes_of(key), marshal.dumps(attributes))
        database().execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?)", *row)

    def pop(self, key: DynamoType) -> Item:
        """Remove an item and return it; raises `KeyError` if there is none."""
        item = self[key]
        delete = "DELETE FROM items WHERE owner = ? AND partition = ? AND sort = ?"
        database().execute(delete, *self._name, bytes_of(key))
        return item

    def values(self) -> list[Item]:
        """Return all items in the order of their keys."""
        return list(self.between(b"", LAST))

    def between(self, low: bytes, high: bytes, *, forward: bool = True) -> Iterator[Item]:
        """Yield the items with keys from `low` on and below `high`; the caller closes the iterator."""
        for row in database().rows(_PAGE_FORWARD if forward else _PAGE_BACKWARD, *self._name, low, high):
            yield self._item(*row)

    def _item(self, sort: bytes, attributes: bytes) -> Item:
        # Not by the constructors, which test each value again.
        item: Item = object.__new__(Item)
        item.hash_key, item.range_key, item.attrs = self.key, DynamoType({"S": text_of(sort)}), LimitedSizeDict()
        for name, kind, value in marshal.loads(attributes):  # noqa: S302  # nosec B302 (this process has written it)
            typed: DynamoType = object.__new__(DynamoType) if kind in PLAIN_TYPES else DynamoType({kind: value})
            if kind in PLAIN_TYPES:
                typed.type, typed.value = kind, value
            dict.__setitem__(item.attrs, name, typed)  # not its own, which measures the item for each attribute
        return item


def bytes_of(key: DynamoType) -> bytes:
    """Return a key as it is stored, in the order of DynamoDB; of a key of another type one that no item has."""
    return key.value.encode("utf-8", "surrogatepass") if key.type == "S" else LAST


def text_of(key: bytes) -> str:
    """Return a stored key as a text."""
    return key.decode("utf-8", "surrogatepass")
