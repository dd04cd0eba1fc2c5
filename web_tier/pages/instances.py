"""Rows of instances for the fleet page and for `fleetsight fleet status`."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from core.fleet.models import FleetInstance
from core.format import ago, duration
from services.ec2 import ALIVE

SILENT_SECONDS = 30.0
"""Three heartbeats: a worker without a heartbeat for this long is marked."""

BOOT_SECONDS = 120.0
"""A worker before its first heartbeat boots; after this long it is marked, too."""

MIN_RATE = 0.05
"""Images/s below which the rate is not shown."""

_ENDING = frozenset({"draining", "ended"})
_STARTS = {"pending": "starts", "stopping": "stops", "stopped": "stopped"}


class InstanceRow(BaseModel):
    """A row of the table.

    Attributes:
        state: state of the instance or of its worker.
        at_work: whether the worker is ready or busy.
        market: `Spot` for a Spot Instance, else empty.
        launched: moment of the launch as ISO 8601.
        age: time since the launch.
        images: images answered so far and images per second; `-` before the first heartbeat.
        heard: when its last heartbeat arrived, or why the controller believes that the worker does not work.
        marked: whether the controller believes so, or no heartbeat arrived for too long.
        can_drain: whether the worker can be drained and is not being drained yet.
    """

    model_config = ConfigDict(frozen=True)

    instance_id: str
    state: str
    at_work: bool
    instance_type: str
    market: str
    zone: str
    launched: str
    age: str
    images: str
    heard: str
    marked: bool
    can_drain: bool

    @classmethod
    def of(cls, instance: FleetInstance, now: datetime) -> Self:
        """Return the row of an instance at `now`, by the controller's clock."""
        age = max(0.0, (now - instance.launched_at).total_seconds())
        silence = None if instance.heard_at is None else max(0.0, (now - instance.heard_at).total_seconds())
        running = instance.state == "running"
        silent = running and (age > BOOT_SECONDS if silence is None else silence > SILENT_SECONDS)
        state = _STARTS.get(instance.state, instance.state)
        if running:
            state = "silent" if silent else "boots" if silence is None else instance.worker or "busy"
            if instance.draining and state in {"boots", "ready", "busy"}:
                state = "draining"  # before its next heartbeat
        if instance.marked is not None:
            state = "stuck"
        if silent:
            heard = f"none for {duration(age if silence is None else silence)}"
        else:
            heard = "not yet" if instance.heard_at is None else ago(instance.heard_at, now)
        images, rate = "-", instance.images_per_second or 0.0
        if instance.images is not None:
            images = f"{instance.images:,}" + (f" ({rate:.2g}/s)" if rate >= MIN_RATE else "")
        return cls(
            instance_id=instance.instance_id,
            state=state,
            at_work=state in {"busy", "ready"},
            instance_type=instance.instance_type,
            market="Spot" if instance.spot else "",
            zone=instance.zone,
            launched=instance.launched_at.isoformat(),
            age=duration(age),
            images=images,
            heard=instance.marked or heard,
            marked=silent or instance.marked is not None,
            can_drain=instance.state in ALIVE and not instance.draining and instance.worker not in _ENDING,
        )
