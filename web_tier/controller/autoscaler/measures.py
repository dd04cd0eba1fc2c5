"""What the autoscaler has measured of the workers, for its decisions in words."""

from dataclasses import dataclass

from services.messages import FleetSnapshot
from web_tier.controller.autoscaler.boots import Boots
from web_tier.controller.autoscaler.observe import Measured, Observation
from web_tier.controller.autoscaler.pace import Pace
from web_tier.controller.roster import Roster


@dataclass(frozen=True)
class Measures:
    """Measures boots and pace at each look."""

    roster: Roster
    boots: Boots
    pace: Pace

    @classmethod
    def continuing(cls, roster: Roster, before: FleetSnapshot | None) -> "Measures":
        """Return measures that begin with the figures of whoever held the lease before."""
        boot, image = (before.boot_seconds, before.image_seconds) if before else (None, None)
        return cls(roster, Boots(boot), Pace(image))

    def look(self, observation: Observation) -> Measured:
        """Take one observation into account; return what is known by now."""
        words = self.roster.words()
        self.boots.look(observation, words)
        heard = sum(worker in words for worker in observation.supplied)
        self.pace.look(self.roster.answers, min(heard, observation.requests.in_flight))
        return Measured(self.pace.seconds, self.boots.seconds, observation.supply - heard)
