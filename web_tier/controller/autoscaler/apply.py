"""Apply: carry a plan out, so that nothing is launched twice whatever becomes of the replies.

**ClientToken.** Each launch is numbered, and its token is a hash of who decides (the lease holder's id, unique to
the process) and that number. When the outcome is unknown (a time-out, a lost connection, a 5xx), the very same call
is made again with the same token: EC2 then answers with the instances of the first call, if it took place. A new
token is used only after success, after a refusal of a launch whose outcome was never unknown (that of a repeated one
may be throttling, which says nothing of the first call), or once DescribeInstances must show what there is.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from botocore.exceptions import BotoCoreError

from services.config import Fleet as FleetConfig
from services.ec2 import Fleet, LaunchSpec
from services.errors import LaunchError
from web_tier.controller.autoscaler.decide import Plan
from web_tier.controller.autoscaler.observe import UNSEEN_SECONDS, Observation, RecentLaunches
from web_tier.controller.backoff import Backoff

_log = logging.getLogger(__name__)

UNCERTAIN = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "Unavailable",
        "ServiceUnavailable",
        "RequestTimeout",
        "Server.InternalError",
    }
)
"""Codes after which a launch may have taken place nevertheless; so may it after a bare HTTP 5xx."""

CANNOT_START = frozenset({"IncorrectInstanceState", "InsufficientInstanceCapacity", "InvalidInstanceID.NotFound"})
"""Codes that say of stopped instances that they are not starting, so that others may be launched in their place.

Any other refusal, such as throttling, may follow on a first call that took place although its reply was lost.
"""

MOST_BACKOFF_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Launch:
    """One numbered launch, tried at `tried_at` (monotonic seconds); made again, it is made exactly so."""

    spec: LaunchSpec
    count: int
    token: str
    tried_at: float

    def carry_out(self, fleet: Fleet) -> list[str]:
        """Launch; return the ids of the new instances."""
        return [instance.instance_id for instance in fleet.launch(self.spec, self.count, self.token)]


@dataclass(frozen=True, slots=True)
class Start:
    """A start of stopped instances; starting what has started does no harm."""

    instance_ids: list[str]
    tried_at: float

    @property
    def count(self) -> int:
        """How many there will be more."""
        return len(self.instance_ids)

    def carry_out(self, fleet: Fleet) -> list[str]:
        """Start; return the ids."""
        fleet.start(self.instance_ids)
        return self.instance_ids


def launch_spec(limits: FleetConfig) -> LaunchSpec:
    """Return what the configuration says to launch."""
    return LaunchSpec(
        image_id=limits.image_id,
        instance_type=limits.instance_type,
        user_data=limits.user_data,
        shutdown_behavior=limits.scale_in,
        instance_profile=limits.instance_profile,
        subnet_id=limits.subnet_id,
        security_group_ids=limits.security_group_ids,
    )


def client_token(holder: str, number: int) -> str:
    """Return the ClientToken of a holder's launch number `number`: 64 characters, as many as EC2 takes."""
    return hashlib.sha256(f"{holder}/{number}".encode()).hexdigest()


@dataclass
class Launcher:
    """Starts and launches workers.

    Attributes:
        holder: who decides; a part of every token.
        active: whether this process may still act; asked right before each call.
        problem: why the last launch did not succeed, in words; None when it did.
    """

    fleet: Fleet
    launches: RecentLaunches
    holder: str
    active: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    backoff: Backoff = field(default_factory=lambda: Backoff(first_seconds=1.0, most_seconds=MOST_BACKOFF_SECONDS))
    problem: str | None = None
    _number: int = field(default=0, init=False)
    _uncertain: Launch | Start | None = field(default=None, init=False)
    _unstartable: dict[str, float] = field(default_factory=dict, init=False)
    _not_before: float = field(default=float("-inf"), init=False)

    def apply(self, plan: Plan, observation: Observation, limits: FleetConfig) -> None:
        """Start the stopped instances of `plan`, else launch; while backing off, do nothing.

        One call at a time, and one of unknown outcome before anything else; the rest is for the next look.
        """
        lacking = plan.launch + len(plan.start)
        if lacking == 0:
            self.problem = None
        if lacking == 0 or self.clock() < self._not_before or not self.active():
            return
        if uncertain := self._still_uncertain():
            # No room: its instances have appeared, or the limits are lower now; it is waited until it is seen which.
            if uncertain.count <= limits.max_workers - observation.supply:
                self._attempt(replace(uncertain, tried_at=self.clock()))
        elif startable := [key for key in plan.start if self.clock() >= self._unstartable.get(key, 0.0)]:
            self._attempt(Start(startable, self.clock()))
        else:
            self._number += 1
            token = client_token(self.holder, self._number)
            self._attempt(Launch(launch_spec(limits), lacking, token, self.clock()))

    def _still_uncertain(self) -> Launch | Start | None:
        """Return the call of unknown outcome, until descriptions must show what became of it."""
        if self._uncertain and self.clock() - self._uncertain.tried_at > UNSEEN_SECONDS:
            self._uncertain = None
        return self._uncertain

    def _attempt(self, step: Launch | Start) -> None:
        try:
            instance_ids = step.carry_out(self.fleet)
        except LaunchError as error:
            self._note_refusal(step, error.code)
            self._back_off(str(error))
        except BotoCoreError as error:
            self._uncertain = step
            self._back_off(f"EC2 did not answer: {error}")
        else:
            self._uncertain, self.problem = None, None
            self.backoff.reset()
            self.launches.add(instance_ids, were_stopped=isinstance(step, Start))
            _log.info("workers are coming", extra={"asked": step.count, "instances": instance_ids})

    def _note_refusal(self, step: Launch | Start, code: str) -> None:
        if is_uncertain(code):
            self._uncertain = step
        elif isinstance(step, Start) and code in CANNOT_START:
            self._uncertain = None
            self._unstartable |= dict.fromkeys(step.instance_ids, self.clock() + UNSEEN_SECONDS)

    def _back_off(self, problem: str) -> None:
        pause = self.backoff.after_failure()
        self._not_before = self.clock() + pause
        self.problem = problem
        _log.warning("workers could not be started", extra={"problem": problem, "next_try_seconds": round(pause, 1)})


def is_uncertain(code: str) -> bool:
    """Tell whether a launch that failed with `code` may have taken place nevertheless."""
    return code in UNCERTAIN or (code.isdigit() and code.startswith("5"))
