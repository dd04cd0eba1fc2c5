"""The order in which a standard queue delivers its visible messages: oldest first, quiet tenants before noisy ones.

The rules are those of SQS's fair queues. A tenant is a message group. A message without a group is its own tenant;
here all these are one, which is never noisy.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues-detailed.html

AWS calls its thresholds approximate. It does not document over which time it measures processing, and whether it
marks a tenant again that is quiet since it sent nothing, while its messages are in flight; here it is marked.
"""

import functools
import heapq
import json
import math
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from localcloud.sqs.rows import FIRST_OF_EACH, IS_WAITING, LISTED, OF_TENANT, OLDEST, StoredMessage
from localcloud.store import Store

NOISY_SHARE: Final = 0.1
"""A tenant with more than this share of the messages in flight, or of the recent processing time, is noisy."""

NOISY_IN_FLIGHT: Final = 30
"""Messages that a tenant has in flight, at least, to be noisy by its share of them."""

SILENT_SECONDS: Final = 300.0
"""A tenant that has sent nothing for this long is no longer noisy."""

RECENT_SECONDS: Final = 60.0
"""Time constant with which processing time that has passed loses its weight."""

MAX_TENANTS: Final = 10_000
"""Number of tenants that are remembered, those that were active last."""


@dataclass(slots=True)
class Tenant:
    """A message group: when it last sent, and for how long its messages were in flight, recently above all."""

    sent_at: float
    seconds: float = 0.0
    at: float = 0.0

    def add(self, seconds: float, now: float) -> None:
        """Add a time in flight that ended `now`."""
        self.seconds, self.at = self.recent(now) + seconds, now

    def recent(self, now: float) -> float:
        """Return the seconds, weighted by how long ago they were."""
        return self.seconds * math.exp((self.at - now) / RECENT_SECONDS)


class FairOrder:
    """The order of one queue, of which memory has the noisy tenants; the caller holds the lock of the store."""

    def __init__(self, store: Store, number: int, began_at: float) -> None:
        self._store, self._number, self._began_at = store, number, began_at
        self._tenants = OrderedDict[str | None, Tenant]()
        self._noisy: dict[str | None, None] = {}
        self._waiting: Collection[str | None] = ()  # noisy tenants that have more messages than `next` has returned
        self._all = Tenant(began_at)

    def _tenant(self, group: str | None) -> Tenant:
        if (tenant := self._tenants.get(group)) is None:
            tenant = self._tenants[group] = Tenant(self._began_at)
            if len(self._tenants) > MAX_TENANTS:
                self._tenants.popitem(last=False)
        self._tenants.move_to_end(group)
        return tenant

    def record_sent(self, group: str | None, now: float) -> None:
        """Remember that a tenant has sent a message."""
        self._tenant(group).sent_at = now

    def record_flights(self, group: str | None, seconds: float, now: float) -> None:
        """Add the time that messages of a tenant were in flight."""
        self._all.add(seconds, now)
        self._tenant(group).add(seconds, now)

    def quieten(self, groups: Iterable[str | None], now: float) -> None:
        """Let those tenants be quiet that have no visible message any more."""
        for group in (self._noisy.keys() & set(groups)).difference(self._waiting):
            if not self._store.read(IS_WAITING, self._number, group, now):
                del self._noisy[group]
        self._waiting = ()

    def next(self, limit: int, now: float, flights: Counter[str | None]) -> list[StoredMessage]:
        """Return the next visible messages; `flights` has the numbers of those in flight by tenant."""
        for group in [name for name in self._noisy if now - self._tenant(name).sent_at >= SILENT_SECONDS]:
            del self._noisy[group]
        self._waiting = ()
        if not self._noisy:
            rows, taken = self._store.read(OLDEST, self._number, now, limit), Counter[str | None]()
            found = list(map(StoredMessage._make, rows))
            for message in found:
                if self._is_noisy(message.group, flights, taken, now):
                    break
                taken[message.group] += 1
            else:
                return found
        numbers = self._next_by_tenant(limit, now, flights)
        rows = self._store.read(LISTED, json.dumps(numbers), self._number)
        messages = {message.sequence: message for message in map(StoredMessage._make, rows)}
        return [messages[number] for number in numbers]

    def _next_by_tenant(self, limit: int, now: float, flights: Counter[str | None]) -> list[int]:
        """Return the sequence numbers of the next messages, from the index."""
        found, taken = list[int](), Counter[str | None]()

        @functools.cache
        def left_of(group: str | None) -> list[tuple[float, int]]:
            return self._store.read(OF_TENANT, self._number, group, now, limit)

        def take_from(group: str | None) -> None:
            found.append(left_of(group).pop(0)[1])
            taken[group] += 1

        firsts = self._store.read(FIRST_OF_EACH, self._number, now)
        firsts += [(*each, None) for each in left_of(None)[:1]]
        quiet = [each for each in firsts if each[2] not in self._noisy]
        heapq.heapify(quiet)
        while quiet and len(found) < limit:
            group = heapq.heappop(quiet)[2]
            if not self._is_noisy(group, flights, taken, now):
                take_from(group)
                for each in left_of(group)[:1]:
                    heapq.heappush(quiet, (*each, group))
        noisy = {name: left_of(name) for name in self._noisy if len(found) < limit and left_of(name)}
        while noisy and len(found) < limit:
            group = min(noisy, key=lambda name: flights[name] + taken[name])
            take_from(group)
            if not noisy[group]:
                del noisy[group]
        self._waiting = noisy.keys()
        return found

    def _is_noisy(
        self, group: str | None, flights: Counter[str | None], taken: Counter[str | None], now: float
    ) -> bool:
        """Mark a tenant if it is noisy; return whether it is."""
        if group is None:
            return False
        in_flight, tenant = flights[group] + taken[group], self._tenants.get(group)
        has_share = in_flight >= NOISY_IN_FLIGHT and in_flight > NOISY_SHARE * (flights.total() + taken.total())
        takes_time = tenant is not None and tenant.recent(now) > NOISY_SHARE * self._all.recent(now)
        if has_share or takes_time:
            self._noisy[group] = None
        return has_share or takes_time
