"""Orders of ops to instances, checked against what the controller tells of them."""

import re
from datetime import datetime

from core.fleet.models import FleetInstance
from core.fleet.store import FleetStore
from services.ec2 import ALIVE
from services.errors import NotFoundError

INSTANCE_ID_PATTERN = r"^i-[0-9a-f]{8,17}$"


def order_drain(store: FleetStore, instance_id: str, now: datetime) -> None:
    """Order that the worker of an instance finishes what it has and ends; ordering it again changes nothing.

    Raises:
        NotFoundError: when no such instance of the fleet is running; says what there is of it.
    """
    drainable(store, instance_id)
    store.request_drain(instance_id, now)


def drainable(store: FleetStore, instance_id: str) -> FleetInstance | None:
    """Return what is told of a running instance; None when it may be one of those that are too many to be listed.

    Raises:
        NotFoundError: as `order_drain`.
    """
    there = store.instances()
    found = next((each for each in there.instances if each.instance_id == instance_id), None)
    if found is not None and found.state not in ALIVE:
        raise NotFoundError(f"the instance {instance_id} is {found.state}: there is no worker on it to drain")
    unlisted = there.total > len(there.instances) and re.fullmatch(INSTANCE_ID_PATTERN, instance_id)
    if found is None and not unlisted:
        raise NotFoundError(
            f"the fleet has no instance {instance_id[:40]!r}, or no longer; see the list of instances"
        )
    return found
