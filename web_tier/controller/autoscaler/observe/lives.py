"""Lives: each instance from the moment it was first seen coming, and what was heard of its worker since.

All by this process's monotonic clock, so that no skew between machines matters: a controller that takes over gives
every instance its whole allowance again. An instance that is started after a stop begins a new life, in which nothing
counts that was said before.

Silence is never a fault of the listener. It is measured up to the moment up to which the collector has heard all that
was said, and what it could not listen to in one go counts for `MAX_ADVANCE_SECONDS` at most: after an outage of the
queue, in which heartbeats are lost, no worker counts as silent for long.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from core.messages import WorkerState
from services.ec2 import ALIVE, Instance
from web_tier.controller.autoscaler.observe.observe import UNSEEN_SECONDS, Observation
from web_tier.controller.worker_registry import Word, WorkerRegistry

MAX_ADVANCE_SECONDS = 10.0
"""As often as a worker speaks: of a longer time in which the collector did not catch up, so much counts."""

LAST_WORDS_SECONDS = 5.0
"""An instance that is gone may have said something just before, which is in the queue for a moment."""


@dataclass(slots=True)
class Life:
    """One life of an instance. Moments are monotonic seconds; `*_listened` is how much had been listened by then.

    Attributes:
        since: words from before do not count; for ever ago, but for an instance that was started again.
        begun: when it was first seen, coming or alive.
        launched: when it was launched, as far as it is known.
        own: whether it began under the eyes of this controller.
        alive: whether it is described as pending or running.
        heard: when its worker was last heard of; None before its first word.
        said: the state that its worker has last told.
        asked: when it was first seen to have been asked to end; None while it is not.
        gone: when it was first missing from the fleet; None while it is there.
    """

    since: float
    begun: float
    begun_listened: float
    launched: float
    own: bool
    alive: bool = False
    heard: float | None = None
    heard_listened: float = 0.0
    said: WorkerState | None = None
    asked: float | None = None
    gone: float | None = None


@dataclass(frozen=True, slots=True)
class HeartbeatCoverage:
    """How far the workers have been heard.

    Attributes:
        until: the moment up to which everything has been heard, in monotonic seconds; None before the first.
        listened: seconds that have been listened in all.
    """

    until: float | None = None
    listened: float = 0.0

    def advanced(self, until: float | None) -> "HeartbeatCoverage":
        """Return the same once everything `until` then has been heard."""
        if until is None or self.until is None:
            return HeartbeatCoverage(until, self.listened)
        return HeartbeatCoverage(until, self.listened + min(max(0.0, until - self.until), MAX_ADVANCE_SECONDS))


@dataclass
class InstanceTracker:
    """Follows the lives of all instances.

    Attributes:
        failed_boots: instances in a row that have ended without a word, since a new worker was last heard of.
        hearing: how far the workers have been heard.
    """

    registry: WorkerRegistry
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    failed_boots: int = field(default=0, init=False)
    hearing: HeartbeatCoverage = field(default_factory=HeartbeatCoverage, init=False)
    _lives: dict[str, Life] = field(default_factory=dict, init=False)
    _rested: set[str] = field(default_factory=set, init=False)
    _first_look: bool = field(default=True, init=False)

    def look(self, observation: Observation) -> Mapping[str, Life]:
        """Take one observation into account, and what was heard by now; return the lives by the instances' ids."""
        # In this order: a word that comes in between is known, and counts as said in time.
        self.hearing = self.hearing.advanced(self.registry.heard_until)
        words, at = self.registry.words(), self.clock()
        described = {instance.instance_id: instance for instance in observation.instances}
        supplied = observation.supplied
        self._begin(supplied, described, at)
        for instance_id, life in list(self._lives.items()):
            instance = described.get(instance_id)
            life.alive = instance is not None and instance.state in ALIVE
            self._hear(life, words.get(instance_id))
            if instance_id in supplied:
                life.gone = None
                life.asked = _since(life.asked, at) if instance_id in observation.draining else None
            elif self._is_over(life, at):
                self._count_boot(self._lives.pop(instance_id), LAST_WORDS_SECONDS)
        self._rested = {key for key, each in described.items() if each.state not in ALIVE}
        self._first_look = False
        return self._lives

    def unheard(self, workers: Iterable[str]) -> frozenset[str]:
        """Return those of `workers` that have not said a word in their present life."""
        lives = ((worker, self._lives.get(worker)) for worker in workers)
        return frozenset(worker for worker, life in lives if life is None or life.heard is None)

    def outlived(self, max_seconds: float) -> tuple[str, ...]:
        """Return the ids of those that were launched `max_seconds` ago or earlier, oldest first; 0 is no limit."""
        if max_seconds <= 0:
            return ()
        before = self.clock() - max_seconds
        old = sorted((life.launched, key) for key, life in self._lives.items() if life.launched <= before)
        return tuple(instance_id for _, instance_id in old)

    def _begin(self, supplied: frozenset[str], described: Mapping[str, Instance], at: float) -> None:
        resting = self._rested | {key for key in supplied if key in described and described[key].state not in ALIVE}
        for instance_id in supplied:
            again = instance_id in resting
            if before := self._lives.get(instance_id):
                if not again or before.gone is None:
                    continue
                self._count_boot(before, -LAST_WORDS_SECONDS)
            self._lives[instance_id] = Life(
                since=at if again else float("-inf"),
                begun=at,
                begun_listened=self.hearing.listened,
                launched=at - (self._age(described.get(instance_id)) if self._first_look else 0.0),
                own=not self._first_look,
            )

    def _age(self, instance: Instance | None) -> float:
        """Return how long ago an instance was launched that another controller launched, by the wall clock."""
        return 0.0 if instance is None else max(0.0, (self.now() - instance.launched_at).total_seconds())

    def _hear(self, life: Life, word: Word | None) -> None:
        if word is None or word.until < life.since or (life.heard is not None and word.until <= life.heard):
            return
        if life.heard is None and life.own:
            self.failed_boots = 0
        life.heard, life.heard_listened, life.said = word.until, self.hearing.listened, word.state

    def _is_over(self, life: Life, at: float) -> bool:
        """Return whether one that is not in the fleet is gone for good, and its last words have been heard.

        Descriptions lag: one that is missing may come back.
        """
        life.gone = _since(life.gone, at)
        until = self.hearing.until
        return at - life.gone > UNSEEN_SECONDS or (until is not None and until - life.gone > LAST_WORDS_SECONDS)

    def _count_boot(self, life: Life, heard_for: float) -> None:
        """Count a boot that failed: all was heard until `heard_for` seconds after its end, and there was no word."""
        until = self.hearing.until
        heard = until is not None and life.gone is not None and until - life.gone > heard_for
        if heard and life.own and life.heard is None and life.asked is None:
            self.failed_boots += 1


def _since(before: float | None, at: float) -> float:
    return at if before is None else before
