"""Point-in-time recovery of the local cloud's DynamoDB.

Stock moto copies the items that a table has at the time of the call. Here a table with point-in-time recovery keeps
the items that it had when that was enabled, and each change since. As on AWS, a restored table has the items and the
keys of its source, and no time to live, no tags and no point-in-time recovery. Unlike there, it is complete at once,
and the latest moment that can be restored is the present one.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/PointInTimeRecovery_Howitworks.html
"""

import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.dynamodb.responses import DynamoResult

from localcloud.dynamodb import SortedPartition, lock_of
from localcloud.patches import Patches

PATCHES = Patches()

MAX_CHANGES = 200_000
"""Maximum changes of a table that are kept; moments before the oldest of them cannot be restored."""

_BACKEND = "moto.dynamodb.models:DynamoDBBackend"
_TABLE = "moto.dynamodb.models.table:Table"

Attributes = dict[str, Any]
Key = tuple[Any, Any]


@dataclass
class TableHistory:
    """The items of a table at any moment since `earliest`, in seconds since the epoch.

    Attributes:
        base: the items at that moment, by key.
        changes: time, key, and new attributes of each item that was written since; None for a deleted one.
    """

    earliest: float
    base: dict[Key, Attributes]
    changes: deque[tuple[float, Key, Attributes | None]] = field(default_factory=deque)

    def record(self, at: float, key: Key, attributes: Attributes | None) -> None:
        """Record a change; forget the oldest one if there are too many."""
        self.changes.append((at, key, attributes))
        if len(self.changes) > MAX_CHANGES:
            self.earliest, oldest, former = self.changes.popleft()
            _apply(self.base, oldest, former)

    def items_at(self, moment: float) -> Iterable[Attributes]:
        """Return the items that the table had at a moment."""
        items = dict(self.base)
        for at, key, attributes in self.changes:
            if at > moment:
                break
            _apply(items, key, attributes)
        return items.values()


def _apply(items: dict[Key, Attributes], key: Key, attributes: Attributes | None) -> None:
    if attributes is None:
        items.pop(key, None)
    else:
        items[key] = attributes


def _key_of(item: Any) -> Key:
    return item.hash_key.value, None if item.range_key is None else item.range_key.value


def _attributes_of(item: Any) -> Attributes:
    attributes: Attributes = item.to_json()["Attributes"]
    return attributes


def _record(table: Any, item: Any, *, is_deleted: bool = False) -> None:
    history: TableHistory | None = getattr(table, "history", None)
    if history is not None and item is not None:
        history.record(time.time(), _key_of(item), None if is_deleted else _attributes_of(item))


@PATCHES.wrap(
    f"{_TABLE}.put_item",
    "keeps no history",
    "self item_attrs expected condition_expression expression_attribute_names expression_attribute_values overwrite "
    "return_values_on_condition_check_failure",
)
def put_item(original: Any, self: Any, *arguments: Any, **more: Any) -> Any:
    """Put an item, and record it."""
    item = original(self, *arguments, **more)
    _record(self, item)
    return item


@PATCHES.wrap(f"{_TABLE}.delete_item", "keeps no history")
def delete_item(original: Any, self: Any, hash_key: Any, range_key: Any) -> Any:
    """Delete an item, and record that."""
    item = original(self, hash_key, range_key)
    _record(self, item, is_deleted=True)
    return item


@PATCHES.wrap(
    f"{_BACKEND}.update_item",
    "keeps no history",
    "self table_name key update_expression expression_attribute_names expression_attribute_values attribute_updates "
    "expected condition_expression return_values_on_condition_check_failure",
)
def update_item(original: Any, self: Any, table_name: str, *arguments: Any, **more: Any) -> Any:
    """Update an item, and record its new attributes."""
    item = original(self, table_name, *arguments, **more)
    _record(self.get_table(table_name), item)
    return item


@PATCHES.wrap(f"{_BACKEND}.update_continuous_backups", "keeps no history")
def update_continuous_backups(original: Any, self: Any, table_name: str, point_in_time_spec: Any) -> Any:
    """Begin to record the changes of a table, or end it."""
    with lock_of(table_name):
        result = original(self, table_name, point_in_time_spec)
        table = self.get_table(table_name)
        if not point_in_time_spec["PointInTimeRecoveryEnabled"]:
            table.history = None
        elif getattr(table, "history", None) is None:
            items = {_key_of(item): _attributes_of(item) for item in table.all_items()}
            table.history = TableHistory(time.time(), items)
        return result


@PATCHES.wrap(f"{_BACKEND}.describe_continuous_backups", "answers with the moment at which the recovery was enabled")
def describe_continuous_backups(original: Any, self: Any, table_name: str) -> Any:
    """Return the description with the window of the moments that can be restored."""
    result = original(self, table_name)
    history: TableHistory | None = getattr(self.get_table(table_name), "history", None)
    if history is not None:
        window = {"EarliestRestorableDateTime": history.earliest, "LatestRestorableDateTime": time.time()}
        result["PointInTimeRecoveryDescription"].update(window)
    return result


@PATCHES.wrap(
    "moto.dynamodb.responses:DynamoHandler.restore_table_to_point_in_time", "restores the present items at any moment"
)
def restore_table_to_point_in_time(original: Any, self: Any) -> Any:
    """Make a table with the items that the source had at the moment."""
    body = self.body
    source = body.get("SourceTableName") or str(body.get("SourceTableArn")).rpartition("/")[2]
    body["SourceTableName"] = source
    with lock_of(source):
        table = self.dynamodb_backend.tables.get(source)
        if table is None:
            return original(self)  # the error of stock moto
        history: TableHistory | None = getattr(table, "history", None)
        if history is None:
            raise _error("PointInTimeRecoveryUnavailableException", f"recovery is not enabled for the table {source}")
        now = time.time()
        moment = now if body.get("UseLatestRestorableTime") else _seconds(body["RestoreDateTime"])
        if not history.earliest <= moment <= now:
            raise _error("InvalidRestoreTimeException", "the moment is outside of the window that can be restored")
        original(self)
        restored = self.dynamodb_backend.tables[body["TargetTableName"]]
        restored.billing_mode = table.billing_mode
        restored.items = defaultdict(SortedPartition)
        for attributes in history.items_at(moment):
            restored.put_item(attributes, overwrite=True)
        restored.restore_date_time = datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)
        return DynamoResult(restored.describe())


def _seconds(moment: datetime) -> float:
    """Return a time of moto, which is in UTC without saying so, in seconds since the epoch."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _error(code: str, message: str) -> JsonRESTError:
    return JsonRESTError(f"com.amazonaws.dynamodb.v20120810#{code}", message)
