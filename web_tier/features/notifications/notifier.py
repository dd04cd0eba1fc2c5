"""The notifier: publishes a message to an SNS topic once a job is done.

A message that SNS does not accept is tried again, with pauses, until a controller has tried it `MAX_ATTEMPTS` times.
A try without a reply may have been successful, so a message may be received more than once; its id is the same then.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from core.jobs.models import JobStatus
from core.jobs.notifications import NotificationStore, PendingJob
from core.jobs.store import JobStore
from services.backoff import pause_seconds
from services.clients import Clients
from services.clock import CLOCK, Clock
from services.errors import NotFoundError
from services.lease import Tenure
from web_tier.controller.results_file import ResultsFileWriter

CHECK_SECONDS: Final = 2.0
"""Time between two rounds while a job has a message to publish."""

IDLE_CHECK_SECONDS: Final = 10.0
"""Time between two rounds otherwise: each costs a read of the table."""

MAX_ATTEMPTS: Final = 8
"""Failed tries after which a message is given up; with the pauses between them, after some ten minutes."""

FIRST_PAUSE_SECONDS: Final = 5.0
MAX_PAUSE_SECONDS: Final = 300.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TopicMessage:
    """A message to a topic: on a job that is done, a spending cap, an outage, or a model that was rolled back.

    Attributes:
        body: JSON; its id is the same for each try.
        subject, text: for subscribers by e-mail, who otherwise get the body.
    """

    body: str
    subject: str = ""
    text: str = ""


Publish = Callable[[TopicMessage], None]
"""Publishes one message; raises an error if SNS does not accept it."""


def job_message(job: PendingJob, status: JobStatus, at: datetime) -> TopicMessage:
    """Return the message about a job that is done; `docs/classify.md` describes its body."""
    counts = status.counts
    data: dict[str, str | int] = {
        "job_id": job.job_id,
        "name": status.job.name,
        "state": status.state,
        "images": status.accepted,
        "done": counts.done,
        "failed": counts.failed,
        "created_at": status.job.created_at.isoformat(),
    }
    body = {"type": "job.finished", "id": job.message_id, "timestamp": at.isoformat(), "data": data}
    return TopicMessage(json.dumps(body))


@dataclass
class Notifier:
    """Publishes the messages of jobs that are done.

    Attributes:
        publish: to the topic of the configuration; None if there is no topic, so that messages are dropped.
        results_files: know whether all images of a job have their last results, and no upload goes on.
    """

    store: JobStore
    notifications: NotificationStore
    publish: Publish | None
    results_files: ResultsFileWriter
    tenure: Tenure
    clock: Clock = CLOCK
    _failed: dict[PendingJob, tuple[int, float]] = field(default_factory=dict, init=False)
    """Failed tries: their number, and when the next one is due."""
    _closed: set[PendingJob] = field(default_factory=set, init=False)
    """Jobs whose message was published or given up, and which could perhaps not be removed yet."""

    def tick(self) -> float:
        """Publish the messages that are due; return the seconds until the next round."""
        pending = self.notifications.pending()
        self._failed = {job: tries for job, tries in self._failed.items() if job in pending}
        self._closed.intersection_update(pending)
        for job in pending:
            if not self.tenure.active():
                break
            try:
                self._check(job)
            except NotFoundError:
                self.notifications.settle(job)  # the job was deleted
            except Exception:  # noqa: BLE001 (it must not delay other jobs; it is logged and tried again)
                _log.warning("the message of a job failed", extra={"job": job.job_id}, exc_info=True)
        return CHECK_SECONDS if pending else IDLE_CHECK_SECONDS

    def _check(self, job: PendingJob) -> None:
        """Publish the message of a job if it is done and the message is due."""
        failures, due = self._failed.get(job, (0, 0.0))
        if job not in self._closed and self.publish is not None:
            if due > self.clock.monotonic():
                return
            status = self.store.status(job.job_id)
            if not (status.is_answered and self.results_files.is_done_with(job.job_id)):
                return
            message, ids = job_message(job, status, self.clock.utc_now()), {"job": job.job_id}
            if not try_to_publish(self.publish, message, ids) and failures + 1 < MAX_ATTEMPTS:
                self._failed[job] = failures + 1, self.clock.monotonic() + retry_pause(failures + 1)
                return
        self._closed.add(job)
        self.notifications.settle(job)


def retry_pause(failures: int) -> float:
    """Return the seconds until the next try of a message after so many failed ones."""
    return pause_seconds(failures, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)


def try_to_publish(publish: Publish, message: TopicMessage, ids: Mapping[str, str]) -> bool:
    """Publish a message once, and log it with its `ids`; return whether it was published.

    An unexpected error is a failed try like any other: the message must not be tried for ever, nor delay others.
    """
    try:
        publish(message)
    except Exception as error:  # noqa: BLE001 (see above)
        _log.warning("a message was not published", extra={**ids, "reason": str(error)}, exc_info=True)
        return False
    _log.info("published a message", extra=ids)
    return True


def publisher(clients: Clients, topic_arn: str | None) -> Publish | None:
    """Return how to publish to a topic, or None without one."""
    if topic_arn is None:
        return None

    def publish(message: TopicMessage) -> None:
        content = {"Message": message.body}
        if message.text:
            bodies = json.dumps({"default": message.body, "email": message.text})
            content = {"Subject": message.subject, "Message": bodies, "MessageStructure": "json"}
        clients.sns.publish(TopicArn=topic_arn, **content)

    return publish
