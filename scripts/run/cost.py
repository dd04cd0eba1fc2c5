"""What a batch would have cost on AWS: billed instance-seconds at the configured price."""

from dataclasses import dataclass

from services.config import Config


@dataclass(frozen=True)
class Cost:
    """Instance-seconds as EC2 bills them (at least 60 for each instance) and their price in dollars."""

    billed_seconds: float
    dollars: float
    instance_type: str

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return f"${self.dollars:.4f} ({self.billed_seconds:.0f} s of {self.instance_type})"


def cost_of(billed_seconds: float, config: Config) -> Cost:
    """Return the price of `billed_seconds` of the configured instance type."""
    dollars = billed_seconds / 3600 * config.prices.instance_hour
    return Cost(billed_seconds, dollars, config.fleet.instance_type)
