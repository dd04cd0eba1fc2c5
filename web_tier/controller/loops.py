"""Every loop of the controller, with its period, what it reads and writes, and what follows from a failed round.

docs/architecture.md shows the list. The loops of features are in their folders.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from core.fleet.models import FleetSpending
from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.models import DeletedJob
from core.jobs.packs import PackSizes
from core.jobs.store import JobStore
from services.lease import Tenure
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
from web_tier.autoscaler.release import RequestReleaser
from web_tier.autoscaler.reporting import Reporter
from web_tier.controller.cancellation import JobCanceller
from web_tier.controller.cleanup import JobCleanup, JobExpiry
from web_tier.controller.collector import Collector
from web_tier.controller.leader import Loop
from web_tier.controller.orphans import OrphanSweep
from web_tier.controller.reconciler import DeadLetterConsumer, Reconciler, ResultRecovery
from web_tier.controller.result_writer import RecordGivenUp, ResultStatistics, ResultWriter
from web_tier.controller.results_file import ResultsCopier, ResultsFileWriter
from web_tier.controller.services import ControllerServices
from web_tier.controller.source_importer import SourceImporter
from web_tier.features import modules
from web_tier.http.backend import MeasuredSpeed
from web_tier.uploads.ingest import ImageIngest, sandboxed_inspect


@dataclass(frozen=True)
class FeatureContext:
    """What loops of features work with; they add what loops of the core call."""

    services: ControllerServices
    fleet_config: FleetConfigWatcher
    tenure: Tenure
    results_files: ResultsFileWriter
    on_finished: list[Callable[[str], object]]
    on_spending: list[Callable[[FleetSpending | None], object]] = field(default_factory=list)
    on_outage: list[Callable[[str | None], object]] = field(default_factory=list)
    on_given_up: list[RecordGivenUp] = field(default_factory=list)
    on_removal: list[Callable[[DeletedJob, int], int]] = field(default_factory=list)


def controller_loops(
    services: ControllerServices, fleet_config: FleetConfigWatcher, tenure: Tenure
) -> tuple[Loop, ...]:
    """Return the loops of one tenure, which remember nothing of an earlier one."""
    config, store, metrics = services.config, services.store, services.metrics
    fleet_store, registry = FleetStore(store.table), WorkerRegistry()
    before = fleet_store.snapshot()
    # The last worker of a period stays for its idle time, and for its billed minimum where stopping saves nothing.
    quiet_seconds = config.worker.idle_seconds + config.prices.minimum_billed_seconds
    meter = BillingMeter(config.prices, before, over=fleet_store.days(), quiet_seconds=quiet_seconds)

    table = replace(store.table, pool=services.calls)
    statistics = ResultStatistics(metrics, meter.attribution, config.prices)
    copier = ResultsCopier(services.sources, services.outputs, config.imports.destinations)
    results_files = ResultsFileWriter(store, services.outputs, tenure, copier)
    context = FeatureContext(services, fleet_config, tenure, results_files, results_files.on_finished)
    results = ResultWriter(
        JobStore(table), tenure, services.inputs, services.outputs, statistics, context.on_given_up
    )
    recovery = ResultRecovery(store, results, services.outputs)
    canceller = JobCanceller(store, recovery, services.inputs, tenure)
    limits = config.web.image_limits
    inspect = sandboxed_inspect(limits, config.sandbox.limits)
    sizes = PackSizes.of(config, MeasuredSpeed(lambda: fleet_store).image_seconds)
    ingest = ImageIngest(
        limits, services.inputs, store, services.requests, inspect, metrics=metrics.intake, sizes=sizes
    )
    importer = SourceImporter(services.sources, ingest, config, tenure)

    launches, tracker = RecentLaunches(), InstanceTracker(registry)
    journal = ControllerJournal(fleet_store, f"{tenure.holder}/{new_id()}")
    visibility_seconds = config.queues.visibility_timeout_seconds
    releaser = RequestReleaser(services.requests, services.fleet, registry, tenure, visibility_seconds)
    autoscaler = Autoscaler(
        config=fleet_config,
        store=fleet_store,
        observer=Observer(
            services.requests, services.dead_letters, services.fleet, launches, OutstandingPacks(store.table)
        ),
        health=UnhealthyTerminator(services.fleet, tracker, config.worker.drain_seconds, tenure, metrics=metrics),
        launcher=Launcher(services.launching, launches, journal, tenure, metrics=metrics),
        meter=meter,
        reporter=Reporter(fleet_store, registry, namespace=config.metrics.cloudwatch_namespace, counts=metrics),
        later=LaterJobs(store),
        interval_seconds=config.controller.interval_seconds,
        signals=services.signals,
        release=releaser.release,
        on_spending=context.on_spending,
        on_outage=context.on_outage,
    )
    collector = Collector(
        replace(services.responses, pool=services.calls),
        services.outputs,
        results,
        tenure,
        registry=registry,
        pool=services.calls,
        beside=services.beside,
    )
    reconciler = Reconciler(
        store=store,
        recovery=recovery,
        dead_letters=DeadLetterConsumer(services.dead_letters, services.requests, recovery, tenure, metrics=metrics),
        requests=services.requests,
        responses=services.responses,
        inputs=services.inputs,
        reconcile_seconds=config.controller.reconcile_seconds,
        lost_after_seconds=config.controller.lost_after_seconds,
        visibility_seconds=2 * visibility_seconds,
        tenure=tenure,
        fleet=fleet_store,
        registry=registry,
        users=(results_files, importer, canceller),
        metrics=metrics,
    )
    cleanup_seconds = config.controller.reconcile_seconds
    cleanup = JobCleanup(
        store, services.inputs, services.outputs, cleanup_seconds, tenure, on_removal=context.on_removal
    )
    orphans = OrphanSweep(store, services.inputs, services.sources, tenure)
    expiry = JobExpiry(store, config.retention.unkept_lifetime, tenure)
    return (
        Loop(
            "autoscaler",
            autoscaler,
            "`controller.interval_seconds`; 1 s at rest",
            reads="queues, instances, heartbeats, open jobs, commands of operators",
            writes="instances and their tags, launch journal, figures of the fleet",
            on_failure="no worker starts or ends",
        ),
        Loop("collector", collector, "long poll", "responses", "results with counts, heartbeats", "responses wait"),
        Loop(
            "reconciler",
            reconciler,
            "`controller.reconcile_seconds`",
            reads="open jobs, predictions, dead letters, counts of queues",
            writes="requests, results, open jobs",
            on_failure="lost images wait",
        ),
        Loop("canceller", canceller, "2 s", "open jobs, results", "marks, predictions, results", "jobs stay open"),
        Loop("source_importer", importer, "2 s", "listings, sources", "images, requests", "imports wait"),
        Loop("results_files", results_files, "2 s", "open jobs, results", "results files, copies", "files are late"),
        *(loop for feature in modules("loops") for loop in feature.loops(context)),
        Loop("cleanup", cleanup, "`controller.reconcile_seconds`", "deleted jobs", "their data", "deleted data stay"),
        Loop("orphans", orphans, "10 min", "marked jobs, input bucket", "input bucket", "orphans stay"),
        Loop("expiry", expiry, "10 min", "old jobs", "deleted jobs", "old jobs stay"),
    )
