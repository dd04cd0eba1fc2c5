"""Drain requests of operators, checked against the instances that the controller reports."""

import re
from datetime import datetime

from core.fleet.models import FleetInstance
from core.fleet.store import FleetStore
from services.ec2 import ALIVE
from services.errors import NotFoundError

INSTANCE_ID_PATTERN = r"^i-[0-9a-f]{8,17}$"


def request_drain(store: FleetStore, instance_id: str, now: datetime) -> None:
    """Request that the worker on an instance finishes its images and ends; repeating it changes nothing.

    Raises:
        NotFoundError: the fleet has no such running instance.
    """
    drainable_instance(store, instance_id)
    store.request_drain(instance_id, now)


def drainable_instance(store: FleetStore, instance_id: str) -> FleetInstance | None:
    """Return a running instance; None if it may be one that is not listed because there are too many.

    Raises:
        NotFoundError: as `request_drain`.
    """
    listed = store.instances()
    found = next((each for each in listed.instances if each.instance_id == instance_id), None)
    if found is not None and found.state not in ALIVE:
        raise NotFoundError(f"the instance {instance_id} is {found.state}: there is no worker on it to drain")
    unlisted = listed.total > len(listed.instances) and re.fullmatch(INSTANCE_ID_PATTERN, instance_id)
    if found is None and not unlisted:
        raise NotFoundError(
            f"the fleet has no instance {instance_id[:40]!r}, or no longer; see the list of instances"
        )
    return found
