"""One round of the autoscaler: observe, decide, apply, and show it."""

from dataclasses import dataclass, field, replace

from botocore.exceptions import BotoCoreError, ClientError

from core.config import Fleet as FleetConfig
from web_tier.controller.autoscaler.apply.apply import Launcher
from web_tier.controller.autoscaler.apply.drain import Drainer
from web_tier.controller.autoscaler.apply.orders import DrainCommands, OrdersWatch
from web_tier.controller.autoscaler.apply.standby import Standby
from web_tier.controller.autoscaler.apply.sweep import Sweeper
from web_tier.controller.autoscaler.decide.decide import decide
from web_tier.controller.autoscaler.observe.demand import ArrivalRateEstimator
from web_tier.controller.autoscaler.observe.measures import MetricsCollector
from web_tier.controller.autoscaler.observe.meter import BillingMeter
from web_tier.controller.autoscaler.observe.observe import Observation, Observer
from web_tier.controller.autoscaler.tell.board import SnapshotWriter
from web_tier.controller.autoscaler.tell.chronicle import EventReporter
from web_tier.controller.autoscaler.tell.figures import Figures
from web_tier.controller.limits import FleetConfigWatcher


@dataclass(frozen=True)
class Autoscaler:
    """Brings the fleet to what the queue needs, within the limits in force."""

    limits: FleetConfigWatcher
    observer: Observer
    launcher: Launcher
    drainer: Drainer
    standby: Standby
    sweeper: Sweeper
    meter: BillingMeter
    arrivals: ArrivalRateEstimator
    measures: MetricsCollector
    orders: OrdersWatch
    drain_orders: DrainCommands
    board: SnapshotWriter
    chronicle: EventReporter
    interval_seconds: float
    figures: Figures = field(default_factory=Figures)

    def tick(self) -> float:
        """Look once and act on it; return the seconds until the next look.

        Raises:
            BotoCoreError, ClientError: when there was no look, and so no decision.
        """
        try:
            self.launcher.take_over()
            orders = self.orders.current()
            limits = self.limits.current(orders.limits)
            observation = replace(self._look(limits), paused=orders.pause)
        except (BotoCoreError, ClientError) as error:
            self.board.show_problem(f"the fleet or its queue could not be observed: {error}")
            raise
        plan = decide(observation, limits)
        self.launcher.apply(plan, observation, limits)
        self.drainer.ask(plan.drain, plan.reason)
        self.drainer.forget_stopped(observation.instances)
        self.standby.ask(plan.stay, plan.leave)
        self.sweeper.sweep()
        self.meter.look(observation)
        told = _joined(self.launcher.told, self.sweeper.problem, self.limits.problem)
        self.board.show(observation, plan, limits, self.meter, told, self.limits)
        self.figures.look(observation, limits, self.meter)
        self.chronicle.note([*self.limits.take_news(), *self.drain_orders.carry_out(observation)])
        self.chronicle.note(self.sweeper.take_news())
        # Without the time of the next try, which is other each time, and no news.
        problem = _joined(self.launcher.problem, self.sweeper.problem, self.limits.problem)
        self.chronicle.look(observation, plan, problem, self.sweeper.marked())
        return self.interval_seconds

    def _look(self, limits: FleetConfig) -> Observation:
        seen = self.observer.observe()
        draining, standby = self.drainer.draining(seen.instances), self.standby.standing_by(seen.instances)
        seen = replace(seen, draining=draining, standby=standby)
        seen = replace(seen, lost=self.sweeper.look(seen, limits))
        demand = self.arrivals.look(seen.requests, self.measures.registry.answers)
        return replace(seen, demand=demand, measured=self.measures.look(seen, limits.max_lifetime_seconds))


def _joined(*problems: str | None) -> str | None:
    return "; ".join(problem for problem in problems if problem) or None
