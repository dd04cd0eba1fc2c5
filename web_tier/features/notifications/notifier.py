"""The notifier: publishes a message to an SNS topic for each finished job, reached spending cap and outage.

A message that SNS does not accept is tried again, with pauses, until a controller has tried it `MAX_ATTEMPTS` times.
A try without a reply may have been successful, so a message may be received more than once; its id is the same then.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

from core.fleet.models import CapPeriod, FleetSpending
from core.fleet.store import FleetStore
from core.format import cap_reached_words
from core.jobs.store import JobStore
from services.backoff import pause_seconds
from services.clients import Clients
from services.clock import CLOCK, Clock
from services.errors import NotFoundError
from services.lease import Tenure
from web_tier.controller.results_file import ResultsFileWriter
from web_tier.features.notifications.outbox import FleetMessage, FleetMessages, Outbox, PendingEvent

CHECK_SECONDS: Final = 2.0
"""Time between two rounds while a message is to be published."""

IDLE_CHECK_SECONDS: Final = 10.0
"""Time between two rounds otherwise: each costs a read of the table."""

MAX_ATTEMPTS: Final = 8
"""Failed tries after which a message is given up; with the pauses between them, after some ten minutes."""

FIRST_PAUSE_SECONDS: Final = 5.0
MAX_PAUSE_SECONDS: Final = 300.0

MAX_CAP_AGE: Final = timedelta(days=1)
"""How long after its period a cap is still announced: the last report of the previous controller may be old."""

SETTLE_SECONDS: Final = 30.0
"""How long an outage has lasted, or has been over, before there is a message: less is no outage."""

JOB_FINISHED: Final = "job.finished"
SUBJECTS: Final = {
    JOB_FINISHED: "Fleetsight: a job is finished",
    "fleet.spending_cap_reached": "Fleetsight: a spending cap is reached",
    "fleet.outage_began": "Fleetsight: the fleet cannot work",
    "fleet.outage_over": "Fleetsight: the fleet works again",
}
"""Subjects of e-mails, by the type of the message."""

_log = logging.getLogger(__name__)

Publish = Callable[[Mapping[str, Any]], None]
"""Publishes the body of one message (`docs/operate.md`); raises an error if SNS does not accept it."""


@dataclass
class Notifier:
    """Publishes the messages of one tenure. Other threads call `observe_…`, a thread of its own `tick`.

    Attributes:
        publish: to the topic of the configuration; None if there is no topic, so that messages are dropped.
        results_files: know whether all images of a job have their last results, and no upload goes on.
    """

    store: JobStore
    fleet: FleetStore
    publish: Publish | None
    results_files: ResultsFileWriter
    tenure: Tenure
    clock: Clock = CLOCK
    _last: FleetMessages = field(init=False)
    """The last messages of the fleet that were added to the outbox, by any controller."""
    _found: dict[str, FleetMessage] = field(default_factory=dict, init=False)
    """New ones by id, which are not in the outbox yet."""
    _outage_changed_at: tuple[float, datetime] | None = field(default=None, init=False)
    _failed: dict[PendingEvent, tuple[int, float]] = field(default_factory=dict, init=False)
    """Failed tries: their number, and when the next one is due."""
    _closed: set[PendingEvent] = field(default_factory=set, init=False)
    """Events that need no further try, and could perhaps not be removed from the outbox yet."""

    def __post_init__(self) -> None:
        """Continue with what the previous controller has found, also with what it has found last and not stored."""
        self._outbox = Outbox(self.store.table)
        self._last = self._outbox.last_messages()
        before = self.fleet.snapshot()
        self.observe_spending(before.spending if before else None)

    def observe_spending(self, spending: FleetSpending | None) -> None:
        """Add a message for each cap that is reached, once in its day or month."""
        if spending is None or self.publish is None:
            return
        now = self.clock.utc_now()
        for period in get_args(CapPeriod):
            start, end = spending.start_of(period), spending.end_of(period)
            message_id = f"cap-{period}-{start}-reached"
            last: FleetMessage | None = getattr(self._last, period)
            is_known = message_id in self._found or (last is not None and last.id == message_id)
            if is_known or not spending.is_reached(period) or now - end >= MAX_CAP_AGE:
                continue
            allowance = spending.allowance
            data = {
                "text": cap_reached_words(spending, period),
                "period": period,
                "start": start.isoformat(),
                "ends_at": end.isoformat(),
                "cap_dollars": spending.cap(period),
                "used_dollars": round(spending.used(period), 6),
                "allowed_dollars": allowance.dollars if allowance and allowance.day == spending.day else 0,
            }
            self._found[message_id] = FleetMessage(
                about=period, id=message_id, type="fleet.spending_cap_reached", at=now, data=json.dumps(data)
            )

    def observe_outage(self, reason: str | None) -> None:
        """Take over why the fleet cannot work, or None if it can; add a message once this has lasted long enough."""
        last = self._last.outage
        began = last if last is not None and last.type == "fleet.outage_began" else None
        if self.publish is None or (reason is None) == (began is None):
            self._outage_changed_at = None
            return
        self._outage_changed_at = self._outage_changed_at or (self.clock.monotonic(), self.clock.utc_now())
        changed_at, at = self._outage_changed_at
        if self.clock.monotonic() - changed_at < SETTLE_SECONDS:
            return
        since, why = (at, reason or "") if began is None else (began.at, json.loads(began.data)["reason"])
        when = f"{since:%d %B, %H:%M UTC}".removeprefix("0")
        if began is None:
            kind, text = "began", f"The fleet cannot work since {when}, and images wait: {why}."
        else:
            kind, text = "over", f"The fleet works again. It could not since {when}: {why}."
        message_id = f"outage-{since.astimezone(UTC):%Y%m%dT%H%M%SZ}-{kind}"
        data = {"text": text, "since": since.isoformat(), "reason": why}
        self._found[message_id] = FleetMessage(
            about="outage", id=message_id, type=f"fleet.outage_{kind}", at=at, data=json.dumps(data)
        )

    def observe_finished(self, job_id: str) -> None:
        """Add a finished job to the outbox."""
        self._outbox.add_job(job_id, self.clock.utc_now())

    def tick(self) -> float:
        """Publish the messages that are due; return the seconds until the next round."""
        self._store_found()
        pending = self._outbox.pending()
        self._failed = {event: tries for event, tries in self._failed.items() if event in pending}
        self._closed.intersection_update(pending)
        for event in pending:
            if not self.tenure.active():
                break
            try:
                self._check(event)
            except NotFoundError:
                self._outbox.settle(event)  # the job was deleted
            except Exception:  # noqa: BLE001 (it must not delay other messages; it is logged and tried again)
                _log.warning("a message failed", extra={"event": event.key}, exc_info=True)
        return CHECK_SECONDS if pending else IDLE_CHECK_SECONDS

    def _store_found(self) -> None:
        """Add what was found to the outbox, then record it: if the controller dies in between, it is added again."""
        for message_id, message in list(self._found.items()):
            if not self.tenure.active():
                return
            self._outbox.add(message)
            last = self._last.model_copy(update={message.about: message})
            if self._outbox.put_last_messages(last, self.tenure.token):
                self._last = last
            del self._found[message_id]

    def _check(self, event: PendingEvent) -> None:
        """Publish the message of an event if it is due, and of a job if it is done."""
        failures, due = self._failed.get(event, (0, 0.0))
        if event not in self._closed and self.publish is not None:
            if due > self.clock.monotonic():
                return
            body = self._body(event)
            if body is None:
                return
            if not self._is_accepted(self.publish, body, event) and failures + 1 < MAX_ATTEMPTS:
                pause = pause_seconds(failures + 1, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
                self._failed[event] = failures + 1, self.clock.monotonic() + pause
                return
        self._closed.add(event)
        self._outbox.settle(event)

    def _body(self, event: PendingEvent) -> Mapping[str, Any] | None:
        """Return the body of an event's message, or None while its job is not done."""
        if event.message:
            message = FleetMessage.from_json(event.message)
            kind, at, data = message.type, message.at, json.loads(message.data)
        else:
            status = self.store.status(event.key)
            if not (status.is_answered and self.results_files.is_done_with(event.key)):
                return None
            kind, at, counts = JOB_FINISHED, self.clock.utc_now(), status.counts
            data = {
                "job_id": event.key,
                "name": status.job.name,
                "state": status.state,
                "images": status.accepted,
                "done": counts.done,
                "failed": counts.failed,
                "created_at": status.job.created_at.isoformat(),
            }
        return {"type": kind, "id": event.message_id, "timestamp": at.isoformat(), "data": data}

    def _is_accepted(self, publish: Publish, body: Mapping[str, Any], event: PendingEvent) -> bool:
        """Publish a message once; return whether SNS has accepted it.

        An unexpected error is a failed try like any other: the message must not be tried for ever.
        """
        try:
            publish(body)
        except Exception as error:  # noqa: BLE001 (see above)
            extra = {"event": event.key, "reason": str(error)}
            _log.warning("a message was not published", extra=extra, exc_info=True)
            return False
        _log.info("published a message", extra={"event": event.key})
        return True


def publisher(clients: Clients, topic_arn: str | None) -> Publish | None:
    """Return how to publish to a topic, or None without one.

    Subscribers select messages by their attribute `event`, which is the type.
    https://docs.aws.amazon.com/sns/latest/dg/sns-subscription-filter-policies.html
    """
    if topic_arn is None:
        return None

    def publish(body: Mapping[str, Any]) -> None:
        kind = body["type"]
        attributes = {"event": {"DataType": "String", "StringValue": kind}}
        clients.sns.publish(
            TopicArn=topic_arn, Subject=SUBJECTS[kind], Message=json.dumps(body), MessageAttributes=attributes
        )

    return publish
