"""The worker: its parts, its queues and buckets, and the order in which everything ends."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.bundle import Bundle, load_bundle
from app_tier.bundle_s3 import fetch_bundle, in_s3
from app_tier.classify import Classifier
from app_tier.decode import Decoder
from app_tier.engines import LoadedModel
from app_tier.heartbeat import Heartbeater, Send, WorkerStats
from app_tier.lifecycle import Lifetime, NotStartedError
from app_tier.models import LoadedModels, ModelOpener
from app_tier.pipeline import Pipeline, Services
from app_tier.receiver import POLL_SECONDS, Receiver
from app_tier.recovery import FailureBackoff, StepRecovery, classify_error
from app_tier.sizing import MAX_CALLS
from app_tier.visibility import FIRST_SECONDS, InFlightMessages, VisibilityExtender
from core.config import Config
from core.jobs.buckets import InputBucket, OutputBucket
from core.sandbox.pool import HANG_FACTOR, TRIES
from core.telemetry import SPANS
from services.clients import Clients
from services.s3 import SourceBuckets
from services.sqs import Queue
from services.threads import DaemonThread

SOURCE_ATTEMPTS = 3
"""Attempts to read an image from a bucket of its user, some seconds: images of others wait for the thread."""

MAX_CALLS_SECONDS = 900.0
"""Longest time of the calls of one step, with the retries of botocore and obstore (some 5 minutes a call)."""

REPORT_SECONDS = 10.0
"""Longest time that a worker that could not start takes to report that: it opens its first connection for it."""

_log = logging.getLogger(__name__)


class Worker:
    """Receives, classifies and publishes until its `lifetime` is over.

    It starts with its own `model`; `opener` loads others that requests name. `is_protected` returns whether the
    worker stays when it is idle.
    """

    def __init__(
        self,
        config: Config,
        services: Services,
        classifier: Classifier,
        model: LoadedModel,
        opener: ModelOpener,
        send_heartbeats: Send,
        *,
        decoder: Decoder,
        is_protected: Callable[[], bool] = lambda: False,
    ) -> None:
        self._sizing = sizing = opener.sizing
        self._drain_seconds = config.worker.drain_seconds
        self._started = {"worker": classifier.worker, "model": model.bundle.name, "digest": model.bundle.digest}
        visibility = config.queues.visibility_timeout_seconds
        self._in_flight = InFlightMessages(sizing.in_flight, min(FIRST_SECONDS, visibility))
        self.lifetime = Lifetime(on_end=self._in_flight.close, is_protected=is_protected)
        max_step_seconds = MAX_CALLS_SECONDS + TRIES * HANG_FACTOR * config.worker.decode_seconds
        self._extender = VisibilityExtender(
            services.requests, self._in_flight, visibility, max_step_seconds, self.lifetime.fail
        )
        recovery = StepRecovery(self._in_flight, self._extender, self.lifetime, FailureBackoff())
        models = LoadedModels(model, opener, recovery)
        self._pipeline = Pipeline(
            sizing,
            services,
            classifier,
            models,
            config.web.image_limits,
            recovery,
            decoder=decoder,
            isolated=opener.isolated(),
        )
        receiver = Receiver(
            services.requests,
            services.dead_letters,
            recovery,
            self._pipeline.submit,
            idle_seconds=config.worker.idle_seconds,
        )
        self._receiving = DaemonThread(receiver.run, name="receive")
        self._heartbeater = Heartbeater(
            classifier.worker,
            lambda: WorkerStats(
                self._pipeline.answered,
                len(self._in_flight),
                self.lifetime.ended,
                self.lifetime.reason,
                models.digests,
                models.failed_digest,
            ),
            send_heartbeats,
            in_flight=self._in_flight,
            max_bytes=config.queues.max_message_bytes,
        )

    def run(self) -> bool:
        """Work until the end; return whether every thread has ended."""
        _log.info("started", extra={**self._started, **asdict(self._sizing)})
        self._extender.start()
        self._pipeline.start()
        self._receiving.start()
        self._heartbeater.start()
        self.lifetime.wait()
        _log.info("stopping", extra={"reason": self.lifetime.reason, "in_hand": len(self._in_flight)})
        all_ended = self._drain()
        self._heartbeater.stop()
        SPANS.stop()
        return all_ended

    def _drain(self) -> bool:
        """Give back what has not started, finish what has, and stop everything."""
        self._pipeline.give_back_waiting()
        # The poll under way may still return messages, which the receiver gives back.
        self._receiving.join(POLL_SECONDS + 1)
        # The receiver may have submitted some just before it saw the end.
        self._pipeline.give_back_waiting()
        if not self._in_flight.wait_until_empty(self._drain_seconds):
            left = self._in_flight.everything()
            _log.warning("given back unfinished", extra={"packs": [each.request.pack_id for each in left]})
            self._extender.give_back(left)
        self._extender.stop()
        return self._pipeline.stop()


def report_failed_start(config: Config, worker: str, reason: str) -> None:
    """Send the only heartbeat of a worker that could not start; wait up to `REPORT_SECONDS` for it."""

    def send() -> None:
        try:
            clients = Clients(config.aws.endpoint())
            responses = Queue.named(clients.sqs, config.queue_name(config.names.response_queue))
        except (BotoCoreError, ClientError) as error:
            _log.warning("a heartbeat could not be sent", extra={"error": str(error)})
            return
        Heartbeater(worker, lambda: WorkerStats(end="failed", reason=reason), responses.send).send_last()

    # A daemon, for the same reason as the heartbeater's thread.
    thread = DaemonThread(send, name="heart")
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        _log.warning("a heartbeat could not be sent", extra={"error": str(error)})
    else:
        thread.join(REPORT_SECONDS)


def open_services(config: Config) -> Services:
    """Return the queues and buckets that `config` names.

    Raises:
        NotStartedError: SQS cannot be reached or does not know the queues.
    """
    clients, names = Clients(config.aws.endpoint()), config.names
    with _explaining_refusals():
        return Services(
            requests=Queue.named(clients.sqs, config.queue_name(names.request_queue)),
            dead_letters=Queue.named(clients.sqs, config.queue_name(names.dead_letter_queue)),
            responses=Queue.named(
                clients.sqs, config.queue_name(names.response_queue), config.queues.max_message_bytes
            ),
            inputs=InputBucket.named(clients, names.input_bucket),
            outputs=OutputBucket.named(clients, names.output_bucket),
            new_sources=lambda: SourceBuckets(
                Clients(replace(config.aws.endpoint(MAX_CALLS), max_attempts=SOURCE_ATTEMPTS)).s3
            ),
        )


def bundle_from_s3(config: Config) -> Bundle:
    """Return the bundle that `config` names, fetched and checked.

    Raises:
        BundleError: the bundle is missing or damaged.
        NotStartedError: S3 cannot be reached or refuses.
    """
    if (place := in_s3(config.worker.bundle)) is None:
        return load_bundle(config.worker.bundle, config.worker.bundle_sha256)
    with _explaining_refusals():
        return fetch_bundle(Clients(config.aws.endpoint()).s3, place, sha256=config.worker.bundle_sha256)


@contextmanager
def _explaining_refusals() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise NotStartedError(classify_error(error).reason) from error
