"""A lease in the job table: at most one holder acts, any number stand by.

No clock is compared between machines: who stands by takes over when the lease has not changed for its length by the
watcher's own monotonic clock, as in the DynamoDB lock client
(https://aws.amazon.com/blogs/database/building-distributed-locks-with-the-dynamodb-lock-client/).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.ids import new_id
from services.table import Item, Table

_PK = "LEASE"


@dataclass
class Lease:
    """One contender for the lease called `name`.

    Attributes:
        length_seconds: the holder must renew within this time. It stops acting after that time by its own clock,
            counted from before the last renewal that succeeded, so before anyone else can take over.
        holder: who contends; shown to people, and unique for each process.
    """

    table: Table
    name: str
    length_seconds: float
    holder: str = field(default_factory=new_id)
    clock: Callable[[], float] = time.monotonic
    _held_until: float = field(default=float("-inf"), init=False, repr=False)
    _version: int = field(default=0, init=False, repr=False)
    _seen: tuple[tuple[str, int], float] | None = field(default=None, init=False, repr=False)

    @property
    def held(self) -> bool:
        """Whether this contender may act now."""
        return self.clock() < self._held_until

    def take_or_renew(self) -> bool:
        """Renew the lease if held; else take it if it is free or its holder has gone silent; tell whether held."""
        return self._renew() if self.held else self._take()

    def release(self) -> None:
        """Give the lease up, so that a standby takes over at once."""
        self._held_until = float("-inf")
        self.table.delete_if(_PK, self.name, "#holder = :holder", {"holder": self.holder})

    def _renew(self) -> bool:
        before = self.clock()
        if self._write("#holder = :holder", {"holder": self.holder}):
            self._held_until = before + self.length_seconds
        else:
            self._held_until = float("-inf")
        return self.held

    def _take(self) -> bool:
        before = self.clock()
        item = self.table.get(_PK, self.name)
        if item is None:
            taken = self._write("attribute_not_exists( #pk )", None)
        else:
            found = (str(item["holder"]), int(item["version"]))
            if self._seen is None or self._seen[0] != found:
                self._seen = (found, before)
            if before - self._seen[1] < self.length_seconds and found[0] != self.holder:
                return False
            self._version = found[1]
            taken = self._write("#holder = :was AND #version = :at", {"was": found[0], "at": found[1]})
        if taken:
            self._held_until = before + self.length_seconds
        return taken

    def _write(self, condition: str, values: Item | None) -> bool:
        self._version += 1
        item: Item = {"pk": _PK, "sk": self.name, "holder": self.holder, "version": self._version}
        return self.table.put_if(item, condition, values)
