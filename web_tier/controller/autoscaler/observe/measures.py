"""What the autoscaler has measured of the workers, for its decisions in words."""

from dataclasses import dataclass

from core.messages import FleetSnapshot
from web_tier.controller.autoscaler.observe.boots import Boots
from web_tier.controller.autoscaler.observe.lives import Lives
from web_tier.controller.autoscaler.observe.meter import Meter
from web_tier.controller.autoscaler.observe.observe import Measured, Observation
from web_tier.controller.autoscaler.observe.pace import Pace
from web_tier.controller.roster import Roster


@dataclass(frozen=True)
class Measures:
    """Measures boots and pace at each look."""

    roster: Roster
    meter: Meter
    boots: Boots
    pace: Pace
    lives: Lives

    @classmethod
    def continuing(cls, roster: Roster, meter: Meter, before: FleetSnapshot | None, lives: Lives) -> "Measures":
        """Return measures that begin with the figures of whoever held the lease before."""
        boot, image = (before.boot_seconds, before.image_seconds) if before else (None, None)
        return cls(roster, meter, Boots(boot), Pace(image), lives)

    def look(self, observation: Observation, max_lifetime_seconds: float) -> Measured:
        """Take one observation, which the `lives` have seen, into account; return what is known by now."""
        words = self.roster.words()
        self.boots.look(observation, words)
        idle = {worker for worker, word in words.items() if word.state == "ready"}
        serving = observation.served_by
        silent = self.lives.unheard(serving)
        heard = serving - silent
        self.pace.look(self.roster.answers, min(len(heard), observation.requests.in_flight))
        return Measured(
            image_seconds=self.pace.seconds,
            boot_seconds=self.boots.seconds,
            silent=len(silent),
            booting=tuple(self.boots.ages(silent)),
            spare=tuple(worker for worker in self.meter.paid() if worker in heard & idle),
            unheard=silent,
            outlived=self.lives.outlived(max_lifetime_seconds),
            failed_boots=self.lives.failed_boots,
        )
