"""A lease in the job table: at most one holder acts, any number stand by.

No clock is compared between machines: who stands by takes over when the lease has not changed for its length by the
watcher's own clock, as in the DynamoDB lock client
(https://aws.amazon.com/blogs/database/building-distributed-locks-with-the-dynamodb-lock-client/).

A holder that was frozen may write after another one has taken over. So each tenure has a fencing token, greater than
those of all tenures before, and an item that was written with a token takes no write with a lower one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from services.clock import CLOCK, Clock
from services.table import Item, Table

_PK = "LEASE"
_NO_HOLDER = ""
"""Holder of a lease that was released. The item stays, since its version must not begin again."""


@dataclass(frozen=True)
class Tenure:
    """What the parts of one tenure of a lease's holder know of it.

    Attributes:
        holder: who holds the lease.
        token: the fencing token of the writes.
        active: returns whether the holder may still act; asked before each write, and waits while a renewal is late.
            Once not, never again.
    """

    holder: str = ""
    token: int = 0
    active: Callable[[], bool] = lambda: True


@dataclass
class Lease:
    """One contender for the lease called `name`.

    Attributes:
        length_seconds: the holder must renew within this time. It stops acting after that time by its own clock,
            counted from before the last renewal that succeeded, so before anyone else can take over.
        holder: who contends; shown to people, and unique for each process.
        supervisor: what starts contenders on a machine, one after the end of the other; `holder` begins with it and a
            slash. A holder that it has started is dead, so its lease is taken at once.
        clock: the length passes while the machine is suspended, too. The version of a lease that has no item begins
            with the time of day, in milliseconds: a version grows by one with each renewal, more slowly than that, so
            none before was as great.
    """

    table: Table
    name: str
    length_seconds: float
    holder: str = field(default_factory=lambda: uuid4().hex)
    supervisor: str = ""
    clock: Clock = CLOCK
    _held_until: float = field(default=float("-inf"), init=False, repr=False)
    _is_last_holder: bool = field(default=False, init=False, repr=False)
    _version: int = field(default=0, init=False, repr=False)
    _token: int = field(default=0, init=False, repr=False)
    _seen: tuple[tuple[str, int], float] | None = field(default=None, init=False, repr=False)

    @property
    def held(self) -> bool:
        """Whether this contender may act now."""
        return self.clock.boot_seconds() < self._held_until

    @property
    def is_last_holder(self) -> bool:
        """Whether this contender took the lease, and no call has shown since that it is another's.

        Its tenure goes on with the next renewal, however late that is.
        """
        return self._is_last_holder

    @property
    def token(self) -> int:
        """The fencing token of this contender's last tenure: the version with which it took the lease."""
        return self._token

    def take_or_renew(self) -> bool:
        """Renew the lease unless another contender has taken it since; else acquire it if it is free or abandoned.

        It is abandoned if its holder has been silent for its length. Return whether it is held.
        """
        if not self._is_last_holder:
            return self._take()
        before = self.clock.boot_seconds()
        self._is_last_holder = self._write(self.holder, "#holder = :was", {"was": self.holder})
        self._held_until = before + self.length_seconds if self._is_last_holder else float("-inf")
        return self.held

    def release(self) -> None:
        """Give the lease up, so that a standby takes over at once."""
        self._held_until, self._is_last_holder = float("-inf"), False
        self._write(_NO_HOLDER, "#holder = :was", {"was": self.holder})

    def _take(self) -> bool:
        before = self.clock.boot_seconds()
        item = self.table.get(_PK, self.name)
        if item is None:
            self._version = int(1_000 * self.clock.epoch_seconds())
            taken = self._write(self.holder, "attribute_not_exists( #pk )", None)
        else:
            found = (str(item["holder"]), int(item["version"]))
            if self._seen is None or self._seen[0] != found:
                # The time after the read: this process may have been frozen before it while the holder renewed.
                self._seen = (found, self.clock.boot_seconds())
            if before - self._seen[1] < self.length_seconds and not self._is_free(found[0]):
                return False
            self._version = found[1]
            taken = self._write(self.holder, "#holder = :was AND #version = :at", {"was": found[0], "at": found[1]})
        if taken:
            self._is_last_holder = True
            self._held_until = before + self.length_seconds
            self._token = self._version
        return taken

    def _is_free(self, holder: str) -> bool:
        """Return whether a holder has ended or is this one, as far as that is known without waiting."""
        is_predecessor = bool(self.supervisor) and holder.startswith(f"{self.supervisor}/")
        return is_predecessor or holder in {self.holder, _NO_HOLDER}

    def _write(self, holder: str, condition: str, values: Item | None) -> bool:
        self._version += 1
        item: Item = {"pk": _PK, "sk": self.name, "holder": holder, "version": self._version}
        return self.table.put_if(item, condition, values)
