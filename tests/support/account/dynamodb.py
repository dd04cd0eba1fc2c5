"""Point-in-time recovery of tables, which only `fleetsight restore` uses."""

import copy
from typing import Any

from localcloud.clock import wall_seconds
from localcloud.dynamodb import lock_of
from localcloud.patches import Patches
from localcloud.stored_items import StoredItems

PATCHES = Patches()

_BACKEND = "moto.dynamodb.models:DynamoDBBackend"


@PATCHES.wrap(f"{_BACKEND}.describe_continuous_backups", "answers with the moment at which the recovery was enabled")
def describe_continuous_backups(original: Any, self: Any, table_name: str) -> Any:
    """Return the description, in which the present moment is the latest that can be restored."""
    described = copy.deepcopy(original(self, table_name))
    if "LatestRestorableDateTime" in (recovery := described["PointInTimeRecoveryDescription"]):
        recovery["LatestRestorableDateTime"] = wall_seconds()
    return described


@PATCHES.wrap(
    f"{_BACKEND}.restore_table_to_point_in_time", "copies without a lock, and leaves the partitions unsorted"
)
def restore_table(original: Any, self: Any, target_table_name: str, source_table_name: str) -> Any:
    """Make a table with the present items of another one. The moment that the call names is ignored."""
    with lock_of(source_table_name):
        restored = original(self, target_table_name, source_table_name)
        source = self.get_table(source_table_name)
        restored.billing_mode, restored.items = source.billing_mode, StoredItems()
        for item in source.all_items():
            restored.put_item(item.to_json()["Attributes"], overwrite=True)
        return restored
