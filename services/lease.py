"""A lease in the job table: at most one holder acts, any number stand by.

No clock is compared between machines: who stands by takes over when the lease has not changed for its length by the
watcher's own clock, as in the DynamoDB lock client
(https://aws.amazon.com/blogs/database/building-distributed-locks-with-the-dynamodb-lock-client/).

A holder that was frozen may write after another one has taken over. So each tenure has a fencing token, greater than
those of all tenures before, and an item that was written with a token takes no write with a lower one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from services.table import Item, Table

_PK = "LEASE"
_NO_HOLDER = ""
"""Holder of a lease that was released. The item stays, since its version must not begin again."""


def boot_seconds() -> float:
    """Return the seconds since the machine booted.

    Time in which a virtual machine or a laptop is suspended counts, as by `CLOCK_BOOTTIME` (clock_gettime(2)); where
    there is no such clock, it does not.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass
class Lease:
    """One contender for the lease called `name`.

    Attributes:
        length_seconds: the holder must renew within this time. It stops acting after that time by its own clock,
            counted from before the last renewal that succeeded, so before anyone else can take over.
        holder: who contends; shown to people, and unique for each process.
        clock: in seconds; it advances while the machine is suspended.
        now: the time of day in seconds. The version of a lease that has no item begins with it, in milliseconds: a
            version grows by one with each renewal, more slowly than that, so none before was as great.
    """

    table: Table
    name: str
    length_seconds: float
    holder: str = field(default_factory=lambda: uuid4().hex)
    clock: Callable[[], float] = boot_seconds
    now: Callable[[], float] = time.time
    _held_until: float = field(default=float("-inf"), init=False, repr=False)
    _version: int = field(default=0, init=False, repr=False)
    _token: int = field(default=0, init=False, repr=False)
    _seen: tuple[tuple[str, int], float] | None = field(default=None, init=False, repr=False)

    @property
    def held(self) -> bool:
        """Whether this contender may act now."""
        return self.clock() < self._held_until

    @property
    def token(self) -> int:
        """The fencing token of this contender's last tenure: the version with which it took the lease."""
        return self._token

    def take_or_renew(self) -> bool:
        """Renew the lease if held; else acquire it if it is free or its holder is silent; return whether held."""
        if not self.held:
            return self._take()
        before = self.clock()
        renewed = self._write(self.holder, "#holder = :was", {"was": self.holder})
        self._held_until = before + self.length_seconds if renewed else float("-inf")
        return self.held

    def release(self) -> None:
        """Give the lease up, so that a standby takes over at once."""
        self._held_until = float("-inf")
        self._write(_NO_HOLDER, "#holder = :was", {"was": self.holder})

    def _take(self) -> bool:
        before = self.clock()
        item = self.table.get(_PK, self.name)
        if item is None:
            self._version = int(1_000 * self.now())
            taken = self._write(self.holder, "attribute_not_exists( #pk )", None)
        else:
            found = (str(item["holder"]), int(item["version"]))
            if self._seen is None or self._seen[0] != found:
                # The time after the read: this process may have been frozen before it while the holder renewed.
                self._seen = (found, self.clock())
            if before - self._seen[1] < self.length_seconds and found[0] not in {self.holder, _NO_HOLDER}:
                return False
            self._version = found[1]
            taken = self._write(self.holder, "#holder = :was AND #version = :at", {"was": found[0], "at": found[1]})
        if taken:
            self._held_until = before + self.length_seconds
            self._token = self._version
        return taken

    def _write(self, holder: str, condition: str, values: Item | None) -> bool:
        self._version += 1
        item: Item = {"pk": _PK, "sk": self.name, "holder": holder, "version": self._version}
        return self.table.put_if(item, condition, values)
