"""Drift: workers that were launched from another version of the fleet's launch template than its default version.

An operator changes the default version (`fleetsight roll`). The autoscaler then drains drifted workers, some at a
time, and launches others in their place. It terminates stopped ones: they would start again unchanged.

A fleet that cannot get all the workers that it needs is replaced too, because each worker that ends makes room for
another, such as in a quota. If none works in its place, the fleet has lost one worker, and no other is drained.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from services.clock import CLOCK, Clock
from services.ec2 import ALIVE, Fleet, Instance
from services.errors import readable
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

    Attributes:
        problem: why the version cannot be read, for operators; None if it can.
    """

    fleet: Fleet
    tenure: Tenure
    clock: Clock = CLOCK
    problem: str | None = field(default=None, init=False)
    _drifted: frozenset[str] = field(default=frozenset(), init=False)
    """The drifted workers that were alive in the last round."""
    _ended: frozenset[str] = field(default=frozenset(), init=False)
    """The drifted workers that have ended and that no worker of the default version has replaced yet."""
    _current: frozenset[str] = field(default=frozenset(), init=False)
    """The workers of the default version that have begun to work."""
    _versions: tuple[str, str] = field(default=("", ""), init=False)
    """The default version by the last two reads; empty if it is unknown."""
    _read_again_at: float = field(default=float("-inf"), init=False)
    _terminated_at: float = field(default=float("-inf"), init=False)

    @property
    def lacks_replacement(self) -> bool:
        """Whether a drifted worker has ended, and no worker of the default version has begun to work in its place."""
        return bool(self._ended)

    def drifted(
        self, instances: Sequence[Instance], template: str | None, working: frozenset[str]
    ) -> tuple[str, ...]:
        """Return the ids of the drifted instances among `instances`, in the same order.

        Args:
            instances: of the fleet.
            template: name of the fleet's launch template; None if it has none.
            working: ids of the workers that take images now.
        """
        if template is None or not instances:
            self.problem = None
            return ()
        if self.clock.monotonic() >= self._read_again_at:
            self._versions = (self._versions[1], self._read(template))
            self._read_again_at = self.clock.monotonic() + (READ_SECONDS if self._versions[1] else UNKNOWN_SECONDS)
        before, version = self._versions
        if not version or before != version:
            return ()
        # An instance without a version was launched otherwise, or is described for the first time.
        found = tuple(each.instance_id for each in instances if each.template_version not in {"", version})
        alive = frozenset(each.instance_id for each in instances if each.state in ALIVE)
        current = working.difference(found)
        begun, ended = current - self._current, (self._ended | self._drifted) - alive
        if begun:  # also in place of workers that ended since the last round, which may be long ago
            ended = ended - self._ended if len(ended) > len(begun) else frozenset()
        self._ended = ended
        self._current, self._drifted = alive & (self._current | current), alive.intersection(found)
        return found

    def _read(self, template: str) -> str:
        try:
            version, why = self.fleet.default_version(template), "it does not exist"
        except (BotoCoreError, ClientError) as error:
            version, why = "", readable(str(error))
        # A single failure after a success, such as by throttling, is no problem.
        unknown = f"no worker is replaced: the default version of the launch template {template} is unknown ({why})"
        self.problem = None if version else self.problem if self._versions[1] else unknown
        if not version:
            _log.warning(unknown)
        return version

    def terminate_stopped(self, instance_ids: Sequence[str]) -> None:
        """Terminate these stopped instances; if EC2 refuses, the next decision repeats it after a while."""
        now = self.clock.monotonic()
        if not instance_ids or now - self._terminated_at < READ_SECONDS or not self.tenure.active():
            return
        self._terminated_at = now
        extra = {"instances": list(instance_ids)}
        try:
            self.fleet.terminate(instance_ids)
            _log.info("stopped workers of another template version are terminated", extra=extra)
        except (BotoCoreError, ClientError) as error:
            _log.warning("stopped workers could not be terminated", extra={**extra, "error": str(error)})
