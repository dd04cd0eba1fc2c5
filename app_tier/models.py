"""The models of a worker: its own, the last other one that was used, and the images that wait until theirs is loaded.

A request names its model (`RequestMessage.model`), and any worker classifies it. An image with a loaded model goes on
at once. Any other waits here, in no thread of the pipeline, so it delays no image of a loaded model. A thread, which
runs only while images wait, loads their models one after another.

To make room, the other model is released, and the worker's own too if both do not fit into `Sizing.model_bytes`, once
no image in the pipeline needs them. If one is needed for `TURN_SECONDS`, its further images wait as well: it has its
next turn after the new model. So each model makes progress.

| why a load fails                                    | images that wait for the model                      |
|-----------------------------------------------------|-----------------------------------------------------|
| its place has no bundle, or one of another digest   | fail with `MODEL_GONE`                              |
| a service fails                                     | are given back with a delay                         |
| S3 refuses this place                               | likewise; `MAX_REFUSALS` times, then they fail with |
|                                                     | `MODEL_REFUSED`                                     |
| it ends each process that loads it, the engine      | likewise; `MAX_BREAKDOWNS` times, then they fail    |
| cannot run it, or the reason is unknown             | with `MODEL_BROKEN`                                 |
| this machine has no room, credentials or right time | are given back; the worker ends                     |

A model is loaded in a child process first (`app_tier.network_process`), so one that ends its process ends no worker.

Until a pause is over, the model is not loaded again. Further images of a model that is gone fail. Others are given
back until then. A FIFO queue cannot delay a message. There, the images stay in hand until the pause is over, and are
given back then (`VisibilityExtender.give_back`).

A refusal may pass, as while an operator repairs a policy. So its request carries how often an image was refused, by
any worker, and each time the image is delayed for longer. No worker can refuse it for good in less than an hour.
"""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Final

from botocore.exceptions import ClientError

from app_tier.bundle import Bundle, EngineError, load_bundle
from app_tier.bundle_s3 import Place, fetch_bundle, in_s3
from app_tier.classify import check_engine
from app_tier.engines import LoadedModel, open_engine, weights_bytes
from app_tier.network_process import IsolatedNetworks
from app_tier.recovery import At, Fault, StepRecovery, classify_error
from app_tier.sizing import Sizing, fitting_batch, model_bytes, this_machine
from app_tier.task import Delivery, Task
from core.bundle_manifest import TORCH_NAME, BundleDigestError, BundleError, BundleMissingError
from core.config import Config
from core.messages import MODEL_BROKEN, MODEL_GONE, MODEL_REFUSED, Failure
from core.sandbox.process import PoolUnavailableError
from services.backoff import pause_seconds
from services.clients import Clients
from services.recent_dict import RecentDict
from services.threads import DaemonThread

TURN_SECONDS: Final = 10.0
"""How long a model that is needed all the time is kept while another one waits for its room: ten times a load."""

FIRST_PAUSE_SECONDS: Final = 2.0
MAX_PAUSE_SECONDS: Final = 60.0
"""After a failed load the model is not loaded again for so long, which doubles with each failure in a row."""

MAX_FAILED_MODELS: Final = 100
"""Models with a failed load that are remembered at a time."""

MAX_REFUSALS: Final = 66
"""Refused deliveries after which an image fails: with the pauses between them, that takes over an hour."""

MAX_BREAKDOWNS: Final = 5
"""Deliveries after which an image fails if its model cannot be run."""

MAX_TRIED_MODELS: Final = 100
"""Models that are remembered as loaded in a child without harm, at a time."""

_PLACE_REFUSED: Final = frozenset(
    {
        *("AccessDenied", "AllAccessDisabled", "NoSuchBucket", "KMS.AccessDeniedException", "KMS.DisabledException"),
        *("KMS.KMSInvalidStateException", "KMS.NotFoundException"),
    }
)
"""Codes by which S3 refuses one place, while this worker may use others."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelPlace:
    """Where a bundle is loaded from.

    Attributes:
        digest: that the bundle must have.
        place: folder, zip, or location in S3.
        pin: SHA-256 of its ``bundle.json`` or zip (`worker.bundle_sha256`); None pins none.
        is_own: whether it is the worker's own bundle (`worker.bundle`), which it has started with.
    """

    digest: str
    place: str
    pin: str | None = None
    is_own: bool = False


class ModelOpener:
    """Fetches bundles and opens engines on them, as at the worker's start; `sizing` is the worker's."""

    def __init__(self, config: Config, sizing: Sizing) -> None:
        self._config, self.sizing = config, sizing
        self._tried = RecentDict[str, bool](MAX_TRIED_MODELS)

    def own(self, digest: str) -> ModelPlace:
        """Return the place of the worker's own bundle, which had `digest` when the worker started."""
        worker = self._config.worker
        return ModelPlace(digest, str(worker.bundle), worker.bundle_sha256, is_own=True)

    def fetch(self, wanted: ModelPlace) -> Bundle:
        """Return the bundle with every digest checked; what this machine keeps already is not fetched again.

        Raises:
            BundleError: there is none, or another one.
            botocore.exceptions.BotoCoreError, ClientError: S3 cannot be reached or refuses.
        """
        if (in_bucket := in_s3(wanted.place)) is None:
            unused = {TORCH_NAME} if self._config.worker.engine == "openvino" else set()
            bundle = load_bundle(Path(wanted.place), wanted.pin, unused)
        elif not wanted.is_own and self._is_among_images_or_results(in_bucket):
            raise BundleMissingError(
                f"{in_bucket} is no place for a bundle: users' images or workers' results are there"
            )
        else:
            bundle = fetch_bundle(Clients(self._config.aws.endpoint()).s3, in_bucket, sha256=wanted.pin)
        if bundle.digest != wanted.digest:
            raise BundleDigestError(f"{wanted.place} has the bundle {bundle.digest}, not {wanted.digest}")
        return bundle

    def _is_among_images_or_results(self, place: Place) -> bool:
        return place.bucket in {self._config.names.input_bucket, self._config.names.output_bucket}

    def open(self, bundle: Bundle) -> LoadedModel:
        """Return the bundle with an engine that has classified a grey image, the first time in a child before.

        Raises:
            EngineError: the engine cannot run the bundle.
        """
        if bundle.digest not in self._tried:
            self.isolated().try_load(bundle)
            self._tried[bundle.digest] = True
        return self.load(bundle)

    def load(self, bundle: Bundle) -> LoadedModel:
        """Return the bundle with an engine of this process that has classified a grey image."""
        worker, sizing = self._config.worker, self.sizing
        engine = open_engine(worker.engine, bundle, sizing.engine_threads, streams=sizing.streams)
        model = LoadedModel(bundle, engine, self._batch_size(bundle))
        check_engine(model)
        return model

    def isolated(self) -> IsolatedNetworks:
        """Return what runs networks in child processes."""
        return IsolatedNetworks(self._config.worker.engine, self.sizing.engine_threads)

    def memory_bytes(self, bundle: Bundle) -> int:
        """Return the memory that the model takes, by estimate."""
        images, size = self.sizing.streams * self._batch_size(bundle), bundle.manifest.preprocess.input_size
        return model_bytes(weights_bytes(self._config.worker.engine, bundle), images, size)

    def _batch_size(self, bundle: Bundle) -> int:
        size = bundle.manifest.preprocess.input_size
        return fitting_batch(self._config.worker, this_machine(), self.sizing.streams, size)


class LoadFault(Enum):
    """What a failed load is attributed to; see the module's docstring."""

    GONE = auto()
    BROKEN = auto()
    REFUSED = auto()
    SYSTEM = auto()


def classify_load_error(error: Exception, place: str) -> LoadFault | Fault:
    """Return what an error of a load from `place` is attributed to; a `Fault` is this machine's, and ends it."""
    cause = error.__cause__
    match error:
        case EngineError():
            return LoadFault.BROKEN
        case BundleError() if not isinstance(cause, OSError):
            return LoadFault.GONE
        case ClientError() if error.response.get("Error", {}).get("Code") in _PLACE_REFUSED:
            return LoadFault.REFUSED
    fault = classify_error(cause if isinstance(error, BundleError) and isinstance(cause, OSError) else error)
    if fault.at is At.WORKER:
        return fault
    if isinstance(error, BundleError):
        # A file that is not there is gone, unless it is a copy of one in S3. One that cannot be read is not gone.
        is_gone = isinstance(cause, FileNotFoundError | NotADirectoryError) and in_s3(place) is None
        return LoadFault.GONE if is_gone else LoadFault.SYSTEM
    return LoadFault.BROKEN if fault.at is At.UNKNOWN else LoadFault.SYSTEM


_LIMITS: Final = {
    LoadFault.REFUSED: (MAX_REFUSALS, MODEL_REFUSED),
    LoadFault.BROKEN: (MAX_BREAKDOWNS, MODEL_BROKEN),
}
"""Deliveries that meet a fault until their image fails, and its failure."""


@dataclass(frozen=True)
class _FailedLoad:
    fault: LoadFault
    failures: int
    until: float


class LoadedModels:
    """The models in memory, and the images that wait for others; threads may share it.

    Args:
        own: the model that the worker has started with.
        recovery: of the pipeline: what is in flight, and how it is given back.
        start_thread: runs a function in a thread of its own.

    Attributes:
        is_loading: whether a thread loads a model.
        resume: passes on an image that has waited, with its model; set by the pipeline.
        refuse: passes on an image that cannot be classified, with the reason; set by the pipeline.
    """

    def __init__(
        self,
        own: LoadedModel,
        opener: ModelOpener,
        recovery: StepRecovery,
        start_thread: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._own, self._opener, self._recovery = own.bundle.digest, opener, recovery
        self.resume: Callable[[Task[None]], None]
        self.refuse: Callable[[Task[object], Failure], None]
        self._start_thread = start_thread or _start_thread
        self._lock = threading.Lock()
        self._loaded = {self._own: own}
        self._closing: set[str] = set()
        self._waiting: dict[ModelPlace, list[Task[None]]] = {}
        self._failed = RecentDict[ModelPlace, _FailedLoad](MAX_FAILED_MODELS)
        self.is_loading = self._ended = False

    @property
    def digests(self) -> list[str]:
        """Digests of the loaded models."""
        with self._lock:
            return list(self._loaded)

    @property
    def failed_digest(self) -> str | None:
        """Digest of the model that failed to load last; None if that was longer ago than its pause and another.

        A load that failed for a fault of the system, such as an outage of S3, says nothing about the model.
        """
        now = self._recovery.clock.monotonic()
        with self._lock:
            failed = reversed(self._failed.items())
            recent = (each for each in failed if each[1].fault is not LoadFault.SYSTEM)
            place, load = next(recent, (None, None))
        return place.digest if place and load and now <= load.until + MAX_PAUSE_SECONDS else None

    def admit(self, task: Task[None]) -> Task[None] | None:
        """Return the task with its model; None if it waits for it, and is resumed, refused or given back later."""
        requested = task.delivery.request.model
        digest = self._own if requested is None else requested.bundle
        with self._lock:
            model = self._loaded.get(digest)
            if model is not None and digest not in self._closing:
                self._recovery.in_flight.assign(task.delivery, digest)
                return replace(task, assigned=model)
        if requested is None:
            self._wait(task, self._opener.own(self._own))
        else:
            self._wait(task, ModelPlace(requested.bundle, requested.place))
        return None

    def release_broken(self, model: LoadedModel) -> bool:
        """Release a model with an engine that has failed; False for the worker's own, without which it must end."""
        digest = model.bundle.digest
        if digest == self._own:
            return False
        with self._lock:
            if self._loaded.get(digest) is model:
                self._release(digest, "its engine failed")
        return True

    def end(self) -> None:
        """Load nothing any more, and resume none of the images that wait."""
        with self._lock:
            self._ended = True
            self._waiting.clear()

    # Waiting

    def _wait(self, task: Task[None], place: ModelPlace) -> None:
        needs_thread = False
        with self._lock:
            failed, has_ended = self._failed.get(place), self._ended
            is_pausing = failed is not None and self._recovery.clock.monotonic() < failed.until
            if not (has_ended or is_pausing):
                self._waiting.setdefault(place, []).append(task)
                # An earlier try of its fetch may have needed the model that now makes room for another one.
                self._recovery.in_flight.set_aside([task.delivery])
                needs_thread = not self.is_loading
                self.is_loading = True
        if has_ended:
            self._recovery.extender.give_back([task.delivery])
        elif failed is not None and is_pausing:
            self._turn_away(task, failed)
        elif needs_thread:
            try:
                self._start_thread(self._load_all)
            except (RuntimeError, MemoryError) as error:
                self.is_loading = False
                for each in list(self._waiting):
                    self._on_error(each, PoolUnavailableError(f"no thread loads models: {error}"))

    def _turn_away(self, task: Task[None], failed: _FailedLoad) -> None:
        """Settle an image that arrives in the pause after a failed load."""
        seconds = failed.until - self._recovery.clock.monotonic()
        if failed.fault is LoadFault.GONE:
            self.refuse(task, MODEL_GONE)
        elif failed.fault in _LIMITS and task.delivery.request.refusals + 1 >= _LIMITS[failed.fault][0]:
            self.refuse(task, _LIMITS[failed.fault][1])
        else:
            delivery, refusals = task.delivery, task.delivery.request.refusals
            if failed.fault in _LIMITS:
                # By the history of the image, which may meet another worker each time.
                pause = FIRST_PAUSE_SECONDS * 2 ** min(refusals, 30)
                seconds = max(seconds, min(pause, MAX_PAUSE_SECONDS))
                request = delivery.request.model_copy(update={"refusals": refusals + 1})
                delivery = replace(delivery, request=request)
            self._give_back([delivery], seconds)

    def _give_back(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        self._recovery.extender.give_back(deliveries, max(1, math.ceil(seconds)))

    def _pop_waiting(self, place: ModelPlace) -> list[Task[None]]:
        with self._lock:
            return self._waiting.pop(place, [])

    # Loading

    def _load_all(self) -> None:
        """Load what images wait for, one model after another, until none is left."""
        while (place := self._next_place()) is not None:
            try:
                self._load(place)
            except Exception as error:  # noqa: BLE001 (the edge: `_on_error` decides what follows)
                self._on_error(place, error)

    def _next_place(self) -> ModelPlace | None:
        with self._lock:
            place = None if self._recovery.lifetime.over else next(iter(self._waiting), None)
            self.is_loading = place is not None
            return place

    def _load(self, place: ModelPlace) -> None:
        if place.digest in self._loaded:  # from another place
            self._resume_waiting(place)
            return
        started = self._recovery.clock.monotonic()
        with self._recovery.in_flight.step(self._first_waiting):
            bundle = self._opener.fetch(place)
        needed = self._opener.memory_bytes(bundle)
        if not self._make_room(place.digest, needed):
            return
        with self._recovery.in_flight.step(self._first_waiting):
            model = self._opener.open(bundle)
        with self._lock:
            self._loaded[place.digest] = model
            self._failed.pop(place, None)
        _log.info(
            "model loaded",
            extra={
                "model": bundle.name,
                "digest": place.digest,
                "place": place.place,
                "seconds": round(self._recovery.clock.monotonic() - started, 3),
                "bytes": needed,
            },
        )
        self._resume_waiting(place)

    def _first_waiting(self) -> list[Delivery]:
        """Return an image that waits for any load: if one hangs meanwhile, the extender ends the worker."""
        with self._lock:
            waiting = [task.delivery for tasks in self._waiting.values() for task in tasks]
        return [delivery for delivery in waiting if self._recovery.in_flight.open_places(delivery)][:1]

    def _resume_waiting(self, place: ModelPlace) -> None:
        with self._lock:
            model, tasks = self._loaded.get(place.digest), self._waiting.get(place, [])
            if model is None:  # its engine has failed meanwhile
                return
            self._waiting.pop(place, None)
            for task in tasks:
                # Before any thread can see that no image needs the model, which would release it.
                self._recovery.in_flight.assign(task.delivery, place.digest)
        for task in tasks:
            self.resume(replace(task, assigned=model))

    def _make_room(self, digest: str, needed: int) -> bool:
        """Release the models that the one with `digest` replaces; return False if the worker ends."""
        deadline = self._recovery.clock.monotonic() + TURN_SECONDS
        in_flight, left_bytes = self._recovery.in_flight, self._opener.sizing.model_bytes - needed
        try:
            while not self._recovery.lifetime.over:
                with self._lock:
                    replaced = {
                        each
                        for each, model in self._loaded.items()
                        if self._own not in (each, digest) or self._opener.memory_bytes(model.bundle) > left_bytes
                    }
                    if not replaced & in_flight.models():
                        for each in replaced:
                            self._release(each, "another one needs its place")
                        return True
                    left_seconds = deadline - self._recovery.clock.monotonic()
                    if left_seconds <= 0:
                        self._closing = replaced
                in_flight.wait_until_unneeded(replaced, left_seconds if left_seconds > 0 else TURN_SECONDS)
        finally:
            self._closing = set()
        return False

    def _release(self, digest: str, reason: str) -> None:
        model = self._loaded.pop(digest)
        _log.info("model released", extra={"model": model.bundle.name, "digest": digest, "reason": reason})

    def _on_error(self, place: ModelPlace, error: Exception) -> None:
        fault = classify_load_error(error, place.place)
        if fault is LoadFault.GONE and place.is_own:
            fault = Fault(At.WORKER, f"its own model is gone: {error}")
        more = {"digest": place.digest, "place": place.place, "error": str(error)}
        if isinstance(fault, Fault):
            _log.error("a model could not be loaded; the worker ends", extra=more, exc_info=error)
            self._recovery.lifetime.fail(fault.reason)
            self._recovery.extender.give_back([task.delivery for task in self._pop_waiting(place)])
            return
        with self._lock:
            failures = self._failed[place].failures + 1 if place in self._failed else 1
            pause = pause_seconds(failures, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, self._recovery.jitter)
            failed = self._failed[place] = _FailedLoad(fault, failures, self._recovery.clock.monotonic() + pause)
        level = logging.WARNING if fault in {LoadFault.SYSTEM, LoadFault.REFUSED} else logging.ERROR
        _log.log(
            level,
            "a model could not be loaded",
            extra={**more, "fault": fault.name, "failures": failures},
            exc_info=error,
        )
        tasks = self._pop_waiting(place)
        match fault:
            case LoadFault.SYSTEM:
                self._give_back([task.delivery for task in tasks], pause)
            case _:
                for task in tasks:
                    # One that was given back while it waited is no longer here; a closed worker starts none.
                    if self._recovery.in_flight.start(task.delivery):
                        self._turn_away(task, failed)
                    else:
                        self._recovery.extender.give_back([task.delivery])


def _start_thread(run: Callable[[], None]) -> None:
    # A daemon: a load that hangs must not keep the process alive.
    DaemonThread(run, name="load").start()
