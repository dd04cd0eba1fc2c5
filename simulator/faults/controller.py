"""A controller in a simulated world: the product's own autoscaler, wired as `web_tier.controller.wiring` does it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast

from core.config import Fleet as FleetConfig
from core.fleet import Decisions, FleetInstances, LaunchJournal
from core.fleet_store import FleetStore, Orders
from core.messages import FleetPause, FleetSnapshot, LimitsOverride
from services.ec2 import Fleet
from services.sqs import Queue, QueueCounts
from simulator.faults.cloud import EPOCH, Cloud, refusal
from simulator.faults.queues import Queues
from web_tier.controller.autoscaler.apply.apply import Launcher
from web_tier.controller.autoscaler.apply.drain import Drainer
from web_tier.controller.autoscaler.apply.journal import Journal
from web_tier.controller.autoscaler.apply.orders import DrainCommands, OrdersWatch
from web_tier.controller.autoscaler.apply.standby import Standby
from web_tier.controller.autoscaler.apply.sweep import Sweeper
from web_tier.controller.autoscaler.autoscaler import Autoscaler
from web_tier.controller.autoscaler.observe.boots import BootTimeEstimator
from web_tier.controller.autoscaler.observe.demand import ArrivalRateEstimator
from web_tier.controller.autoscaler.observe.lives import InstanceTracker
from web_tier.controller.autoscaler.observe.measures import MetricsCollector
from web_tier.controller.autoscaler.observe.meter import BillingMeter
from web_tier.controller.autoscaler.observe.observe import Observer, RecentLaunches
from web_tier.controller.autoscaler.observe.pace import ThroughputEstimator
from web_tier.controller.autoscaler.tell.board import SnapshotWriter
from web_tier.controller.autoscaler.tell.chronicle import EventReporter
from web_tier.controller.backoff import Backoff
from web_tier.controller.limits import FleetConfigWatcher
from web_tier.controller.worker_registry import WorkerRegistry

MINIMUM_BILLED_SECONDS: Final = 60.0
DRAIN_SECONDS: Final = 60.0
FLEET_NAME: Final = "worker"


@dataclass
class Notebook:
    """The job table as the autoscaler uses it, in memory: the journal, the orders, the last snapshot.

    Attributes:
        fails: whether reads and writes are refused.
        call: is told of each write of the journal, before it takes place and after.
    """

    call: Callable[[str, str], None]
    fails: bool = False
    paused: FleetPause | None = None
    snapshot: FleetSnapshot | None = None
    _journal: LaunchJournal = field(default_factory=LaunchJournal)

    def journal(self) -> LaunchJournal:
        """Return the journal as it is stored."""
        self._refuse("GetItem")
        return self._journal

    def put_journal(self, journal: LaunchJournal) -> bool:
        """Store the journal if what is stored has the revision before its own."""
        self.call("table", "before")
        self._refuse("PutItem")
        if journal.revision != self._journal.revision + 1:
            return False
        self._journal = journal
        self.call("table", "after")
        return True

    def orders(self) -> Orders:
        """Return what ops have ordered."""
        self._refuse("Query")
        return Orders(pause=self.paused)

    def drop_drains(self, _instance_ids: Iterable[str]) -> None:
        """Delete orders to drain: there are none."""

    def put_fleet(self, snapshot: FleetSnapshot) -> None:
        """Store the last snapshot, from which the next controller goes on."""
        self._refuse("PutItem")
        self.snapshot = snapshot

    def instances(self) -> FleetInstances:
        """Return the instances as they were told last: nothing, so that a successor knows no word of anybody."""
        return FleetInstances()

    def decisions(self) -> Decisions:
        """Return the decisions told before: none."""
        return Decisions()

    def _refuse(self, operation: str) -> None:
        if self.fails:
            raise refusal("ProvisionedThroughputExceededException", operation)


class Untold(EventReporter):
    """A reporter without output: what pages show plays no part here."""

    def note(self, news: Iterable[object]) -> None:
        """Forget it."""

    def look(self, *_: object, **__: object) -> None:
        """Forget it."""


class InForce(FleetConfigWatcher):
    """The limits of the simulation in place of a file's."""

    def __init__(self, limits: Callable[[], FleetConfig]) -> None:
        super().__init__(Path("/dev/null"), limits())
        self._limits = limits

    def current(self, order: LimitsOverride | None = None) -> FleetConfig:  # noqa: ARG002 (ops order nothing here)
        """Return what is in force."""
        self.fleet = self._limits()
        return self.fleet


@dataclass(frozen=True)
class Site:
    """What controllers work with, one after the other.

    Attributes:
        clock: seconds.
        limits: returns what is in force.
    """

    clock: Callable[[], float]
    cloud: Cloud
    queues: Queues
    notebook: Notebook
    limits: Callable[[], FleetConfig]


class Controller:
    """One tenure of one controller.

    Args:
        name: who it is.
        site: where.
        active: whether it still holds the lease.
    """

    def __init__(self, name: str, site: Site, active: Callable[[], bool]) -> None:
        self.name, self._site = name, site
        clock, notebook, before = site.clock, site.notebook, site.notebook.snapshot
        fleet, launches = Fleet(cast(Any, site.cloud), FLEET_NAME), RecentLaunches(clock)
        store = cast(FleetStore, notebook)
        self._registry = WorkerRegistry(clock, self._now)
        meter = BillingMeter(MINIMUM_BILLED_SECONDS, before, clock, self._now)
        lives, drainer = InstanceTracker(self._registry, clock, self._now), Drainer(fleet, active, clock)
        orders, no_letters = OrdersWatch(store, clock), cast(Queue, _NoLetters())
        self.autoscaler = Autoscaler(
            limits=InForce(site.limits),
            observer=Observer(cast(Queue, site.queues), no_letters, fleet, launches, clock, self._now),
            launcher=Launcher(fleet, launches, Journal(store, name, clock, self._now), active, clock, _even(1.0)),
            drainer=drainer,
            standby=Standby(fleet, active, clock),
            sweeper=Sweeper(fleet, lives, DRAIN_SECONDS, active, clock, _even(1.0)),
            meter=meter,
            arrivals=ArrivalRateEstimator(clock),
            measures=MetricsCollector(
                self._registry,
                meter,
                BootTimeEstimator(before.boot_seconds if before else None, clock),
                ThroughputEstimator(before.image_seconds if before else None, clock),
                lives,
            ),
            orders=orders,
            drain_orders=DrainCommands(orders, drainer, clock),
            board=SnapshotWriter(cast(Any, notebook), clock=clock, now=self._now),
            chronicle=Untold(self._registry, cast(Any, None), cast(Any, None), cast(Any, None)),
            interval_seconds=1.0,
        )

    def listen(self) -> None:
        """Do what the collector does: take in what the workers have said."""
        heard, is_all = self._site.queues.heard()
        self._registry.note(heard)
        if is_all:
            self._registry.heard_all(self._site.clock())

    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._site.clock())


class _NoLetters:
    """A dead-letter queue without any."""

    def counts(self) -> QueueCounts:
        """Return zeros."""
        return QueueCounts(0, 0, 0)


def _even(first_seconds: float) -> Backoff:
    """Return a backoff without a random part, so that a schedule plays the same again."""
    return Backoff(first_seconds, 30.0, lambda _low, high: high)
