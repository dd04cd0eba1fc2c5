"""One round of the autoscaler: observe, decide, apply, and show it."""

from dataclasses import dataclass, replace

from botocore.exceptions import BotoCoreError, ClientError

from web_tier.controller.autoscaler.apply import Launcher
from web_tier.controller.autoscaler.board import Board
from web_tier.controller.autoscaler.chronicle import Chronicle
from web_tier.controller.autoscaler.decide import decide
from web_tier.controller.autoscaler.demand import Arrivals
from web_tier.controller.autoscaler.drain import Drainer
from web_tier.controller.autoscaler.measures import Measures
from web_tier.controller.autoscaler.meter import Meter
from web_tier.controller.autoscaler.observe import Observation, Observer
from web_tier.controller.autoscaler.pause import PauseWatch
from web_tier.controller.limits import FleetLimits


@dataclass(frozen=True)
class Autoscaler:
    """Brings the fleet to what the queue needs, within the limits in force."""

    limits: FleetLimits
    observer: Observer
    launcher: Launcher
    drainer: Drainer
    meter: Meter
    arrivals: Arrivals
    measures: Measures
    pause: PauseWatch
    board: Board
    chronicle: Chronicle
    interval_seconds: float

    def tick(self) -> float:
        """Look once and act on it; return the seconds until the next look.

        Raises:
            BotoCoreError, ClientError: when there was no look, and so no decision.
        """
        limits = self.limits.current()
        try:
            observation = self._look()
        except (BotoCoreError, ClientError) as error:
            self.board.show_problem(f"the fleet or its queue could not be observed: {error}")
            raise
        plan = decide(observation, limits)
        self.launcher.apply(plan, observation, limits)
        self.drainer.ask(plan.drain, plan.reason)
        self.meter.look(observation)
        problem = self.launcher.problem or self.limits.problem
        self.board.show(observation, plan, limits, self.meter, problem)
        self.chronicle.look(observation, plan, problem)
        return self.interval_seconds

    def _look(self) -> Observation:
        seen = self.observer.observe()
        seen = replace(seen, draining=self.drainer.draining(seen.instances), paused=self.pause.current())
        demand = self.arrivals.look(seen.requests, self.measures.roster.answers)
        return replace(seen, demand=demand, measured=self.measures.look(seen))
