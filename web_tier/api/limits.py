"""What the caller may still send today."""

from datetime import datetime

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field

from web_tier.api.exchange import json_answer
from web_tier.auth.identity import current_identity
from web_tier.backend import current_backend
from web_tier.rate_limits.limiter import remaining_quota

limits_api = Blueprint("limits_api", __name__)


class LimitsBody(BaseModel):
    """What a user may do, and may still do today (UTC); null is without limit."""

    model_config = ConfigDict(frozen=True)

    requests_per_minute: int | None = Field(default=None, description="More are answered with 429.")
    images_per_day: int | None = None
    images_left: int | None = None
    bytes_per_day: int | None = None
    bytes_left: int | None = None
    jobs_per_day: int | None = None
    jobs_left: int | None = None
    renewed_at: datetime | None = Field(default=None, description="When a new day begins.")
    open_jobs: int | None = Field(default=None, description="Jobs with images without a result, at once.")


@limits_api.get("/limits")
def limits_left() -> Response:
    """Tell what the caller may, and may still send today."""
    return json_answer(_body())


def _body() -> LimitsBody:
    limits, still = current_backend().config.limits, remaining_quota(current_identity().owner)
    if still is None:
        return LimitsBody()
    return LimitsBody(
        requests_per_minute=limits.requests_per_minute or None,
        images_per_day=limits.images_per_day or None,
        images_left=still.images,
        bytes_per_day=limits.bytes_per_day or None,
        bytes_left=still.bytes,
        jobs_per_day=limits.jobs_per_day or None,
        jobs_left=still.jobs,
        renewed_at=still.renewed_at,
        open_jobs=limits.open_jobs or None,
    )
