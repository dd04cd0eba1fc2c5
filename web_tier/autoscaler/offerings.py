"""Offerings: the ways to launch a worker, and which of them EC2 has refused lately.

An offering is a market, an instance type and a subnet. Launches try the Spot offerings before the on-demand ones, the
types in the order of preference, and the subnets of a type in turn. When EC2 refuses an offering (no capacity, no
free address, an exhausted quota), it is unavailable for a while, and so is every other offering that the refusal is
true of; the next one is tried at once.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core.config import FleetSettings
from services.backoff import Jitter, pause_seconds
from services.clock import CLOCK, Clock
from services.ec2 import LaunchSpec, Market

Scope = Literal["offering", "subnet", "type", "market", "account"]
"""What a refusal applies to: the offering alone, its subnet, its type on its market, its market, or all of them."""

ERROR_SCOPE: dict[str, Scope] = {
    "InsufficientInstanceCapacity": "offering",
    "InsufficientHostCapacity": "offering",
    "Unsupported": "offering",
    "SpotMaxPriceTooLow": "offering",
    "InsufficientFreeAddressesInSubnet": "subnet",
    "InvalidParameterCombination": "type",
    "InvalidParameterValue": "type",
    "UnsupportedOperation": "type",
    "VcpuLimitExceeded": "type",
    "InstanceLimitExceeded": "type",
    "MaxSpotInstanceCountExceeded": "market",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": "market",
    "UnauthorizedOperation": "market",
    "PendingVerification": "account",
    "OptInRequired": "account",
    "Blocked": "account",
}
"""Error codes that concern an offering. Any other refusal, such as throttling, would meet every offering.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html

An invalid parameter usually means a type that the account or the image does not allow: one that an account on AWS's
Free plan may not launch (https://github.com/aws-samples/eks-workshop-v2/issues/1644), or one of another architecture.
The first Spot launch of an account makes a service-linked role, which the organization or a boundary may deny:
https://github.com/aws/karpenter-provider-aws/pull/7998. An organization may also deny Spot Instances alone.
"""

AMBIGUOUS_CODES = frozenset(
    {"InvalidParameterCombination", "InvalidParameterValue", "UnauthorizedOperation", "UnsupportedOperation"}
    | {code for code, scope in ERROR_SCOPE.items() if scope == "account"}
)
"""Error codes with many meanings: only the message says which it is, or what to do."""

FIRST_PAUSE_SECONDS = 60.0
"""How long a refused offering is unavailable: doubled with each refusal in a row, of which half is random."""
MAX_PAUSE_SECONDS = 600.0
AVAILABLE = float("-inf")
MAX_REPORTED = 6
"""Unavailable offerings that are named to operators."""


@dataclass(frozen=True, slots=True)
class Offering:
    """One way to launch a worker; `subnet_id` None is the default subnet."""

    market: Market
    instance_type: str
    subnet_id: str | None = None

    @classmethod
    def from_spec(cls, spec: LaunchSpec) -> "Offering":
        """Return the offering that a launch used."""
        return cls(spec.market, spec.instance_type, spec.subnet_id)

    def __str__(self) -> str:
        """Return it in words, as `c7a.large (Spot) in subnet-1`."""
        market = " (Spot)" if self.market == "spot" else ""
        return f"{self.instance_type}{market}{f' in {self.subnet_id}' if self.subnet_id else ''}"

    def spec(self, settings: FleetSettings) -> LaunchSpec:
        """Return what to launch; a launch template keeps what it defines."""
        has_template = settings.launch_template is not None
        return LaunchSpec(
            image_id=None if has_template else settings.image_id,
            instance_type=self.instance_type,
            user_data=None if has_template else settings.user_data,
            shutdown_behavior=settings.scale_in,
            subnet_id=self.subnet_id,
            market=self.market,
            launch_template=settings.launch_template,
        )


def offerings(settings: FleetSettings, launches: int = 0, *, is_patient: bool = False) -> tuple[Offering, ...]:
    """Return the configured offerings, the preferred one first.

    Args:
        settings: markets, types in the order of preference, and subnets.
        launches: number of launches so far. Each one starts with the next subnet, which spreads the fleet over the
            Availability Zones: a failure of one zone, or of its Spot capacity, concerns only a part of the fleet.
        is_patient: whether a fleet of Spot Instances waits for Spot capacity.
    """
    markets: tuple[Market, ...] = ("spot", "on_demand") if settings.market == "spot" else ("on_demand",)
    markets = markets[:1] if is_patient else markets
    configured: Sequence[str | None] = tuple(dict.fromkeys(settings.subnet_ids)) or (None,)
    first = launches % len(configured)
    subnets = (*configured[first:], *configured[:first])
    ordered = (
        Offering(market, kind, subnet) for market in markets for kind in settings.instance_types for subnet in subnets
    )
    return tuple(dict.fromkeys(ordered))


def affects(refused: Offering, scope: Scope, other: Offering) -> bool:
    """Return whether a refusal of `refused` with this scope is also true of `other`."""
    match scope:
        case "offering":
            return other == refused
        case "subnet":
            return other.subnet_id == refused.subnet_id
        case "type":
            return (other.market, other.instance_type) == (refused.market, refused.instance_type)
        case "market":
            return other.market == refused.market
        case "account":
            return True


@dataclass(frozen=True, slots=True)
class Unavailability:
    """Why an offering is unavailable, until when (monotonic seconds), after how many refusals in a row."""

    reason: str
    until: float
    refusals: int


@dataclass
class UnavailableOfferings:
    """Remembers which offerings EC2 has refused."""

    clock: Clock = CLOCK
    uniform: Jitter = random.uniform
    _refused: dict[Offering, Unavailability] = field(default_factory=dict, init=False)

    def best(self, options: Sequence[Offering]) -> Offering:
        """Return the first available one of `options`, or else the one that is available soonest."""
        return min(options, key=self._unavailable_until)

    def has_none_of(self, options: Iterable[Offering]) -> bool:
        """Return whether all of `options` are unavailable."""
        return all(self._unavailable_until(each) > AVAILABLE for each in options)

    def mark_refused(self, refused: Offering, code: str, options: Iterable[Offering], message: str = "") -> None:
        """Mark each of `refused` and `options` as unavailable that the refusal, one of `ERROR_SCOPE`, is true of.

        EC2's message is reported for codes with many meanings.
        """
        scope = ERROR_SCOPE[code]
        reason = message if code in AMBIGUOUS_CODES and message else code
        self._mark([other for other in (refused, *options) if affects(refused, scope, other)], reason)

    def mark_short(self, offering: Offering, launched: int, requested: int) -> None:
        """Mark an offering as unavailable that launched fewer instances than were requested."""
        self._mark([offering], f"only {launched} of {requested}")

    def mark_available(self, offering: Offering) -> None:
        """Forget the refusals of an offering that launched all that was requested."""
        self._refused.pop(offering, None)

    def in_words(self, options: Sequence[Offering]) -> str:
        """Return which of `options` are unavailable, as `c7a.large (Spot): InsufficientInstanceCapacity`."""
        unavailable = [each for each in options if self._unavailable_until(each) > AVAILABLE]
        named = [f"{each}: {self._refused[each].reason}" for each in unavailable[:MAX_REPORTED]]
        more = len(unavailable) - MAX_REPORTED
        return ", ".join(named) + (f", and {more} more" if more > 0 else "")

    def _mark(self, refused: Iterable[Offering], reason: str) -> None:
        for each in dict.fromkeys(refused):
            refusals = self._refused[each].refusals + 1 if each in self._refused else 1
            pause = pause_seconds(refusals, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, self.uniform)
            self._refused[each] = Unavailability(reason, self.clock.monotonic() + pause, refusals)

    def _unavailable_until(self, offering: Offering) -> float:
        """Return until when an offering is unavailable, in monotonic seconds, or `AVAILABLE`."""
        refused = self._refused.get(offering)
        return refused.until if refused is not None and refused.until > self.clock.monotonic() else AVAILABLE
