"""Puts the controller together from the configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from core.cache import ResultCache
from core.config import Config
from core.fleet_store import FleetStore
from core.ids import new_id
from core.jobs import JobStore
from services.clients import Clients
from services.ec2 import Fleet
from services.lease import Lease
from services.s3 import Bucket
from services.sqs import Queue
from services.table import Table
from web_tier.controller.autoscaler.apply.apply import Launcher
from web_tier.controller.autoscaler.apply.drain import Drainer
from web_tier.controller.autoscaler.apply.journal import Journal
from web_tier.controller.autoscaler.apply.orders import DrainCommands, OrdersWatch
from web_tier.controller.autoscaler.apply.standby import Standby
from web_tier.controller.autoscaler.apply.sweep import Sweeper
from web_tier.controller.autoscaler.autoscaler import Autoscaler
from web_tier.controller.autoscaler.observe.demand import ArrivalRateEstimator
from web_tier.controller.autoscaler.observe.lives import InstanceTracker
from web_tier.controller.autoscaler.observe.measures import MetricsCollector
from web_tier.controller.autoscaler.observe.meter import BillingMeter
from web_tier.controller.autoscaler.observe.observe import Observer, RecentLaunches
from web_tier.controller.autoscaler.observe.runs import Runs
from web_tier.controller.autoscaler.tell.board import SnapshotWriter
from web_tier.controller.autoscaler.tell.chronicle import EventReporter
from web_tier.controller.collector import Collector
from web_tier.controller.dead_letters import DeadLetters
from web_tier.controller.expiry import JobExpiry
from web_tier.controller.limits import FleetConfigWatcher
from web_tier.controller.merger import Merger
from web_tier.controller.reconciler import Reconciler
from web_tier.controller.removal import JobCleanup
from web_tier.controller.repair import ResultRecovery
from web_tier.controller.result_recorder import ResultRecorder
from web_tier.controller.shift import Tick
from web_tier.controller.worker_registry import WorkerRegistry

LEASE_NAME = "controller"
MAX_ATTEMPTS = 3
"""Calls in all before an error reaches a loop, which has its own backoff and goes on for ever."""
READ_SECONDS = 10.0


@dataclass(frozen=True)
class ControllerServices:
    """The services that the controller works with.

    Attributes:
        launching: the fleet once more, with calls that are made once. botocore repeats a launch that was refused for
            want of capacity, which EC2 answers as its own fault; but the next choice is to be tried at once.
    """

    config: Config
    config_path: Path
    store: JobStore
    requests: Queue
    responses: Queue
    dead_letters: Queue
    inputs: Bucket
    outputs: Bucket
    fleet: Fleet
    launching: Fleet

    @classmethod
    def connect(cls, config: Config, config_path: Path) -> "ControllerServices":
        """Return the wiring, with the queues' addresses looked up.

        Raises:
            ClientError: when a queue does not exist.
        """
        clients = controller_clients(config)
        names = config.names

        def queue(name: str) -> Queue:
            return Queue.named(clients.sqs, config.queue_name(name))

        return cls(
            config=config,
            config_path=config_path,
            store=JobStore(Table(clients.dynamodb, names.job_table)),
            requests=queue(names.request_queue),
            responses=queue(names.response_queue),
            dead_letters=queue(names.dead_letter_queue),
            inputs=Bucket.named(clients, names.input_bucket),
            outputs=Bucket.named(clients, names.output_bucket),
            fleet=Fleet(clients.ec2, names.worker_instance),
            launching=Fleet(controller_clients(config, attempts=1).ec2, names.worker_instance),
        )

    def ticks(
        self, holder: str, token: int, limits: FleetConfigWatcher, active: Callable[[], bool]
    ) -> Mapping[str, Tick]:
        """Return the loops of one shift by name, with nothing remembered from an earlier one."""
        meter = self._meter()
        recorder = ResultRecorder(
            self.store,
            self.inputs.delete_all,
            self.outputs.delete_all,
            token=token,
            active=active,
            run=meter.runs.answered,
        )
        cache = ResultCache(self.store.table, self.config.retention.repeat_lifetime)
        registry = WorkerRegistry()
        merger = Merger(self.store, self.outputs, active, token=token)
        return {
            "autoscaler": self._autoscaler(holder, limits, registry, meter, active).tick,
            "collector": Collector(self.responses, recorder, cache, active, registry=registry).tick,
            "reconciler": self._reconciler(recorder, registry, merger, active).tick,
            "merger": merger.tick,
            "removal": self._removal(recorder, active).tick,
            "expiry": JobExpiry(self.store, self.config.retention.unkept_lifetime, active).tick,
        }

    def _meter(self) -> BillingMeter:
        """Return a meter that goes on where the last controller's stood."""
        prices, before = self.config.prices, self.store.fleet()
        return BillingMeter(
            prices.minimum_billed_seconds,
            before,
            hourly=lambda each: prices.hourly(each.instance_type, spot=each.spot),
            # The last worker of a run stays for its idle time, and where that saves nothing for its paid minute.
            runs=Runs(before, self.config.worker.idle_seconds + prices.minimum_billed_seconds),
        )

    def _autoscaler(
        self,
        holder: str,
        limits: FleetConfigWatcher,
        registry: WorkerRegistry,
        meter: BillingMeter,
        active: Callable[[], bool],
    ) -> Autoscaler:
        launches, fleet = RecentLaunches(), FleetStore(self.store.table)
        orders, drainer, lives = OrdersWatch(fleet), Drainer(self.fleet, active), InstanceTracker(registry)
        return Autoscaler(
            limits=limits,
            observer=Observer(self.requests, self.dead_letters, self.fleet, launches),
            launcher=Launcher(self.launching, launches, Journal(fleet, f"{holder}/{new_id()}"), active),
            drainer=drainer,
            standby=Standby(self.fleet, active),
            sweeper=Sweeper(self.fleet, lives, self.config.worker.drain_seconds, active),
            meter=meter,
            arrivals=ArrivalRateEstimator(),
            measures=MetricsCollector.continuing(registry, meter, meter.before, lives),
            orders=orders,
            drain_orders=DrainCommands(orders, drainer),
            board=SnapshotWriter(self.store, keep_run=fleet.put_run),
            chronicle=EventReporter.continuing(fleet, registry),
            interval_seconds=self.config.controller.interval_seconds,
        )

    def _reconciler(
        self, recorder: ResultRecorder, registry: WorkerRegistry, merger: Merger, active: Callable[[], bool]
    ) -> Reconciler:
        repair, fleet = ResultRecovery(self.store, recorder, self.outputs), FleetStore(self.store.table)
        receives = self.config.queues.max_receive_count
        return Reconciler(
            store=self.store,
            recorder=recorder,
            repair=repair,
            dead_letters=DeadLetters(self.dead_letters, repair, recorder, receives, active),
            requests=self.requests,
            responses=self.responses,
            inputs=self.inputs,
            reconcile_seconds=self.config.controller.reconcile_seconds,
            lost_after_seconds=self.config.controller.lost_after_seconds,
            active=active,
            is_paused=lambda: fleet.paused() is not None,
            heartbeats=registry.beating,
            may_close=merger.is_done_with,
        )

    def _removal(self, recorder: ResultRecorder, active: Callable[[], bool]) -> JobCleanup:
        return JobCleanup(
            store=self.store,
            recorder=recorder,
            inputs=self.inputs,
            outputs=self.outputs,
            every_seconds=self.config.controller.reconcile_seconds,
            active=active,
        )


def controller_clients(config: Config, attempts: int = MAX_ATTEMPTS) -> Clients:
    """Return clients that give up soon enough for a shift to end in time, after `attempts` at most."""
    patience = min(attempts, config.aws.max_attempts)
    return Clients(replace(config.aws.endpoint(), max_attempts=patience, read_timeout=READ_SECONDS))


def controller_lease(config: Config) -> Lease:
    """Return this process's contender; its calls end well within the lease's length."""
    length = config.controller.lease_seconds
    endpoint = replace(config.aws.endpoint(1), max_attempts=1, connect_timeout=length / 4, read_timeout=length / 4)
    return Lease(Table(Clients(endpoint).dynamodb, config.names.job_table), LEASE_NAME, length)
