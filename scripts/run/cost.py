"""What a batch would have cost on AWS, by the configured prices: instances as EC2 bills them, and requests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.format import dollars


@dataclass(frozen=True)
class Cost:
    """Instance-seconds, at least 60 for each start of an instance; US dollars for them, and for requests."""

    billed_seconds: float = 0.0
    instances_dollars: float = 0.0
    requests_dollars: float = 0.0

    @property
    def dollars(self) -> float:
        """Both together."""
        return self.instances_dollars + self.requests_dollars

    def __str__(self) -> str:
        """Return it as a person reads it, such as `$0.0047 (120 s of instances; requests $0.0013)`."""
        requests = dollars(self.requests_dollars)
        return f"{dollars(self.dollars)} ({self.billed_seconds:,.0f} s of instances; requests {requests})"


def cost_of(status: Mapping[str, Any]) -> Cost:
    """Return the cost of a job from its status, as the API tells it; nothing where that tells none."""
    told = status.get("cost")
    if not told:
        return Cost()
    return Cost(told["billed_seconds"], told["instances_dollars"], told["requests_dollars"])


def cost_between(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Cost | None:
    """Return what the fleet has cost between two looks at it through the API, None when there was none.

    Requests are those of the images that workers answered meanwhile.
    """
    if after is None:
        return None
    seconds, spent, images = (_grown(before, after, name) for name in ("billed_seconds", "cost", "images"))
    per_thousand = after.get("requests_dollars_per_1000_images") or 0.0
    return Cost(seconds, spent, images * per_thousand / 1_000)


def _grown(before: Mapping[str, Any] | None, after: Mapping[str, Any], name: str) -> float:
    # A system of an older version tells less.
    return float(after.get(name, 0.0)) - (float(before.get(name, 0.0)) if before else 0.0)
