"""moto's tables of DynamoDB. Their items are rows of the store."""

import copy
import json
from typing import Any, Final

from moto.dynamodb.exceptions import MockValidationException
from moto.dynamodb.models.table import Table

from localcloud.dynamodb.capacity import count_write, is_counted
from localcloud.dynamodb.values import Attributes, Key
from localcloud.patches import Patches
from localcloud.store import checksum, data

PATCHES = Patches()

ROW: Final = "SELECT hash_key, range_key, size, item, checksum FROM items WHERE owner = ?"
"""Statement for all items of a table."""

_GET: Final = f"{ROW} AND hash_key = ? AND range_key = ?"
_PUT: Final = (
    "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
    "SET size = excluded.size, item = excluded.item, checksum = excluded.checksum"
)
_DELETE: Final = "DELETE FROM items WHERE owner = ? AND hash_key = ? AND range_key = ?"
_COPY: Final = "INSERT INTO items SELECT ?, hash_key, range_key, size, item, checksum FROM items WHERE owner = ?"


@PATCHES.wrap(
    "moto.dynamodb.models:DynamoDBBackend.create_table",
    "forgets how the table was created, which a state must hold, and keeps no items as rows",
    "self name schema throughput attr global_indexes indexes streams billing_mode sse_specification tags "
    "deletion_protection_enabled warm_throughput",
)
def create_table(original: Any, self: Any, name: str, **settings: Any) -> Any:
    """Create a table with the number that owns its rows, and its settings as they were given."""
    if any(settings.get(each) for each in ("global_indexes", "indexes", "streams")):
        raise MockValidationException("Indexes and streams of tables are not available in the local cloud")
    given = copy.deepcopy(settings)  # moto changes them
    with data().lock:
        owner = data().resource_number("table", self.account_id, self.region_name, name)
        table = original(self, name, **settings)
        table.owner = owner
    table.created_with = given
    return table


@PATCHES.wrap("moto.dynamodb.models:DynamoDBBackend.restore_table_to_point_in_time", "copies no rows")
def restore_table(original: Any, self: Any, target_table_name: str, source_table_name: str) -> Any:
    """Create a table with the present items of another one."""
    with data().change():
        table = original(self, target_table_name, source_table_name)
        table.owner = data().resource_number("table", self.account_id, self.region_name, target_table_name)
        data().write(_COPY, table.owner, self.get_table(source_table_name).owner)
    return table


@PATCHES.wrap("moto.dynamodb.models:DynamoDBBackend.delete_table", "leaves the rows of a deleted table")
def delete_table(original: Any, self: Any, name: str) -> Any:
    """Delete a table and its items."""
    with data().change():
        owner = self.get_table(name).owner
        data().write("DELETE FROM items WHERE owner = ?", owner)
        data().drop_resource(owner)
        return original(self, name)


def verified(table: Table, row: Any) -> tuple[int, str]:
    """Return the size in bytes and the JSON of an item, from its row."""
    hash_key, range_key, size, text, right = row
    if checksum(hash_key, range_key, text) != right:
        raise data().damaged(f"an item of the table {table.name}")
    return size, text


def read(table: Table, key: Key) -> tuple[int, str] | None:
    """Return the size in bytes and the JSON of an item, or None if there is none."""
    found = data().read(_GET, table.owner, *key)
    return verified(table, found[0]) if found else None


def item_at(table: Table, key: Key) -> Attributes | None:
    """Return an item, or None if there is none."""
    found = read(table, key)
    return None if found is None else json.loads(found[1])


def write(table: Table, key: Key, item: Attributes | None, size: int) -> str:
    """Put an item with its size in bytes, or delete it; return its JSON."""
    text = json.dumps(item)
    if is_counted():
        count_write(table.name, max(size, (read(table, key) or (0,))[0]))
    if item is None:
        data().write(_DELETE, table.owner, *key)
    else:
        data().write(_PUT, table.owner, *key, size, text, checksum(*key, text))
    return text
