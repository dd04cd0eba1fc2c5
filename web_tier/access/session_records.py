"""Sessions in the job table: an item for each, among its user's other items, under the SHA-256 of its id.

So a reader of the table learns no id, and all sessions of a user can be ended. A session that was rotated leaves a
mark under its old id for a while. The mark only leads to the new id.
"""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from core.personal_tokens import user_partition
from services.table import EXPIRES_AT, LAST, Item, Table
from web_tier.access.keys import owner_of

_SESSION = "SESSION#"
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
        ends: when the table may remove it.
        second_factor: whether the sign-in took a code of an authenticator app.
        claimed: when a request last set out to rotate it.
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
    second_factor: bool = False
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
        item = self.table.get(*_key(session_id))
        if item is None:
            return None
        return _record(item) if "family" in item else Rotated(int(item[EXPIRES_AT]))

    def add(self, session_id: str, record: SessionRecord) -> bool:
        """Let `record` stand under an id; tell whether there was no session under it before."""
        return self.table.put_if(_item(session_id, record), "attribute_not_exists( #family )")

    def see(self, session_id: str, now: int) -> None:
        """Note that the user did something, unless the session has ended."""
        self.table.set(*_key(session_id), {"seen": now}, _LIVE)

    def replace(self, session_id: str, found: SessionRecord, record: SessionRecord) -> bool:
        """Put `record` in the place of `found`, unless another process has set out to rotate it; tell whether not."""
        return self.table.put_if(_item(session_id, record), "#claimed = :was", {"was": found.claimed})

    def leave_mark(self, session_id: str, mark: Rotated) -> bool:
        """Put `mark` in a session's place, unless it has ended; tell whether it had not."""
        pk, sk = _key(session_id)
        return self.table.put_if({"pk": pk, "sk": sk, EXPIRES_AT: mark.until}, _LIVE)

    def delete(self, session_id: str) -> None:
        """End a session, or remove its mark; one that is gone already is no error."""
        self.table.delete_all([_key(session_id)])

    def delete_all_of(self, owner: str) -> None:
        """End every session of a user; return once none is left.

        A request may rotate a session meanwhile. It either finds the old id gone, and takes the new one back, or has
        put the new one where the next query finds it.
        """
        while items := list(self.table.query(user_partition(owner), _SESSION, _SESSION + LAST)):
            self.table.delete_all([(str(item["pk"]), str(item["sk"])) for item in items])


def _key(session_id: str) -> tuple[str, str]:
    return user_partition(owner_of(session_id)), f"{_SESSION}{sha256(session_id.encode()).hexdigest()}"


def _item(session_id: str, record: SessionRecord) -> Item:
    pk, sk = _key(session_id)
    return {
        "pk": pk,
        "sk": sk,
        "family": record.family,
        "owner": record.owner,
        "email": record.email,
        "groups": json.dumps(sorted(record.groups)),
        "refresh_token": record.refresh_token,
        "begun": record.begun,
        "seen": record.seen,
        "rotated": record.rotated,
        "second_factor": int(record.second_factor),
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
        second_factor=bool(item.get("second_factor")),
        claimed=int(item["claimed"]),
        ends=int(item[EXPIRES_AT]),
    )
