"""The fleet's limits, read again whenever config.yaml changes, so that they take effect without a restart."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from services.config import Config, Fleet, load_config
from services.errors import ConfigError

_log = logging.getLogger(__name__)

Stamp = tuple[int, int] | None
"""Modification time in ns and size in bytes; None for a file that cannot be looked at."""


@dataclass
class FleetLimits:
    """The `fleet` section of the configuration in force.

    Attributes:
        path: the file that is watched.
        fleet: the last good limits.
        problem: what is wrong with the file as it is now, in words; None when nothing is.
        load: reads and validates the file.
    """

    path: Path
    fleet: Fleet
    problem: str | None = None
    load: Callable[[Path], Config] = load_config
    _stamp: Stamp = field(init=False)

    def __post_init__(self) -> None:
        """Remember the file as it is: it was read a moment ago."""
        self._stamp = _stamp(self.path)

    def current(self) -> Fleet:
        """Return the limits in force; a file that is not valid changes nothing but `problem`."""
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            # Taken before the file is read: a write in between makes another stamp, and another read.
            self._stamp = stamp
            self._reload()
        return self.fleet

    def _reload(self) -> None:
        try:
            fleet = self.load(self.path).fleet
        except ConfigError as error:
            self.problem = f"the last good limits stay in force: {error}"
            _log.error(
                "the changed configuration is not valid; the last good limits stay", extra={"error": str(error)}
            )
            return
        if difference := changes(self.fleet, fleet):
            _log.warning("the fleet's limits have changed: %s", difference)
        self.fleet, self.problem = fleet, None


def changes(before: Fleet, after: Fleet) -> str:
    """Return what differs, as `max_workers 19 -> 5, policy ...`; empty when nothing does."""
    old, new = before.model_dump(), after.model_dump()
    return ", ".join(f"{key} {old[key]!r} -> {new[key]!r}" for key in old if old[key] != new[key])


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
