"""How many more instances the local EC2 has room for: of a type, in a zone, of a market."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from localcloud.options import Switches


@dataclass(frozen=True, slots=True)
class Place:
    """Which capacity an instance takes.

    Attributes:
        zone: the availability zone.
        spot: it is a Spot instance.
    """

    instance_type: str
    zone: str
    spot: bool = False

    @classmethod
    def of(cls, instance: Any) -> "Place":
        """Return the place that one of moto's instances takes."""
        return cls(instance.instance_type, instance.availability_zone, instance.lifecycle == "spot")


def room(switches: Switches, taken: Iterable[Place], wanted: Place) -> int | None:
    """Return how many instances may still be started at a place, or None without a limit.

    Args:
        switches: hold the limits; each that bears on the place must leave room.
        taken: a place for each instance that is neither stopped nor terminated.
        wanted: where to start.
    """
    places = list(taken)
    left = [limit - sum(map(counts, places)) for limit, counts in _limits(switches, wanted) if limit is not None]
    return max(0, min(left)) if left else None


def _limits(switches: Switches, wanted: Place) -> Iterator[tuple[int | None, Callable[[Place], bool]]]:
    yield switches.max_instances, lambda _: True
    yield switches.capacity.get(wanted.instance_type), lambda place: place.instance_type == wanted.instance_type
    yield switches.capacity.get(wanted.zone), lambda place: place.zone == wanted.zone
    if wanted.spot:
        yield switches.spot_capacity, lambda place: place.spot
