"""The last decisions in words, for people: what was new, not what was decided again at the next look."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from core.fleet import Decision, Decisions
from web_tier.controller.autoscaler.decide.decide import Plan
from web_tier.controller.autoscaler.decide.reasons import Kind

MAX_DECISIONS = 20
MIN_SECONDS = 1.0
"""Shortest time between two writes."""
TOGETHER_SECONDS = 3.0
"""While images come in, one more worker is wanted again and again: of such decisions the last is kept."""

_UNREMARKABLE_AFTER: frozenset[Kind] = frozenset({"starting", "renewing", "most", "idle", "enough"})
"""That there are workers enough needs no words after these."""


@dataclass(frozen=True, slots=True)
class News:
    """Something that has changed, in words, and since when, where that is known."""

    words: str
    since: datetime | None = None


class DecisionStore(Protocol):
    """What is needed of the fleet's store."""

    def put_decisions(self, decisions: Decisions) -> None:
        """Store the last decisions."""

    def decisions(self) -> Decisions:
        """Return them."""


@dataclass
class EventLog:
    """Keeps `MAX_DECISIONS`, continued from what is stored."""

    store: DecisionStore
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _kind: Kind | None = field(default=None, init=False)
    _wanted: int = field(default=0, init=False)
    _problem: str | None = field(default=None, init=False)
    _noted_at: float = field(default=float("-inf"), init=False)
    _written_at: float = field(default=float("-inf"), init=False)
    _is_written: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        """Go on where the last controller ended."""
        self._decisions = self.store.decisions().decisions

    def look(self, plan: Plan, supply: int, problem: str | None) -> None:
        """Take one decision into account, with the `supply` of workers and what was in its way."""
        wanted = supply + plan.launch + len(plan.start)
        if self._is_news(plan, wanted):
            together = plan.kind == self._kind and self.clock() - self._noted_at < TOGETHER_SECONDS
            self._note(plan.reason, instead=together)
            self._kind, self._noted_at = plan.kind, self.clock()
        self._wanted = wanted
        if problem is not None and problem != self._problem:
            self._note(problem)
            self._noted_at = float("-inf")  # what follows does not stand in its place
        self._problem = problem
        self._write()

    def note(self, news: News) -> None:
        """Keep news of another kind among the decisions; what the controller before this one noted stands already."""
        known = news.since and any(each.words == news.words and each.at >= news.since for each in self._decisions)
        if not known:
            self._note(news.words)
            self._noted_at = float("-inf")  # what follows does not stand in its place

    def _is_news(self, plan: Plan, wanted: int) -> bool:
        if plan.kind == "enough" and self._kind in _UNREMARKABLE_AFTER:
            return False
        return plan.kind != self._kind or (plan.kind == "starting" and wanted > self._wanted)

    def _note(self, words: str, *, instead: bool = False) -> None:
        if self._decisions and self._decisions[0].words == words:
            return  # by the controller before this one
        before = self._decisions[1:] if instead else self._decisions
        self._decisions = (Decision(at=self.now(), words=words), *before)[:MAX_DECISIONS]
        self._is_written = False

    def _write(self) -> None:
        if not self._is_written and self.clock() - self._written_at >= MIN_SECONDS:
            self._written_at = self.clock()
            self.store.put_decisions(Decisions(decisions=self._decisions))
            self._is_written = True
