"""The fleet's items in the job table: what the controller reports, and the operators' commands to it.

| partition | sort key                 | content                                                  | written by |
|-----------|--------------------------|----------------------------------------------------------|------------|
| `FLEET`   | `SNAPSHOT`               | the last observation and decision of the autoscaler      | controller |
| `FLEET`   | `INSTANCES`              | the instances with their workers' status                 | controller |
| `FLEET`   | `ENDED`                  | the instances that ended last                            | controller |
| `FLEET`   | `DECISIONS`              | the last decisions and events in words                   | controller |
| `FLEET`   | `HISTORY#` span `#` slot | a block of the fleet's history                           | controller |
| `FLEET`   | `RUN#` slot              | the cost of a billing period, once it is over            | controller |
| `FLEET`   | `DAY#` slot              | images and cost of a day (UTC) that is over              | controller |
| `FLEET`   | `JOURNAL`                | the last calls that launch or start instances            | controller |
| `FLEET`   | `CONTROLLER`             | how controllers ended lately; whether they may act       | controller |
| `FLEET`   | `ORDER#PAUSE`            | since when the fleet is paused; absent while it is not   | web        |
| `FLEET`   | `ORDER#RESUME`           | who has ended the last pause; deleted once reported      | both       |
| `FLEET`   | `ORDER#LIMITS`           | limits set by operators; absent if config.yaml's hold    | web        |
| `FLEET`   | `ORDER#ALLOWANCE`        | dollars beyond the spending caps, for one day            | web        |
| `FLEET`   | `ORDER#DRAIN#` instance  | when an operator requested its drain; deleted once done  | both       |

History, billing periods and days have a fixed number of items, used in turn, so nothing has to be removed.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from core.fleet.models import (
    ENDED_LISTED,
    BillingPeriod,
    ControllerStatus,
    Decisions,
    EndedInstance,
    EndedInstances,
    FleetDay,
    FleetHalt,
    FleetInstance,
    FleetInstances,
    FleetPause,
    FleetResume,
    FleetSnapshot,
    FleetSpending,
    HistoryBlock,
    LaunchJournal,
    LimitsOverride,
    Span,
    SpendingAllowance,
    WorkerLimits,
)
from core.messages import WireModel
from services.clock import CLOCK, Clock
from services.ec2 import ALIVE, INSTANCE_ID_PATTERN
from services.errors import FleetsightError, NotFoundError
from services.table import LAST, Item, Table

FLEET = "FLEET"
"""The partition."""

CONTROLLER_LEASE = "controller"
"""Name of the controllers' lease."""

_SNAPSHOT = "SNAPSHOT"
_INSTANCES, _ENDED, _DECISIONS = "INSTANCES", "ENDED", "DECISIONS"
_HISTORY, _JOURNAL, _CONTROLLER = "HISTORY#", "JOURNAL", "CONTROLLER"
_RUN = "RUN#"
KEPT_RUNS = 10_000
"""Billing periods that are kept: two weeks of a fleet that starts and ends every two minutes."""
_DAY = "DAY#"
KEPT_DAYS = 62
"""Days that are kept: always more than the current month."""
_ORDERS = "ORDER#"
_PAUSE, _RESUME, _LIMITS, _ALLOWANCE, _DRAIN = (
    f"{_ORDERS}{name}" for name in ("PAUSE", "RESUME", "LIMITS", "ALLOWANCE", "DRAIN#")
)
_BODY = "body"
_ModelT = TypeVar("_ModelT", bound=WireModel)


class NoSpendingCapError(FleetsightError):
    """Raised when operators allow more dollars than a spending cap, and there is none."""


@dataclass(frozen=True, slots=True)
class Commands:
    """The operators' commands to the controller.

    Attributes:
        pause: while set, nothing is launched.
        resume: the end of the last pause, until it was reported.
        limits: override those of config.yaml.
        drain: ids of instances; their workers must finish their images and end.
        allowance: raises the spending caps on one day, which may be over.
    """

    pause: FleetPause | None = None
    resume: FleetResume | None = None
    limits: LimitsOverride | None = None
    drain: tuple[str, ...] = ()
    allowance: SpendingAllowance | None = None


@dataclass(frozen=True, slots=True)
class FleetState:
    """The stored state of the fleet without its history; `snapshot` is None before the controller's first round."""

    snapshot: FleetSnapshot | None
    instances: FleetInstances
    decisions: Decisions
    pause: FleetPause | None
    limits: LimitsOverride | None = None
    allowance: SpendingAllowance | None = None
    ended: EndedInstances = field(default_factory=EndedInstances)
    controller: ControllerStatus = field(default_factory=ControllerStatus)

    @property
    def problem(self) -> str | None:
        """What keeps the fleet from its work, or None: of the controller itself, and what it has reported."""
        reported = self.snapshot
        problems = (
            self.controller.problem(reported.at if reported else None),
            reported.problem if reported else None,
        )
        return "; ".join(each for each in problems if each) or None

    @property
    def spending(self) -> FleetSpending | None:
        """The last report on cost and caps, with the allowance that operators set last; None without a cap."""
        if self.snapshot is None or self.snapshot.spending is None:
            return None
        return self.snapshot.spending.model_copy(update={"allowance": self.allowance})

    def ended_lately(self, now: datetime) -> tuple[EndedInstance, ...]:
        """Return the instances that ended within `ENDED_LISTED`, newest first, by the controller's clock if known."""
        return self.ended.since((now if self.snapshot is None else self.snapshot.at) - ENDED_LISTED)

    def limits_in_force(self, configured: WorkerLimits) -> WorkerLimits:
        """Return the limits that operators set last, even if the controller has not applied them yet.

        `configured` are the limits of config.yaml; they count if no controller has reported yet.
        """
        snapshot = self.snapshot
        if self.limits is not None:
            return self.limits
        if snapshot is None:
            return configured
        if snapshot.limits_order is not None and snapshot.configured is not None:
            return snapshot.configured
        return WorkerLimits(min_workers=snapshot.min_workers, max_workers=snapshot.max_workers)

    def halt(self, configured: WorkerLimits) -> FleetHalt | None:
        """Return what keeps workers from starting, by the commands that operators gave last.

        The controller may not have applied them yet. `configured` are the limits of config.yaml.
        """
        if self.snapshot is None:
            return None
        limits = self.limits_in_force(configured)
        commands = {"paused": self.pause, "max_workers": limits.max_workers, "spending": self.spending}
        return self.snapshot.model_copy(update=commands).halt


@dataclass(frozen=True)
class FleetStore:
    """Reads and writes the fleet's items. botocore's errors pass through, as does `TableBusyError`."""

    table: Table
    clock: Clock = CLOCK

    # Operators' commands

    def pause(self, now: datetime, reason: str, until: datetime | None = None) -> FleetPause:
        """Pause the fleet; if it is paused already, a new reason and its end replace the old ones.

        Without a reason nothing changes, unless the present pause would end by itself.
        """
        current = self.paused()
        if current is not None and current.until is None and not reason:
            return current
        pause = FleetPause(since=current.since if current else now, reason=reason, until=until)
        self._put(_PAUSE, pause.to_json())
        return pause

    def resume(self, by: str = "ops") -> FleetPause | None:
        """End the pause; return the one that has ended, or None if the fleet was not paused."""
        pause = self.paused()
        if pause is not None:
            self._put_resume(by)
        self.table.delete_all([(FLEET, _PAUSE)])
        return pause

    def resume_if(self, reason: str, by: str) -> bool:
        """End the pause if its reason begins with `reason`; return whether it did."""
        begins = {"begins": f'"reason":"{reason}'}
        has_ended = self.table.delete_if(FLEET, _PAUSE, f"contains( #{_BODY}, :begins )", begins)
        if has_ended:
            self._put_resume(by)
        return has_ended

    def delete_resume(self) -> None:
        """Delete the end of the last pause; a missing one is no error."""
        self.table.delete_all([(FLEET, _RESUME)])

    def paused(self) -> FleetPause | None:
        """Return the pause, or None."""
        return self._unless_over(self._read(_PAUSE, FleetPause))

    def set_limits(self, limits: LimitsOverride) -> None:
        """Set limits that override those of config.yaml, and any set before."""
        self._put(_LIMITS, limits.to_json())

    def reset_limits(self) -> None:
        """Return to the limits of config.yaml."""
        self.table.delete_all([(FLEET, _LIMITS)])

    def allow_dollars(self, dollars: float, reason: str, now: datetime) -> FleetSpending:
        """Raise the spending caps on the current day (UTC), in place of an earlier allowance; return the new caps.

        Raises:
            NoSpendingCapError: no cap is configured.
        """
        spending = self.state().spending
        if spending is None:
            raise NoSpendingCapError(
                "there is no spending cap to raise: set fleet.dollars_per_day, or dollars_per_month, in config.yaml"
            )
        # The controller's clock may be ahead, and it may not have reported since yesterday.
        day = max(spending.day, now.astimezone(UTC).date())
        allowance = SpendingAllowance(day=day, dollars=dollars, since=now, reason=reason)
        self._put(_ALLOWANCE, allowance.to_json())
        return spending.model_copy(update={"day": day, "allowance": allowance})

    def reset_allowance(self) -> None:
        """Return to the configured spending caps."""
        self.table.delete_all([(FLEET, _ALLOWANCE)])

    def drainable_instance(self, instance_id: str) -> FleetInstance | None:
        """Return a running instance; None if it may be one that is not listed because there are too many.

        Raises:
            NotFoundError: the fleet has no such running instance.
        """
        listed = self.instances()
        found = next((each for each in listed.instances if each.instance_id == instance_id), None)
        if found is not None and found.state not in ALIVE:
            raise NotFoundError(f"the instance {instance_id} is {found.state}: there is no worker on it to drain")
        unlisted = listed.total > len(listed.instances) and re.fullmatch(INSTANCE_ID_PATTERN, instance_id)
        if found is None and not unlisted:
            raise _unknown(instance_id)
        return found

    def known_instance(self, instance_id: str) -> FleetInstance | EndedInstance:
        """Return an instance that is listed, or that is one of those that ended last.

        Raises:
            NotFoundError: there is none; the id may be that of another instance of the account.
        """
        items = {
            str(item["sk"]): str(item[_BODY]) for item in self.table.get_all([(FLEET, _INSTANCES), (FLEET, _ENDED)])
        }
        listed = FleetInstances.from_json(items.get(_INSTANCES, "{}")).instances
        ended = EndedInstances.from_json(items.get(_ENDED, "{}")).instances
        every: tuple[FleetInstance | EndedInstance, ...] = (*listed, *ended)
        for found in every:
            if found.instance_id == instance_id:
                return found
        raise _unknown(instance_id)

    def request_drain(self, instance_id: str, now: datetime) -> None:
        """Request that the worker on an instance finishes its images and ends; repeating it changes nothing."""
        self._put(f"{_DRAIN}{instance_id}", now.isoformat())

    def delete_drains(self, instance_ids: Iterable[str]) -> None:
        """Delete these commands to drain; a missing one is no error."""
        self.table.delete_all([(FLEET, f"{_DRAIN}{instance_id}") for instance_id in instance_ids])

    def commands(self) -> Commands:
        """Return the operators' commands, in one read."""
        found = {str(item["sk"]): str(item[_BODY]) for item in self.table.query(FLEET, _ORDERS, _ORDERS + LAST)}
        return Commands(
            pause=self._unless_over(FleetPause.from_json(found[_PAUSE]) if _PAUSE in found else None),
            resume=FleetResume.from_json(found[_RESUME]) if _RESUME in found else None,
            limits=LimitsOverride.from_json(found[_LIMITS]) if _LIMITS in found else None,
            drain=tuple(key.removeprefix(_DRAIN) for key in found if key.startswith(_DRAIN)),
            allowance=SpendingAllowance.from_json(found[_ALLOWANCE]) if _ALLOWANCE in found else None,
        )

    # What the controller reports

    def put_snapshot(self, snapshot: FleetSnapshot) -> None:
        """Store the snapshot, replacing the last one."""
        self.table.put_all([{"pk": FLEET, "sk": _SNAPSHOT, "snapshot": snapshot.to_json()}])

    def snapshot(self) -> FleetSnapshot | None:
        """Return the last snapshot, or None before the controller's first round."""
        item = self.table.get(FLEET, _SNAPSHOT)
        return None if item is None else FleetSnapshot.from_json(str(item["snapshot"]))

    def put_instances(self, instances: FleetInstances) -> None:
        """Store the instances, replacing the last ones."""
        self._put(_INSTANCES, instances.to_json())

    def instances(self) -> FleetInstances:
        """Return the instances that were stored last."""
        return self._read(_INSTANCES, FleetInstances) or FleetInstances()

    def put_ended(self, ended: EndedInstances) -> None:
        """Store the instances that ended last, replacing those before."""
        self._put(_ENDED, ended.to_json())

    def ended(self) -> EndedInstances:
        """Return the instances that ended last."""
        return self._read(_ENDED, EndedInstances) or EndedInstances()

    def put_decisions(self, decisions: Decisions) -> None:
        """Store the last decisions, replacing the stored ones."""
        self._put(_DECISIONS, decisions.to_json())

    def decisions(self) -> Decisions:
        """Return the last decisions."""
        return self._read(_DECISIONS, Decisions) or Decisions()

    def journal(self) -> LaunchJournal:
        """Return the stored journal of launches; an empty one before the first write."""
        return self._read(_JOURNAL, LaunchJournal) or LaunchJournal()

    def put_journal(self, journal: LaunchJournal) -> bool:
        """Store the journal if the stored one has the revision before its own; return whether it is stored.

        Of two writers that know the same revision only one writes. The other one gets False until it has read the
        journal of the first one.
        """
        before = journal.revision - 1
        item: Item = {"pk": FLEET, "sk": _JOURNAL, "revision": journal.revision, _BODY: journal.to_json()}
        if before:
            stored = self.table.put_if(item, "#revision = :before", {"before": before})
        else:
            stored = self.table.put_if(item, "attribute_not_exists( #pk )")
        # If the reply to a write was lost, botocore's retry was refused because of the first write.
        return stored or self.journal() == journal

    def put_controller_status(self, status: ControllerStatus) -> None:
        """Store what a controller reports of itself, replacing what was stored."""
        self._put(_CONTROLLER, status.to_json())

    def controller_status(self) -> ControllerStatus:
        """Return what a controller reported of itself last."""
        return self._read(_CONTROLLER, ControllerStatus) or ControllerStatus()

    def put_block(self, span: Span, slot: int, block: HistoryBlock) -> None:
        """Store a block of the history in the item `slot` of its span, replacing the stored one."""
        self._put(f"{_HISTORY}{span}#{slot:02}", block.to_json())

    def blocks(self, span: Span | None = None) -> list[HistoryBlock]:
        """Return the stored blocks of the history, of one span or of all, in no order."""
        prefix = _HISTORY if span is None else f"{_HISTORY}{span}#"
        return [HistoryBlock.from_json(str(item[_BODY])) for item in self.table.query(FLEET, prefix, prefix + LAST)]

    def put_run(self, run: BillingPeriod) -> None:
        """Store a billing period that is over, replacing the one `KEPT_RUNS` before it."""
        self._put(_run_key(run.number), run.to_json())

    def runs(self, numbers: Collection[int]) -> dict[int, BillingPeriod]:
        """Return those of these billing periods that are over and still stored, by their number."""
        items = self.table.get_all([(FLEET, key) for key in {_run_key(number) for number in numbers}])
        found = (BillingPeriod.from_json(str(item[_BODY])) for item in items)
        return {run.number: run for run in found if run.number in numbers}

    def put_day(self, day: FleetDay) -> None:
        """Store a day that is over, replacing the one `KEPT_DAYS` before it."""
        self._put(f"{_DAY}{day.day.toordinal() % KEPT_DAYS:02}", day.to_json())

    def days(self) -> list[FleetDay]:
        """Return the days that are over and on which the fleet was used, newest first; older ones are forgotten."""
        items = self.table.query(FLEET, _DAY, _DAY + LAST)
        return sorted(
            (FleetDay.from_json(str(item[_BODY])) for item in items), key=lambda each: each.day, reverse=True
        )

    def state(self) -> FleetState:
        """Return the stored state without the history, in one read."""
        keys = (_SNAPSHOT, _INSTANCES, _ENDED, _DECISIONS, _PAUSE, _LIMITS, _ALLOWANCE, _CONTROLLER)
        items = {str(item["sk"]): item for item in self.table.get_all([(FLEET, key) for key in keys])}
        bodies = {key: str(item["snapshot" if key == _SNAPSHOT else _BODY]) for key, item in items.items()}
        return FleetState(
            snapshot=FleetSnapshot.from_json(bodies[_SNAPSHOT]) if _SNAPSHOT in bodies else None,
            instances=FleetInstances.from_json(bodies.get(_INSTANCES, "{}")),
            decisions=Decisions.from_json(bodies.get(_DECISIONS, "{}")),
            pause=self._unless_over(FleetPause.from_json(bodies[_PAUSE]) if _PAUSE in bodies else None),
            limits=LimitsOverride.from_json(bodies[_LIMITS]) if _LIMITS in bodies else None,
            allowance=SpendingAllowance.from_json(bodies[_ALLOWANCE]) if _ALLOWANCE in bodies else None,
            ended=EndedInstances.from_json(bodies.get(_ENDED, "{}")),
            controller=ControllerStatus.from_json(bodies.get(_CONTROLLER, "{}")),
        )

    def _put_resume(self, by: str) -> None:
        self._put(_RESUME, FleetResume(at=self.clock.utc_now(), by=by).to_json())

    def _put(self, key: str, body: str) -> None:
        item: Item = {"pk": FLEET, "sk": key, _BODY: body}
        self.table.put_all([item])

    def _unless_over(self, pause: FleetPause | None) -> FleetPause | None:
        return None if pause is None or (pause.until is not None and pause.until <= self.clock.utc_now()) else pause

    def _read(self, key: str, model: type[_ModelT]) -> _ModelT | None:
        item = self.table.get(FLEET, key)
        return None if item is None else model.from_json(str(item[_BODY]))


def _unknown(instance_id: str) -> NotFoundError:
    return NotFoundError(f"the fleet has no instance {instance_id[:40]!r}, or no longer; see the list of instances")


def _run_key(number: int) -> str:
    return f"{_RUN}{number % KEPT_RUNS:04}"
