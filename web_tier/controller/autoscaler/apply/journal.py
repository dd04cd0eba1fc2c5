"""The journal of launches: what is about to be called is written first, under a revision that only one can write.

It is one item of the job table. Before each call that launches or starts instances, the call is added to it, with
everything that is needed to make the very same call again; the write succeeds only if no other controller has written
since. After the call the entry gets the ids of its instances, or is dropped when EC2 has refused. What follows:

- **Killed between call and record**: the next controller finds an entry without ids and calls again with the same
  ClientToken; EC2 answers with the instances of the first call, or launches them once.
- **DescribeInstances lags**: the next controller counts what the entries name, as the one before did.
- **Frozen between a check of the lease and a call**: the next controller writes the journal back before anything
  else, so the one that thaws can no longer write, and calls nothing but what it had written already; that call has
  the same token, so EC2 answers it with the same instances. It is not forgotten for `UNSEEN_SECONDS`, not even when
  EC2 refuses it to the successor. What remains is a process that stands still for longer than that between its last
  look at the lease and the call, of which one follows at once on the other.

So two controllers launch no more than one would, even where both believe that they hold the lease. The one that finds
that the other has written calls nothing, and takes the journal over again at its next look if the lease is still its.

Two controllers' clocks may differ, so a successor holds every entry for `UNSEEN_SECONDS` from when it reads it, but
those that were certainly written by a controller long gone.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from core.fleet import JournalEntry, LaunchJournal
from core.ids import new_id
from services.errors import FleetsightError
from web_tier.controller.autoscaler.observe.observe import UNSEEN_SECONDS

SKEW_SECONDS = 600.0
"""By so much the clocks of two controllers may differ."""
MAX_IDS = 2_000
"""Instance ids that are kept, the newest: twice as many as a fleet may have, some 50 KB of an item's 400."""
WRITES = 3
"""How often a write is tried that only an earlier one of this controller was in the way of."""


class SupersededError(FleetsightError):
    """Raised when another controller has taken over the journal; nothing was written, and nothing may be called."""


class JournalBusyError(FleetsightError):
    """Raised when the journal was not written because another controller wrote; trying again is safe."""


class JournalStore(Protocol):
    """What is needed of the fleet's store."""

    def journal(self) -> LaunchJournal:
        """Return the journal as it is stored."""

    def put_journal(self, journal: LaunchJournal) -> bool:
        """Store it if what is stored has the revision before its own; tell whether it is stored."""


@dataclass
class Journal:
    """The journal in the hands of one controller, from its take-over on.

    Every method that writes raises botocore's errors and `JournalBusyError` when nothing was written that can be
    relied on, and `SupersededError` when another controller has written; then there must be another take-over.

    Attributes:
        writer: who writes; no two controllers, and no two tenures of one, may share it.
    """

    store: JournalStore
    writer: str = field(default_factory=new_id)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _entries: dict[str, JournalEntry] = field(default_factory=dict, init=False)
    _since: dict[str, float] = field(default_factory=dict, init=False)
    _number: int = field(default=0, init=False)
    _revision: int | None = field(default=None, init=False)
    _is_open: bool = field(default=False, init=False)
    _is_written: bool = field(default=True, init=False)

    def take_over(self) -> list[JournalEntry]:
        """Read what other controllers have written, and write it back; return what is new of it and gave instances.

        Nothing is done, and nothing returned, as long as the last take-over holds.
        """
        if self._is_open:
            return []
        stored = self.store.journal()
        oldest = self.now().timestamp() - UNSEEN_SECONDS - SKEW_SECONDS
        fresh = {entry.token: entry for entry in stored.entries if entry.at.timestamp() >= oldest}
        known = {token: entry for token, entry in self._entries.items() if entry.instance_ids or token not in fresh}
        taken = LaunchJournal(
            revision=stored.revision + 1, writer=self.writer, entries=_kept([*(fresh | known).values()])
        )
        if not self.store.put_journal(taken):
            raise JournalBusyError("another controller wrote the journal of launches while this one took it over")
        news = [entry for token, entry in fresh.items() if entry.instance_ids and token not in known]
        self._entries = fresh | known
        self._since = dict.fromkeys(fresh, self.clock()) | self._since
        self._revision, self._is_open, self._is_written = taken.revision, True, True
        return news

    def next_token(self) -> str:
        """Return a name for the next entry that no other entry has ever had, of this writer or another."""
        self._number += 1
        return client_token(self.writer, self._number)

    def in_doubt(self) -> list[JournalEntry]:
        """Return the calls of unknown outcome, oldest first, until descriptions must show what became of them."""
        self._forget_the_old()
        return [entry for entry in self._entries.values() if entry.instance_ids is None]

    def record(self, entry: JournalEntry) -> None:
        """Write down a call, new or made again, before it is made."""
        before = self._entries.get(entry.token)
        self._entries[entry.token] = entry.model_copy(update={"at": self.now()})
        self._since.setdefault(entry.token, self.clock())
        try:
            self._write()
        except Exception:
            # It will not be made now, so nothing may come of it; one that was made before is as doubtful as it was.
            if before is None:
                self.drop(entry.token)
            raise

    def doubt(self, token: str) -> None:
        """Note that a call with an unknown outcome was made just now."""
        self._since[token] = self.clock()

    def settle(self, token: str, instance_ids: Sequence[str]) -> None:
        """Note what a call has given; it is written with the next entry, or by `flush`."""
        entry = self._entries[token]
        self._entries[token] = entry.model_copy(update={"instance_ids": tuple(instance_ids), "spec": None})
        self._since[token] = self.clock()
        self._is_written = False

    def drop(self, token: str) -> None:
        """Note that a call gives nothing; it is written with the next entry, or by `flush`."""
        self._entries.pop(token, None)
        self._since.pop(token, None)
        self._is_written = False

    def flush(self) -> None:
        """Write what has not been written, if there is anything."""
        self._forget_the_old()
        if not self._is_written:
            self._write()

    def _forget_the_old(self) -> None:
        oldest = self.clock() - UNSEEN_SECONDS
        for token in [token for token, since in self._since.items() if since < oldest]:
            self.drop(token)

    def _write(self) -> None:
        for _ in range(WRITES):
            revision = self._known_revision() + 1
            entries = _kept([*self._entries.values()])
            self._revision = None  # until it is known what became of the write
            if self.store.put_journal(LaunchJournal(revision=revision, writer=self.writer, entries=entries)):
                self._revision, self._is_written = revision, True
                return
        raise JournalBusyError("the journal of launches was not written: earlier writes kept coming in between")

    def _known_revision(self) -> int:
        """Return the revision that is stored, read again after a write of unknown outcome."""
        if self._is_open and self._revision is None:
            stored = self.store.journal()
            self._is_open = stored.writer in {self.writer, ""}
            self._revision = stored.revision
        if not self._is_open or self._revision is None:
            raise SupersededError("another controller has written the journal of launches: this one calls nothing")
        return self._revision


def _kept(entries: Sequence[JournalEntry]) -> tuple[JournalEntry, ...]:
    """Return what is stored of `entries`: those in doubt, and of the others the newest."""
    kept: list[JournalEntry] = []
    room = MAX_IDS
    for entry in reversed(entries):
        room -= len(entry.instance_ids or ())
        if room >= 0 or entry.instance_ids is None:
            kept.append(entry)
    return tuple(reversed(kept))


def client_token(writer: str, number: int) -> str:
    """Return the ClientToken of a writer's entry `number`: 64 characters, as many as EC2 takes."""
    return hashlib.sha256(f"{writer}/{number}".encode()).hexdigest()
