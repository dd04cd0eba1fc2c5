"""The launch journal: each call that launches or starts instances is recorded before it is made.

The journal is one item of the job table, written under a revision that only one controller can write. An entry has
everything that is needed to repeat the call. After the call the entry gets the ids of its instances, or is discarded
if EC2 has refused. It follows:

- **Killed between call and record**: the next controller finds an entry without ids and repeats the call with the
  same ClientToken. EC2 answers with the instances of the first call, or launches them once.
- **DescribeInstances is eventually consistent**: the next controller counts the instances that the entries name, as
  the previous one did.
- **Frozen between checking the lease and the call**: the next controller writes the journal first of all, so the
  frozen one can no longer write when it thaws, and makes at most the call that it had recorded. That call has the
  same token, so EC2 answers it with the same instances. The entry is kept for `LAUNCH_VISIBLE_SECONDS`, also if EC2
  refuses the successor's call. What remains is a process that is frozen for longer than that between its last check
  of the lease and the call right after it.

So two controllers launch no more than one would, even if both believe that they hold the lease. A controller that
finds that another has written makes no call, and takes the journal over in its next round if it still holds the
lease.

Clocks of two controllers may differ. A successor therefore keeps every entry for `LAUNCH_VISIBLE_SECONDS` from when
it reads it, except entries that are certainly older.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from core.fleet.models import JournalEntry, LaunchJournal
from core.fleet.store import FleetStore
from core.ids import new_id
from services.clock import CLOCK, Clock
from services.errors import FleetsightError
from web_tier.autoscaler.observe import LAUNCH_VISIBLE_SECONDS

MAX_SKEW_SECONDS = 600.0
"""Largest difference between the clocks of two controllers."""
MAX_IDS = 2_000
"""Instance ids that are stored, the newest: twice the largest fleet, some 50 KB of an item's 400 KB."""
MAX_WRITES = 3
"""Attempts of a write that was refused only because of an earlier write of this controller."""


class SupersededError(FleetsightError):
    """Raised when another controller has taken over the journal; nothing was written, and no call may be made."""


class JournalBusyError(FleetsightError):
    """Raised when the journal was not written because another controller wrote it; trying again is safe."""


@dataclass
class ControllerJournal:
    """The launch journal of one controller.

    Every method that writes raises botocore's errors and `JournalBusyError` if it is not certain that the journal was
    written, and `SupersededError` if another controller has written it; then `sync_from_store` must be called again.

    Attributes:
        writer: name of the writer; no two controllers, and no two tenures of one, may share it.
    """

    store: FleetStore
    writer: str = field(default_factory=new_id)
    clock: Clock = CLOCK
    _entries: dict[str, JournalEntry] = field(default_factory=dict, init=False)
    _since: dict[str, float] = field(default_factory=dict, init=False)
    _last_number: int = field(default=0, init=False)
    _revision: int | None = field(default=None, init=False)
    _is_owned: bool = field(default=False, init=False)
    _is_written: bool = field(default=True, init=False)

    def sync_from_store(self) -> list[JournalEntry]:
        """Read what other controllers have written and write it back; return the new entries that have instances.

        If no other controller has written since the last call, it does nothing and returns nothing.
        """
        if self._is_owned:
            return []
        stored = self.store.journal()
        oldest = self.clock.utc_now().timestamp() - LAUNCH_VISIBLE_SECONDS - MAX_SKEW_SECONDS
        fresh = {entry.token: entry for entry in stored.entries if entry.at.timestamp() >= oldest}
        known = {token: entry for token, entry in self._entries.items() if entry.instance_ids or token not in fresh}
        merged = LaunchJournal(
            revision=stored.revision + 1, writer=self.writer, entries=_bounded([*(fresh | known).values()])
        )
        if not self.store.put_journal(merged):
            raise JournalBusyError("another controller wrote the journal of launches while this one took it over")
        new = [entry for token, entry in fresh.items() if entry.instance_ids and token not in known]
        self._entries = fresh | known
        self._since = dict.fromkeys(fresh, self.clock.monotonic()) | self._since
        self._revision, self._is_owned, self._is_written = merged.revision, True, True
        return new

    def next_token(self) -> str:
        """Return a ClientToken that no entry of any writer has ever had: 64 characters, the most that EC2 accepts."""
        self._last_number += 1
        return hashlib.sha256(f"{self.writer}/{self._last_number}".encode()).hexdigest()

    def uncertain(self) -> list[JournalEntry]:
        """Return the calls of unknown outcome, oldest first, until DescribeInstances must have shown the outcome."""
        self._expire()
        return [entry for entry in self._entries.values() if entry.instance_ids is None]

    def record(self, entry: JournalEntry) -> None:
        """Write a call, new or repeated, before it is made."""
        is_new = entry.token not in self._entries
        self._entries[entry.token] = entry.model_copy(update={"at": self.clock.utc_now()})
        self._since.setdefault(entry.token, self.clock.monotonic())
        try:
            self._write()
        except Exception:
            # The call is not made. A call that was made before remains of unknown outcome.
            if is_new:
                self.discard(entry.token)
            raise

    def mark_uncertain(self, token: str) -> None:
        """Note that a call of unknown outcome was made just now."""
        self._since[token] = self.clock.monotonic()

    def complete(self, token: str, instance_ids: Sequence[str]) -> None:
        """Note the instances of a call; they are written with the next entry, or by `flush`."""
        entry = self._entries[token]
        self._entries[token] = entry.model_copy(update={"instance_ids": tuple(instance_ids), "spec": None})
        self._since[token] = self.clock.monotonic()
        self._is_written = False

    def discard(self, token: str) -> None:
        """Note that a call has no instances; it is written with the next entry, or by `flush`."""
        self._entries.pop(token, None)
        self._since.pop(token, None)
        self._is_written = False

    def flush(self) -> None:
        """Write the changes that were not written yet, if any."""
        self._expire()
        if not self._is_written:
            self._write()

    def _expire(self) -> None:
        oldest = self.clock.monotonic() - LAUNCH_VISIBLE_SECONDS
        for token in [token for token, since in self._since.items() if since < oldest]:
            self.discard(token)

    def _write(self) -> None:
        for _ in range(MAX_WRITES):
            if self._is_owned and self._revision is None:  # an earlier write had an unknown outcome
                stored = self.store.journal()
                self._is_owned = stored.writer in {self.writer, ""}
                self._revision = stored.revision
            if not self._is_owned or self._revision is None:
                raise SupersededError(
                    "another controller has written the journal of launches: this one calls nothing"
                )
            revision = self._revision + 1
            entries = _bounded([*self._entries.values()])
            self._revision = None  # until the outcome of the write is known
            if self.store.put_journal(LaunchJournal(revision=revision, writer=self.writer, entries=entries)):
                self._revision, self._is_written = revision, True
                return
        raise JournalBusyError("the journal of launches was not written: earlier writes kept coming in between")


def _bounded(entries: Sequence[JournalEntry]) -> tuple[JournalEntry, ...]:
    """Return the entries to store: all of unknown outcome, and the newest others, with up to `MAX_IDS` instances."""
    kept: list[JournalEntry] = []
    room = MAX_IDS
    for entry in reversed(entries):
        room -= len(entry.instance_ids or ())
        if room >= 0 or entry.instance_ids is None:
            kept.append(entry)
    return tuple(reversed(kept))
