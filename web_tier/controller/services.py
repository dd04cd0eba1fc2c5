"""The controller's services: clients, queues, buckets and tables by the configuration, and its lease."""

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from core.config import Config
from core.fleet.store import CONTROLLER_LEASE
from core.ids import new_id
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.store import JobStore
from core.telemetry import SPANS
from services.clients import Clients
from services.demand_signal import DemandListener, SignallingQueue
from services.ec2 import Fleet
from services.lease import Lease
from services.s3 import Bucket, SourceBuckets
from services.sqs import Queue
from services.table import Table
from web_tier.autoscaler.metrics import ControllerMetrics

MAX_ATTEMPTS = 3
"""Attempts of a call before its error reaches a loop, which has its own backoff and never gives up."""
READ_SECONDS = 10.0
CALLS = 32
"""Calls for results that are made side by side, those of a round of the collector."""
OTHER_CALLS = 16
"""Calls of all other loops at the same time."""


@dataclass(frozen=True)
class ControllerServices:
    """The services that the controller works with.

    Attributes:
        launching: the fleet again, with calls that botocore does not retry. It would retry a launch that was refused
            for lack of capacity, which EC2 answers as a server error; but the next offering must be tried at once.
        sources: the buckets from which jobs take images, and to which results are copied.
        clients: of AWS's services.
        calls: makes calls for results side by side. Nothing else uses it, so that results wait for no other work.
        beside: receives for the next round of the collector and ends the last one; both wait for calls of `calls`.
        signals: of new requests, from other processes of this machine.
        metrics: what all loops of this process count, over its tenures.
    """

    config: Config
    store: JobStore
    requests: Queue
    responses: Queue
    dead_letters: Queue
    inputs: InputBucket
    outputs: OutputBucket
    fleet: Fleet
    launching: Fleet
    sources: SourceBuckets
    signals: DemandListener
    clients: Clients
    calls: Executor = field(default_factory=lambda: ThreadPoolExecutor(CALLS, thread_name_prefix="calls"))
    beside: Executor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="beside"))
    metrics: ControllerMetrics = field(default_factory=ControllerMetrics)

    @classmethod
    def connect(cls, config: Config, metrics: ControllerMetrics | None = None) -> "ControllerServices":
        """Return the services, with the queues' URLs looked up; by default with metrics that are not served.

        Raises:
            ClientError: when a queue does not exist.
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
            inputs=InputBucket.named(clients, names.input_bucket),
            outputs=OutputBucket.named(clients, names.output_bucket),
            fleet=Fleet(clients.ec2, names.worker_instance),
            launching=Fleet(controller_clients(config, attempts=1).ec2, names.worker_instance),
            sources=SourceBuckets(clients.s3),
            signals=DemandListener(requests.url),
            clients=clients,
            metrics=metrics or ControllerMetrics(),
        )

    def bucket_named(self, name: str) -> Bucket:
        """Return any bucket, for a bundle in S3."""
        return Bucket.named(self.clients, name)

    def close(self) -> None:
        """Drop the calls that have not begun, and export the spans that wait, so that the process can end."""
        SPANS.stop()
        for pool in (self.calls, self.beside):
            pool.shutdown(wait=False, cancel_futures=True)


def controller_clients(config: Config, attempts: int = MAX_ATTEMPTS) -> Clients:
    """Return clients that give up soon enough for the loops to stop in time, after at most `attempts`."""
    endpoint = replace(config.aws.endpoint(CALLS + OTHER_CALLS), max_attempts=attempts, read_timeout=READ_SECONDS)
    return Clients(endpoint)


def controller_lease(config: Config, supervisor: str = "") -> Lease:
    """Return the contender that `supervisor` has started; its calls end well within the length of the lease."""
    length = config.controller.lease_seconds
    # Two attempts, since a repeated write of a lease changes nothing, and such calls take a tenth of the CPU.
    endpoint = replace(config.aws.endpoint(1), max_attempts=2, connect_timeout=length / 4, read_timeout=length / 4)
    holder = f"{supervisor}/{new_id()}" if supervisor else new_id()
    table = Table(Clients(endpoint).dynamodb, config.names.job_table)
    return Lease(table, CONTROLLER_LEASE, length, holder, supervisor)
