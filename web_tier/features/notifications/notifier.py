"""The notifier: sends a message once a job is done, by e-mail to its user, and to the SNS topic.

A message that a receiver does not accept is tried again, with pauses, until `MAX_ATTEMPTS` tries have failed. A try
without a reply may have been successful, so a message may be received more than once; its id is the same each time.
An outcome that cannot be recorded is recorded later, without another try.
Each job has a thread of its own while its messages are sent, so a slow call does not delay others.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from core.config import NotificationSettings
from core.format import plural
from core.jobs.models import JobStatus
from core.jobs.notifications import (
    Channel,
    DeliveryFailedError,
    Notification,
    NotificationDelivery,
    NotificationStore,
    PendingJob,
)
from core.jobs.store import JobStore
from services.backoff import pause_seconds
from services.clients import Clients
from services.clock import CLOCK, Clock
from services.errors import NotFoundError
from services.lease import Tenure
from services.threads import DaemonThread
from web_tier.controller.results_file import ResultsFileWriter

CHECK_SECONDS: Final = 2.0
"""Time between two rounds while a job has messages to send."""

IDLE_CHECK_SECONDS: Final = 10.0
"""Time between two rounds otherwise: each costs a read of the table."""

CHECK_SECONDS_PER_JOB: Final = 0.05
"""With many jobs that wait, a job is checked after so many seconds for each of them."""

MAX_CONCURRENT: Final = 8
"""Jobs with messages that are being sent at a time."""

MAX_CONCURRENT_PER_USER: Final = 2
"""Those of one user: a user with many jobs must not delay the messages of others."""

MAX_ATTEMPTS: Final = 8
"""Failed tries after which a message is given up; with the pauses between them, after some ten minutes."""

FIRST_PAUSE_SECONDS: Final = 5.0
MAX_PAUSE_SECONDS: Final = 300.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChannelMessage:
    """A message as a channel needs it: on a job that is done, a spending cap, or an outage.

    Attributes:
        target: e-mail address, or ARN of the topic.
        body: JSON for topics; its id is the same for each try.
        subject, text: of the e-mail.
    """

    target: str
    body: str
    subject: str
    text: str


def job_message(
    notification: Notification, delivery: NotificationDelivery, status: JobStatus, at: datetime
) -> ChannelMessage:
    """Return the message about a job that is done; `docs/classify.md` describes its body."""
    job, counts = status.job, status.counts
    data: dict[str, str | int | None] = {
        "job_id": job.job_id,
        "name": job.name,
        "state": status.state,
        "images": status.accepted,
        "done": counts.done,
        "failed": counts.failed,
        "created_at": job.created_at.isoformat(),
        "page": notification.page or None,
    }
    body = {"type": "job.finished", "id": delivery.id, "timestamp": at.isoformat(), "data": data}
    failed = f", {counts.failed:,} failed" if counts.failed else ""
    lines = [f"Your job “{job.name}” is done: {plural(counts.done, 'image')} classified{failed}."]
    if notification.page:
        lines += ["", f"Results: {notification.page}"]
    text = "\n".join([*lines, "", "You requested this message on the page of the job.", ""])
    subject = f"Job done: {job.name}"
    return ChannelMessage(delivery.target, json.dumps(body), subject, text)


Send = Callable[[ChannelMessage], None]
"""Sends one message; raises DeliveryFailedError."""


@dataclass
class Notifier:
    """Sends the messages of jobs that are done.

    Attributes:
        send: how to send a message, by channel; a message on another channel fails.
        results_files: know whether all images of a job have their last results, and no upload goes on.
        start: runs a function in a thread of its own.
    """

    store: JobStore
    notifications: NotificationStore
    send: Mapping[Channel, Send]
    results_files: ResultsFileWriter
    tenure: Tenure
    clock: Clock = CLOCK
    start: Callable[[Callable[[], None]], None] = lambda run: DaemonThread(run, name="notify").start()
    _due: dict[PendingJob, float] = field(default_factory=dict, init=False)
    _sending: dict[str, str] = field(default_factory=dict, init=False)
    """Jobs with messages that are being sent, each with its owner."""
    _unrecorded: dict[tuple[str, Channel], NotificationDelivery] = field(default_factory=dict, init=False)
    """Outcomes that are not recorded yet, by job and channel."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def tick(self) -> float:
        """Start to send the messages that are due; return the seconds until the next round."""
        pending, now = self.notifications.pending(), self.clock.monotonic()
        with self._lock:
            self._due = {job: self._due.get(job, now) for job in pending}
            job_ids = {job.job_id for job in pending}
            self._unrecorded = {key: each for key, each in self._unrecorded.items() if key[0] in job_ids}
            due = [job for job in pending if self._due[job] <= now and job.job_id not in self._sending]
            free = MAX_CONCURRENT - len(self._sending)
        pause = max(CHECK_SECONDS, CHECK_SECONDS_PER_JOB * len(pending))
        for job in due:
            if free == 0 or not self.tenure.active():
                break
            free -= self._check_safely(job)
            self._postpone(job, pause)
        return CHECK_SECONDS if pending else IDLE_CHECK_SECONDS

    def _check_safely(self, job: PendingJob) -> bool:
        """Start to send the messages of a job if it is done; return whether they are being sent."""
        try:
            status = self.store.status(job.job_id)
            if not (status.is_answered and self.results_files.is_done_with(job.job_id)):
                return False
        except NotFoundError:
            self.notifications.settle(job)  # the job was deleted
            return False
        except Exception:  # noqa: BLE001 (it must not delay other jobs; it is logged and tried again)
            _log.warning("a job could not be checked for its notification", extra={"job": job.job_id}, exc_info=True)
            return False
        owner = status.job.owner
        with self._lock:
            if owner and list(self._sending.values()).count(owner) >= MAX_CONCURRENT_PER_USER:
                return False
            self._sending[job.job_id] = owner
        try:
            self.start(lambda: self._send_all(job, status))
        except (RuntimeError, MemoryError):  # the system has no thread left, or no memory for one
            _log.warning("the messages of a job could not be sent now", extra={"job": job.job_id}, exc_info=True)
            with self._lock:
                self._sending.pop(job.job_id, None)
            return False
        return True

    def _send_all(self, job: PendingJob, status: JobStatus) -> None:
        try:
            notification = self.notifications.find(job.job_id)
            waiting = [each for each in notification.deliveries if each.state == "waiting"]
            after = [
                self._try_to_send(notification, delivery, status) for delivery in waiting if self.tenure.active()
            ]
            if len(after) < len(waiting):
                return
            if attempts := [each.attempts for each in after if each.state == "waiting"]:
                self._postpone(job, pause_seconds(min(attempts), FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS))
            else:
                self.notifications.settle(job)
        except Exception:  # noqa: BLE001 (the edge of the thread)
            _log.warning("the notification of a job could not be sent", extra={"job": job.job_id}, exc_info=True)
        finally:
            with self._lock:
                self._sending.pop(job.job_id, None)

    def _try_to_send(
        self, notification: Notification, delivery: NotificationDelivery, status: JobStatus
    ) -> NotificationDelivery:
        """Send a message, record the outcome, and return it."""
        key = notification.job_id, delivery.channel
        with self._lock:
            known = self._unrecorded.get(key)
        after = known if known and known.id == delivery.id else self._outcome(notification, delivery, status)
        with self._lock:
            self._unrecorded[key] = after
        self.notifications.record(notification.job_id, after)
        with self._lock:
            self._unrecorded.pop(key, None)
        return after

    def _outcome(
        self, notification: Notification, delivery: NotificationDelivery, status: JobStatus
    ) -> NotificationDelivery:
        """Send a message, and return what became of it."""
        ids = {"job": notification.job_id, "channel": delivery.channel}
        send = self.send.get(delivery.channel)
        if send is None:
            failure: str | None = "the configuration has no such notifications any more"
        else:
            failure = try_to_send(
                send, lambda: job_message(notification, delivery, status, self.clock.utc_now()), ids
            )
        if failure is None:
            return replace(delivery, state="sent", error="")
        attempts = delivery.attempts + 1
        is_final = send is None or attempts >= MAX_ATTEMPTS
        _log.warning("a notification was not sent", extra={**ids, "reason": failure, "given_up": is_final})
        return replace(delivery, state="failed" if is_final else "waiting", attempts=attempts, error=failure)

    def _postpone(self, job: PendingJob, seconds: float) -> None:
        with self._lock:
            self._due[job] = max(self._due.get(job, 0.0), self.clock.monotonic() + seconds)


def try_to_send(send: Send, message: Callable[[], ChannelMessage], ids: Mapping[str, str]) -> str | None:
    """Make and send a message once, and log it with its `ids`; return why it was not sent, None if it was.

    An unexpected error is a failed try like any other: the message must not be tried for ever, nor delay others.
    """
    try:
        send(message())
    except DeliveryFailedError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 (see above)
        _log.exception("a message could not be sent", extra=ids)
        return f"unexpected error: {type(error).__name__}"
    _log.info("sent a message", extra=ids)
    return None


def senders(clients: Clients, settings: NotificationSettings) -> Mapping[Channel, Send]:
    """Return how to send a message on each channel of the configuration."""

    def by_topic(message: ChannelMessage) -> None:
        with aws_errors():
            clients.sns.publish(TopicArn=message.target, Message=message.body)

    def by_email(message: ChannelMessage) -> None:
        content = {
            "Subject": {"Data": message.subject, "Charset": "UTF-8"},
            "Body": {"Text": {"Data": message.text, "Charset": "UTF-8"}},
        }
        with aws_errors():
            clients.sesv2.send_email(
                FromEmailAddress=settings.mail_sender,
                Destination={"ToAddresses": [message.target]},
                Content={"Simple": content},
            )

    found: dict[Channel, Send] = {}
    if settings.topic_arn is not None:
        found["topic"] = by_topic
    if settings.mail_sender is not None:
        found["email"] = by_email
    return found


@contextmanager
def aws_errors() -> Iterator[None]:
    """Raise a DeliveryFailedError for an error of AWS."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise DeliveryFailedError(str(error)) from error
