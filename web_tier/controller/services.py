"""The controller's services: clients, queues, buckets and tables by the configuration, and the loops over them."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime

from core.config import Config
from core.fleet.costs import CostStore
from core.fleet.store import CONTROLLER_LEASE, FleetStore
from core.ids import new_id
from core.jobs.listings import ListingStore
from core.jobs.notifications import Channel, NotificationStore
from core.jobs.store import JobStore
from core.messages import ClassificationResult
from core.model_catalog import CatalogStore
from core.result_cache import ResultCache
from core.telemetry import NO_SPANS, SpanExporter
from services.clients import Clients
from services.clock import utc_now
from services.demand_signal import DemandListener, SignallingQueue
from services.ec2 import Fleet
from services.lease import Lease, Tenure
from services.s3 import Bucket, SourceBuckets
from services.sqs import Queue
from services.table import Table
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.autoscaler.health import UnhealthyTerminator
from web_tier.autoscaler.launch_journal import ControllerJournal
from web_tier.autoscaler.launcher import Launcher
from web_tier.autoscaler.liveness import InstanceTracker, WorkerRegistry
from web_tier.autoscaler.loop import Autoscaler
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.autoscaler.observe import Observer, RecentLaunches
from web_tier.autoscaler.reporting import Reporter
from web_tier.controller.cancellation import JobCanceller
from web_tier.controller.cleanup import JobCleanup, JobExpiry
from web_tier.controller.collector import HELPERS, Collector
from web_tier.controller.leader import Tick
from web_tier.controller.orphans import OrphanCleanup
from web_tier.controller.reconciler import DeadLetterConsumer, Reconciler, ResultRecovery
from web_tier.controller.result_recorder import READERS, ResultRecorder
from web_tier.controller.results_file import ResultsCopier, ResultsFileWriter
from web_tier.controller.source_importer import SourceImporter
from web_tier.features.costs.rows import CostRowWriter
from web_tier.features.models.configured_model import ConfiguredModelRecorder
from web_tier.features.models.results import ModelResultsWriter
from web_tier.features.notifications.cap_notifier import CapNotifier, CapReceiver, cap_receivers
from web_tier.features.notifications.notifier import Notifier, Send, senders
from web_tier.uploads.ingest import ImageIngest, sandboxed_inspect

MAX_ATTEMPTS = 3
"""Attempts of a call before its error reaches a loop, which has its own backoff and never gives up."""
READ_SECONDS = 10.0
CALLS = 32
"""Calls for results that are made side by side: four rounds of the collector, each with some ten at a time."""
OTHER_CALLS = 16
"""Calls of all other loops at the same time."""


@dataclass(frozen=True)
class ControllerServices:
    """The services that the controller works with.

    Attributes:
        launching: the fleet again, with calls that botocore does not retry. It would retry a launch that was refused
            for lack of capacity, which EC2 answers as a server error; but the next offering must be tried at once.
        send: how to send a message about a job that is done, by channel.
        operators: receivers of messages on spending caps.
        sources: the buckets from which jobs take images, and to which results are copied.
        bucket_named: returns a bucket by its name, for a bundle in S3.
        calls: makes calls for results side by side. Nothing else uses it, so that results wait for no other work.
        readers: reads the jobs that results belong to.
        signals: of new requests, from other processes of this machine.
        metrics: what all loops of this process count, over its tenures.
        spans: exports spans of sampled traces.
    """

    config: Config
    store: JobStore
    requests: Queue
    responses: Queue
    dead_letters: Queue
    inputs: Bucket
    outputs: Bucket
    fleet: Fleet
    launching: Fleet
    send: Mapping[Channel, Send]
    operators: Sequence[CapReceiver]
    sources: SourceBuckets
    signals: DemandListener
    bucket_named: Callable[[str], Bucket]
    calls: Executor = field(default_factory=lambda: ThreadPoolExecutor(CALLS, thread_name_prefix="calls"))
    readers: Executor = field(default_factory=lambda: ThreadPoolExecutor(READERS, thread_name_prefix="readers"))
    metrics: ControllerMetrics = field(default_factory=ControllerMetrics)
    spans: SpanExporter = NO_SPANS

    @classmethod
    def connect(cls, config: Config, metrics: ControllerMetrics | None = None) -> "ControllerServices":
        """Return the services, with the queues' URLs looked up; by default with metrics that are not served.

        Raises:
            ClientError: when a queue does not exist.
            ConfigError: when messages to operators cannot be sent as configured.
        """
        clients = controller_clients(config)
        names = config.names

        def queue(name: str, kind: type[Queue] = Queue) -> Queue:
            return kind.named(clients.sqs, config.queue_name(name))

        requests = queue(names.request_queue, SignallingQueue)
        return cls(
            config=config,
            store=JobStore(Table(clients.dynamodb, names.job_table)),
            requests=requests,
            responses=queue(names.response_queue),
            dead_letters=queue(names.dead_letter_queue),
            inputs=Bucket.named(clients, names.input_bucket),
            outputs=Bucket.named(clients, names.output_bucket),
            fleet=Fleet(clients.ec2, names.worker_instance),
            launching=Fleet(controller_clients(config, attempts=1).ec2, names.worker_instance),
            send=senders(clients, config.notifications),
            operators=cap_receivers(clients, config.notifications),
            sources=SourceBuckets(clients.s3),
            signals=DemandListener(requests.url),
            bucket_named=lambda name: Bucket.named(clients, name),
            metrics=metrics or ControllerMetrics(),
            spans=SpanExporter("fleetsight-controller", config.tracing),
        )

    def close(self) -> None:
        """Drop the calls that have not begun, and export the spans that wait, so that the process can end."""
        self.spans.close()
        for pool in (self.calls, self.readers):
            pool.shutdown(wait=False, cancel_futures=True)

    def ticks(self, tenure: Tenure, fleet_config: FleetConfigWatcher) -> Mapping[str, Tick]:
        """Return the loops of one tenure by name, which remember nothing of an earlier one."""
        prices, fleet_store = self.config.prices, FleetStore(self.store.table)
        fleet_store.set_table_in_use(None)
        before, over = fleet_store.snapshot(), fleet_store.days()
        meter = BillingMeter(
            prices.minimum_billed_seconds,
            lambda each: prices.hourly(each.instance_type, spot=each.spot),
            before,
            # The last worker of a period stays for its idle time, and for its billed minimum where stopping saves
            # nothing.
            quiet_seconds=self.config.worker.idle_seconds + prices.minimum_billed_seconds,
            on_demand=prices.hourly,
            over=over,
        )
        caps = CapNotifier(fleet_store, self.operators, tenure)
        if before is not None:
            caps.observe(before.spending)  # what the previous controller may have found and not stored
        table = replace(self.store.table, pool=self.calls)
        cost_rows = CostRowWriter(CostStore(self.store.table), tenure, meter.attribution.day_of)
        catalog_store = CatalogStore(self.store.table)

        def canary_since() -> datetime | None:
            catalog = catalog_store.find()
            return None if catalog is None else catalog.canary_since

        model_results = ModelResultsWriter(fleet_store, tenure, canary_since)

        def count_results(results: Sequence[ClassificationResult]) -> None:
            self.metrics.count_results(results)
            model_results.add(results)

        recorder = ResultRecorder(
            JobStore(table),
            self.inputs.delete_all,
            self.outputs.delete_all,
            token=tenure.token,
            active=tenure.active,
            table_since=tenure.table_since,
            on_results=meter.attribution.add_answers,
            on_recorded=count_results,
            on_attributed=cost_rows.add,
            pool=self.calls,
            readers=self.readers,
        )
        cache = ResultCache(table, self.config.retention.repeat_lifetime)
        registry = WorkerRegistry()
        notifications, topic = NotificationStore(self.store.table), self.config.notifications.topic_arn

        def publish(job_id: str) -> None:
            if topic is not None:
                notifications.request(job_id, {"topic": topic}, utc_now(), is_bounded=False)

        responses = replace(self.responses, pool=self.calls)
        collector = Collector(
            responses,
            self.outputs,
            recorder,
            cache,
            tenure.active,
            spans=self.spans,
            registry=registry,
            pool=self.calls,
        )
        copier = ResultsCopier(self.sources, self.outputs, self.config.imports.destinations)
        results_files = ResultsFileWriter(self.store, self.outputs, tenure, copier, on_finished=publish)
        recovery = ResultRecovery(self.store, recorder, self.outputs)
        canceller = JobCanceller(self.store, recorder, recovery, self.inputs, tenure)
        listings = ListingStore(self.store)
        limits = self.config.web.image_limits
        inspect = sandboxed_inspect(limits, self.config.sandbox.limits)
        ingest = ImageIngest(limits, self.inputs, self.store, self.requests, inspect, metrics=self.metrics.intake)

        def may_close(job_id: str) -> bool:
            return (
                results_files.is_done_with(job_id)
                and not listings.is_pending(job_id)
                and canceller.is_done_with(job_id)
            )

        ticks: dict[str, Tick] = {
            "autoscaler": self._autoscaler(tenure, fleet_config, registry, meter, recorder.problem, caps=caps).tick,
            "collector": collector.tick,
            **{f"collector-{number}": collector.help_tick for number in range(1, HELPERS + 1)},
            "counts": recorder.counts_tick,
            "cost_rows": cost_rows.tick,
            "model_results": model_results.tick,
            "reconciler": self._reconciler(recovery, registry, may_close, tenure).tick,
            "canceller": canceller.tick,
            "configured_model": ConfiguredModelRecorder(
                lambda: fleet_config.worker or self.config.worker,
                catalog_store,
                self.bucket_named(self.config.names.model_bucket),
                self.outputs,
                self.bucket_named,
                fleet_config,
                tenure,
            ).tick,
            "source_importer": SourceImporter(
                self.sources, ingest, self.config, tenure, samples=self.spans.samples
            ).tick,
            "results_files": results_files.tick,
            "notifier": Notifier(
                self.store,
                notifications,
                self.send,
                lambda job_id: results_files.is_done_with(job_id) or not self.store.is_open(job_id),
                tenure,
            ).tick,
            "cap_notifier": caps.tick,
            "cleanup": JobCleanup(
                self.store, recorder, self.inputs, self.outputs, self.config.controller.reconcile_seconds, tenure
            ).tick,
            "orphans": OrphanCleanup(ingest, self.config.web.direct_upload_seconds, tenure).tick,
            "expiry": JobExpiry(self.store, self.config.retention.unkept_lifetime, tenure).tick,
        }
        for name in ticks:
            self.metrics.loop_failures.labels(name)  # begins at 0
        return ticks

    def _autoscaler(
        self,
        tenure: Tenure,
        fleet_config: FleetConfigWatcher,
        registry: WorkerRegistry,
        meter: BillingMeter,
        problem: Callable[[], str | None],
        *,
        caps: CapNotifier,
    ) -> Autoscaler:
        launches, store = RecentLaunches(), FleetStore(self.store.table)
        tracker, drain_seconds = InstanceTracker(registry), self.config.worker.drain_seconds
        return Autoscaler(
            config=fleet_config,
            store=store,
            observer=Observer(self.requests, self.dead_letters, self.fleet, launches),
            health=UnhealthyTerminator(self.fleet, tracker, drain_seconds, tenure, metrics=self.metrics),
            launcher=Launcher(
                self.launching,
                launches,
                ControllerJournal(store, f"{tenure.holder}/{new_id()}"),
                tenure,
                metrics=self.metrics,
            ),
            meter=meter,
            reporter=Reporter(
                store, registry, namespace=self.config.metrics.cloudwatch_namespace, counts=self.metrics
            ),
            interval_seconds=self.config.controller.interval_seconds,
            controller_problem=problem,
            signals=self.signals,
            on_spending=caps.observe,
            on_outage=caps.observe_outage,
        )

    def _reconciler(
        self,
        recovery: ResultRecovery,
        registry: WorkerRegistry,
        may_close: Callable[[str], bool],
        tenure: Tenure,
    ) -> Reconciler:
        recorder, fleet = recovery.recorder, FleetStore(self.store.table)
        receives = self.config.queues.max_receive_count
        return Reconciler(
            store=self.store,
            recorder=recorder,
            recovery=recovery,
            dead_letters=DeadLetterConsumer(self.dead_letters, recovery, recorder, receives, tenure, self.metrics),
            requests=self.requests,
            responses=self.responses,
            inputs=self.inputs,
            reconcile_seconds=self.config.controller.reconcile_seconds,
            lost_after_seconds=self.config.controller.lost_after_seconds,
            visibility_seconds=self.config.queues.visibility_timeout_seconds,
            tenure=tenure,
            is_paused=lambda: fleet.paused() is not None,
            heartbeats=registry.active,
            may_close=may_close,
            metrics=self.metrics,
        )


def controller_clients(config: Config, attempts: int = MAX_ATTEMPTS) -> Clients:
    """Return clients that give up soon enough for the loops to stop in time, after at most `attempts`."""
    max_attempts = min(attempts, config.aws.max_attempts)
    endpoint = replace(config.aws.endpoint(CALLS + OTHER_CALLS), max_attempts=max_attempts, read_timeout=READ_SECONDS)
    return Clients(endpoint)


def controller_lease(config: Config, supervisor: str = "") -> Lease:
    """Return the contender that `supervisor` has started; its calls end well within the length of the lease.

    The lease lies outside of what it protects: a restored table is used instead of the one that has the lease, which
    stays. DynamoDB's clock says which of two tables is newer.
    """
    names, length = config.names, config.controller.lease_seconds
    # Two attempts, since a repeated write of a lease changes nothing, and such calls take a tenth of the CPU.
    endpoint = replace(config.aws.endpoint(1), max_attempts=2, connect_timeout=length / 4, read_timeout=length / 4)
    client = Clients(endpoint).dynamodb
    jobs = Table(client, names.job_table)
    return Lease(
        Table(client, names.lease_table),
        CONTROLLER_LEASE,
        length,
        f"{supervisor}/{new_id()}" if supervisor else new_id(),
        supervisor,
        work_table=jobs.name,
        generation=0 if jobs.name == names.lease_table else int(jobs.created_at().timestamp()),
        on_superseded=FleetStore(jobs).set_table_in_use,
    )
