"""A controller in a simulated world: the product's autoscaler, built as in `web_tier.controller.services`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from core.config import FleetSettings
from core.fleet.models import (
    BillingPeriod,
    Decisions,
    EndedInstances,
    FleetInstances,
    FleetPause,
    FleetSnapshot,
    HistoryBlock,
    LaunchJournal,
    LimitsOverride,
    Span,
)
from core.fleet.store import Commands, FleetStore
from core.jobs.store import JobStore
from services.backoff import Backoff
from services.clock import Clock
from services.ec2 import Fleet
from services.lease import Tenure
from services.sqs import Queue, QueueCounts
from tests.simulation.faults.cloud import Cloud
from tests.simulation.faults.machines import SimulatedQueues
from tests.support.autoscaler import flat_prices
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.autoscaler.health import UnhealthyTerminator
from web_tier.autoscaler.later import LaterJobs
from web_tier.autoscaler.launch_journal import ControllerJournal
from web_tier.autoscaler.launcher import Launcher
from web_tier.autoscaler.liveness import InstanceTracker, WorkerRegistry
from web_tier.autoscaler.loop import Autoscaler
from web_tier.autoscaler.observe import Observer, RecentLaunches
from web_tier.autoscaler.outstanding import OutstandingPacks
from web_tier.autoscaler.reporting import Reporter

DRAIN_SECONDS: Final = 60.0
FLEET_NAME: Final = "worker"


class InMemoryFleetStore(FleetStore):
    """The fleet's items as the autoscaler uses them, in memory: the journal, the commands, the last snapshot.

    Args:
        call: called with the name of the service, before and after each write of the journal takes effect.

    Attributes:
        fails: whether reads and writes are refused.
        current_pause: the operators' pause, or None.
        last_snapshot: the last snapshot, which the next controller continues; None before the first.
    """

    def __init__(self, call: Callable[[str, str], None]) -> None:
        super().__init__(cast(Any, None))
        self._call = call
        self.fails = False
        self.current_pause: FleetPause | None = None
        self.last_snapshot: FleetSnapshot | None = None
        self._journal = LaunchJournal()

    def journal(self) -> LaunchJournal:
        """Return the journal as it is stored."""
        self._refuse("GetItem")
        return self._journal

    def put_journal(self, journal: LaunchJournal) -> bool:
        """Store the journal if what is stored has the revision before its own."""
        self._call("table", "before")
        self._refuse("PutItem")
        if journal.revision != self._journal.revision + 1:
            return False
        self._journal = journal
        self._call("table", "after")
        return True

    def commands(self) -> Commands:
        """Return the operators' commands."""
        self._refuse("Query")
        return Commands(pause=self.current_pause)

    def put_snapshot(self, snapshot: FleetSnapshot) -> None:
        """Store the last snapshot."""
        self._refuse("PutItem")
        self.last_snapshot = snapshot

    def delete_drains(self, instance_ids: Iterable[str]) -> None:
        """Do nothing: there are no commands to drain."""

    def instances(self) -> FleetInstances:
        """Return no instances, so that the next controller knows no heartbeat."""
        return FleetInstances()

    def put_instances(self, instances: FleetInstances) -> None:
        """Do nothing: no page is shown."""

    def ended(self) -> EndedInstances:
        """Return no instances."""
        return EndedInstances()

    def put_ended(self, ended: EndedInstances) -> None:
        """Do nothing: no page is shown."""

    def decisions(self) -> Decisions:
        """Return no decisions."""
        return Decisions()

    def put_decisions(self, decisions: Decisions) -> None:
        """Do nothing: no page is shown."""

    def blocks(self, span: Span | None = None) -> list[HistoryBlock]:
        """Return no history."""
        return []

    def put_block(self, span: Span, slot: int, block: HistoryBlock) -> None:
        """Do nothing: no page is shown."""

    def put_run(self, run: BillingPeriod) -> None:
        """Do nothing: no image's cost is shown."""

    def _refuse(self, operation: str) -> None:
        if self.fails:
            raise refusal("ProvisionedThroughputExceededException", operation)


class SnapshotReporter(Reporter):
    """A reporter that stores snapshots only: what pages show plays no part here, and would cost time."""

    def report(self, *_: object, **__: object) -> None:
        """Do nothing."""


class StubConfig(FleetConfigWatcher):
    """The settings of the simulation in place of a file's."""

    def __init__(self, settings: Callable[[], FleetSettings]) -> None:
        super().__init__(Path("/dev/null"), settings())
        self._settings = settings

    def current(self, override: LimitsOverride | None = None) -> FleetSettings:
        """Return the settings in force."""
        self.fleet = self._settings()
        return self.fleet


@dataclass(frozen=True)
class Site:
    """What all controllers of a world share.

    Attributes:
        settings: returns the settings in force.
        hourly: price of every instance in US dollars, for the spending caps.
    """

    clock: Clock
    cloud: Cloud
    queues: SimulatedQueues
    store: InMemoryFleetStore
    settings: Callable[[], FleetSettings]
    hourly: float = 0.0


class SimulatedController:
    """One tenure of one controller.

    Args:
        name: name of the writer of the journal.
        site: what all controllers share.
        active: returns whether it still holds the lease.
    """

    def __init__(self, name: str, site: Site, active: Callable[[], bool]) -> None:
        self.name, self._site = name, site
        clock, store, before = site.clock, site.store, site.store.last_snapshot
        tenure = Tenure(name, active=active)
        fleet, launches = Fleet(cast(Any, site.cloud), FLEET_NAME), RecentLaunches(clock)
        self._registry = WorkerRegistry(clock)
        tracker, dead_letters = InstanceTracker(self._registry), cast(Queue, _EmptyQueue())
        self.autoscaler = Autoscaler(
            config=StubConfig(site.settings),
            store=store,
            observer=Observer(
                cast(Queue, site.queues), dead_letters, fleet, launches, OutstandingPacks(MemoryTable(), clock), clock
            ),
            health=UnhealthyTerminator(fleet, tracker, DRAIN_SECONDS, tenure, clock, _without_jitter(1.0)),
            launcher=Launcher(
                fleet, launches, ControllerJournal(store, name, clock), tenure, clock, _without_jitter(1.0)
            ),
            meter=BillingMeter(flat_prices(site.hourly), before, clock),
            reporter=SnapshotReporter(store, self._registry),
            later=LaterJobs(JobStore(MemoryTable()), clock),
            interval_seconds=1.0,
        )

    def collect(self) -> None:
        """Do what the collector does: record the heartbeats and answers that the workers have sent."""
        messages, is_all = self._site.queues.receive_responses()
        self._registry.record(messages)
        if is_all:
            self._registry.mark_read_until(self._site.clock.monotonic())


class _EmptyQueue:
    """A dead-letter queue without messages."""

    def counts(self) -> QueueCounts:
        """Return zeros."""
        return QueueCounts(0, 0, 0)


def _without_jitter(first_seconds: float) -> Backoff:
    """Return a backoff without a random part, so that a schedule can be repeated exactly."""
    return Backoff(first_seconds, 30.0, lambda _low, high: high)
