"""From nothing to a worker that can poll: configuration, identity, services and model, side by side.

A worker is paid from its launch, so the steps that wait for something overlap: the network is read and compiled
while the clients are made and the metadata service is asked. Nothing is received before everything is there.
"""

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.bundle.errors import BundleError
from app_tier.bundle.load import Bundle, load_bundle
from app_tier.bundle.s3 import fetch_bundle, in_s3
from app_tier.classify import Classifier
from app_tier.engines import Engine, open_engine
from app_tier.faults import meaning_of
from app_tier.lifetime import watch_spot
from app_tier.pipeline import Services
from app_tier.sizing import Sizing, sized, this_machine
from app_tier.worker import Worker
from services.clients import Clients
from services.config import Config, load_config
from services.errors import FleetsightError, MetadataError
from services.metadata import Metadata
from services.s3 import Bucket
from services.sqs import Queue

_log = logging.getLogger(__name__)


class NotStartedError(FleetsightError):
    """Raised when a worker must not poll: bad configuration, bundle or credentials; the message says what to do."""


def start_up() -> Worker:
    """Return a worker that is ready to run.

    Raises:
        NotStartedError: it cannot classify, so it must not receive.
    """
    try:
        return _start_up(load_config())
    except (FleetsightError, BundleError) as error:
        raise NotStartedError(str(error)) from error
    except (BotoCoreError, ClientError) as error:
        raise NotStartedError(meaning_of(error).reason) from error


def _start_up(config: Config) -> Worker:
    metadata = Metadata()
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="start") as pool:
        services = pool.submit(open_services, config)
        instance = pool.submit(instance_id, metadata)
        bundle, engine, sizing = open_model(config)
        name = instance.result()
    classifier = Classifier(engine, bundle, name or f"local-{os.getpid()}", config.worker.top_k)
    worker = Worker(config, services.result(), classifier, sizing)
    if name is not None:
        threading.Thread(target=watch_spot, args=(metadata, worker.lifetime), name="spot", daemon=True).start()
    return worker


def open_model(config: Config) -> tuple[Bundle, Engine, Sizing]:
    """Return the bundle, fetched if it is in S3 and checked, an engine that runs it, and sizes that suit both.

    Raises:
        BundleError: the bundle is missing, damaged or not for this engine.
        botocore.exceptions.BotoCoreError, ClientError: S3 cannot be reached or refuses.
    """
    place = in_s3(config.worker.bundle)
    bundle = fetch_bundle(Clients(config.aws.endpoint()).s3, place) if place else load_bundle(config.worker.bundle)
    sizing = sized(config.worker, this_machine(), bundle.manifest.preprocess.input_size)
    engine = open_engine(config.worker.engine, bundle, sizing.engine_threads, streams=sizing.streams)
    return bundle, engine, sizing


def open_services(config: Config) -> Services:
    """Return the queues and buckets that `config` names.

    Raises:
        botocore.exceptions.BotoCoreError, ClientError: SQS cannot be reached or does not know the queues.
    """
    clients = Clients(config.aws.endpoint())
    names = config.names
    return Services(
        requests=Queue.named(clients.sqs, config.queue_name(names.request_queue)),
        responses=Queue.named(clients.sqs, config.queue_name(names.response_queue)),
        inputs=Bucket.named(clients, names.input_bucket),
        outputs=Bucket.named(clients, names.output_bucket),
    )


def instance_id(metadata: Metadata) -> str | None:
    """Return this instance's id; None on a machine that is no instance."""
    try:
        return metadata.instance_id()
    except MetadataError as error:
        _log.info("no instance", extra={"reason": str(error)})
        return None
