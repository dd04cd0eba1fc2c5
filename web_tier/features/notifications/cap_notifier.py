"""Messages on spending caps, outages and roll-backs, to the SNS topic in `notifications.operator_topic_arn`.

On a cap there is one when 80% of it are used, and one when it is reached, once in its day or month (UTC). On an
outage, in which the fleet cannot work, there is one when it has begun and one when it is over. On a model that was
rolled back by itself there is one.

| State of a message | Event                                          | Next state                                |
|--------------------|------------------------------------------------|-------------------------------------------|
| (none)             | a round of the autoscaler finds the cap so far | found                                     |
| found              | stored in the job table                        | waiting                                   |
| waiting            | SNS accepts it                                 | sent                                      |
| waiting            | no reply, or a failure                         | waiting; tried again after a pause        |
| any                | its day or month ended `MAX_AGE` ago           | removed                                   |
| any                | the next outage begins                         | removed                                   |
| any                | `MAX_ROLL_BACKS` later roll-backs              | removed                                   |

At most 15 messages are kept: two levels for each of two days and two months, two of the last outage, and roll-backs.

A message is stored before it is sent, so the next controller sends it if this one dies. A controller may die between
the sending and the record of it: the message is then sent again, with the same id. The next controller also looks at
the last report of the previous one, so that what that one found last is not lost at midnight.
"""

import json
import logging
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, get_args

from core.fleet.models import (
    CapMessage,
    CapMessages,
    CapPeriod,
    FleetSpending,
    OperatorMessage,
    OutageMessage,
    RollBackMessage,
)
from core.fleet.store import FleetStore
from core.format import operator_words
from services.clock import CLOCK, Clock
from services.lease import Tenure
from web_tier.features.notifications.notifier import Publish, TopicMessage, retry_pause, try_to_publish

CHECK_SECONDS: Final = 2.0
"""Time between two rounds: nothing is read in a round without a message."""

MAX_AGE: Final = timedelta(days=1)
"""How long after its period a cap is still announced: the last report of the previous controller may be old.

At most a day, so that a message is of the current period or of the one before it."""

SETTLE_SECONDS: Final = 30.0
"""How long an outage has lasted, or has been over, before operators get a message: less is no outage."""

MAX_ROLL_BACKS: Final = 5
"""Messages on roll-backs that are kept."""

_TOPIC: Final = "topic"
"""Name of the topic in the stored `sent` of a message."""

_log = logging.getLogger(__name__)


def outgoing_message(message: OperatorMessage, at: datetime) -> TopicMessage:
    """Return the message to the topic; `docs/fleet.md` describes its body."""
    words, last = operator_words(message), f"Id of this message: {message.id}"
    data: dict[str, object] = {"text": words, "found_at": message.at.isoformat()}
    if isinstance(message, OutageMessage):
        kind = f"fleet.outage_{'over' if message.is_over else 'began'}"
        data |= {"since": message.since.isoformat(), "reason": message.reason}
        subject = f"Fleetsight: the fleet {'works again' if message.is_over else 'cannot work'}"
        lines = [words, last]
    elif isinstance(message, RollBackMessage):
        kind, subject = "fleet.model_rolled_back", f"Fleetsight: the model {message.model} was rolled back"
        data |= {"model": message.model, "reason": message.reason}
        lines = [words, "The Fleet page can move its unfinished jobs to the model before.", last]
    else:
        kind, spending = f"fleet.spending_cap_{message.level}", message.spending
        allowance = spending.allowance
        data |= {
            "period": message.period,
            "start": message.start.isoformat(),
            "ends_at": spending.end_of(message.period).isoformat(),
            "cap_dollars": spending.cap(message.period),
            "used_dollars": round(spending.used(message.period), 6),
            "allowed_dollars": allowance.dollars if allowance and allowance.day == spending.day else 0,
        }
        nearly = "nearly " if message.level == "near" else ""
        subject = f"Fleetsight: the {message.period}'s spending cap is {nearly}reached"
        lines = [
            words,
            "To allow more today, use the Fleet page or ./scripts/fleetsight fleet allow DOLLARS.",
            f"Costs are estimates by the price table of config.yaml. {last}",
        ]
    body = json.dumps({"type": kind, "id": message.id, "timestamp": at.isoformat(), "data": data})
    return TopicMessage(body, subject, "\n\n".join(lines) + "\n")


@dataclass
class CapNotifier:
    """Sends the messages of one tenure. The autoscaler's thread calls `observe`, a thread of its own `tick`.

    Attributes:
        publish: to the topic of operators; None if there is no topic, so that nothing is stored.
    """

    store: FleetStore
    publish: Publish | None
    tenure: Tenure
    clock: Clock = CLOCK
    _messages: tuple[OperatorMessage, ...] = field(init=False)
    _stored: tuple[OperatorMessage, ...] = field(init=False)
    _outage_changed_at: tuple[float, datetime] | None = field(default=None, init=False)
    _failed: dict[str, tuple[int, float]] = field(default_factory=dict, init=False)
    """Failed tries by the id of the message: their number, and when the next one is due."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        """Continue with the messages of the previous controller."""
        stored = self.store.cap_messages()
        self._messages = self._stored = (*stored.messages, *stored.outages, *stored.roll_backs)

    def observe_outage(self, reason: str | None) -> None:
        """Take over why the fleet cannot work, or None if it can; add a message once this has lasted long enough."""
        outages = [each for each in self._messages if isinstance(each, OutageMessage)]
        began = outages[-1] if outages and not outages[-1].is_over else None
        if self.publish is None or (reason is None) == (began is None):
            self._outage_changed_at = None
            return
        self._outage_changed_at = self._outage_changed_at or (self.clock.monotonic(), self.clock.utc_now())
        changed_at, since = self._outage_changed_at
        if self.clock.monotonic() - changed_at < SETTLE_SECONDS:
            return
        with self._lock:
            if began is not None:
                over = OutageMessage(since=began.since, is_over=True, at=since, reason=began.reason)
                self._messages = (*self._messages, over)
            else:
                message = OutageMessage(since=since, is_over=False, at=since, reason=reason or "")
                self._messages = (*(each for each in self._messages if not isinstance(each, OutageMessage)), message)

    def observe_roll_back(self, message: RollBackMessage) -> None:
        """Add a message on a roll-back of the last `MAX_AGE`, unless it is known."""
        with self._lock:
            known = [each for each in self._messages if isinstance(each, RollBackMessage)]
            is_new = message.id not in {each.id for each in known} and self.clock.utc_now() - message.at < MAX_AGE
            if self.publish is not None and is_new:
                others = (each for each in self._messages if not isinstance(each, RollBackMessage))
                self._messages = (*others, *[*known, message][-MAX_ROLL_BACKS:])

    def observe(self, spending: FleetSpending | None) -> None:
        """Take over the cost and the caps of a round; add the messages that follow from them."""
        if spending is None or self.publish is None:
            return
        now = self.clock.utc_now()
        for period in get_args(CapPeriod):
            level = spending.level(period)
            if level is not None and not _is_over(spending, period, now):
                self._add(CapMessage(period=period, level=level, at=now, spending=spending))

    def _add(self, message: CapMessage) -> None:
        with self._lock:
            same_cap = [
                each for each in self._messages if isinstance(each, CapMessage) and each.period == message.period
            ]
            if any(each.start > message.start for each in same_cap):
                return
            known = {each.level for each in same_cap if each.start == message.start}
            if message.level in known or "reached" in known:
                return
            old = [each for each in same_cap if each.start != message.start and _TOPIC in each.sent]
            self._messages = (*(each for each in self._messages if each not in old), message)

    def tick(self) -> float:
        """Store what was found, and send what is due; return the seconds until the next round."""
        self._remove_old()
        self._store()
        ids = {message.id for message in self._stored}
        self._failed = {message_id: tries for message_id, tries in self._failed.items() if message_id in ids}
        for message in self._stored:
            _, due = self._failed.get(message.id, (0, 0.0))
            is_waiting = _TOPIC not in message.sent and due <= self.clock.monotonic()
            if is_waiting and self.tenure.active() and self._is_accepted(message):
                self._mark_sent(message.id)
                self._store()
        return CHECK_SECONDS

    def _remove_old(self) -> None:
        now = self.clock.utc_now()
        with self._lock:
            self._messages = tuple(
                each
                for each in self._messages
                if not isinstance(each, CapMessage) or not _is_over(each.spending, each.period, now)
            )

    def _store(self) -> None:
        messages = self._messages
        item = CapMessages(
            messages=tuple(each for each in messages if isinstance(each, CapMessage)),
            outages=tuple(each for each in messages if isinstance(each, OutageMessage)),
            roll_backs=tuple(each for each in messages if isinstance(each, RollBackMessage)),
        )
        if messages != self._stored and self.tenure.active() and self.store.put_cap_messages(item, self.tenure.token):
            self._stored = messages

    def _mark_sent(self, message_id: str) -> None:
        with self._lock:
            self._messages = tuple(
                each.model_copy(update={"sent": (*each.sent, _TOPIC)}) if each.id == message_id else each
                for each in self._messages
            )

    def _is_accepted(self, message: OperatorMessage) -> bool:
        """Publish a message once; return whether SNS has accepted it, and else when to try again."""
        if self.publish is None:
            return False
        if try_to_publish(self.publish, outgoing_message(message, self.clock.utc_now()), {"id": message.id}):
            return True
        failures = self._failed.get(message.id, (0, 0.0))[0] + 1
        self._failed[message.id] = failures, self.clock.monotonic() + retry_pause(failures)
        return False


def _is_over(spending: FleetSpending, period: CapPeriod, now: datetime) -> bool:
    """Return whether messages on a cap are not sent any more: its day or month ended long ago, or is not to come.

    A wrong clock has stored a day that is later than tomorrow; its messages must not suppress those of the present.
    """
    return now - spending.end_of(period) >= MAX_AGE or spending.day > (now + MAX_AGE).date()
