"""Networks in child processes: of images that may have ended a worker, and of models that no worker has loaded yet.

A child is forked by a process that has no credentials (`core.sandbox.zygote`), holds one network and answers one
picture at a time. Its memory and processor time are limited; the sandbox of images is too narrow for it, since
engines start threads. A worker sees when a child ends. That is evidence against the image at which it ends, and
against no other, provided that the child has answered a grey picture before.
"""

import json
import logging
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Final

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a process that forks children has one thread

import numpy as np

from app_tier.bundle import Bundle, EngineError, load_bundle
from app_tier.classify import Classifier, check_engine
from app_tier.decode import Pixels
from app_tier.engines import Batch, Engine, LoadedModel, Possible, of_possible, open_engine
from app_tier.task import Task
from core.bundle_manifest import BundleError
from core.config import EngineName
from core.messages import Prediction
from core.sandbox.process import (
    NETWORK_BYTES,
    NETWORK_SECONDS,
    CrashedError,
    PoolUnavailableError,
    ProcessGoneError,
    ProtocolError,
    SandboxError,
    SandboxOutcome,
    SandboxProcess,
)
from core.sandbox.zygote import Zygote

FUNCTION: Final = "app_tier.network_process:infer"
"""The function that the children run."""

CHILDREN: Final = 3
"""Children in a row that end at an image before it fails, or at the grey picture before their model does."""
_log = logging.getLogger(__name__)
_engines: dict[str, Engine] = {}


def infer(
    pixels: bytes,
    *,
    shape: list[int],
    folder: str,
    digest: str,
    unchecked: list[str],
    engine: EngineName,
    threads: int,
) -> bytes:
    """Return the probabilities of pictures of that shape, both as float32; the first call loads the bundle.

    Raises:
        BundleError: it cannot be loaded, or was replaced.
    """
    if digest not in _engines:
        bundle = load_bundle(Path(folder), unused=unchecked)
        if bundle.digest != digest:
            raise EngineError(f"{folder} has the bundle {bundle.digest}, not {digest}")
        if engine == "openvino":  # torch writes temporary files
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        _engines[digest] = open_engine(engine, bundle, threads)
    return _engines[digest].infer(np.frombuffer(pixels, np.float32).reshape(shape)).tobytes()


def check(folder: bytes) -> bytes:
    """Return why OpenVINO cannot run the bundle in `folder`, or why its scores are none; nothing if all is well.

    Operators offer bundles that others have built (`core.sandbox.bundle_program`). Nothing here needs torch.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        bundle = load_bundle(Path(folder.decode()))
        if not np.isfinite(check_engine(LoadedModel(bundle, open_engine("openvino", bundle), 1))).all():
            raise EngineError(f"{bundle.name} answers a grey picture with what is no number: build it again")
    except BundleError as error:
        return " ".join(str(error).split()).encode()  # OpenVINO's reasons have several lines
    return b""


class NetworkEndedError(SandboxError):
    """Raised when a child ended at a picture, did not answer in time, or failed."""


class NoNetworkError(SandboxError):
    """Raised when no child can be started, or it ends at the grey picture; no image is at fault."""


class ChildEngine:
    """An engine that runs a bundle's network in a child of `zygote`, with so many threads.

    Raises:
        PoolUnavailableError: no child can be started.
    """

    def __init__(self, zygote: Zygote, bundle: Bundle, engine: EngineName, threads: int) -> None:
        self._zygote, self._labels, self._cpu_seconds = zygote, len(bundle.labels), threads * NETWORK_SECONDS
        self._arguments = {
            "folder": str(bundle.folder.absolute()),
            "digest": bundle.digest,
            "unchecked": sorted(bundle.unchecked),
            "engine": engine,
            "threads": threads,
        }
        # A GPU's driver reserves more address space than there is memory.
        self._child = SandboxProcess(*zygote.fork_child(NETWORK_BYTES if engine == "openvino" else 2**46))
        try:
            self._child.wait_until_ready(NETWORK_SECONDS)
        except (OSError, ProtocolError) as error:
            self.close()
            raise PoolUnavailableError(f"a process ended before it was ready: {error}") from error

    def infer(self, batch: Batch, possible: Possible | None = None) -> Batch:
        """Map a batch to probabilities, as `Engine.infer`.

        Raises:
            NetworkEndedError: the child has not answered, and must be closed.
        """
        arguments = json.dumps({**self._arguments, "shape": batch.shape}).encode()
        pixels, size = np.asarray(batch, np.float32).tobytes(), 4 * len(batch) * self._labels
        try:
            outcome, reply = self._child.request(pixels, arguments, self._cpu_seconds, NETWORK_SECONDS, size)
        except (OSError, ProtocolError, ProcessGoneError) as error:
            raise NetworkEndedError(f"the process of a network ended: {error!r}") from error
        if outcome is not SandboxOutcome.DONE or len(reply) != size:
            raise NetworkEndedError(
                f"a network failed: {outcome.name} {bytes(reply[:500]).decode('ascii', 'replace')}"
            )
        return of_possible(np.frombuffer(reply, np.float32).reshape(len(batch), self._labels), possible)

    def close(self) -> None:
        """End the child."""
        self._child.close()
        self._zygote.kill_child(self._child.pid)


class IsolatedNetworks:
    """Networks in one child at a time, started when it is needed; for one thread."""

    def __init__(self, engine: EngineName, threads: int) -> None:
        self._engine, self._threads = engine, threads
        self._zygote = Zygote(FUNCTION, has_threads=True)
        self._model: LoadedModel | None = None
        self._child: ChildEngine | None = None

    def classify(self, task: Task[Pixels], classifier: Classifier) -> Task[Prediction]:
        """Return the task with its prediction, by its model in a child.

        Raises:
            CrashedError: `CHILDREN` in a row ended at the image.
            NoNetworkError: as `prepare`.
        """
        for left in reversed(range(CHILDREN)):
            model = self.prepare(task.model.bundle)
            try:
                return classifier.classify([replace(task, assigned=model)])[0]
            except NetworkEndedError as error:
                self.end_child()
                more = {"image_id": task.ref.image_id, "left": left, "error": str(error)}
                _log.warning("an image ended the process of a network", extra=more)
        raise CrashedError

    def prepare(self, bundle: Bundle) -> LoadedModel:
        """Return the bundle as `ready` does, before an image needs it.

        Raises:
            NoNetworkError: there is no child with it.
        """
        try:
            return self.ready(bundle)
        except (NetworkEndedError, PoolUnavailableError) as error:
            raise NoNetworkError(f"no process for a network: {error}") from error

    def ready(self, bundle: Bundle) -> LoadedModel:
        """Return the bundle with an engine in a child that has answered a grey picture.

        Raises:
            NetworkEndedError: it ended at the grey picture.
            PoolUnavailableError: no child can be started.
        """
        if self._model is None or self._model.bundle.digest != bundle.digest:
            self.end_child()
            self._model = LoadedModel(bundle, self._start(bundle), batch_size=1)
            try:
                check_engine(self._model)
            except NetworkEndedError:
                self.end_child()
                raise
        return self._model

    def try_load(self, bundle: Bundle) -> None:
        """Load a bundle and ask it about a grey picture in up to `CHILDREN` children, until one answers.

        Raises:
            EngineError: none has.
            PoolUnavailableError: no child can be started.
        """
        try:
            for left in reversed(range(CHILDREN)):
                try:
                    self.ready(bundle)
                except NetworkEndedError as error:
                    if not left:
                        raise EngineError(f"bundle {bundle.name} ends the process that loads it: {error}") from error
                else:
                    return
        finally:
            self.close()

    def end_child(self) -> None:
        """End the child, if there is one."""
        child, self._child, self._model = self._child, None, None
        if child is not None:
            child.close()

    def close(self) -> None:
        """End all processes, which take memory; the next image starts new ones."""
        self.end_child()
        self._zygote.close()

    def _start(self, bundle: Bundle) -> Engine:
        self._child = ChildEngine(self._zygote, bundle, self._engine, self._threads)
        return self._child
