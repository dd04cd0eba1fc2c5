"""Drain, scale-in protection, and the operators' commands.

The controller tags an instance; its worker reads the tag from its metadata service. So nothing needs to log in to the
machine. A tag stays with its instance: the next controller sees which workers are draining or protected.

- A **draining** worker receives no more messages, finishes its images and ends. No image is lost.
- A **protected** worker stays when it is idle, and reads the tag again after each idle time.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from botocore.exceptions import BotoCoreError, ClientError

from core.fleet.store import Commands, FleetStore
from services.clock import CLOCK, Clock
from services.ec2 import ALIVE, Fleet, Instance
from services.lease import Tenure
from web_tier.autoscaler.observe import LISTED, Observation
from web_tier.autoscaler.reporting import FleetEvent

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
"""Pause after EC2 has refused to tag."""

COMMAND_SECONDS = 1.0
"""How long commands are reused before they are read again."""

MISSING_SECONDS = 10.0
"""An instance that DescribeInstances, which is eventually consistent, has omitted for so long does not exist."""


@dataclass
class WorkerTags:
    """Asks workers to finish their images and end, and protects workers from scale-in; after a refusal it pauses."""

    fleet: Fleet
    tenure: Tenure
    clock: Clock = CLOCK
    _drained: set[str] = field(default_factory=set, init=False)
    _untagged: set[str] = field(default_factory=set, init=False)
    _protected: dict[str, bool] = field(default_factory=dict, init=False)
    """The last change of each worker's protection, which its description may not show yet."""
    _retry_at: float = field(default=float("-inf"), init=False)

    def draining(self, instances: Sequence[Instance]) -> frozenset[str]:
        """Return which of `instances` are draining; their description may not show it yet."""
        self._drained &= {instance.instance_id for instance in instances if instance.state != "stopped"}
        return frozenset(self._drained | {instance.instance_id for instance in instances if instance.draining})

    def drain(self, instance_ids: Sequence[str], reason: str) -> None:
        """Drain these workers; if EC2 refuses, the next decision repeats it."""
        if self._tag(instance_ids, self.fleet.request_drain, "workers could not be drained"):
            self._drained.update(instance_ids)
            _log.info("workers are draining", extra={"instances": instance_ids, "reason": reason})

    def untag_stopped(self, instances: Sequence[Instance]) -> None:
        """Remove the tag of drained instances that have stopped: they must work when they are started again."""
        stopped = {each.instance_id for each in instances if each.draining and each.state == "stopped"}
        self._untagged &= stopped
        tagged = sorted(stopped - self._untagged)
        if self._tag(tagged, self.fleet.cancel_drain, "stopped workers are still tagged as draining"):
            self._untagged.update(tagged)
            self._drained.difference_update(tagged)

    def protected(self, instances: Sequence[Instance]) -> frozenset[str]:
        """Return which of `instances` are protected; their description may not show the last change yet."""
        described = {instance.instance_id: instance.protected for instance in instances if instance.state in LISTED}
        self._protected = {key: is_tagged for key, is_tagged in self._protected.items() if key in described}
        return frozenset(key for key, is_tagged in (described | self._protected).items() if is_tagged)

    def protect(self, protect: Sequence[str], unprotect: Sequence[str]) -> None:
        """Protect and unprotect these workers; if EC2 refuses, the next decision repeats it."""
        changes = ((protect, True, self.fleet.protect), (unprotect, False, self.fleet.unprotect))
        for instance_ids, is_protected, call in changes:
            if self._tag(instance_ids, call, "scale-in protection could not be changed"):
                self._protected |= dict.fromkeys(instance_ids, is_protected)
                extra = {"instances": list(instance_ids), "protected": is_protected}
                _log.info("scale-in protection was changed", extra=extra)

    def _tag(self, instance_ids: Sequence[str], call: Callable[[Sequence[str]], None], problem: str) -> bool:
        """Make the call unless EC2 has refused a moment ago; return whether it was made."""
        if not instance_ids or self.clock.monotonic() < self._retry_at or not self.tenure.active():
            return False
        try:
            call(instance_ids)
        except (BotoCoreError, ClientError) as error:
            self._retry_at = self.clock.monotonic() + PAUSE_SECONDS
            _log.warning(problem, extra={"instances": list(instance_ids), "error": str(error)})
            return False
        return True


@dataclass
class OperatorCommands:
    """Reads the operators' commands, at most once in `COMMAND_SECONDS`, and carries out those to drain an instance.

    A command to drain stays until the instance is known to be draining, so it survives the controller that carries it
    out. A command for an instance that does not exist, or has stopped, is deleted with a line in the log.
    """

    store: FleetStore
    tags: WorkerTags
    _commands: Commands = field(default_factory=Commands, init=False)
    _read_at: float = field(default=float("-inf"), init=False)
    _missing_since: dict[str, float] = field(default_factory=dict, init=False)
    _reported: set[str] = field(default_factory=set, init=False)

    def current(self) -> Commands:
        """Return the commands.

        Raises:
            BotoCoreError, ClientError: when they could not be read.
        """
        now = self.tags.clock.monotonic()
        if now - self._read_at >= COMMAND_SECONDS:
            self._commands, self._read_at = self.store.commands(), now
        return self._commands

    def report_resume(self) -> list[FleetEvent]:
        """Return an event for the end of a pause, once."""
        resume, pause = self.current().resume, self.current().pause
        if resume is None or pause is not None or not self.tags.tenure.active():
            return []
        _log.info("the fleet was resumed", extra={"by": resume.by})
        self.store.delete_resume()
        self._commands = replace(self._commands, resume=None)
        return [FleetEvent(f"resumed by {resume.by}", resume.at)]

    def carry_out_drains(self, observation: Observation) -> list[FleetEvent]:
        """Drain the workers that operators have named; return an event for each new command."""
        commanded = self.current().drain
        described = {each.instance_id: each.state for each in observation.instances}
        done = [key for key in commanded if key in observation.draining]
        alive = [key for key in commanded if described.get(key) in ALIVE and key not in done]
        self.tags.drain(alive, "asked by ops")
        # A launching instance is drained once it is described: only then is it certain that EC2 knows its id.
        missing = [key for key in commanded if key not in {*done, *alive, *observation.launching}]
        now = self.tags.clock.monotonic()
        self._missing_since = {key: self._missing_since.get(key, now) for key in missing}
        gone = [key for key in missing if key in described or now - self._missing_since[key] >= MISSING_SECONDS]
        for key in gone:
            _log.warning("dropped a command to drain: no such instance is running", extra={"instance": key})
        if (finished := {*done, *gone}) and self.tags.tenure.active():
            self.store.delete_drains(sorted(finished))
            left = tuple(key for key in commanded if key not in finished)
            self._commands = replace(self._commands, drain=left)
        new = [key for key in alive if key not in self._reported]
        self._reported = (self._reported & set(commanded)) | set(new)
        return [FleetEvent(f"ops have asked {key} to drain") for key in new]
