"""What the autoscaler has measured of the workers, for its decisions in words."""

from dataclasses import dataclass

from core.messages import FleetSnapshot
from web_tier.controller.autoscaler.observe.boots import BootTimeEstimator
from web_tier.controller.autoscaler.observe.lives import InstanceTracker
from web_tier.controller.autoscaler.observe.meter import BillingMeter
from web_tier.controller.autoscaler.observe.observe import Measured, Observation
from web_tier.controller.autoscaler.observe.pace import ThroughputEstimator
from web_tier.controller.worker_registry import WorkerRegistry


@dataclass(frozen=True)
class MetricsCollector:
    """Measures boots and pace at each look."""

    registry: WorkerRegistry
    meter: BillingMeter
    boots: BootTimeEstimator
    pace: ThroughputEstimator
    lives: InstanceTracker

    @classmethod
    def continuing(
        cls, registry: WorkerRegistry, meter: BillingMeter, before: FleetSnapshot | None, lives: InstanceTracker
    ) -> "MetricsCollector":
        """Return measures that begin with the figures of the holder of the lease before."""
        boot, image = (before.boot_seconds, before.image_seconds) if before else (None, None)
        return cls(registry, meter, BootTimeEstimator(boot), ThroughputEstimator(image), lives)

    def look(self, observation: Observation, max_lifetime_seconds: float) -> Measured:
        """Take one observation, which the `lives` have seen, into account; return what is known by now."""
        words = self.registry.words()
        self.boots.look(observation, words)
        idle = {worker for worker, word in words.items() if word.state == "ready"}
        serving = observation.served_by
        silent = self.lives.unheard(serving)
        heard = serving - silent
        self.pace.look(self.registry.answers, min(len(heard), observation.requests.in_flight))
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
