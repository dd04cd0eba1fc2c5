"""Start-up: configuration, identity, services and model, in parallel.

An instance bills from its launch, so steps that wait overlap: the network is read and compiled, and the metadata
service is asked, while botocore is imported and the queues are looked up. Nothing is received before all is ready.
"""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from app_tier.bundle import load_bundle
from app_tier.classify import Classifier
from app_tier.decode import sandboxed_decoder
from app_tier.engine_imports import import_openvino
from app_tier.engines import LoadedModel, open_engine
from app_tier.lifecycle import NotStartedError, is_protected, watch_notices
from app_tier.sizing import Sizing, sized, this_machine
from core.bundle_manifest import TORCH_NAME
from core.config import Config, load_config
from core.logs import set_level
from core.sandbox.process import PoolUnavailableError
from core.sandbox.zygote import Zygote
from core.telemetry import SPANS
from services.errors import FleetsightError, MetadataError
from services.threads import DaemonThread

if TYPE_CHECKING:
    from app_tier.worker import Worker
    from services.metadata import Metadata

_log = logging.getLogger(__name__)


def start_up(zygote: Zygote) -> "Worker":
    """Return a worker that is ready to run; `zygote` forks its decoding processes.

    One that cannot start reports so in its only heartbeat, if its configuration can be read.

    Raises:
        NotStartedError: it cannot classify, so it must not receive.
    """
    try:
        config = load_config()
    except FleetsightError as error:
        raise NotStartedError(str(error)) from error
    try:
        return _start_up(config, zygote)
    except Exception as error:
        from app_tier.worker import report_failed_start
        from services.metadata import Metadata

        reason = _reason(error)
        report_failed_start(config, worker_name(instance_id(Metadata())), reason)
        raise NotStartedError(reason) from error


def _reason(error: Exception) -> str:
    """Return why a worker cannot start."""
    from app_tier.recovery import classify_error

    match error:
        case PoolUnavailableError():
            return f"no image could be decoded: {error}"
        case FleetsightError():
            return str(error)
    _log.error("the start has failed", exc_info=error)
    return classify_error(error).reason


def worker_name(instance: str | None) -> str:
    """Return the name of this worker: the id of its instance, if it runs on one."""
    return instance or f"local-{os.getpid()}"


def _start_up(config: Config, zygote: Zygote) -> "Worker":
    set_level(config.logs.level)
    if config.worker.engine == "openvino":
        # Before other imports run beside it: the thread that compiles would wait for the interpreter again and again.
        import_openvino()
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="start") as pool:
        opened = pool.submit(open_model, config)
        from services.metadata import Metadata

        metadata = Metadata()
        instance = pool.submit(instance_id, metadata)
        from app_tier.models import ModelOpener
        from app_tier.worker import Worker, open_services

        services = open_services(config)
    model, sizing = opened.result()
    name = instance.result()
    classifier = Classifier(worker_name(name), config.worker.top_k)
    is_kept = partial(is_protected, metadata if name is not None else None)
    decoder = sandboxed_decoder(zygote, config, sizing.decode_threads)
    decoder.prepare()
    worker = Worker(
        config,
        services,
        classifier,
        model,
        ModelOpener(config, sizing),
        services.responses.send,
        decoder=decoder,
        is_protected=is_kept,
    )
    SPANS.start("fleetsight-worker", config.tracing)
    if name is not None:
        DaemonThread(watch_notices, metadata, worker.lifetime, name="notices").start()
    return worker


def open_model(config: Config) -> tuple[LoadedModel, Sizing]:
    """Return the worker's own model, its bundle fetched if it is in S3 and verified, and the sizing for it.

    Raises:
        BundleError: the bundle is missing, damaged or not for this engine.
        NotStartedError: S3 cannot be reached or refuses.
    """
    if str(config.worker.bundle).startswith("s3:"):
        from app_tier.worker import bundle_from_s3

        bundle = bundle_from_s3(config)
    else:
        # Reading torch's copy of the weights would take as long as reading those that are used.
        unused = {TORCH_NAME} if config.worker.engine == "openvino" else set()
        bundle = load_bundle(config.worker.bundle, config.worker.bundle_sha256, unused)
    machine, spec = this_machine(), bundle.manifest.preprocess
    sizing = sized(config.worker, machine, spec.input_size)
    engine = open_engine(config.worker.engine, bundle, sizing.engine_threads, streams=sizing.streams)
    if config.worker.engine == "openvino" and machine.cores > 1:
        # A network prepares itself for its first image, which takes as long as another one. Here that costs no time:
        # meanwhile other threads import botocore, and receive the first message.
        blank = np.zeros((1, 3, *spec.input_shape), np.float32)
        DaemonThread(engine.infer, blank, name="first-image").start()
    return LoadedModel(bundle, engine, sizing.batch_size), sizing


def instance_id(metadata: "Metadata") -> str | None:
    """Return this instance's id; None if this machine is not an EC2 instance."""
    try:
        return metadata.instance_id()
    except MetadataError as error:
        _log.info("no instance", extra={"reason": str(error)})
        return None
