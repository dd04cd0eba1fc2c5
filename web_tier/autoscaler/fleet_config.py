"""The fleet's settings in force: config.yaml, read again when it changes, and the limits that operators have set.

Both take effect without a restart.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from core.config import Config, FleetSettings, WorkerSettings, load_config
from core.fleet.models import LimitsOverride, WorkerLimits
from core.format import limits_words
from services.errors import ConfigError
from web_tier.autoscaler.reporting import FleetEvent

_log = logging.getLogger(__name__)

Fingerprint = tuple[int, int] | None
"""Modification time in ns and size in bytes of a file; None if it cannot be read."""

MAX_CHANGE_CHARACTERS = 300
"""Characters of a change of the configuration that are shown as an event."""


@dataclass
class FleetConfigWatcher:
    """The settings in force.

    Attributes:
        fleet: the `fleet` section of the last valid configuration.
        problem: why the file is not valid, in words; None if it is.
        override: limits that operators have set, or None.
        worker: the `worker` section of the last valid configuration; None if the file has not changed.
    """

    path: Path
    fleet: FleetSettings
    load: Callable[[Path], Config] = load_config
    problem: str | None = field(default=None, init=False)
    override: LimitsOverride | None = field(default=None, init=False)
    worker: WorkerSettings | None = field(default=None, init=False)
    _fingerprint: Fingerprint = field(init=False)
    _events: list[FleetEvent] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Remember the state of the file, which was read a moment ago."""
        self._fingerprint = _fingerprint(self.path)

    @property
    def configured(self) -> WorkerLimits:
        """The limits of config.yaml."""
        return WorkerLimits.configured(self.fleet)

    def current(self, override: LimitsOverride | None = None) -> FleetSettings:
        """Return the settings in force: the configuration, with the limits of `override` if there is one.

        A file that is not valid changes only `problem`.
        """
        fingerprint = _fingerprint(self.path)
        if fingerprint != self._fingerprint:
            # Taken before the file is read: a write in between changes it, and the file is read again.
            self._fingerprint = fingerprint
            try:
                config = self.load(self.path)
            except ConfigError as error:
                self.problem = f"the last good limits stay in force until config.yaml is corrected: {error}"
                message = "the changed configuration is not valid; the last good limits stay"
                _log.error(message, extra={"error": str(error)})
            else:
                if difference := changes(self.fleet, config.fleet):
                    _log.info("the fleet's limits have changed: %s", difference)
                    self._events.append(FleetEvent(f"config.yaml has changed: {difference}"[:MAX_CHANGE_CHARACTERS]))
                self.fleet, self.worker, self.problem = config.fleet, config.worker, None
        settings = _with_limits(self.fleet, override)
        if override != self.override:
            difference = changes(_with_limits(self.fleet, self.override), settings)
            by = "set by ops" if override else "taken back by ops"
            _log.info("the fleet's limits were %s: %s", by, difference or "no difference")
            words = limits_words(override or self.configured, self.configured)
            again = "" if override else " again, as config.yaml says"
            self._events.append(FleetEvent(f"limits {words}{again}", override.since if override else None))
            self.override = override
        return settings

    def add_event(self, event: FleetEvent) -> None:
        """Add an event of another part that follows the configuration."""
        self._events.append(event)

    def drain_events(self) -> list[FleetEvent]:
        """Return the changes since the last call."""
        events, self._events = self._events, []
        return events


def changes(before: FleetSettings, after: FleetSettings) -> str:
    """Return what differs, as `max_workers 19 -> 5, policy ...`; empty if nothing does."""
    old, new = before.model_dump(), after.model_dump()
    return ", ".join(f"{key} {old[key]!r} -> {new[key]!r}" for key in old if old[key] != new[key])


def _with_limits(fleet: FleetSettings, override: LimitsOverride | None) -> FleetSettings:
    if override is None:
        return fleet
    return fleet.model_copy(update={"min_workers": override.min_workers, "max_workers": override.max_workers})


def _fingerprint(path: Path) -> Fingerprint:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
