"""The chronicle: what pages tell of the fleet beside the last look, each part stored when there is news in it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.fleet_store import FleetStore
from web_tier.controller.autoscaler.decide.decide import Plan
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.autoscaler.tell.decisions import DecisionLog, News
from web_tier.controller.autoscaler.tell.history import History
from web_tier.controller.autoscaler.tell.listing import NOBODY, Listing
from web_tier.controller.roster import Roster


@dataclass(frozen=True)
class Chronicle:
    """Takes every look into account."""

    roster: Roster
    listing: Listing
    decisions: DecisionLog
    history: History

    @classmethod
    def continuing(cls, store: FleetStore, roster: Roster) -> "Chronicle":
        """Return one that goes on where the last controller ended; `roster` learns what that one knew."""
        stored = store.instances()
        roster.adopt(stored.instances)
        return cls(roster, Listing(store, stored), DecisionLog(store), History(store))

    def note(self, news: Iterable[News]) -> None:
        """Keep among the decisions what ops have done, and which instances were ended."""
        for each in news:
            self.decisions.note(each)

    def look(
        self, observation: Observation, plan: Plan, problem: str | None, marked: Mapping[str, str] = NOBODY
    ) -> None:
        """Take one look and what was decided into account, and why some instances are `marked`, in words."""
        self.listing.look(observation, self.roster.words(), marked)
        self.decisions.look(plan, observation.supply, problem)
        self.history.look(observation.supply, observation.requests.total)
