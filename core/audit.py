"""The audit trail: who did what and when, for operators; in the job table, for 90 days.

| pk              | sk       | content                                                 |
| --------------- | -------- | ------------------------------------------------------- |
| `AUDIT`         | event id | the event, in the list of all events by time            |
| `AUDIT#` user   | event id | the same event, in the list of one user                 |

An event's id is a ULID, so events of a time span are found by the ids of its ends.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from core.ids import first_id_of, new_id
from services.table import EXPIRES_AT, LAST, Item, Table

RETENTION: Final = timedelta(days=90)
"""Time for which an event is stored."""

MAX_DETAIL_CHARACTERS: Final = 200
"""Maximum characters of the value of a detail; the rest is cut."""

_ALL: Final = "AUDIT"
_FIRST_ID: Final = "0"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An action of a user.

    Attributes:
        event_id: a ULID of its time.
        at: its time in UTC.
        action: the action, such as `sign-in` or `job deleted`.
        user: the user's e-mail address, or their id if the address is unknown.
        address: IP address of the request.
        request_id: id of the request in the log.
        details: further data, such as the job's id.
    """

    event_id: str
    at: datetime
    action: str
    user: str
    address: str
    request_id: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some events, newest first; `next_before` is the cursor of the next page, if any."""

    events: tuple[AuditEvent, ...]
    next_before: str | None


@dataclass(frozen=True)
class AuditTrail:
    """The audit trail in the job table. botocore's errors pass through."""

    table: Table

    def record(self, event: AuditEvent) -> None:
        """Record an event; recording it again changes nothing.

        Raises:
            TableBusyError: it could not be recorded.
        """
        self.table.put_all([_item(event, _ALL), _item(event, _of_user(event.user))])

    def find(
        self,
        *,
        user: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: str | None = None,
        limit: int,
    ) -> AuditPage:
        """Return up to `limit` events, newest first: of `user`, from `since` on, before `until`.

        `before` is the cursor of the page, an event's id.
        """
        low = _FIRST_ID if since is None else first_id_of(since)
        ends = [end for end in (before, None if until is None else first_id_of(until)) if end is not None]
        # The query includes its upper end, so one more item is read.
        high = min(ends, default=LAST)
        if low > high:
            return AuditPage((), None)
        items = self.table.query(
            _ALL if user is None else _of_user(user), low, high, limit=limit + 2, newest_first=True
        )
        found = [event for event in map(_event, items) if event.event_id < high][: limit + 1]
        return AuditPage(tuple(found[:limit]), found[limit - 1].event_id if len(found) > limit else None)


def new_event(
    action: str, user: str, *, at: datetime, address: str, request_id: str, details: Mapping[str, str]
) -> AuditEvent:
    """Return a new event, with long details cut."""
    cut = {name: value[:MAX_DETAIL_CHARACTERS] for name, value in details.items()}
    return AuditEvent(new_id(), at, action, user.strip().lower(), address, request_id, cut)


def _of_user(user: str) -> str:
    return f"AUDIT#{user.strip().lower()}"


def _item(event: AuditEvent, partition: str) -> Item:
    return {
        "pk": partition,
        "sk": event.event_id,
        "at": event.at.isoformat(),
        "action": event.action,
        "user": event.user,
        "address": event.address,
        "request_id": event.request_id,
        "details": json.dumps(dict(event.details), ensure_ascii=False, sort_keys=True),
        EXPIRES_AT: int((event.at + RETENTION).timestamp()),
    }


def _event(item: Item) -> AuditEvent:
    return AuditEvent(
        event_id=str(item["sk"]),
        at=datetime.fromisoformat(str(item["at"])),
        action=str(item["action"]),
        user=str(item["user"]),
        address=str(item["address"]),
        request_id=str(item["request_id"]),
        details=json.loads(str(item["details"])),
    )
