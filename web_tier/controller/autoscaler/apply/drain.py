"""Drain: workers are asked to end by a tag of their instance, which each sees in its metadata service.

Asked, a worker receives nothing more, finishes what it has, and ends itself; so no image is lost by it, and no user
needs to reach into the machine. The tag stays with the instance: a controller that takes over knows who was asked.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from services.ec2 import Fleet, Instance

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
"""After EC2 has refused."""


@dataclass
class Drainer:
    """Asks workers to end.

    Attributes:
        active: whether this process may still act; asked right before the call.
    """

    fleet: Fleet
    active: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    _asked: set[str] = field(default_factory=set, init=False)
    _forgotten: set[str] = field(default_factory=set, init=False)
    _not_before: float = field(default=float("-inf"), init=False)

    def draining(self, instances: Sequence[Instance]) -> frozenset[str]:
        """Return which of `instances` have been asked; their description may not show it yet."""
        self._asked &= {instance.instance_id for instance in instances if instance.state != "stopped"}
        return frozenset(self._asked | {instance.instance_id for instance in instances if instance.draining})

    def ask(self, instance_ids: Sequence[str], reason: str) -> None:
        """Ask these workers to end; when EC2 refuses, the next decisions will."""
        if not instance_ids or self.clock() < self._not_before or not self.active():
            return
        try:
            self.fleet.ask_to_drain(instance_ids)
        except (BotoCoreError, ClientError) as error:
            self._not_before = self.clock() + PAUSE_SECONDS
            _log.warning("workers could not be asked to end", extra={"instances": instance_ids, "error": str(error)})
            return
        self._asked.update(instance_ids)
        _log.info("workers were asked to end", extra={"instances": instance_ids, "reason": reason})

    def forget_stopped(self, instances: Sequence[Instance]) -> None:
        """Take it back from those that have stopped since: once started again, they are to work."""
        stopped = {each.instance_id for each in instances if each.draining and each.state == "stopped"}
        self._forgotten &= stopped
        left = sorted(stopped - self._forgotten)
        if not left or self.clock() < self._not_before or not self.active():
            return
        try:
            self.fleet.forget_drain(left)
        except (BotoCoreError, ClientError) as error:
            self._not_before = self.clock() + PAUSE_SECONDS
            _log.warning("stopped workers are still asked to end", extra={"instances": left, "error": str(error)})
            return
        self._forgotten.update(left)
        self._asked.difference_update(left)
