"""The outbox: events that still need a message to the SNS topic. Jobs that finish, reached spending caps, outages.

The controller adds an event before it records that the event has occurred, and removes it once the message was
published. So a controller that ends in between leaves no event without a message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime

from core.fleet.store import FLEET
from core.ids import FIRST_ID, new_id
from core.messages import WireModel
from services.table import LAST, Table

_PENDING = "NOTIFY"
_LAST_MESSAGES = "MESSAGES"


class FleetMessage(WireModel):
    """A message to subscribers on a spending cap that is reached, or on an outage, in which the fleet cannot work.

    Attributes:
        about: the period of the cap, or `outage`.
        id: of the message, such as `cap-day-2026-11-25-reached` or `outage-20261126T141500Z-began`.
        type: such as `fleet.outage_began`.
        at: when the cap was found to be reached, or the outage began or ended.
        data: as `docs/operate.md` describes it, in JSON.
    """

    about: Literal["day", "month", "outage"]
    id: str
    type: str
    at: AwareDatetime
    data: str


class FleetMessages(WireModel):
    """The last message on each cap and on an outage."""

    version: Literal[1] = 1
    day: FleetMessage | None = None
    month: FleetMessage | None = None
    outage: FleetMessage | None = None


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """An event that still needs its message.

    Attributes:
        key: id of a job, or of the message of the fleet.
        at: time and id of the message; they tell a second addition of the same event from the first.
        message: of the fleet, as JSON; empty for a job, which is announced as it is when its message is published.
    """

    key: str
    at: str
    message: str

    @property
    def message_id(self) -> str:
        """The id of the message, which is the same for each try."""
        return self.at.rpartition(" ")[2]


@dataclass(frozen=True)
class Outbox:
    """Reads and writes these events, and the last messages of the fleet, in the job table."""

    table: Table

    def add_job(self, job_id: str, at: datetime) -> None:
        """Add a finished job with a new message, in place of one that was not published yet."""
        self._add(job_id, f"{at.isoformat()} {new_id()}", "")

    def add(self, message: FleetMessage) -> None:
        """Add a message of the fleet; repeating it changes nothing."""
        self._add(message.id, f"{message.at.isoformat()} {message.id}", message.to_json())

    def _add(self, key: str, at: str, message: str) -> None:
        self.table.put_all([{"pk": _PENDING, "sk": key, "at": at, "message": message}])

    def pending(self) -> Sequence[PendingEvent]:
        """Return the events that still need their message: jobs, oldest first, then those of the fleet."""
        items = self.table.query(_PENDING, FIRST_ID, LAST)
        return [PendingEvent(str(item["sk"]), str(item["at"]), str(item.get("message", ""))) for item in items]

    def settle(self, event: PendingEvent) -> None:
        """Remove an event, unless it was added again meanwhile."""
        self.table.delete_if(_PENDING, event.key, "#at = :read", {"read": event.at})

    def put_last_messages(self, messages: FleetMessages, token: int) -> bool:
        """Store the last messages of the fleet; return False if a controller with a later fencing `token` has."""
        return self.table.put_fenced({"pk": FLEET, "sk": _LAST_MESSAGES, "body": messages.to_json()}, token)

    def last_messages(self) -> FleetMessages:
        """Return the last messages of the fleet."""
        item = self.table.get(FLEET, _LAST_MESSAGES)
        return FleetMessages() if item is None else FleetMessages.from_json(str(item["body"]))
