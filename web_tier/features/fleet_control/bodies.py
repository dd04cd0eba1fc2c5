"""The bodies of the fleet's status and instances: the command `fleet status` reads them without the web tier."""

from typing import Self

from pydantic import Field

from core.config import PriceSettings
from core.cost import ThousandCost, day_dollars
from core.fleet.models import EndedInstance, FleetInstances, FleetSnapshot


class FleetStatusBody(FleetSnapshot):
    """What the autoscaler saw and decided last, how long ago, and what 1,000 images have cost, in US dollars."""

    silent_seconds: float = Field(
        default=0.0, description="How long the controller has not reported, as far as the web tier knows."
    )
    instances_dollars_per_1000_images: float | None = Field(
        default=None, description="`cost` by `images`; null before the first answer of a worker."
    )
    requests_dollars_per_1000_images: float | None = Field(
        default=None, description="For S3, SQS and DynamoDB; the same."
    )

    today_dollars: float | None = Field(
        default=None, description="For instances and requests since 00:00 UTC; null before the first report of a day."
    )

    @classmethod
    def from_fleet(cls, fleet: FleetSnapshot, prices: PriceSettings, silent_seconds: float) -> Self:
        """Return the body of a snapshot."""
        fields = {**dict(fleet), "silent_seconds": round(silent_seconds, 1)}
        fields["today_dollars"] = fleet.today and round(day_dollars(fleet.today, prices), 6)
        cost = ThousandCost.from_snapshot(fleet, prices)
        if cost is None:
            return cls(**fields)
        return cls(
            **fields,
            instances_dollars_per_1000_images=round(cost.instances_dollars, 6),
            requests_dollars_per_1000_images=round(cost.requests_dollars, 6),
        )


class FleetInstancesBody(FleetInstances):
    """The fleet's instances, newest first; `total` may be more than are listed."""

    ended: tuple[EndedInstance, ...] = Field(description="Those that ended in the last hour, up to 20.")
