"""The processes of the system, made of the product's own parts: web tier, controller, worker."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial, reduce
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app_tier.bundle import Bundle
from app_tier.classify import Classifier
from app_tier.decode import Pixels
from app_tier.engines import LoadedModel, Possible, of_possible
from app_tier.lifecycle import Lifetime
from app_tier.models import LoadedModels, ModelOpener, ModelPlace
from app_tier.network_process import IsolatedNetworks, NetworkEndedError
from app_tier.pipeline import Pipeline, Services
from app_tier.receiver import Receiver
from app_tier.recovery import FailureBackoff as WorkerBackoff
from app_tier.recovery import StepRecovery
from app_tier.sizing import Sizing
from app_tier.stages import StageThreads
from app_tier.task import Task
from app_tier.visibility import InFlightMessages, VisibilityExtender
from core.bundle_manifest import BundleMissingError, Manifest, Preprocess
from core.config import Config, load_config
from core.fleet.store import CONTROLLER_LEASE, FleetStore
from core.images import ImageLimits
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.packs import PackSizes
from core.jobs.store import JobStore
from core.messages import ImageContent, Prediction
from core.model_catalog import ModelCatalog, ModelVersion, with_model
from core.sandbox.process import PoolUnavailableError
from services.errors import FleetsightError
from services.lease import Lease, Tenure
from services.s3 import UploadForm
from services.sqs import BATCH
from services.table import CLOUD_ERRORS
from tests.simulation.data_path.billing import Billing
from tests.simulation.data_path.scheduler import EPOCH, KilledError, Process, Scheduler, TaskLock
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.sqs import VISIBILITY_SECONDS
from tests.support.result_path import InlineExecutor, ResultPath
from tests.support.results_site import PausedFleet
from tests.support.unsandboxed import inspect
from tests.support.worker import PlayedNetworks, act_while_full
from web_tier.autoscaler.liveness import WorkerRegistry
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.controller.cleanup import JobCleanup, JobExpiry
from web_tier.controller.orphans import OrphanSweep
from web_tier.controller.results_file import ResultsCopier, ResultsFileWriter
from web_tier.controller.source_importer import SourceImporter
from web_tier.features.dead_letters.store import DeadLetterStore
from web_tier.features.notifications.notifier import Notifier
from web_tier.http.quotas import Quotas
from web_tier.uploads.ingest import ImageIngest
from web_tier.uploads.presigned import PresignedUploads
from web_tier.uploads.single import SingleImages

if TYPE_CHECKING:
    from tests.simulation.data_path.world import World

Number = TypeVar("Number", int, float)

LIMITS = ImageLimits()
MAX_STEP_SECONDS = 1_000.0
LOST_AFTER_SECONDS = 60.0
UNKEPT_LIFETIME = timedelta(days=7)
MAX_RECEIVE_COUNT = 100
IDLE_SECONDS = 1e12
FORM_SECONDS: Final = 3_600
"""Lifetime of a form for an upload into the bucket."""
LEASE_ROUNDS: Final = 3
"""Length of the lease, which a controller renews in every round, however long that is."""
SIZING = Sizing(
    streams=1,
    engine_threads=1,
    batch_size=2,
    decode_threads=1,
    fetch_threads=1,
    publish_threads=1,
    batch_wait_seconds=0.0,
    model_bytes=1,
)


IMAGE_SECONDS: Final = 0.04
"""Time that a worker takes for an image, by which the web tier limits packs: to 50 images."""

SLOW_SECONDS: Final = 40.0
"""Time that a slow picture takes."""

BROKEN_MODEL: Final = "model-broken"
"""A model of the catalogue that ends each process that loads it."""

GONE_MODEL: Final = "model-gone"
"""A model of the catalogue with a bundle that was removed."""

IMAGES_PER_DAY: Final = 12
"""Quota of each client."""

SOURCE: Final = "photos"
"""Bucket from which jobs take images."""

GONE_BUCKET: Final = "gone"

METRICS: Final = ControllerMetrics()
"""Counts of all controllers, which nothing reads: to create them for each would take a twentieth of the time."""

PLACES: Final = (
    "",
    *(f"s3://{place}" for place in (f"{SOURCE}/copies/", SOURCE, GONE_BUCKET, "not-allowed/any-more")),
)
"""Where jobs want a copy of their results: nowhere, in a folder, in a bucket, and where it is refused."""


@cache
def import_config() -> Config:
    """Return the shipped configuration, with jobs from `SOURCE`, copies of results, and a quota."""
    own, gone = (f"{{location: 's3://{place}'}}" for place in (SOURCE, GONE_BUCKET))
    changes = {
        "IMPORTS__SOURCES": f"[{own}]",
        "IMPORTS__DESTINATIONS": f"[{own}, {gone}]",
        "LIMITS__IMAGES_PER_DAY": str(IMAGES_PER_DAY),
    }
    return load_config(Path("config.yaml"), {f"FLEETSIGHT__{key}": value for key, value in changes.items()})


class Web:
    """A process of the web tier: takes images in, tries failed ones again, deletes jobs, redrives dead letters."""

    def __init__(self, world: "World", process: Process) -> None:
        self.world, self.process = world, process
        self.store = JobStore(world.table)
        self.letters = DeadLetterStore(self.store)
        clock = world.clock_of(process)
        self.intake = ImageIngest(
            limits=LIMITS,
            bucket=InputBucket(world.inputs),
            store=self.store,
            queue=world.requests.queue(world.scheduler.sleep),
            inspect=inspect,
            clock=clock,
            pool=cast(Any, InlineExecutor()),
            sizes=PackSizes(world.max_images, lambda: IMAGE_SECONDS),
        )
        self.quotas = Quotas(world.table, import_config().limits, clock)
        self.single = SingleImages(self.intake, clock)
        self.single._committer = self.single._recorders = cast(Any, InlineExecutor())
        self.direct = PresignedUploads(self.intake, cast(Any, _Forms()), FORM_SECONDS, world.sources)

    def now(self) -> datetime:
        """Return the time of day by this process's clock."""
        return self.world.clock_of(self.process).utc_now()


class _Forms:
    """Makes forms, which the model's clients obey."""

    def form(self, key: str, content_type: str, *, tags: Mapping[str, str], **_: object) -> UploadForm:
        """Return a form."""
        return UploadForm("memory", {"key": key, "Content-Type": content_type, **tags})


class Controller:
    """A controller: it contends for the lease; the loops of its only tenure are tasks."""

    def __init__(self, world: "World", process: Process) -> None:
        self.world, self.process, self.table = world, process, world.table
        self._is_stopped = False
        # A client of its own, as in the product: faults of the job table do not meet it.
        table = MemoryTable(world.faults.hook("lease"), sleep=world.scheduler.sleep, name=self.table.name)
        table.items = self.table.items
        self.lease = Lease(
            table,
            CONTROLLER_LEASE,
            LEASE_ROUNDS,
            holder=process.name,
            clock=world.clock_of(process),
        )
        world.scheduler.spawn(process, f"{process.name} lease", self._contend)

    def _contend(self) -> None:
        """Lead while the lease is held; end when it is lost, so that another process contends."""
        is_leading = False
        while True:
            with suppress(*CLOUD_ERRORS):
                self.lease.take_or_renew()
            if is_leading and not self.lease.is_last_holder:
                break
            if self.lease.held and not is_leading:
                is_leading = True
                try:
                    self._start_loops(Tenure(self.process.name, self.lease.token, self.active))
                except CLOUD_ERRORS:
                    break
            self.world.scheduler.sleep(0)
        self.world.controller_ended(self.process)

    def _start_loops(self, tenure: Tenure) -> None:
        world, scheduler, clock = self.world, self.world.scheduler, self.world.clock_of(self.process)
        store = JobStore(self.table)
        queues = [each.queue(scheduler.sleep) for each in (world.requests, world.responses, world.dead_letters)]
        requests, responses, dead_letters = queues
        letters = DeadLetterStore(store)
        path = ResultPath(
            store,
            tenure,
            buckets=(world.inputs, world.outputs),
            clock=clock,
            on_given_up=[letters.put_each],
        )
        registry = WorkerRegistry(clock)
        inputs, outputs = InputBucket(world.inputs), OutputBucket(world.outputs)
        copier = ResultsCopier(world.sources, outputs, import_config().imports.destinations)
        results_files = ResultsFileWriter(store, outputs, tenure, copier, clock)
        notifier = Notifier(
            store,
            FleetStore(self.table),
            self._publish,
            results_files,
            tenure,
            clock,
        )
        results_files.on_finished.append(notifier.observe_finished)
        pool = cast(Any, InlineExecutor())
        canceller = path.canceller(clock=clock, pool=pool)
        sizes = PackSizes(world.max_images, lambda: IMAGE_SECONDS)
        ingest = ImageIngest(LIMITS, inputs, store, requests, inspect, clock=clock, pool=pool, sizes=sizes)
        importer = SourceImporter(
            world.sources,
            ingest,
            import_config(),
            tenure,
            clock,
            pool,
            page_objects=3,
        )
        reconciler = path.reconciler(
            dead_letters,
            requests,
            METRICS,
            responses=responses,
            reconcile_seconds=5.0,
            lost_after_seconds=LOST_AFTER_SECONDS,
            fleet=PausedFleet(lambda: world.paused),
            clock=clock,
            users=(results_files, importer, canceller),
        )
        cleanup = JobCleanup(store, inputs, outputs, 5.0, tenure, clock, pool, [letters.remove_of])
        collector = path.collector(responses, registry=registry)
        orphans = OrphanSweep(store, inputs, world.sources, tenure, clock)
        ticks: dict[str, Callable[[], float]] = {
            "billing": Billing(world, self.table, clock).tick,
            "collector": collector.tick,
            "reconciler": reconciler.tick,
            "canceller": canceller.tick,
            "source_importer": importer.tick,
            "results_files": results_files.tick,
            "notifier": notifier.tick,
            "cleanup": cleanup.tick,
            "orphans": orphans.tick,
            "expiry": JobExpiry(store, UNKEPT_LIFETIME, tenure, clock).tick,
        }
        for name, tick in ticks.items():
            self._spawn(name, partial(self._loop, tick))

    def now(self) -> datetime:
        """Return the time of day by this process's clock."""
        return self.world.clock_of(self.process).utc_now()

    def active(self) -> bool:
        """Return whether this process may act, as `LoopGroup.active` does: wait while a renewal is late."""
        while not (self.lease.held or self._is_stopped):
            self._is_stopped |= not self.lease.is_last_holder
            self.world.scheduler.sleep(0)
        return not self._is_stopped

    def _spawn(self, name: str, run: Callable[[], None]) -> None:
        self.world.scheduler.spawn(self.process, f"{self.process.name} {name}", run)

    def _publish(self, body: Mapping[str, Any]) -> None:
        checks = self.world.checks
        try:
            self.world.faults.hook("messages")("send", lambda: checks.receive(body["data"]))
        except CLOUD_ERRORS:
            checks.unpublished[body["data"]["job_id"]] += 1
            raise
        checks.published[body["id"], self.process.name] += 1

    def _loop(self, tick: Callable[[], float]) -> None:
        while self.active():
            try:
                pause = tick()
            except (*CLOUD_ERRORS, FleetsightError):
                pause = 1.0
            self.world.scheduler.sleep(max(pause, 0.5))


class VirtualLifetime(Lifetime):
    """A worker's lifetime on the virtual clock."""

    def __init__(self, in_flight: InFlightMessages, scheduler: Scheduler) -> None:
        super().__init__(on_end=in_flight.close)
        self._scheduler = scheduler

    def wait(self, seconds: float | None = None) -> bool:
        """Wait; return True if the worker is to end."""
        self._scheduler.sleep(seconds or 0.0)
        return self.over


def _most(_low: Number, high: Number) -> Number:
    """Return the greatest pause, so that a seed gives the same history again."""
    return high


class Engine:
    """Answers with the label of the picture; a broken one fails.

    A poison picture ends its process, and one that hangs is waited for until the worker ends.
    """

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker

    def infer(self, batch: NDArray[np.float32], possible: Possible | None = None) -> NDArray[np.float32]:
        """Return probabilities, one row an image."""
        if self._worker.is_broken:
            raise RuntimeError("the engine is broken")
        indices, kinds = np.rint(batch[:, :2, 0, 0] * 255).astype(int).T
        for number, kind in enumerate(kinds):
            if kind < len(KINDS):
                self._meet(number, KINDS[kind])
        rows = np.zeros((len(indices), len(LABELS)), np.float32)
        rows[np.arange(len(indices)), indices % len(LABELS)] = 1.0
        return of_possible(rows, possible)

    def _meet(self, number: int, kind: "Kind") -> None:
        """Do what a picture makes of this process, the one with a number in the batch."""
        worker, scheduler = self._worker, self._worker.world.scheduler
        match kind:
            case "slow":
                scheduler.sleep(SLOW_SECONDS)
            case "poison":
                worker.world.poisoned[worker.images[number]] += 1
                worker.die()
            case "hang":
                while not worker.lifetime.over:
                    scheduler.sleep(SLOW_SECONDS)
                worker.end()
                raise KilledError


class ChildEngine(Engine):
    """The engine of a child process; a worker sees when it ends or hangs."""

    def __init__(self, worker: "Worker", bundle: Bundle) -> None:
        super().__init__(worker)
        self._is_ending = bundle.manifest.name == BROKEN_MODEL

    def infer(self, batch: NDArray[np.float32], possible: Possible | None = None) -> NDArray[np.float32]:
        """Return probabilities, one row an image."""
        if self._is_ending:
            raise NetworkEndedError("the model ended its process")
        return super().infer(batch, possible)

    def _meet(self, number: int, kind: "Kind") -> None:
        if kind in {"poison", "hang"}:
            self._worker.world.children[self._worker.images[number]] += 1
            raise NetworkEndedError("the picture ended its process")
        super()._meet(number, kind)


@dataclass(frozen=True)
class WatchedClassifier(Classifier):
    """Notes in its worker which images it classifies."""

    of: "Worker"

    def classify(self, tasks: Sequence[Task[Pixels]]) -> list[Task[Prediction]]:
        """Return each task with its prediction."""
        self.of.images = [task.ref.image_id for task in tasks]
        return super().classify(tasks)


class Opener(ModelOpener):
    """Opens the bundle with the name that is the place; each worker has room for one."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__(import_config(), SIZING)
        self._worker = worker

    def own(self, digest: str) -> ModelPlace:
        """Return the place of the model that the worker began with."""
        return ModelPlace(digest, self._worker.world.model, is_own=True)

    def fetch(self, wanted: ModelPlace) -> Bundle:
        """Return the bundle, if it is there."""
        if wanted.place == GONE_MODEL:
            raise BundleMissingError("there is no bundle")
        bundle: Bundle = self._worker.world.faults.hook("models")("get", lambda: bundle_of(wanted.place))
        return bundle

    def load(self, bundle: Bundle) -> LoadedModel:
        """Return the bundle with the worker's engine."""
        if bundle.manifest.name == BROKEN_MODEL:
            self._worker.world.poisoned[BROKEN_MODEL] += 1
            self._worker.die()
        return LoadedModel(bundle, Engine(self._worker), SIZING.batch_size)

    def isolated(self) -> IsolatedNetworks:
        """Return what runs networks in children."""
        return PlayedNetworks(self._worker.start_child)

    def memory_bytes(self, _bundle: Bundle) -> int:
        """Return all that a worker has: to load one model, it releases the other."""
        return SIZING.model_bytes


class Worker:
    """A worker: the product's receiver and pipeline. Its stages run in the task that receives."""

    def __init__(self, world: "World", process: Process) -> None:
        self.world, self.process = world, process
        self.is_broken = False
        self.images: list[str] = []
        self.launched_at = world.now()
        scheduler, clock = world.scheduler, world.clock_of(process)
        requests = world.requests.queue(scheduler.sleep)
        buckets = InputBucket(world.inputs), OutputBucket(world.outputs)
        letters, responses = world.dead_letters.queue(scheduler.sleep), world.responses.queue(scheduler.sleep)
        services = Services(requests, letters, responses, *buckets, lambda: world.sources)
        self.in_flight = InFlightMessages(SIZING.in_flight, VISIBILITY_SECONDS, clock)
        self.lifetime = VirtualLifetime(self.in_flight, scheduler)
        self.backoff = WorkerBackoff(_most)
        self.extender = VisibilityExtender(
            requests,
            self.in_flight,
            VISIBILITY_SECONDS,
            MAX_STEP_SECONDS,
            self.lifetime.fail,
            clock,
            jitter=_most,
        )
        self.extender._calling = cast(Any, TaskLock(scheduler))
        recovery = StepRecovery(self.in_flight, self.extender, self.lifetime, self.backoff, clock, _most)
        opener = Opener(self)
        models = LoadedModels(
            opener.load(bundle_of(world.model)),
            opener,
            recovery,
            start_thread=lambda load: load(),
        )
        self.pipeline = Pipeline(
            SIZING,
            services,
            WatchedClassifier(process.name, 3, self),
            models,
            LIMITS,
            recovery,
            decoder=self._square,
            isolated=opener.isolated(),
        )
        act_while_full(self.pipeline._to_read_in_place, lambda: self._process(self.pipeline._stages[2:]))
        act_while_full(self.pipeline._to_decode, lambda: self._process(self.pipeline._stages[3:]))
        self.receiver = Receiver(
            requests,
            letters,
            recovery,
            self._submit,
            idle_seconds=IDLE_SECONDS,
        )
        scheduler.spawn(process, f"{process.name} receive", self._receive)
        scheduler.spawn(process, f"{process.name} extender", self._keep)

    def _receive(self) -> None:
        while not self.lifetime.over:
            if pause := self.backoff.pause_seconds():
                self.world.scheduler.sleep(pause)
            if room := self.in_flight.wait_for_room(BATCH, 0):
                self.receiver._receive_once(room)
            self.world.scheduler.sleep(1.0)
        self.end()

    def end(self) -> None:
        """Give back what is in hand, and end."""
        self.extender.give_back(self.in_flight.everything())
        self.world.worker_ended(self.process)

    def _keep(self) -> None:
        while not self.lifetime.over:
            self.extender.check()
            self.world.scheduler.sleep(VISIBILITY_SECONDS / 4)

    def _submit(self, task: Task[None]) -> None:
        self.pipeline.submit(task)
        self._process(self.pipeline._stages)

    def _process(self, stages: Sequence[StageThreads[Any]]) -> None:
        while any(len(each.stage.inbox) for each in stages):
            for each in stages:
                while len(each.stage.inbox):
                    each.process(each.next_batch())

    def _square(self, data: bytes, job_id: str, **settings: object) -> bytes:
        index, kind = index_of(data)
        if kind == "broken":
            raise ValueError("damaged")
        if kind == "heavy" and not self.world.has_room:
            self.die()
        return bytes((index, KINDS.index(kind), 0)) + CONTENT

    def start_child(self, bundle: Bundle) -> Engine:
        """Return the engine of a child."""
        if not self.world.has_children:
            raise PoolUnavailableError("there is no memory for another network")
        return ChildEngine(self, bundle)

    def die(self) -> NoReturn:
        """End at once."""
        self.world.kill(self.process)
        raise KilledError


def bundle_of(model: str) -> Bundle:
    """Return the bundle called `model`."""
    if model not in _BUNDLES:
        manifest = Manifest(
            name=model,
            architecture=f"network of {model}",  # a digest of its own
            files={"model.xml": "0" * 64, "model.bin": "0" * 64},
            preprocess=Preprocess(resize=1, crop=1, mean=(0, 0, 0), std=(1, 1, 1)),
            labels=LABELS,
        )
        _BUNDLES[model] = Bundle(Path("nowhere"), manifest, manifest.digest)
    return _BUNDLES[model]


_BUNDLES: dict[str, Bundle] = {}
MODELS: Final = ("model-a", "model-b", GONE_MODEL, BROKEN_MODEL)


def first_catalog() -> ModelCatalog:
    """Return the catalogue before its first change: all models are known, and new jobs get the first one."""
    versions = [
        ModelVersion(name=model, digest=bundle_of(model).digest, place=model, added_at=EPOCH) for model in MODELS
    ]
    return reduce(with_model, versions, ModelCatalog.only(versions[0]))


CONTENT: Final = ImageContent(thumbnail=b"\xff\xd8\xff").to_json().encode()
"""What every decoder finds: a thumbnail that begins like a JPEG."""

Kind = Literal["good", "broken", "heavy", "poison", "hang", "slow"]
"""`good` and `slow` have a label, `broken` cannot be decoded, `heavy` ends its worker as long as workers have little
memory, `poison` ends the process of the network, and in `hang` the network does not end."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

LABELS: Final = tuple(f"label-{number}" for number in range(5))
_TRUTH: dict[bytes, tuple[int, Kind]] = {}


@cache
def picture(index: int, kind: Kind) -> bytes:
    """Return a PNG of one pixel."""
    buffer = BytesIO()
    Image.new("RGB", (1, 1), (index, KINDS.index(kind), 0)).save(buffer, "PNG")
    data = buffer.getvalue()
    _TRUTH[sha256(data).digest()] = (index, kind)
    return data


def index_of(data: bytes) -> tuple[int, Kind]:
    """Return the number and the kind of a picture."""
    return _TRUTH[sha256(data).digest()]


def label_of(index: int) -> str:
    """Return the right label of a good picture."""
    return LABELS[index % len(LABELS)]
