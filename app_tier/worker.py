"""The worker: the parts that live as long as it does, and the order in which they end."""

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict

from app_tier.backoff import Backoff
from app_tier.classify import Classifier
from app_tier.decode import Squares
from app_tier.heartbeat import Heartbeater, Send, WorkerStats
from app_tier.in_hand import InFlightMessages
from app_tier.lifetime import Lifetime
from app_tier.pipeline import Pipeline, Services
from app_tier.receive import POLL_SECONDS, Receiver
from app_tier.recovery import Recovery
from app_tier.sizing import Sizing
from app_tier.visibility_extender import VisibilityExtender
from core.config import Config
from core.confined.pool import HANG_FACTOR, TRIES

MAX_CALLS_SECONDS = 900.0
"""Longest that the calls of one step may take, with the retries of botocore and obstore (some 5 minutes a call)."""

_log = logging.getLogger(__name__)


class Worker:
    """Receives, classifies and publishes until its `lifetime` is over.

    Args:
        config: the whole configuration.
        services: queues and buckets.
        classifier: the model.
        sizing: how many of everything.
        send_heartbeats: takes the worker's heartbeats.
        stays: asked when the worker is idle, whether it is to stay.
        squares: decodes images.
    """

    def __init__(
        self,
        config: Config,
        services: Services,
        classifier: Classifier,
        sizing: Sizing,
        send_heartbeats: Send,
        stays: Callable[[], bool] = lambda: False,
        *,
        squares: Squares,
    ) -> None:
        self._sizing = sizing
        self._drain_seconds = config.worker.drain_seconds
        self._classifier = classifier
        visibility = config.queues.visibility_timeout_seconds
        backoff = Backoff()
        self._in_hand = InFlightMessages(sizing.in_hand, visibility)
        self.lifetime = Lifetime(on_end=self._in_hand.close, stays=stays)
        max_step_seconds = MAX_CALLS_SECONDS + TRIES * HANG_FACTOR * config.worker.decode_seconds
        self._extender = VisibilityExtender(
            services.requests, self._in_hand, visibility, max_step_seconds, self.lifetime.fail
        )
        recovery = Recovery(self._in_hand, self._extender, self.lifetime, backoff)
        self._pipeline = Pipeline(
            sizing,
            services,
            classifier,
            config.web.image_limits,
            recovery,
            squares=squares,
            max_tries=config.queues.max_receive_count,
        )
        receiver = Receiver(
            services.requests,
            self._in_hand,
            self._extender,
            self.lifetime,
            backoff,
            self._pipeline.submit,
            idle_seconds=config.worker.idle_seconds,
        )
        self._receiving = threading.Thread(target=receiver.run, name="receive", daemon=True)
        self._heart = Heartbeater(classifier.worker, self._vitals, send_heartbeats)

    def run(self) -> bool:
        """Work until the end; tell whether every thread has ended."""
        model = {"model": self._classifier.bundle.name, "digest": self._classifier.bundle.digest}
        _log.info("started", extra={"worker": self._classifier.worker, **model, **asdict(self._sizing)})
        self._extender.start()
        self._pipeline.start()
        self._receiving.start()
        self._heart.start()
        self.lifetime.wait()
        _log.info("stopping", extra={"reason": self.lifetime.reason, "in_hand": len(self._in_hand)})
        all_ended = self._drain()
        self._heart.stop()
        return all_ended

    def _vitals(self) -> WorkerStats:
        return WorkerStats(self._pipeline.answered, len(self._in_hand), self.lifetime.over)

    def _drain(self) -> bool:
        """Give back what has not started, finish what has, and let everything end."""
        self._pipeline.give_back_waiting()
        # The poll in flight may still bring messages, which the receiver gives back.
        self._receiving.join(POLL_SECONDS + 1)
        # What the receiver submitted just before it saw the end.
        self._pipeline.give_back_waiting()
        if not self._in_hand.wait_until_empty(self._drain_seconds):
            left = self._in_hand.everything()
            _log.warning("given back unfinished", extra={"images": [each.request.image_id for each in left]})
            self._extender.give_back(left)
        self._extender.stop()
        return self._pipeline.stop()
