"""Apply: carry a plan out, so that nothing is launched twice also if replies are lost.

**ClientToken.** Each launch has a token of its own and is written into the journal before it is made. When the
outcome is unknown (a time-out, a lost connection, a 5xx), the very same call is made again with the same token: EC2
then answers with the instances of the first call, if it took place, or refuses the token if they have all ended.
Something else is launched only after success, after a refusal of a launch with an outcome that was never unknown
(that of a repeated one may be throttling, which says nothing of the first call), after a refusal that says that the
token is spent, or once DescribeInstances shows, or must show, what there is.

**Maximum.** There is at most one call of unknown outcome, and while there is one nothing else is called. It is made
again only where all that it may give fits beside the workers that are known, unless some of its instances have been
described: then it did take place, and nothing more can come of it.

**Choices.** A launch is made by the first choice that does not rest. Where EC2 has none of that, or not enough, the
next choice is tried at the next look; only when all rest, or EC2 refuses for another reason, is there a pause.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError

from core.config import Fleet as FleetConfig
from core.fleet import JournalEntry
from services.ec2 import ALIVE, Fleet
from services.errors import LaunchError
from web_tier.controller.autoscaler.apply.choices import Choice, UnavailableOfferings, choices
from web_tier.controller.autoscaler.apply.journal import Journal
from web_tier.controller.autoscaler.apply.refusals import CANNOT_START, LAUNCH_IS_OVER, is_uncertain
from web_tier.controller.autoscaler.decide.decide import Plan
from web_tier.controller.autoscaler.observe.observe import UNSEEN_SECONDS, Observation, RecentLaunches
from web_tier.controller.backoff import Backoff

_log = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 30.0


@dataclass
class Launcher:
    """Starts and launches workers.

    Attributes:
        journal: where each call is written down before it is made.
        active: whether this process may still act; asked right before each call.
        problem: why the last launch did not succeed, in words; None when it did, or when none is wanted any more.
    """

    fleet: Fleet
    launches: RecentLaunches
    journal: Journal
    active: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    backoff: Backoff = field(default_factory=lambda: Backoff(first_seconds=1.0, max_seconds=MAX_BACKOFF_SECONDS))
    problem: str | None = field(default=None, init=False)
    _rests: UnavailableOfferings = field(init=False)
    _unstartable: dict[str, float] = field(default_factory=dict, init=False)
    _not_before: float = field(default=float("-inf"), init=False)
    _pause: float = field(default=0.0, init=False)
    _launches: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Begin with no choice refused."""
        self._rests = UnavailableOfferings(self.clock, self.backoff.uniform)

    @property
    def told(self) -> str | None:
        """The problem with when the next try is, for people."""
        if self.problem is None or self._pause == 0:
            return self.problem
        return f"{self.problem}; next try in {math.ceil(self._pause)} s"

    def take_over(self) -> None:
        """Learn from the journal what other controllers have launched; to be called before each look.

        Raises:
            BotoCoreError, ClientError, JournalBusyError: when it could not be read and written back; nothing may be
                decided before it has been.
        """
        if not self.active():
            return
        for entry in self.journal.take_over():
            ago = max(0.0, (self.journal.now() - entry.at).total_seconds())
            self.launches.add(entry.instance_ids or (), entry.former, ago=ago)

    def apply(self, plan: Plan, observation: Observation, limits: FleetConfig) -> None:
        """Start the stopped instances of `plan`, else launch; while backing off, do nothing.

        One call at a time, and one of unknown outcome before anything else; the rest is for the next look.

        Raises:
            BotoCoreError, ClientError, JournalBusyError: when the journal could not be written; nothing was called.
            SupersededError: when another controller has written it; nothing was called either.
        """
        if not self.active():
            return
        self._learn(observation)
        lacking = plan.launch + len(plan.start)
        if lacking == 0:
            self.problem = None
        doubtful = self.journal.in_doubt()
        entry: JournalEntry | None = None
        if self.clock() < self._not_before:
            pass
        elif doubtful:
            entry = doubtful[0] if self._may_repeat(doubtful, lacking, observation, limits) else None
        elif lacking:
            entry = self._new_entry(plan, observation, limits)
        if entry is None:
            self.journal.flush()
        else:
            self._attempt(entry, choices(limits), repeated=bool(doubtful))

    def _learn(self, observation: Observation) -> None:
        """Settle calls of unknown outcome if all their instances have been described."""
        for entry in self.journal.in_doubt():
            given = given_by(entry, observation)
            if len(given) == entry.count:
                self._settle(entry, given)
                self.problem = None

    def _may_repeat(
        self, doubtful: Sequence[JournalEntry], lacking: int, observation: Observation, limits: FleetConfig
    ) -> bool:
        unseen = [entry.count - len(given_by(entry, observation)) for entry in doubtful]
        if doubtful[0].spec is not None and unseen[0] < doubtful[0].count:
            return True
        # No room: the limits are lower now, or others have come; it is waited until it is seen what became of it.
        return lacking > 0 and sum(unseen) <= limits.max_workers - observation.supply

    def _new_entry(self, plan: Plan, observation: Observation, limits: FleetConfig) -> JournalEntry:
        token, now = self.journal.next_token(), self.journal.now()
        startable = {key for key in plan.start if self.clock() >= self._unstartable.get(key, 0.0)}
        if stopped := [each for each in observation.instances if each.instance_id in startable]:
            return JournalEntry(
                token=token,
                count=len(stopped),
                at=now,
                starts=tuple(each.instance_id for each in stopped),
                launched=tuple(each.launched_at for each in stopped),
            )
        spec = self._rests.best(choices(limits, self._launches)).spec(limits)
        return JournalEntry(token=token, count=plan.launch + len(plan.start), at=now, spec=spec)

    def _attempt(self, entry: JournalEntry, walk: Sequence[Choice], *, repeated: bool) -> None:
        self.journal.record(entry)
        if not self.active():
            return  # the next controller finds it, and makes the call if it is still wanted
        try:
            instance_ids = self._call(entry)
        except LaunchError as error:
            self._refused(entry, error, walk, repeated=repeated)
        except BotoCoreError as error:
            self.journal.doubt(entry.token)
            self._back_off(f"EC2 did not answer: {error}")
        else:
            self._gave(entry, instance_ids, walk)

    def _call(self, entry: JournalEntry) -> list[str]:
        if entry.spec is None:
            self.fleet.start(entry.starts)
            return list(entry.starts)
        return [each.instance_id for each in self.fleet.launch(entry.spec, entry.count, entry.token)]

    def _settle(self, entry: JournalEntry, instance_ids: Sequence[str]) -> None:
        self.journal.settle(entry.token, instance_ids)
        self.launches.add(instance_ids, entry.former)

    def _gave(self, entry: JournalEntry, instance_ids: list[str], walk: Sequence[Choice]) -> None:
        self._settle(entry, instance_ids)
        self.backoff.reset()
        _log.info("workers are coming", extra={"asked": entry.count, "instances": instance_ids})
        if entry.spec is not None and len(instance_ids) < entry.count:
            self._rests.fell_short(Choice.of(entry.spec), len(instance_ids), entry.count)
            self._walk_on(walk)
            return
        self.problem = None
        if entry.spec is not None:
            self._rests.gave(Choice.of(entry.spec))
            self._launches += 1

    def _refused(self, entry: JournalEntry, error: LaunchError, walk: Sequence[Choice], *, repeated: bool) -> None:
        if error.code == LAUNCH_IS_OVER:
            # No call with this token can give an instance any more. The next look launches what is still wanted.
            self.journal.drop(entry.token)
            self.backoff.reset()
            self.problem = None
            return
        choice = Choice.of(entry.spec) if entry.spec is not None else None
        rests = choice is not None and self._rests.refused(choice, error.code, walk, str(error))
        cannot_start = choice is None and error.code in CANNOT_START
        if cannot_start:
            self._unstartable |= dict.fromkeys(entry.starts, self.clock() + UNSEEN_SECONDS)
        if not cannot_start and is_uncertain(error.code, error.retries):
            self.journal.doubt(entry.token)
        elif not repeated:
            self.journal.drop(entry.token)
        if rests and not repeated:
            _log.warning("a choice was refused", extra={"choice": str(choice), "problem": str(error)})
            self._walk_on(walk)
        else:
            self._back_off(str(error))

    def _walk_on(self, walk: Sequence[Choice]) -> None:
        """Go on with the next choice at the next look, or back off when there is none."""
        problem = f"EC2 has no room for workers: {self._rests.in_words(walk)}"
        if self._rests.all_rest(walk):
            self._back_off(problem)
        else:
            self.problem, self._pause = problem, 0.0

    def _back_off(self, problem: str) -> None:
        self._pause = self.backoff.after_failure()
        self._not_before = self.clock() + self._pause
        self.problem = problem
        extra = {"problem": problem, "next_try_seconds": round(self._pause, 1)}
        _log.warning("workers could not be started", extra=extra)


def given_by(entry: JournalEntry, observation: Observation) -> list[str]:
    """Return the ids of the instances that are described and that a call has launched or started."""
    if entry.spec is not None:
        return [each.instance_id for each in observation.instances if each.client_token == entry.token]
    former = entry.former
    return [
        each.instance_id
        for each in observation.instances
        if each.instance_id in former and each.state in ALIVE and each.launched_at > former[each.instance_id]
    ]
