"""Reports of the controller about a fleet."""

from datetime import datetime
from typing import Any, Final

from core.fleet.models import FleetSnapshot

_EMPTY: Final = {
    "running": 0,
    "pending": 0,
    "visible": 0,
    "in_flight": 0,
    "min_workers": 0,
    "max_workers": 19,
    "peak_workers": 0,
    "billed_seconds": 0,
    "reason": "",
}


def fleet_snapshot(at: datetime, **fields: Any) -> FleetSnapshot:
    """Return the report at `at` about an empty fleet without messages, with other values in `fields`."""
    return FleetSnapshot.model_validate({"at": at, **_EMPTY, **fields})
