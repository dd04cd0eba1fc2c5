"""What the autoscaler has measured of the workers, for its decisions in words."""

from dataclasses import dataclass

from services.messages import FleetSnapshot
from web_tier.controller.autoscaler.boots import Boots
from web_tier.controller.autoscaler.meter import Meter
from web_tier.controller.autoscaler.observe import Measured, Observation
from web_tier.controller.autoscaler.pace import Pace
from web_tier.controller.roster import Roster


@dataclass(frozen=True)
class Measures:
    """Measures boots and pace at each look."""

    roster: Roster
    meter: Meter
    boots: Boots
    pace: Pace

    @classmethod
    def continuing(cls, roster: Roster, meter: Meter, before: FleetSnapshot | None) -> "Measures":
        """Return measures that begin with the figures of whoever held the lease before."""
        boot, image = (before.boot_seconds, before.image_seconds) if before else (None, None)
        return cls(roster, meter, Boots(boot), Pace(image))

    def look(self, observation: Observation) -> Measured:
        """Take one observation into account; return what is known by now."""
        words = self.roster.words()
        self.boots.look(observation, words)
        serving = observation.supplied - observation.draining
        silent = [worker for worker in serving if worker not in words]
        heard = len(serving) - len(silent)
        self.pace.look(self.roster.answers, min(heard, observation.requests.in_flight))
        return Measured(
            image_seconds=self.pace.seconds,
            boot_seconds=self.boots.seconds,
            silent=len(silent),
            booting=tuple(self.boots.ages(silent)),
            paid=tuple(worker for worker in self.meter.paid() if worker in serving and worker in words),
        )
