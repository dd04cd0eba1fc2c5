"""The fleet's figures as one line of the log a minute, which the stack makes metrics and alarms of.

The holder of the lease writes it: where no line comes, no controller looks at the fleet. `infra/stack.yaml` finds the
line by its message and each figure by its name, so that to rename one here is to rename it there.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from core.config import Fleet as FleetConfig
from web_tier.controller.autoscaler.observe.meter import BillingMeter
from web_tier.controller.autoscaler.observe.observe import Observation

MESSAGE = "fleet"
EVERY_SECONDS = 60.0
"""As long as CloudWatch's shortest period of an alarm that is not dearer."""

_log = logging.getLogger(__name__)


@dataclass
class Figures:
    """Writes the line at the first look, and then when `EVERY_SECONDS` have passed since the last one.

    Attributes:
        clock: seconds, never set back.
    """

    clock: Callable[[], float] = time.monotonic
    _written_at: float = field(default=float("-inf"), init=False)

    def look(self, observation: Observation, limits: FleetConfig, meter: BillingMeter) -> None:
        """Take one look into account, decided within `limits`."""
        if self.clock() - self._written_at >= EVERY_SECONDS:
            self._written_at = self.clock()
            _log.info(MESSAGE, extra=figures_of(observation, limits, meter))


def figures_of(observation: Observation, limits: FleetConfig, meter: BillingMeter) -> dict[str, float]:
    """Return what the line says.

    `workers` are running and coming ones, `maximum` how many there may be; `at_maximum` is 1 where there are no
    fewer and images wait all the same. `waiting`, `in_flight` and `dead_letters` are messages, `oldest_seconds` how
    long the image that came first has waited, `answered` and `dollars` the images and the instances' cost since the
    fleet's first launch.
    """
    requests, waiting = observation.requests, observation.demand.waiting
    short = observation.supply >= limits.max_workers and requests.waiting > 0
    return {
        "workers": observation.supply,
        "maximum": limits.max_workers,
        "at_maximum": int(short),
        "waiting": requests.waiting,
        "in_flight": requests.in_flight,
        "dead_letters": observation.dead_letters,
        "oldest_seconds": round(waiting[0][0], 1) if waiting else 0.0,
        "paused": int(observation.paused is not None),
        "answered": meter.runs.images,
        "dollars": round(meter.bill.dollars, 6),
    }
