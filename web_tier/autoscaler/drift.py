"""Drift: workers that were launched from another version of the fleet's launch template than its default version.

An operator changes the default version (`fleetsight roll`). The autoscaler then drains drifted workers, some at a
time, and launches others in their place. It terminates stopped ones: they would start again unchanged.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from services.ec2 import Fleet, Instance
from services.lease import Tenure

_log = logging.getLogger(__name__)

READ_SECONDS = 15.0
"""Time between two reads of the default version."""

UNKNOWN_SECONDS = 60.0
"""The time after a read that failed: a missing right stays missing for long."""


@dataclass
class DriftDetector:
    """Compares the instances of the fleet with the default version of their launch template.

    EC2 is eventually consistent: only a version that two reads have found counts. Until then, and while the version
    cannot be read, no instance is drifted.
    """

    fleet: Fleet
    tenure: Tenure
    clock: Callable[[], float] = time.monotonic
    _versions: tuple[str, str] = field(default=("", ""), init=False)
    """The default version by the last two reads; empty if it is unknown."""
    _read_again_at: float = field(default=float("-inf"), init=False)
    _terminated_at: float = field(default=float("-inf"), init=False)

    def drifted(self, instances: Sequence[Instance], template: str | None) -> tuple[str, ...]:
        """Return the ids of the drifted instances among `instances`, in the same order.

        Args:
            instances: of the fleet.
            template: name of the fleet's launch template; None if it has none.
        """
        if template is None or not instances:
            return ()
        if self.clock() >= self._read_again_at:
            self._versions = (self._versions[1], self._read(template))
            self._read_again_at = self.clock() + (READ_SECONDS if self._versions[1] else UNKNOWN_SECONDS)
        before, version = self._versions
        if not version or before != version:
            return ()
        # An instance without a version was launched otherwise, or is described for the first time.
        return tuple(each.instance_id for each in instances if each.template_version not in {"", version})

    def _read(self, template: str) -> str:
        try:
            return self.fleet.default_version(template)
        except (BotoCoreError, ClientError) as error:
            _log.warning("the default version of the launch template is unknown", extra={"error": str(error)})
            return ""

    def terminate_stopped(self, instance_ids: Sequence[str]) -> None:
        """Terminate these stopped instances; if EC2 refuses, the next decision repeats it after a while."""
        now = self.clock()
        if not instance_ids or now - self._terminated_at < READ_SECONDS or not self.tenure.active():
            return
        self._terminated_at = now
        extra = {"instances": list(instance_ids)}
        try:
            self.fleet.terminate(instance_ids)
            _log.info("stopped workers of another template version are terminated", extra=extra)
        except (BotoCoreError, ClientError) as error:
            _log.warning("stopped workers could not be terminated", extra={**extra, "error": str(error)})
