"""The fleet's limits: config.yaml, read again whenever it changes, and what ops have set in its place.

Both take effect without a restart.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from core.config import Config, Fleet, load_config
from core.messages import LimitsOverride, WorkerLimits
from services.errors import ConfigError
from web_tier.controller.autoscaler.tell.decisions import News
from web_tier.pages.words import limits_words

_log = logging.getLogger(__name__)

Stamp = tuple[int, int] | None
"""Modification time in ns and size in bytes; None for a file that cannot be looked at."""

MAX_WORDS = 300
"""Characters of a change of the configuration, as it is told."""


@dataclass
class FleetConfigWatcher:
    """The limits in force.

    Attributes:
        path: the file that is watched.
        fleet: the `fleet` section of the last good configuration.
        problem: what is wrong with the file as it is now, in words; None when nothing is.
        load: reads and validates the file.
        order: what ops have set in place of the file's limits, as it was told last.
    """

    path: Path
    fleet: Fleet
    problem: str | None = None
    load: Callable[[Path], Config] = load_config
    order: LimitsOverride | None = field(default=None, init=False)
    _stamp: Stamp = field(init=False)
    _news: list[News] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Remember the file as it is: it was read a moment ago."""
        self._stamp = _stamp(self.path)

    @property
    def configured(self) -> WorkerLimits:
        """The limits of config.yaml."""
        return WorkerLimits(min_workers=self.fleet.min_workers, max_workers=self.fleet.max_workers)

    def current(self, order: LimitsOverride | None = None) -> Fleet:
        """Return what is in force: the configuration, with the limits of ops' `order` if there is one.

        A file that is not valid changes nothing but `problem`.
        """
        stamp = _stamp(self.path)
        if stamp != self._stamp:
            # Taken before the file is read: a write in between makes another stamp, and another read.
            self._stamp = stamp
            self._reload()
        if order != self.order:
            self._note(order)
        return _with(self.fleet, order)

    def take_news(self) -> list[News]:
        """Return what has changed since this was asked last, in words for people."""
        news, self._news = self._news, []
        return news

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
            self._news.append(News(f"config.yaml has changed: {difference}"[:MAX_WORDS]))
        self.fleet, self.problem = fleet, None

    def _note(self, order: LimitsOverride | None) -> None:
        """Log the difference that ops have made, and take down what there is to tell."""
        difference = changes(_with(self.fleet, self.order), _with(self.fleet, order))
        by = "set by ops" if order else "taken back by ops"
        _log.warning("the fleet's limits were %s: %s", by, difference or "no difference")
        words = limits_words(order or self.configured, self.configured)
        again = "" if order else " again, as config.yaml says"
        self._news.append(News(f"limits {words}{again}", order.since if order else None))
        self.order = order


def changes(before: Fleet, after: Fleet) -> str:
    """Return what differs, as `max_workers 19 -> 5, policy ...`; empty when nothing does."""
    old, new = before.model_dump(), after.model_dump()
    return ", ".join(f"{key} {old[key]!r} -> {new[key]!r}" for key in old if old[key] != new[key])


def _with(fleet: Fleet, order: LimitsOverride | None) -> Fleet:
    if order is None:
        return fleet
    return fleet.model_copy(update={"min_workers": order.min_workers, "max_workers": order.max_workers})


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
