"""The chronicle: what pages tell of the fleet beside the last look, each part stored when there is news in it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.fleet_store import FleetStore
from web_tier.controller.autoscaler.decide.decide import Plan
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.autoscaler.tell.decisions import EventLog, News
from web_tier.controller.autoscaler.tell.history import History
from web_tier.controller.autoscaler.tell.listing import NONE_MARKED, InstanceListWriter
from web_tier.controller.worker_registry import WorkerRegistry


@dataclass(frozen=True)
class EventReporter:
    """Takes every look into account."""

    registry: WorkerRegistry
    listing: InstanceListWriter
    decisions: EventLog
    history: History

    @classmethod
    def continuing(cls, store: FleetStore, registry: WorkerRegistry) -> "EventReporter":
        """Return one that goes on where the last controller ended; `registry` learns what that one knew."""
        stored = store.instances()
        registry.adopt(stored.instances)
        return cls(registry, InstanceListWriter(store, stored), EventLog(store), History(store))

    def note(self, news: Iterable[News]) -> None:
        """Keep among the decisions what ops have done, and which instances were ended."""
        for each in news:
            self.decisions.note(each)

    def look(
        self, observation: Observation, plan: Plan, problem: str | None, marked: Mapping[str, str] = NONE_MARKED
    ) -> None:
        """Take one look and what was decided into account, and why some instances are `marked`, in words."""
        self.listing.look(observation, self.registry.words(), marked)
        self.decisions.look(plan, observation.supply, problem)
        self.history.look(observation.supply, observation.requests.total)
