"""Orders of ops: read now and then, and those to drain carried out."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from core.fleet_store import Orders
from services.ec2 import ALIVE
from web_tier.controller.autoscaler.apply.drain import Drainer
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.autoscaler.tell.decisions import News

_log = logging.getLogger(__name__)

READ_SECONDS = 1.0
"""How old the answer may be."""

GONE_SECONDS = 10.0
"""An instance that descriptions, which lag, have not shown for so long is not there."""


class OrderStore(Protocol):
    """What is needed of the fleet's store."""

    def orders(self) -> Orders:
        """Return all orders there are."""

    def drop_drains(self, instance_ids: Iterable[str]) -> None:
        """Delete orders to drain."""


@dataclass
class OrdersWatch:
    """Reads the orders once in `READ_SECONDS`; an error of the store passes through, and there is no answer then."""

    store: OrderStore
    clock: Callable[[], float] = time.monotonic
    _read: tuple[float, Orders] | None = field(default=None, init=False)

    def current(self) -> Orders:
        """Return the orders there are."""
        now = self.clock()
        if self._read is None or now - self._read[0] >= READ_SECONDS:
            self._read = (now, self.store.orders())
        return self._read[1]

    def drop_drains(self, instance_ids: Iterable[str]) -> None:
        """Delete orders to drain that are done, or that cannot be carried out."""
        dropped = frozenset(instance_ids)
        self.store.drop_drains(sorted(dropped))
        if self._read is not None:
            at, orders = self._read
            self._read = (at, replace(orders, drain=tuple(key for key in orders.drain if key not in dropped)))


@dataclass
class DrainCommands:
    """Asks instances to drain as ops have ordered, then deletes the orders.

    An order stands until the instance is known to have been asked, so it survives the controller that carries
    it out; one for an instance that is not there, or that has stopped, is dropped with a line in the log.
    """

    watch: OrdersWatch
    drainer: Drainer
    clock: Callable[[], float] = time.monotonic
    _missing_since: dict[str, float] = field(default_factory=dict, init=False)
    _told: set[str] = field(default_factory=set, init=False)

    def carry_out(self, observation: Observation) -> list[News]:
        """Ask the workers to drain that ops have named; return the events to report."""
        ordered = self.watch.current().drain
        described = {each.instance_id: each.state for each in observation.instances}
        asked = [key for key in ordered if key in observation.draining]
        there = [key for key in ordered if described.get(key) in ALIVE and key not in asked]
        self.drainer.ask(there, "asked by ops")
        # One that is coming is asked as soon as it is described: only then is it known that EC2 knows it.
        missing = [key for key in ordered if key not in {*asked, *there, *observation.coming}]
        gone = self._gone(missing, described)
        if (finished := [*asked, *gone]) and self.drainer.active():
            self.watch.drop_drains(finished)
        return self._news(ordered, there)

    def _gone(self, missing: list[str], described: Mapping[str, str]) -> list[str]:
        """Return those of `missing` that are described as stopped or ended, or have been missing for long."""
        now = self.clock()
        self._missing_since = {key: self._missing_since.get(key, now) for key in missing}
        gone = [key for key in missing if key in described or now - self._missing_since[key] >= GONE_SECONDS]
        for key in gone:
            _log.warning("dropped an order to drain: no such instance is running", extra={"instance": key})
        return gone

    def _news(self, ordered: Sequence[str], asked: Sequence[str]) -> list[News]:
        """Tell each order once, however often it takes to ask."""
        news = [key for key in asked if key not in self._told]
        self._told = (self._told & set(ordered)) | set(news)
        return [News(f"ops have asked {key} to drain") for key in news]
