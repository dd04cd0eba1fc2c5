"""The sweep: ghosts are marked, looked at a second time, and ended; others take their place.

Nothing else ends a worker but the worker itself. A mark is taken back as soon as its reason is gone: any word of a
silent worker does that. What the machine wrote to its console is kept in the log before it is ended.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from core.config import Fleet as FleetConfig
from services.ec2 import Fleet
from web_tier.controller.autoscaler.apply.ghosts import HealthIssue, suspects
from web_tier.controller.autoscaler.observe.lives import InstanceTracker
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.autoscaler.tell.decisions import News
from web_tier.controller.backoff import Backoff

_log = logging.getLogger(__name__)

SECOND_LOOK_SECONDS = 15.0
"""After the first, at least: in so long a living worker sends another heartbeat, also after a disturbance."""

AGAIN_SECONDS = 60.0
"""One that EC2 has been told to end, and that is still described as alive so long after, is ended again."""

MAX_AT_ONCE = 10
"""Ended in one call, after their consoles were read one by one: the next look at the fleet waits for that."""

READING_SECONDS = 5.0
"""After so long no more consoles are read before that call: a service that hangs must not hold the fleet up."""

CONSOLE_CHARACTERS = 4_096
"""Kept of a console, in the log: its end, where a boot says why it failed."""

TOLD_CHARACTERS = 200
"""Of that, shown to people."""

MAX_BACKOFF_SECONDS = 30.0


@dataclass(slots=True)
class Mark:
    """An instance that is suspected.

    Attributes:
        why: the suspicion.
        since: when it was marked, in monotonic seconds.
        listened: how much had been listened by then, in seconds.
        tries: how often EC2 has refused to end it.
        console: what it wrote last, once that was read.
        ended: when EC2 was told to end it, in monotonic seconds.
    """

    why: HealthIssue
    since: float
    listened: float
    tries: int = 0
    console: str | None = None
    ended: float | None = None


@dataclass
class Sweeper:
    """Marks ghosts, looks a second time, and ends them.

    Attributes:
        drain_seconds: longest that a worker takes to finish what it has.
        active: whether this process may still act; asked right before each call that ends something.
        problem: why the last call that was to end something did not, in words; None when it did.
        ended: how many were ended so far.
    """

    fleet: Fleet
    lives: InstanceTracker
    drain_seconds: float
    active: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    backoff: Backoff = field(default_factory=lambda: Backoff(first_seconds=1.0, max_seconds=MAX_BACKOFF_SECONDS))
    second_look_seconds: float = SECOND_LOOK_SECONDS
    problem: str | None = field(default=None, init=False)
    ended: int = field(default=0, init=False)
    _marks: dict[str, Mark] = field(default_factory=dict, init=False)
    _not_before: float = field(default=float("-inf"), init=False)
    _news: list[News] = field(default_factory=list, init=False)

    def look(self, observation: Observation, limits: FleetConfig) -> frozenset[str]:
        """Take one observation into account; return the ids of those that are marked."""
        lives, at = self.lives.look(observation), self.clock()
        found = suspects(lives, self.lives.hearing, limits, self.drain_seconds, at)
        for instance_id in self._marks.keys() - found.keys():
            del self._marks[instance_id]
        for instance_id, why in found.items():
            before = self._marks.get(instance_id)
            if before is None or (before.why != why and before.ended is None):
                self._marks[instance_id] = Mark(why, at, self.lives.hearing.listened)
                _log.warning("marked as a ghost", extra={"instance": instance_id, "why": why.words})
        return frozenset(self._marks)

    def marked(self) -> dict[str, str]:
        """Return why each of those that are marked is, in words for people."""
        return {instance_id: _fate(mark) for instance_id, mark in self._marks.items()}

    def sweep(self) -> None:
        """End those that are still marked at the second look; when EC2 refuses, a later sweep tries again."""
        due = self._due()
        if not due:
            self.problem = None
        elif self.clock() >= self._not_before and self.active():
            self._end(due)

    def take_news(self) -> list[News]:
        """Return what has happened since this was asked last, in words for people."""
        news, self._news = self._news, []
        return news

    def _due(self) -> list[str]:
        """Return the instances to end in the next call; one that EC2 has refused to end holds up no other."""
        due = sorted((mark.tries, instance_id) for instance_id, mark in self._marks.items() if self._is_due(mark))
        fresh = [instance_id for tries, instance_id in due if not tries]
        return fresh[:MAX_AT_ONCE] or [instance_id for _, instance_id in due[:1]]

    def _is_due(self, mark: Mark) -> bool:
        at = self.clock()
        if mark.ended is not None and at - mark.ended < AGAIN_SECONDS:
            return False
        waited = at - mark.since
        if mark.why.by_ear:
            waited = min(waited, self.lives.hearing.listened - mark.listened)
        return waited >= self.second_look_seconds

    def _end(self, instance_ids: Sequence[str]) -> None:
        begun = self.clock()
        for instance_id in instance_ids:
            if self.clock() - begun < READING_SECONDS:
                self._keep_console(instance_id)
        if not self.active():
            return  # it may take long to read consoles
        try:
            self.fleet.terminate(instance_ids)
        except (BotoCoreError, ClientError) as error:
            self._note_refusal(instance_ids, error)
            return
        self.backoff.reset()
        self.problem = None
        for instance_id in instance_ids:
            self._note_end(instance_id)
        self._news += _endings({instance_id: self._marks[instance_id] for instance_id in instance_ids})

    def _keep_console(self, instance_id: str) -> None:
        mark = self._marks[instance_id]
        if mark.console is not None:
            return
        try:
            mark.console = self.fleet.console_output(instance_id)[-CONSOLE_CHARACTERS:]
        except (BotoCoreError, ClientError) as error:
            mark.console = ""
            _log.warning("no console to keep", extra={"instance": instance_id, "error": str(error)})

    def _note_refusal(self, instance_ids: Sequence[str], error: Exception) -> None:
        for instance_id in instance_ids:
            self._marks[instance_id].tries += 1
        pause = self.backoff.after_failure()
        self._not_before = self.clock() + pause
        self.problem = f"{_named(instance_ids)} could not be ended: {error}"
        details = {"instances": list(instance_ids), "error": str(error), "next_try_seconds": round(pause, 1)}
        _log.warning("ghosts could not be ended", extra=details)

    def _note_end(self, instance_id: str) -> None:
        mark = self._marks[instance_id]
        mark.ended = self.clock()
        self.ended += 1
        _log.warning(
            "ended a ghost",
            extra={"instance": instance_id, "why": mark.why.words, "console": mark.console, "so_far": self.ended},
        )


def _fate(mark: Mark) -> str:
    return f"{mark.why.words}: {'is being ended' if mark.ended is not None else 'looked at again, then ended'}"


def _endings(ended: Mapping[str, Mark]) -> list[News]:
    """Return one sentence for those that were ended for the same reason, with the end of one console among them."""
    sentences = []
    for why in dict.fromkeys(mark.why.words for mark in ended.values()):
        alike = {instance_id: mark for instance_id, mark in ended.items() if mark.why.words == why}
        sentence = f"ended {_named(list(alike))}: {why}, also at a second look"
        last = next((words for mark in alike.values() if (words := _last_words(mark.console or ""))), "")
        sentences.append(News(f"{sentence}; its console ends: {last}" if last else sentence))
    return sentences


def _named(instance_ids: Sequence[str]) -> str:
    """Return the first of these ids, and how many more there are."""
    more = len(instance_ids) - 1
    return instance_ids[0] + (f" and {more} other{'' if more == 1 else 's'}" if more else "")


def _last_words(console: str) -> str:
    """Return the end of a console in one line of printable characters, `TOLD_CHARACTERS` of it."""
    printable = "".join(each if each.isprintable() else " " for each in console)
    return " ".join(printable.split())[-TOLD_CHARACTERS:]
