"""Sessions in the job table: an item for each, under the SHA-256 of its id, so that the table's reader has no id.

A session that was rotated leaves a mark under its old id for a while: it leads on to the new one and holds no more.
"""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from services.table import EXPIRES_AT, Item, Table

_SORT_KEY = "SESSION"
_LIVE: Final = "attribute_exists( #family )"
"""Only a session has one: not the mark of one that was rotated, and nothing where one has ended."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session; times in epoch seconds.

    Attributes:
        family: names it through all its ids.
        owner, email, groups: of the user, as the pool said last.
        refresh_token: of the pool, encrypted.
        begun: when they signed in.
        seen: when they last did something, to the minute.
        rotated: when its id was last a new one.
        claimed: when a request last set out to rotate it.
        ends: when the table may remove it.
    """

    family: str
    owner: str
    email: str
    groups: frozenset[str]
    refresh_token: str = field(repr=False)
    begun: int
    seen: int
    rotated: int
    ends: int
    claimed: int = 0


@dataclass(frozen=True, slots=True)
class Rotated:
    """What is left of a session under its old id: when it ceases to lead on."""

    until: int


@dataclass(frozen=True)
class SessionRecords:
    """Reads and writes them, consistently: what one process ends, all others refuse at once."""

    table: Table

    def find(self, session_id: str) -> SessionRecord | Rotated | None:
        """Return what stands under an id."""
        item = self.table.get(_partition(session_id), _SORT_KEY)
        if item is None:
            return None
        return _record(item) if "family" in item else Rotated(int(item[EXPIRES_AT]))

    def add(self, session_id: str, record: SessionRecord) -> bool:
        """Let `record` stand under an id; tell whether there was no session under it before."""
        return self.table.put_if(_item(session_id, record), "attribute_not_exists( #family )")

    def see(self, session_id: str, now: int) -> None:
        """Note that the user did something, unless the session has ended."""
        self.table.set(_partition(session_id), _SORT_KEY, {"seen": now}, _LIVE)

    def replace(self, session_id: str, found: SessionRecord, record: SessionRecord) -> bool:
        """Put `record` in the place of `found`, unless somebody else has set out to rotate it; tell whether not."""
        return self.table.put_if(_item(session_id, record), "#claimed = :was", {"was": found.claimed})

    def leave_mark(self, session_id: str, mark: Rotated) -> bool:
        """Put `mark` in a session's place, unless it has ended; tell whether it had not."""
        item: Item = {"pk": _partition(session_id), "sk": _SORT_KEY, EXPIRES_AT: mark.until}
        return self.table.put_if(item, _LIVE)

    def delete(self, session_id: str) -> None:
        """End a session, or remove its mark; one that is gone already is no error."""
        self.table.delete_all([(_partition(session_id), _SORT_KEY)])


def _partition(session_id: str) -> str:
    return f"SESSION#{sha256(session_id.encode()).hexdigest()}"


def _item(session_id: str, record: SessionRecord) -> Item:
    return {
        "pk": _partition(session_id),
        "sk": _SORT_KEY,
        "family": record.family,
        "owner": record.owner,
        "email": record.email,
        "groups": json.dumps(sorted(record.groups)),
        "refresh_token": record.refresh_token,
        "begun": record.begun,
        "seen": record.seen,
        "rotated": record.rotated,
        "claimed": record.claimed,
        EXPIRES_AT: record.ends,
    }


def _record(item: Item) -> SessionRecord:
    return SessionRecord(
        family=str(item["family"]),
        owner=str(item["owner"]),
        email=str(item["email"]),
        groups=frozenset(json.loads(str(item["groups"]))),
        refresh_token=str(item["refresh_token"]),
        begun=int(item["begun"]),
        seen=int(item["seen"]),
        rotated=int(item["rotated"]),
        claimed=int(item["claimed"]),
        ends=int(item[EXPIRES_AT]),
    )
