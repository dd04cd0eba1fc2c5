"""The listing: the fleet's instances with what their workers say of themselves, stored where pages read it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from core.fleet import FleetInstance, FleetInstances
from services.ec2 import Instance
from web_tier.controller.autoscaler.observe.observe import LISTED, Observation
from web_tier.controller.worker_registry import Word

MAX_LISTED = 100
"""The newest; some 25 KB of an item's 400."""
MIN_SECONDS = 1.0
"""Shortest time between two writes."""
NONE_MARKED: Mapping[str, str] = MappingProxyType({})


class InstanceStore(Protocol):
    """What is needed of the fleet's store."""

    def put_instances(self, instances: FleetInstances) -> None:
        """Store the instances over the last ones."""


@dataclass
class InstanceListWriter:
    """Stores the instances when something about them has changed.

    Attributes:
        shown: what is stored.
    """

    store: InstanceStore
    shown: FleetInstances = field(default_factory=FleetInstances)
    clock: Callable[[], float] = time.monotonic
    _shown_at: float = field(default=float("-inf"), init=False)

    def look(
        self, observation: Observation, words: Mapping[str, Word], marked: Mapping[str, str] = NONE_MARKED
    ) -> None:
        """Take one observation into account, what the workers have said so far, and why some are `marked`."""
        if self.clock() - self._shown_at < MIN_SECONDS:
            return
        found = listed(observation, words, marked)
        if found != self.shown:
            self._shown_at = self.clock()
            self.store.put_instances(found)
            self.shown = found


def listed(
    observation: Observation, words: Mapping[str, Word], marked: Mapping[str, str] = NONE_MARKED
) -> FleetInstances:
    """Return the instances that have not ended, newest first, `MAX_LISTED` of them."""
    there = [each for each in reversed(observation.instances) if each.state in LISTED]
    draining = observation.draining
    shown = tuple(
        _told(
            each,
            words.get(each.instance_id),
            draining=each.instance_id in draining,
            marked=marked.get(each.instance_id),
        )
        for each in there[:MAX_LISTED]
    )
    return FleetInstances(total=len(there), instances=shown)


def _told(instance: Instance, word: Word | None, *, draining: bool, marked: str | None) -> FleetInstance:
    return FleetInstance(
        instance_id=instance.instance_id,
        state=instance.state,
        instance_type=instance.instance_type,
        zone=instance.zone,
        launched_at=instance.launched_at,
        spot=instance.spot,
        worker=word and word.state,
        images=word and word.images,
        in_hand=word and word.in_hand,
        images_per_second=word and word.images_per_second,
        heard_at=word and word.heard_at,
        draining=draining,
        marked=marked,
    )
