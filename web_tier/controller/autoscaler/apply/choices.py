"""The choices that a launch has, and which of them rest because EC2 has refused them.

A choice is a market, an instance type and a subnet. The walk goes through the Spot choices before the on-demand ones,
through the types in the order of preference, and through the subnets within a type, of which another one is first
after each launch. What EC2 says of a choice (no capacity, no free address, a quota that is used up) lets it rest, and
all others that this is true of; the next one is tried at once, and the preferred one again after its rest.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from core.config import Fleet as FleetConfig
from services.backoff import Jitter, pause_seconds
from services.ec2 import LaunchSpec, Market
from web_tier.controller.autoscaler.apply.refusals import SCOPES, VAGUE, Scope

FIRST_REST_SECONDS = 60.0
"""Of a choice that was refused; doubled with each refusal more, a random half of it not taken."""
MAX_REST_SECONDS = 600.0
NEVER = float("-inf")
MAX_REPORTED = 6
"""Of the choices that rest, so many are named to people."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to launch; `subnet_id` None is the default subnet."""

    market: Market
    instance_type: str
    subnet_id: str | None = None

    @classmethod
    def of(cls, spec: LaunchSpec) -> "Choice":
        """Return the choice that a launch was made by."""
        return cls(spec.market, spec.instance_type, spec.subnet_id)

    def __str__(self) -> str:
        """Return it in words, as `c7a.large (Spot) in subnet-1`."""
        market = " (Spot)" if self.market == "spot" else ""
        return f"{self.instance_type}{market}{f' in {self.subnet_id}' if self.subnet_id else ''}"

    def spec(self, limits: FleetConfig) -> LaunchSpec:
        """Return what to launch by this choice; with a launch template, what that has is left to it."""
        by_template = limits.launch_template is not None
        return LaunchSpec(
            image_id=None if by_template else limits.image_id,
            instance_type=self.instance_type,
            user_data=None if by_template else limits.user_data,
            shutdown_behavior=limits.scale_in,
            instance_profile=None if by_template else limits.instance_profile,
            subnet_id=self.subnet_id,
            security_group_ids=() if by_template else limits.security_group_ids,
            market=self.market,
            launch_template=limits.launch_template,
        )


def choices(limits: FleetConfig, launches: int = 0) -> tuple[Choice, ...]:
    """Return the choices that the configuration gives, the preferred one first.

    Args:
        limits: markets, types in the order of preference, and subnets.
        launches: how many have succeeded. Each one begins with the next subnet, so that the fleet is spread over the
            Availability Zones: the failure of one zone, or its Spot capacity, then concerns a part of the fleet only.
    """
    markets: tuple[Market, ...] = ("spot", "on_demand") if limits.market == "spot" else ("on_demand",)
    named: Sequence[str | None] = tuple(dict.fromkeys(limits.subnet_ids)) or (None,)
    first = launches % len(named)
    subnets = (*named[first:], *named[:first])
    walk = (
        Choice(market, kind, subnet) for market in markets for kind in limits.instance_types for subnet in subnets
    )
    return tuple(dict.fromkeys(walk))


def meets(refused: Choice, scope: Scope, other: Choice) -> bool:
    """Return whether a refusal of `refused` that speaks of `scope` is true of `other` as well."""
    match scope:
        case "choice":
            return other == refused
        case "subnet":
            return other.subnet_id == refused.subnet_id
        case "type":
            return (other.market, other.instance_type) == (refused.market, refused.instance_type)
        case "market":
            return other.market == refused.market


@dataclass(frozen=True, slots=True)
class Rest:
    """Why a choice rests, and until when (monotonic seconds), after how many refusals in a row."""

    why: str
    until: float
    refusals: int


@dataclass
class UnavailableOfferings:
    """Remembers the refusals of choices."""

    clock: Callable[[], float] = time.monotonic
    uniform: Jitter = random.uniform
    _rests: dict[Choice, Rest] = field(default_factory=dict, init=False)

    def best(self, walk: Sequence[Choice]) -> Choice:
        """Return the first of `walk` that does not rest; when all do, the one with the rest that ends first."""
        return min(walk, key=self._end)

    def all_rest(self, walk: Iterable[Choice]) -> bool:
        """Return whether none is left."""
        return all(self._end(choice) > NEVER for choice in walk)

    def refused(self, choice: Choice, code: str, walk: Iterable[Choice], words: str = "") -> bool:
        """Let those of `walk` rest that a refusal of `choice` is true of; return True if there are any.

        Args:
            choice: that EC2 refused.
            code: of the refusal.
            walk: all choices.
            words: the refusal in EC2's own words, which people read where its code has many meanings.
        """
        scope = SCOPES.get(code)
        if scope is not None:
            why = words if code in VAGUE and words else code
            self._lay([other for other in (choice, *walk) if meets(choice, scope, other)], why)
        return scope is not None

    def fell_short(self, choice: Choice, given: int, asked: int) -> None:
        """Let a choice rest that gave fewer than it was asked for."""
        self._lay([choice], f"only {given} of {asked}")

    def gave(self, choice: Choice) -> None:
        """Forget the refusals of a choice that has given what it was asked for."""
        self._rests.pop(choice, None)

    def in_words(self, walk: Sequence[Choice]) -> str:
        """Return which of `walk` rest and why, as `c7a.large (Spot): InsufficientInstanceCapacity`."""
        resting = [f"{choice}: {self._rests[choice].why}" for choice in walk if self._end(choice) > NEVER]
        more = len(resting) - MAX_REPORTED
        return ", ".join(resting[:MAX_REPORTED]) + (f", and {more} more" if more > 0 else "")

    def _lay(self, refused: Iterable[Choice], why: str) -> None:
        for choice in dict.fromkeys(refused):
            refusals = self._rests[choice].refusals + 1 if choice in self._rests else 1
            pause = pause_seconds(refusals, FIRST_REST_SECONDS, MAX_REST_SECONDS, self.uniform)
            self._rests[choice] = Rest(why, self.clock() + pause, refusals)

    def _end(self, choice: Choice) -> float:
        """Return when its rest ends, in monotonic seconds; `NEVER` when it does not rest."""
        rest = self._rests.get(choice)
        return rest.until if rest is not None and rest.until > self.clock() else NEVER
