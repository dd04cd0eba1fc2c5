"""Standby: a worker is kept by a tag of its instance, which it sees in its metadata service when it is idle.

With the tag it stays, and looks again after each idle time; without, it ends as all others do. The tag stays with the
instance: a controller that takes over knows who stands by.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from services.ec2 import ALIVE, Fleet, Instance
from web_tier.controller.autoscaler.observe.observe import LISTED, Observation

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
"""After EC2 has refused."""


def to_stand_by(observation: Observation, workers: int) -> tuple[str, ...]:
    """Return the ids of `workers` that are to stay: first who does already, then who was heard of, each oldest first.

    One that boots is asked only for want of others, so that it knows before it is idle for the first time. Those that
    are about to end, or do not work, are of no use.
    """
    if workers <= 0:
        return ()
    serving, unheard = observation.served_by, observation.measured.unheard
    there = [each.instance_id for each in observation.instances if each.state in ALIVE]
    order = sorted(
        (key for key in there if key in serving), key=lambda key: (key not in observation.standby, key in unheard)
    )
    return tuple(order[:workers])


@dataclass
class Standby:
    """Asks workers to stay, and lets them go.

    Attributes:
        active: whether this process may still act; asked right before each call.
    """

    fleet: Fleet
    active: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    _tagged: dict[str, bool] = field(default_factory=dict, init=False)
    _not_before: float = field(default=float("-inf"), init=False)

    def standing_by(self, instances: Sequence[Instance]) -> frozenset[str]:
        """Return which of `instances` have been asked to stay; their description may not show it yet, or still."""
        there = {instance.instance_id: instance.standby for instance in instances if instance.state in LISTED}
        self._tagged = {key: tagged for key, tagged in self._tagged.items() if key in there}
        return frozenset(key for key, tagged in (there | self._tagged).items() if tagged)

    def ask(self, stay: Sequence[str], leave: Sequence[str]) -> None:
        """Ask the workers `stay` to stay, and let those in `leave` go; when EC2 refuses, the next decisions will."""
        if not (stay or leave) or self.clock() < self._not_before or not self.active():
            return
        try:
            self.fleet.ask_to_stay(stay)
            self._tagged |= dict.fromkeys(stay, True)
            self.fleet.let_go(leave)
            self._tagged |= dict.fromkeys(leave, False)
        except (BotoCoreError, ClientError) as error:
            self._not_before = self.clock() + PAUSE_SECONDS
            _log.warning(
                "workers could not be asked to stay, or let go",
                extra={"stay": list(stay), "leave": list(leave), "error": str(error)},
            )
            return
        _log.info("workers stand by, or no longer", extra={"stay": list(stay), "leave": list(leave)})
