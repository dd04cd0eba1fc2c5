"""Notifications of finished jobs: an e-mail to the user, a message to the operators' topic, and what became of them.

| pk           | sk             | content                                                            | written by |
| ------------ | -------------- | ------------------------------------------------------------------ | ---------- |
| `JOB#` job   | `NOTIFICATION` | page, requests, and of each channel: id, target, state, attempts,  | both       |
|              |                | error                                                              |            |
| `NOTIFY`     | job id         | at: the job has notifications that were not sent yet               | both       |

The second item is written before the first one, and again after it: a process that ends in between leaves no request
that the controller does not find. The controller sends what is due, and deletes the second item once nothing is left
to send. Each request of a notification has an id of its own. The controller writes the outcome only to the request
that it has sent, so that a newer request is not taken for sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, get_args

from core.ids import new_id
from core.jobs.items import FIRST_ID, partition
from services.table import LAST, Item, Table

Channel = Literal["email", "topic"]
DeliveryState = Literal["waiting", "sent", "failed"]

CHANNELS: Final[tuple[Channel, ...]] = get_args(Channel)

PENDING: Final = "NOTIFY"
_NOTIFICATION: Final = "NOTIFICATION"

MAX_REQUESTS: Final = 20
"""Requests of e-mails about one job, which bounds the messages that its user can send."""

MAX_ERROR_CHARACTERS: Final = 200
"""Length of a stored error."""


class TooManyNotificationsError(Exception):
    """Raised when an e-mail about a job was requested `MAX_REQUESTS` times."""


class DeliveryFailedError(Exception):
    """Raised when a message was not sent, or no reply came."""


@dataclass(frozen=True, slots=True)
class NotificationDelivery:
    """One message about a finished job.

    Attributes:
        id: identifies the message, also when it is sent again.
        target: e-mail address, or ARN of the topic.
        attempts: failed tries to send it.
    """

    channel: Channel
    id: str
    target: str
    state: DeliveryState = "waiting"
    attempts: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Notification:
    """The messages about one job, each on its own channel.

    Attributes:
        page: address of the job's page, or empty if it is not known.
    """

    job_id: str
    page: str = ""
    deliveries: tuple[NotificationDelivery, ...] = ()

    def delivery(self, channel: Channel) -> NotificationDelivery | None:
        """Return the message on a channel, if one was requested."""
        return next((each for each in self.deliveries if each.channel == channel), None)


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job with messages that were not sent yet; `at` identifies the last request."""

    job_id: str
    at: str


@dataclass(frozen=True)
class NotificationStore:
    """Reads and writes notifications in the job table."""

    table: Table

    def request_email(self, job_id: str, address: str, page: str, at: datetime) -> None:
        """Request an e-mail about a job, in place of the one before.

        Raises:
            TooManyNotificationsError: the job has had `MAX_REQUESTS` of them.
        """
        self._add_pending(job_id, at)
        is_stored = self.table.add(
            partition(job_id),
            _NOTIFICATION,
            {"requests": 1},
            {**_attributes(NotificationDelivery("email", new_id(), address)), "page": page},
            condition="attribute_not_exists( #requests ) OR #requests < :max_requests",
            values={"max_requests": MAX_REQUESTS},
        )
        if not is_stored:
            raise TooManyNotificationsError(f"a job has at most {MAX_REQUESTS} requests of notifications")
        self._add_pending(job_id, at)

    def cancel_email(self, job_id: str) -> None:
        """Cancel the e-mail about a job, if one was requested."""
        cancelled = {"email": "", "email_id": new_id()}
        self.table.set(partition(job_id), _NOTIFICATION, cancelled, "attribute_exists( #email )")

    def request_topic(self, job_id: str, topic_arn: str, at: datetime) -> None:
        """Request a message to a topic about a job, in place of the one before; as often as its results change."""
        attributes = _attributes(NotificationDelivery("topic", new_id(), topic_arn))
        self.table.set(partition(job_id), _NOTIFICATION, attributes)
        self._add_pending(job_id, at)

    def _add_pending(self, job_id: str, at: datetime) -> None:
        self.table.put_all([{"pk": PENDING, "sk": job_id, "at": f"{at.isoformat()} {new_id()}"}])

    def find(self, job_id: str) -> Notification:
        """Return the notification of a job, without deliveries if none was requested."""
        item = self.table.get(partition(job_id), _NOTIFICATION) or {}
        found = (_delivery_of(item, channel) for channel in CHANNELS)
        return Notification(job_id, str(item.get("page", "")), tuple(each for each in found if each is not None))

    def pending(self) -> Sequence[PendingJob]:
        """Return the jobs with messages that were not sent yet, oldest first."""
        items = self.table.query(PENDING, FIRST_ID, LAST)
        return [PendingJob(str(item["sk"]), str(item["at"])) for item in items]

    def record(self, job_id: str, delivery: NotificationDelivery) -> None:
        """Record what became of a message, unless it was requested again meanwhile, or the job was deleted.

        A failed try replaces no success: the next controller may have sent the message while this one was frozen.
        """
        attributes = _attributes(replace(delivery, error=delivery.error[:MAX_ERROR_CHARACTERS]))
        condition = f"#{delivery.channel}_id = :{delivery.channel}_id"
        values: Item = {}
        if delivery.state != "sent":
            condition, values = f"{condition} AND #{delivery.channel}_state = :waiting", {"waiting": "waiting"}
        self.table.set(partition(job_id), _NOTIFICATION, attributes, condition, values)

    def settle(self, job: PendingJob) -> None:
        """Remove a job from the pending ones, unless a notification was requested meanwhile."""
        self.table.delete_if(PENDING, job.job_id, "#at = :read", {"read": job.at})


def _attributes(delivery: NotificationDelivery) -> Item:
    name = delivery.channel
    return {
        name: delivery.target,
        f"{name}_id": delivery.id,
        f"{name}_state": delivery.state,
        f"{name}_attempts": delivery.attempts,
        f"{name}_error": delivery.error,
    }


def _delivery_of(item: Item, channel: Channel) -> NotificationDelivery | None:
    if not item.get(channel):
        return None
    state = str(item[f"{channel}_state"])
    return NotificationDelivery(
        channel,
        id=str(item[f"{channel}_id"]),
        target=str(item[channel]),
        state=next(each for each in get_args(DeliveryState) if each == state),
        attempts=int(item[f"{channel}_attempts"]),
        error=str(item[f"{channel}_error"]),
    )
