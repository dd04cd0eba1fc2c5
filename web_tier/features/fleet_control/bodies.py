"""Bodies of requests and answers of the fleet: the command `fleet status` reads them without the web tier."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.config import MAX_CAP_DOLLARS, MAX_WORKERS
from core.fleet.models import MAX_REASON_CHARACTERS, EndedInstance, FleetInstances, FleetSnapshot, WorkerLimits


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
    def from_fleet(cls, fleet: FleetSnapshot, silent_seconds: float) -> Self:
        """Return the body of a snapshot."""
        fields = {**dict(fleet), "silent_seconds": round(silent_seconds, 1)}
        fields["today_dollars"] = fleet.today and round(fleet.today.dollars, 6)
        if fleet.images:
            fields["instances_dollars_per_1000_images"] = round(1_000 * fleet.cost / fleet.images, 6)
            fields["requests_dollars_per_1000_images"] = round(1_000 * fleet.requests_cost / fleet.images, 6)
        return cls(**fields)


class FleetInstancesBody(FleetInstances):
    """The fleet's instances, newest first; `total` may be more than are listed."""

    ended: tuple[EndedInstance, ...] = Field(description="Those that ended in the last hour, up to 20.")


class SetLimits(BaseModel):
    """The least and the most workers that there may be from now on, and why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    min_workers: int | None = Field(
        default=None,
        ge=0,
        le=MAX_WORKERS,
        description="Without it, the minimum stays as it is, or becomes `max_workers` if that is lower.",
    )
    max_workers: int = Field(ge=0, le=MAX_WORKERS)
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS, description="Shown with the limits.")

    @model_validator(mode="after")
    def _minimum_is_at_most_maximum(self) -> Self:
        if self.min_workers is not None:
            WorkerLimits(min_workers=self.min_workers, max_workers=self.max_workers)
        return self


class AllowDollars(BaseModel):
    """The dollars by which the spending caps are raised today (UTC), and why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dollars: float = Field(
        gt=0,
        le=MAX_CAP_DOLLARS,
        allow_inf_nan=False,
        description="For the whole day: it replaces an earlier allowance.",
    )
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS, description="Shown with the allowance.")
