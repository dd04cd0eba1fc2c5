"""Instance health: instances that run but do not work are terminated, and others take their place.

An instance is unhealthy if

1. it sent no heartbeat within `fleet.boot_allowance_seconds` of its launch,
2. it was silent for a minute, or its worker has ended for so long while the instance still runs,
3. it was asked to drain longer ago than a worker needs for that, and still runs.

States of an instance:

| State       | Event                                           | Next state  | Action                               |
|-------------|-------------------------------------------------|-------------|--------------------------------------|
| healthy     | an issue is found                               | suspect     | it counts as capacity, not available |
| suspect     | the issue is gone, for instance by a heartbeat  | healthy     |                                      |
| suspect     | another issue is found                          | suspect     | the second check starts again        |
| suspect     | the issue remains for `SECOND_CHECK_SECONDS`    | terminating | log the console, TerminateInstances  |
| suspect     | EC2 refuses to terminate it                     | suspect     | back off, then try again             |
| terminating | still alive after `REPEAT_SECONDS`              | terminating | TerminateInstances again             |
| terminating | EC2 does not describe it as alive               | (gone)      |                                      |

Nothing else terminates running instances: workers stop by themselves.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from botocore.exceptions import BotoCoreError, ClientError

from core.config import FleetSettings
from services.backoff import Backoff
from services.clock import CLOCK, Clock
from services.ec2 import Fleet
from services.lease import Tenure
from web_tier.autoscaler.liveness import HeartbeatCoverage, InstanceRecord, InstanceTracker
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.autoscaler.observe import FleetDescription
from web_tier.autoscaler.reporting import FleetEvent

_log = logging.getLogger(__name__)

DRAIN_GRACE_SECONDS = 60.0
"""Time beyond the limit of a draining worker in which a drained instance must have powered off."""

SECOND_CHECK_SECONDS = 15.0
"""Time until an issue is confirmed: a healthy worker sends another heartbeat in it, also after a disturbance."""

REPEAT_SECONDS = 60.0
"""Time after which an instance is terminated again that EC2 still describes as alive."""

MAX_INSTANCES_PER_CALL = 10
"""Instances terminated in one call, after their consoles were read one by one: the next round waits for that."""

MAX_CONSOLE_SECONDS = 5.0
"""Time after which no more consoles are read before a call: a service that hangs must not block the autoscaler."""

MAX_CONSOLE_CHARACTERS = 4_096
"""Characters of a console that are logged: its end, where a boot reports why it failed."""

MAX_BACKOFF_SECONDS = 30.0


class HealthIssue(Enum):
    """Why an instance is unhealthy."""

    NEVER_REGISTERED = "never registered"
    SILENT = "silent"
    WORKER_EXITED = "worker exited"
    DRAIN_OVERDUE = "drain overdue"


def find_issue(
    record: InstanceRecord, coverage: HeartbeatCoverage, settings: FleetSettings, drain_seconds: float, now: float
) -> HealthIssue | None:
    """Return why the instance is unhealthy, or None if it is healthy or still within its allowance.

    The instance must be alive. The order matters: within the boot allowance a restarted instance may receive
    heartbeats of its previous run, so silence counts only after it. `drain_seconds` is the longest time that a worker
    takes to finish when it is drained.
    """
    if (
        record.drain_requested_at is not None
        and now - record.drain_requested_at >= drain_seconds + DRAIN_GRACE_SECONDS
    ):
        return HealthIssue.DRAIN_OVERDUE
    if coverage.silence_since(record.first_seen_at, record.observed_at_first_seen) < settings.boot_allowance_seconds:
        return None
    if record.last_heartbeat_at is None:
        return HealthIssue.NEVER_REGISTERED
    last_seen_at = max(record.last_heartbeat_at, record.first_seen_at)
    observed = max(record.observed_at_heartbeat, record.observed_at_first_seen)
    if coverage.silence_since(last_seen_at, observed) < settings.silent_seconds:
        return None
    return HealthIssue.WORKER_EXITED if record.worker_state == "ended" else HealthIssue.SILENT


def issue_in_words(issue: HealthIssue, settings: FleetSettings, drain_seconds: float) -> str:
    """Return an issue with its allowance, for operators."""
    match issue:
        case HealthIssue.NEVER_REGISTERED:
            return f"no heartbeat within {_duration(settings.boot_allowance_seconds)} of its launch"
        case HealthIssue.SILENT:
            return f"no heartbeat for {_duration(settings.silent_seconds)}"
        case HealthIssue.WORKER_EXITED:
            return f"its worker ended {_duration(settings.silent_seconds)} ago but the instance still runs"
        case HealthIssue.DRAIN_OVERDUE:
            return f"asked to drain {_duration(drain_seconds + DRAIN_GRACE_SECONDS)} ago but still running"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes >= 2 else f"{seconds:.3g} s"


@dataclass(slots=True)
class PendingTermination:
    """An unhealthy instance: suspect until it is terminated.

    Attributes:
        reason: the issue in words.
        since: when the issue was found, in monotonic seconds.
        observed_seconds: the heartbeat coverage at that time.
        refusals: how often EC2 has refused to terminate it.
        console: end of its console output; None until it was read.
        terminated_at: when EC2 accepted to terminate it, in monotonic seconds; None while it is suspect.
    """

    issue: HealthIssue
    reason: str
    since: float
    observed_seconds: float
    refusals: int = 0
    console: str | None = None
    terminated_at: float | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether it has not been terminated yet."""
        return self.terminated_at is None


@dataclass
class UnhealthyTerminator:
    """Finds unhealthy instances, checks them a second time, and terminates them.

    Attributes:
        drain_seconds: longest time that a worker takes to finish when it is drained.
        last_error: why the last call failed, in words; None if it succeeded, or if none is due.
    """

    fleet: Fleet
    tracker: InstanceTracker
    drain_seconds: float
    tenure: Tenure
    clock: Clock = CLOCK
    backoff: Backoff = field(default_factory=lambda: Backoff(first_seconds=1.0, max_seconds=MAX_BACKOFF_SECONDS))
    metrics: ControllerMetrics = field(default_factory=ControllerMetrics)
    last_error: str | None = field(default=None, init=False)
    terminated: int = field(default=0, init=False)
    _pending: dict[str, PendingTermination] = field(default_factory=dict, init=False)
    _retry_at: float = field(default=float("-inf"), init=False)
    _events: list[FleetEvent] = field(default_factory=list, init=False)

    def check(self, fleet: FleetDescription, draining: frozenset[str], settings: FleetSettings) -> frozenset[str]:
        """Check all instances; return the ids of the unhealthy ones."""
        records, now = self.tracker.update(fleet, draining), self.clock.monotonic()
        coverage = self.tracker.coverage
        found = {
            instance_id: issue
            for instance_id, record in records.items()
            if record.is_alive
            and (issue := find_issue(record, coverage, settings, self.drain_seconds, now)) is not None
        }
        for instance_id in self._pending.keys() - found.keys():
            del self._pending[instance_id]
        for instance_id, issue in found.items():
            reason = issue_in_words(issue, settings, self.drain_seconds)
            before = self._pending.get(instance_id)
            if before is None or (before.reason != reason and before.is_suspect):
                self._pending[instance_id] = PendingTermination(issue, reason, now, coverage.observed_seconds)
                _log.warning("an instance is unhealthy", extra={"instance": instance_id, "why": reason})
        return frozenset(self._pending)

    def reasons(self) -> dict[str, str]:
        """Return why each unhealthy instance is unhealthy, and what happens to it, in words."""
        return {
            instance_id: f"{each.reason}: " + ("checked again, then terminated" if each.is_suspect else "terminating")
            for instance_id, each in self._pending.items()
        }

    def terminate_confirmed(self) -> None:
        """Terminate the instances that fail the second check; if EC2 refuses, a later round tries again."""
        due = self._due()
        if not due:
            self.last_error = None
        elif self.clock.monotonic() >= self._retry_at and self.tenure.active():
            self._terminate(due)

    def drain_events(self) -> list[FleetEvent]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def _due(self) -> list[str]:
        """Return the instances to terminate in the next call; one that EC2 has refused does not block the others."""
        now, due = self.clock.monotonic(), list[tuple[int, str]]()
        for instance_id, pending in self._pending.items():
            waited = now - pending.since
            if pending.issue is not HealthIssue.DRAIN_OVERDUE:  # the others are found by missing heartbeats
                waited = min(waited, self.tracker.coverage.observed_seconds - pending.observed_seconds)
            is_terminating = pending.terminated_at is not None and now - pending.terminated_at < REPEAT_SECONDS
            if waited >= SECOND_CHECK_SECONDS and not is_terminating:
                due.append((pending.refusals, instance_id))
        due.sort()
        not_refused = [instance_id for refusals, instance_id in due if not refusals]
        return not_refused[:MAX_INSTANCES_PER_CALL] or [instance_id for _, instance_id in due[:1]]

    def _read_consoles(self, instance_ids: Sequence[str]) -> None:
        began = self.clock.monotonic()
        for instance_id in instance_ids:
            pending = self._pending[instance_id]
            if pending.console is None and self.clock.monotonic() - began < MAX_CONSOLE_SECONDS:
                pending.console = ""
                try:
                    pending.console = self.fleet.console_output(instance_id)[-MAX_CONSOLE_CHARACTERS:]
                except (BotoCoreError, ClientError) as error:
                    extra = {"instance": instance_id, "error": str(error)}
                    _log.warning("the console could not be read", extra=extra)

    def _terminate(self, instance_ids: Sequence[str]) -> None:
        self._read_consoles(instance_ids)
        if not self.tenure.active():
            return  # to read consoles may take long
        try:
            self.fleet.terminate(instance_ids)
        except (BotoCoreError, ClientError) as error:
            for instance_id in instance_ids:
                self._pending[instance_id].refusals += 1
            pause = self.backoff.after_failure()
            self._retry_at = self.clock.monotonic() + pause
            self.last_error = f"{_named(instance_ids)} could not be terminated: {error}"
            details = {"instances": list(instance_ids), "error": str(error), "next_try_seconds": round(pause, 1)}
            _log.warning("unhealthy instances could not be terminated", extra=details)
            return
        self.backoff.reset()
        self.last_error = None
        for instance_id in instance_ids:
            pending = self._pending[instance_id]
            pending.terminated_at = self.clock.monotonic()
            self.terminated += 1
            self.metrics.terminated.inc()
            details = {"instance": instance_id, "why": pending.reason, "console": pending.console}
            _log.warning("terminated an unhealthy instance", extra={**details, "so_far": self.terminated})
        self._events += _termination_events({instance_id: self._pending[instance_id] for instance_id in instance_ids})


def _termination_events(terminated: Mapping[str, PendingTermination]) -> list[FleetEvent]:
    """Return one event for each reason."""
    events = []
    for reason in dict.fromkeys(each.reason for each in terminated.values()):
        alike = [instance_id for instance_id, each in terminated.items() if each.reason == reason]
        events.append(FleetEvent(f"terminated {_named(alike)}: {reason}, confirmed by a second check"))
    return events


def _named(instance_ids: Sequence[str]) -> str:
    """Return the first of these ids, and how many more there are."""
    more = len(instance_ids) - 1
    return instance_ids[0] + (f" and {more} other{'' if more == 1 else 's'}" if more else "")
