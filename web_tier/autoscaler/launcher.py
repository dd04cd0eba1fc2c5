"""The launcher: starts and launches workers so that a lost reply never causes a second launch.

**ClientToken.** Each launch has its own token and is written to the journal before the call. If the outcome is
unknown (a time-out, a lost connection, a 5xx), the same call is repeated with the same token. EC2 then answers with
the instances of the first call, or refuses the token if they have all ended.

**Maximum.** At most one call has an unknown outcome, and until that is resolved no other call is made. It is repeated
only where all of its instances fit beside the known workers, unless some of its instances are described: then the
call did take place, and repeating it launches nothing more.

**States of a call.** `CallState` is the outcome of a call; `TRANSITIONS` is what follows. A call ends as `COMPLETE`,
`SHORT`, `SPENT` or, at the first attempt, with a refusal. A refusal of a repeated call says nothing about the first
attempt, so the call stays in the journal until DescribeInstances shows its instances, or must have shown them.

    recorded --reply--> COMPLETE, SHORT
        |------refusal--> SPENT, NO_CAPACITY, NOT_STARTABLE, REJECTED
        +------no reply, or a 5xx--> UNCERTAIN --repeated--> any of these
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from botocore.exceptions import BotoCoreError

from core.config import FleetSettings
from core.fleet.models import JournalEntry
from services.backoff import Backoff
from services.clock import CLOCK, Clock
from services.ec2 import ALIVE, Fleet, LaunchSpec
from services.errors import LaunchError
from services.lease import Tenure
from web_tier.autoscaler.decide import Plan
from web_tier.autoscaler.launch_journal import ControllerJournal
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.autoscaler.observe import LAUNCH_VISIBLE_SECONDS, Observation, RecentLaunches
from web_tier.autoscaler.offerings import ERROR_SCOPE, Offering, UnavailableOfferings, offerings

_log = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 30.0

UNCERTAIN_CODES = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "Unavailable",
        "ServiceUnavailable",
        "RequestTimeout",
        "Server.InternalError",
    }
)
"""Error codes after which a launch may have taken place; a bare HTTP 5xx is another.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"""

NOT_STARTABLE_CODES = frozenset(
    {"IncorrectInstanceState", "InsufficientInstanceCapacity", "InvalidInstanceID.NotFound"}
)
"""Error codes that mean that stopped instances are not starting, so others may be launched in their place.

Any other refusal, such as throttling, may be the answer to a retry by botocore of a first request that took place.
"""

TERMINATED_LAUNCH_CODE = "IdempotentInstanceTerminated"
"""Error code that means that the launch with this ClientToken took place and that its instances have ended since.

Before January 2025, EC2 answered with these instances: https://github.com/boto/boto3/issues/4406
"""


class CallState(Enum):
    """The outcome of a call."""

    COMPLETE = auto()
    """EC2 launched or started all instances."""
    SHORT = auto()
    """EC2 launched fewer instances than were requested."""
    SPENT = auto()
    """The launch took place earlier and its instances have ended: the token launches nothing more."""
    NO_CAPACITY = auto()
    """EC2 refused the offering: capacity, addresses, quota, or a type that is not allowed."""
    NOT_STARTABLE = auto()
    """The stopped instances cannot be started now."""
    REJECTED = auto()
    """EC2 refused for a reason that concerns every offering, such as throttling."""
    UNCERTAIN = auto()
    """The call may have taken place."""


class JournalAction(Enum):
    """What the launcher does with the call's journal entry."""

    COMPLETE = auto()
    DISCARD = auto()
    KEEP = auto()
    MARK_UNCERTAIN = auto()


class NextStep(Enum):
    """What the launcher does next."""

    CONTINUE = auto()
    """Nothing is in the way; the next round launches what is still missing."""
    NEXT_OFFERING = auto()
    """The next round tries the next offering; if none is available, back off."""
    BACK_OFF = auto()


TRANSITIONS: Mapping[CallState, tuple[JournalAction, NextStep]] = {
    CallState.COMPLETE: (JournalAction.COMPLETE, NextStep.CONTINUE),
    CallState.SHORT: (JournalAction.COMPLETE, NextStep.NEXT_OFFERING),
    CallState.SPENT: (JournalAction.DISCARD, NextStep.CONTINUE),
    CallState.NO_CAPACITY: (JournalAction.DISCARD, NextStep.NEXT_OFFERING),
    CallState.NOT_STARTABLE: (JournalAction.DISCARD, NextStep.BACK_OFF),
    CallState.REJECTED: (JournalAction.DISCARD, NextStep.BACK_OFF),
    CallState.UNCERTAIN: (JournalAction.MARK_UNCERTAIN, NextStep.BACK_OFF),
}
"""What follows from the first attempt of a call."""

TRANSITIONS_OF_REPEATED: Mapping[CallState, tuple[JournalAction, NextStep]] = {
    **TRANSITIONS,
    CallState.NO_CAPACITY: (JournalAction.KEEP, NextStep.BACK_OFF),
    CallState.NOT_STARTABLE: (JournalAction.KEEP, NextStep.BACK_OFF),
    CallState.REJECTED: (JournalAction.KEEP, NextStep.BACK_OFF),
}
"""What follows from a repeated call: a refusal says nothing about the first attempt."""


def state_after_refusal(entry: JournalEntry, error: LaunchError) -> CallState:
    """Return the outcome of a call that EC2 refused."""
    is_launch = entry.spec is not None
    if error.code == TERMINATED_LAUNCH_CODE:
        return CallState.SPENT
    if not is_launch and error.code in NOT_STARTABLE_CODES:
        return CallState.NOT_STARTABLE
    if is_uncertain(error.code, error.retries):
        return CallState.UNCERTAIN
    return CallState.NO_CAPACITY if is_launch and error.code in ERROR_SCOPE else CallState.REJECTED


def is_uncertain(code: str, retries: int = 0) -> bool:
    """Return whether a launch that failed with `code` may have taken place.

    So it may if botocore has retried the request, `retries` times, and only the last one was refused, for instance by
    throttling. A code of `ERROR_SCOPE` is EC2's answer to a launch that did not take place.
    """
    is_server_error = code.isdigit() and code.startswith("5")
    return code in UNCERTAIN_CODES or is_server_error or (retries > 0 and code not in ERROR_SCOPE)


@dataclass
class Launcher:
    """Starts and launches workers.

    Attributes:
        fleet: EC2 with calls that botocore does not retry.
        journal: where each call is recorded before it is made.
        last_error: why the last call failed, in words; None if it succeeded, or if nothing has to be launched.
    """

    fleet: Fleet
    launches: RecentLaunches
    journal: ControllerJournal
    tenure: Tenure
    clock: Clock = CLOCK
    backoff: Backoff = field(default_factory=lambda: Backoff(first_seconds=1.0, max_seconds=MAX_BACKOFF_SECONDS))
    metrics: ControllerMetrics = field(default_factory=ControllerMetrics)
    last_error: str | None = field(default=None, init=False)
    _unavailable: UnavailableOfferings = field(init=False)
    _not_startable_until: dict[str, float] = field(default_factory=dict, init=False)
    _retry_at: float = field(default=float("-inf"), init=False)
    _pause_seconds: float = field(default=0.0, init=False)
    _successful_launches: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Start with every offering available."""
        self._unavailable = UnavailableOfferings(self.clock, self.backoff.uniform)

    @property
    def status_text(self) -> str | None:
        """The last error with the time of the next attempt, for operators."""
        if self.last_error is None or self._pause_seconds == 0:
            return self.last_error
        return f"{self.last_error}; next try in {math.ceil(self._pause_seconds)} s"

    def sync_from_store(self) -> None:
        """Read from the journal what other controllers have launched; to be called before each observation.

        Raises:
            BotoCoreError, ClientError, JournalBusyError: when the journal could not be read and written back. Nothing
                may be decided before it was.
        """
        if not self.tenure.active():
            return
        for entry in self.journal.sync_from_store():
            ago = max(0.0, (self.journal.clock.utc_now() - entry.at).total_seconds())
            self.launches.add(entry.instance_ids or (), entry.former, ago=ago)

    @property
    def starting(self) -> frozenset[str]:
        """Ids of instances that calls of unknown outcome start: what is described as stopped may run."""
        return frozenset(key for entry in self.journal.uncertain() for key in entry.starts)

    def apply(self, plan: Plan, observation: Observation, settings: FleetSettings) -> None:
        """Make the next call: repeat one of unknown outcome, else start stopped instances, else launch new ones.

        It makes at most one call in a round, and none while it backs off.

        Raises:
            BotoCoreError, ClientError, JournalBusyError: when the journal could not be written; no call was made.
            SupersededError: when another controller has written the journal; no call was made.
        """
        if not self.tenure.active():
            return
        for entry in self.journal.uncertain():
            described = instances_of(entry, observation)
            if len(described) == entry.count:
                self._complete(entry, described)
                self.last_error = None
        if not plan.starts:
            self.last_error = None
        uncertain = self.journal.uncertain()
        call = self._next_call(uncertain, plan, observation, settings)
        if call is None:
            self.journal.flush()
        else:
            # Of all offerings: what a patient plan waits for must not keep others from being launched.
            self._call(call, offerings(settings), is_repeated=bool(uncertain))

    def _next_call(
        self, uncertain: Sequence[JournalEntry], plan: Plan, observation: Observation, settings: FleetSettings
    ) -> JournalEntry | None:
        """Return the call to make now, or None."""
        missing = plan.starts
        if self.clock.monotonic() < self._retry_at:
            return None
        if uncertain:
            oldest = uncertain[0]
            not_described = [each.count - len(instances_of(each, observation)) for each in uncertain]
            took_place = oldest.spec is not None and not_described[0] < oldest.count
            # Where its instances would not fit (the limits are lower now, other workers have come, or a spending cap
            # is near), the launcher waits until DescribeInstances shows the outcome.
            room = settings.max_workers - observation.capacity
            if plan.max_launches is not None:
                room = min(room, plan.max_launches)
            fits = missing > 0 and sum(not_described) <= room
            return oldest if took_place or fits else None
        if not missing:
            return None
        token, now = self.journal.next_token(), self.journal.clock.utc_now()
        startable = {key for key in plan.start if self.clock.monotonic() >= self._not_startable_until.get(key, 0.0)}
        if stopped := [each for each in observation.instances if each.instance_id in startable]:
            return JournalEntry(
                token=token,
                count=len(stopped),
                at=now,
                starts=tuple(each.instance_id for each in stopped),
                launched=tuple(each.launched_at for each in stopped),
            )
        options = offerings(settings, self._successful_launches, is_patient=plan.is_patient)
        if plan.is_patient and self._unavailable.has_none_of(options):
            return None
        offering = self._unavailable.best(options)
        return JournalEntry(token=token, count=missing, at=now, spec=offering.spec(settings))

    def _call(self, entry: JournalEntry, options: Sequence[Offering], *, is_repeated: bool) -> None:
        """Record a call, make it, and apply the transition that follows from its outcome."""
        self.journal.record(entry)
        if not self.tenure.active():
            return  # the next controller finds the entry, and makes the call if it is still needed
        state, instance_ids, problem = self._make(entry, options)
        self.metrics.launch_calls.labels(state.name.lower()).inc()
        self.metrics.launched.inc(len(instance_ids))
        journal_action, next_step = (TRANSITIONS_OF_REPEATED if is_repeated else TRANSITIONS)[state]
        match journal_action:
            case JournalAction.COMPLETE:
                self._complete(entry, instance_ids)
            case JournalAction.DISCARD:
                self.journal.discard(entry.token)
            case JournalAction.MARK_UNCERTAIN:
                self.journal.mark_uncertain(entry.token)
            case JournalAction.KEEP:
                pass
        if state in {CallState.COMPLETE, CallState.SHORT, CallState.SPENT}:
            self.backoff.reset()
        elif state is CallState.NOT_STARTABLE:
            self._not_startable_until |= dict.fromkeys(entry.starts, self.clock.monotonic() + LAUNCH_VISIBLE_SECONDS)
        self._go_on(next_step, problem, entry.spec, options)

    def _make(self, entry: JournalEntry, options: Sequence[Offering]) -> tuple[CallState, list[str], str | None]:
        """Make a call; return its outcome, the ids of its instances, and what EC2 has reported otherwise.

        What the call shows about its offering is remembered.
        """
        offering = None if entry.spec is None else Offering.from_spec(entry.spec)
        try:
            if entry.spec is None:
                self.fleet.start(entry.starts)
                instance_ids = list(entry.starts)
            else:
                instance_ids = [each.instance_id for each in self.fleet.launch(entry.spec, entry.count, entry.token)]
        except LaunchError as error:
            state = state_after_refusal(entry, error)
            if state is CallState.NO_CAPACITY and offering is not None:
                self._unavailable.mark_refused(offering, error.code, options, str(error))
            return state, [], str(error)
        except BotoCoreError as error:
            return CallState.UNCERTAIN, [], f"EC2 did not answer: {error}"
        _log.info("workers are launching", extra={"requested": entry.count, "instances": instance_ids})
        if offering is not None and len(instance_ids) < entry.count:
            self._unavailable.mark_short(offering, len(instance_ids), entry.count)
            return CallState.SHORT, instance_ids, None
        if offering is not None:
            self._unavailable.mark_available(offering)
            self._successful_launches += 1
        return CallState.COMPLETE, instance_ids, None

    def _complete(self, entry: JournalEntry, instance_ids: Sequence[str]) -> None:
        self.journal.complete(entry.token, instance_ids)
        self.launches.add(instance_ids, entry.former)

    def _go_on(
        self, step: NextStep, problem: str | None, spec: LaunchSpec | None, options: Sequence[Offering]
    ) -> None:
        if step is NextStep.CONTINUE:
            self.last_error = None
            return
        if step is NextStep.NEXT_OFFERING:
            if problem is not None:
                offering = str(Offering.from_spec(spec)) if spec else "stopped instances"
                _log.warning("EC2 refused an offering", extra={"offering": offering, "problem": problem})
            problem = f"EC2 refuses launches: {self._unavailable.in_words(options)}"
            if not self._unavailable.has_none_of(options):
                self.last_error, self._pause_seconds = problem, 0.0
                return
        self._pause_seconds = self.backoff.after_failure()
        self._retry_at = self.clock.monotonic() + self._pause_seconds
        self.last_error = problem
        extra = {"problem": problem, "next_try_seconds": round(self._pause_seconds, 1)}
        _log.warning("workers could not be started", extra=extra)


def instances_of(entry: JournalEntry, observation: Observation) -> list[str]:
    """Return the ids of the described instances that a call has launched or started."""
    if entry.spec is not None:
        return [each.instance_id for each in observation.instances if each.client_token == entry.token]
    former = entry.former
    return [
        each.instance_id
        for each in observation.instances
        if each.instance_id in former and each.state in ALIVE and each.launched_at > former[each.instance_id]
    ]
