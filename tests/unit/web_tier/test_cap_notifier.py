"""Messages on spending caps: one for each cap and level in a period, also if a process dies or a receiver refuses."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from core.config import MAX_OPERATOR_EMAILS, NotificationSettings, parse_config
from core.fleet.models import CapMessages, FleetSpending, RollBackMessage, SpendingAllowance
from core.fleet.store import FleetStore
from core.jobs.notifications import DeliveryFailedError
from services.errors import ConfigError
from services.lease import Tenure
from tests.conftest import shipped_values
from tests.support.autoscaler import Clock
from tests.support.aws_stage import stubbed
from tests.support.clocks import PlayedClock
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.features.notifications.cap_notifier import (
    CHECK_SECONDS,
    MAX_AGE,
    MAX_ROLL_BACKS,
    SETTLE_SECONDS,
    CapNotifier,
    CapReceiver,
    cap_receivers,
)
from web_tier.features.notifications.notifier import MAX_PAUSE_SECONDS, ChannelMessage

DAY = date(2026, 3, 1)
EVENING = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
TOPIC = "arn:aws:sns:eu-central-1:123456789012:fleetsight-alerts"


def spent(today: float, month: float = 0.0, day: date = DAY, **fields: object) -> FleetSpending:
    """Cost of the day beside a cap of $10, and of the month beside one of $100."""
    caps = {"dollars_per_day": 10.0, "dollars_per_month": 100.0, "launch": 0.01}
    return FleetSpending.model_validate({"day": day, "today": today, "month": max(today, month), **caps, **fields})


class CapStore(FleetStore):
    """A store in memory that can refuse writes."""

    def __init__(self) -> None:
        super().__init__(MemoryTable())
        self.error: Exception | None = None

    def put_cap_messages(self, messages: CapMessages, token: int) -> bool:
        if self.error is not None:
            raise self.error
        return super().put_cap_messages(messages, token)


@dataclass
class Scene:
    """A notifier with two receivers; `sent` has what each of them was sent, by its name."""

    store: CapStore = field(default_factory=CapStore)
    clock: Clock = field(default_factory=Clock)
    sent: list[tuple[str, ChannelMessage]] = field(default_factory=list)
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    names: tuple[str, ...] = ("email", "topic")
    token: int = 1
    active: bool = True
    at: datetime = EVENING
    notifier: CapNotifier = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a controller, which remembers nothing but what is stored."""
        receivers = [CapReceiver(name, f"to {name}", self._sender(name)) for name in self.names]
        tenure = Tenure(token=self.token, active=lambda: self.active)
        self.notifier = CapNotifier(self.store, receivers, tenure, PlayedClock(self.clock, lambda: self.at))

    def _sender(self, name: str) -> Callable[[ChannelMessage], None]:
        def send(message: ChannelMessage) -> None:
            if self.failures.get(name):
                raise self.failures[name].pop(0)
            self.sent.append((name, message))

        return send

    def round(self, *spendings: FleetSpending | None, seconds: float = CHECK_SECONDS) -> list[str]:
        """Let the autoscaler report, and run a round; return the ids that were sent, with the receivers."""
        before = len(self.sent)
        for spending in spendings:
            if spending is not None:
                self.at = max(self.at, datetime.combine(spending.day, EVENING.timetz()))
            self.notifier.observe(spending)
        self.clock.now += seconds
        self.notifier.tick()
        return [f"{name} {id_of(message)}" for name, message in self.sent[before:]]


def id_of(message: ChannelMessage) -> str:
    return str(json.loads(message.body)["id"])


NEAR = ["email cap-day-2026-03-01-near", "topic cap-day-2026-03-01-near"]
REACHED = ["email cap-day-2026-03-01-reached", "topic cap-day-2026-03-01-reached"]


def test_a_cap_is_announced_once_at_80_percent_and_once_when_it_is_reached() -> None:
    scene = Scene()
    assert scene.round(None, spent(7.99)) == []
    assert scene.round(spent(8.0)) == NEAR
    assert scene.round(spent(8.5), spent(9.0)) == []
    assert scene.round(spent(10.0)) == REACHED
    allowed = SpendingAllowance(day=DAY, dollars=2.0, since=EVENING)
    assert scene.round(spent(10.5, allowance=allowed), spent(12.0, allowance=allowed), spent(8.5)) == []


def test_starting_instances_count_and_a_cap_reached_at_once_is_announced_as_reached() -> None:
    scene = Scene()
    assert scene.round(spent(7.9, committed=0.1)) == NEAR
    at_once = Scene()
    assert at_once.round(spent(4.0, committed=6.0)) == REACHED
    assert at_once.round(spent(8.5)) == [], "as after operators have allowed more"


def test_a_day_of_the_future_that_a_wrong_clock_has_stored_suppresses_no_message() -> None:
    wrong = Scene(names=("email",))
    wrong.round(spent(10.0, 100.0, DAY.replace(year=2027)))
    assert len(wrong.store.cap_messages().messages) == 2
    scene = Scene(wrong.store)
    assert scene.round(None) == []
    assert scene.round(spent(8.0)) == NEAR


def test_without_a_cap_or_a_receiver_nothing_is_stored() -> None:
    scene = Scene()
    assert scene.round(spent(99.0, dollars_per_day=None, dollars_per_month=None)) == []
    silent = Scene(names=())
    assert silent.round(spent(10.0)) == []
    assert scene.store.cap_messages() == silent.store.cap_messages() == CapMessages()


REASON = "access denied for <b>PutObject</b>"


def test_an_outage_is_announced_once_and_once_when_it_is_over_by_any_controller() -> None:
    scene = Scene(names=("email",))

    def observed(reason: str | None, seconds: float = SETTLE_SECONDS) -> list[str]:
        scene.notifier.observe_outage(reason)
        scene.clock.now += seconds
        scene.notifier.observe_outage(reason)
        return scene.round(spent(1.0))

    assert observed(None) == observed(REASON, SETTLE_SECONDS - 1) == observed(None) == []
    assert observed(REASON) == ["email outage-20260301T235900Z-began"]
    assert observed("other", 3600) == []
    scene.start()
    assert observed(REASON) == observed(None, 0) == []
    assert observed(None) == ["email outage-20260301T235900Z-over"]
    scene.start()
    assert observed(None) == []
    began, over = (message for _, message in scene.sent)
    assert REASON in began.text
    assert json.loads(began.body)["type"] == "fleet.outage_began"
    assert json.loads(began.body)["data"]["reason"] == REASON
    assert (began.subject, over.subject) == ("Fleetsight: the fleet cannot work", "Fleetsight: the fleet works again")
    assert json.loads(over.body)["type"] == "fleet.outage_over"
    scene.at += timedelta(hours=1)
    assert observed("later") == ["email outage-20260302T005900Z-began"]
    assert len(scene.store.cap_messages().outages) == 1, "only the last outage is kept"


def test_a_roll_back_is_announced_once_to_each_receiver_by_any_controller() -> None:
    scene = Scene()

    def message(hours: int) -> RollBackMessage:
        at = EVENING - timedelta(hours=hours)
        return RollBackMessage(
            at=at, model="signs", reason="workers cannot load it", text="Model signs was rolled back."
        )

    for _ in range(2):
        scene.notifier.observe_roll_back(message(1))
        scene.notifier.observe_roll_back(message(24))
        scene.notifier.observe_outage(REASON)  # the second time it has lasted long enough for a message of its own
        scene.clock.now += SETTLE_SECONDS
    expected = ["email roll-back-20260301T225900Z", "topic roll-back-20260301T225900Z"]
    assert scene.round(spent(1.0))[:2] == expected
    assert len(scene.sent) == 4
    scene.start()
    scene.notifier.observe_roll_back(message(1))
    assert scene.round(None) == []
    sent = scene.sent[0][1]
    assert (sent.subject, sent.text.partition("\n")[0]) == (
        "Fleetsight: the model signs was rolled back",
        "Model signs was rolled back.",
    )
    body = json.loads(sent.body)
    assert (body["type"], body["data"]["model"]) == ("fleet.model_rolled_back", "signs")
    for minutes in range(2 * MAX_ROLL_BACKS):
        scene.notifier.observe_roll_back(message(1).model_copy(update={"at": EVENING + timedelta(minutes=minutes)}))
    assert len(scene.round(None)) == 2 * MAX_ROLL_BACKS, "the last ones are kept for two receivers"


def test_a_new_controller_repeats_nothing_and_sends_what_the_last_one_did_not() -> None:
    scene = Scene(failures={"topic": [DeliveryFailedError("no answer")]})
    assert scene.round(spent(10.0)) == REACHED[:1]
    scene.start()
    assert scene.round(spent(10.0)) == REACHED[1:]
    scene.start()
    assert scene.round(spent(10.0)) == []


def test_a_message_is_stored_before_it_is_sent() -> None:
    scene = Scene()
    scene.store.error = refusal("ProvisionedThroughputExceededException", "PutItem")
    for _ in range(2):
        with pytest.raises(ClientError):
            scene.round(spent(10.0))
    assert scene.sent == []
    scene.store.error = None
    assert scene.round(spent(1.0, day=date(2026, 3, 2))) == REACHED, "midnight has passed meanwhile"


def test_after_a_controller_that_died_once_it_had_sent_the_next_repeats_the_same_id() -> None:
    scene = Scene(names=("topic",))
    put = scene.store.put_cap_messages

    def dies_with_the_record(messages: CapMessages, token: int) -> bool:
        if any(each.sent for each in messages.messages):
            raise refusal("ProvisionedThroughputExceededException", "PutItem")
        return put(messages, token)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.store, "put_cap_messages", dies_with_the_record)
        with pytest.raises(ClientError):
            scene.round(spent(10.0))
        with pytest.raises(ClientError):
            scene.round(spent(10.0))
    assert len(scene.sent) == 1, "this controller knows that it has sent it"
    scene.start()
    assert scene.round(spent(10.0)) == REACHED[1:]
    assert {id_of(message) for _, message in scene.sent} == {"cap-day-2026-03-01-reached"}


def test_what_the_last_report_of_a_dead_controller_says_is_announced_after_midnight() -> None:
    scene = Scene()
    scene.notifier.observe(spent(10.0))  # it dies before its next round
    scene.start()
    assert scene.round(spent(10.0), spent(0.0, 10.0, date(2026, 3, 2))) == REACHED


def test_a_report_of_a_period_that_ended_more_than_a_day_ago_is_not_announced() -> None:
    scene = Scene(names=("topic",))
    assert scene.round(spent(10.0, 99.0, date(2026, 1, 31)), spent(10.0, day=date(2026, 2, 27))) == []
    assert scene.round(spent(10.0, day=date(2026, 2, 28))) == ["topic cap-day-2026-02-28-reached"]


def test_a_failed_try_waits_delays_no_receiver_and_the_next_controller_repeats_it() -> None:
    never: list[Exception] = [DeliveryFailedError("refused") for _ in range(100)]
    scene = Scene(failures={"email": never, "topic": [DeliveryFailedError("busy"), ValueError("odd")]})
    assert scene.round(spent(10.0)) == []
    assert scene.round(seconds=0) == []
    assert len(scene.failures["topic"]) == 1, "the second try waits"
    assert scene.round(seconds=MAX_PAUSE_SECONDS) == []
    assert scene.round(seconds=MAX_PAUSE_SECONDS) == REACHED[1:]
    assert scene.round(seconds=MAX_PAUSE_SECONDS) == []
    scene.failures.clear()
    scene.start()
    assert scene.round() == REACHED[:1]


def test_beside_a_refusing_receiver_others_get_each_message_once_and_old_days_go() -> None:
    never: list[Exception] = [DeliveryFailedError("down") for _ in range(10_000)]
    scene = Scene(failures={"email": never})
    for number in range(24):
        scene.at = EVENING + timedelta(days=number)
        for today in (8.0, 10.0):
            scene.round(spent(today, 85.0, DAY + timedelta(days=number)), seconds=MAX_PAUSE_SECONDS)
    sent = [id_of(message) for _, message in scene.sent]
    assert len(sent) == len(set(sent)) == 1 + 2 * 24
    kept = [each.id for each in scene.store.cap_messages().messages]
    days = [f"cap-day-2026-03-{day}-{level}" for day in (23, 24) for level in ("near", "reached")]
    assert kept == ["cap-month-2026-03-01-near", *days]
    scene.failures.clear()
    assert scene.round(seconds=MAX_PAUSE_SECONDS) == [f"email {each}" for each in kept]
    scene.at += timedelta(days=1)
    scene.round(spent(10.0, 85.0, DAY + timedelta(days=24)))
    assert [each.id for each in scene.store.cap_messages().messages] == [kept[0], "cap-day-2026-03-25-reached"]


def test_a_receiver_added_later_gets_no_message_of_a_period_that_ended_a_day_ago() -> None:
    scene = Scene(names=("topic",))
    assert scene.round(spent(10.0, 85.0)) == ["topic cap-day-2026-03-01-reached", "topic cap-month-2026-03-01-near"]
    scene.names, scene.at = ("topic", "email"), datetime(2026, 3, 2, tzinfo=UTC) + MAX_AGE
    scene.start()
    assert scene.round() == ["email cap-month-2026-03-01-near"]
    scene.names, scene.at = ("topic", "email", "other"), datetime(2026, 4, 1, tzinfo=UTC) + MAX_AGE
    scene.start()
    assert scene.round() == []
    assert scene.store.cap_messages() == CapMessages()


def test_a_controller_that_has_lost_its_lease_sends_nothing_and_overwrites_nothing() -> None:
    old = Scene(active=False)
    assert old.round(spent(10.0)) == []
    new = Scene(old.store, token=2)
    assert new.round(spent(10.0)) == REACHED
    stored = old.store.cap_messages()
    old.active = True  # it was frozen, and does not know yet
    assert old.round() == []
    assert old.store.cap_messages() == stored


def test_the_message_says_what_was_used_and_until_when() -> None:
    scene = Scene(names=("topic",))
    scene.round(spent(8.5, 30.0, allowance=SpendingAllowance(day=DAY, dollars=0.5, since=EVENING)))
    [(_, near)] = scene.sent
    assert near.subject == "Fleetsight: the day's spending cap is nearly reached"
    assert json.loads(near.body) == {
        "type": "fleet.spending_cap_near",
        "id": "cap-day-2026-03-01-near",
        "timestamp": EVENING.isoformat(),
        "data": {
            "text": "The day's spending cap is nearly reached: instances cost $8.50 of $10.50 today. At the cap no "
            "worker starts until 00:00 UTC.",
            "period": "day",
            "start": "2026-03-01",
            "ends_at": "2026-03-02T00:00:00+00:00",
            "found_at": EVENING.isoformat(),
            "cap_dollars": 10.5,
            "used_dollars": 8.5,
            "allowed_dollars": 0.5,
        },
    }
    scene.round(spent(9.0, 100.0))
    reached = scene.sent[-1][1]
    assert reached.subject == "Fleetsight: the month's spending cap is reached"
    assert reached.text.startswith(
        "The month's spending cap is reached: instances cost $100.00 of $100.00 this month. No worker starts "
        "until 00:00 UTC on 1 April; uploads still queue.\n"
    )
    assert "cap-month-2026-03-01-reached" in reached.text


# The receivers of the configuration


def settings_of(**changes: object) -> NotificationSettings:
    values = shipped_values()
    values["notifications"] |= changes
    return parse_config(values).notifications


def test_each_receiver_of_the_configuration_gets_the_message_on_its_channel() -> None:
    wanted = settings_of(
        operator_emails=["ops@example.org"],
        mail_sender="fleetsight@example.org",
        operator_topic_arn=TOPIC,
    )
    scene = Scene(names=("topic",))
    scene.round(spent(10.0))
    message = scene.sent[0][1]
    with stubbed("sns") as sns, stubbed("sesv2") as ses:
        clients = cast(Any, type("Clients", (), {"sns": sns.client, "sesv2": ses.client}))
        receivers = cap_receivers(clients, wanted)
        assert [each.name for each in receivers] == ["email:ops@example.org", "topic"]
        email, topic = receivers
        bodies = json.dumps({"default": message.body, "email": message.text})
        sns.add_response(
            "publish",
            {"MessageId": "1"},
            {"TopicArn": TOPIC, "Subject": message.subject, "Message": bodies, "MessageStructure": "json"},
        )
        topic.send(replace(message, target=TOPIC))
        content = {
            "Subject": {"Data": message.subject, "Charset": "UTF-8"},
            "Body": {"Text": {"Data": message.text, "Charset": "UTF-8"}},
        }
        ses.add_response(
            "send_email",
            {"MessageId": "1"},
            {
                "FromEmailAddress": "fleetsight@example.org",
                "Destination": {"ToAddresses": ["ops@example.org"]},
                "Content": {"Simple": content},
            },
        )
        email.send(replace(message, target="ops@example.org"))
        sns.add_client_error("publish", "AuthorizationError")
        with pytest.raises(DeliveryFailedError, match="AuthorizationError"):
            topic.send(replace(message, target=TOPIC))


def test_as_shipped_there_is_no_receiver() -> None:
    assert cap_receivers(cast(Any, None), settings_of()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operator_emails": ["ops@example.org"]}, "operator_emails needs mail_sender"),
        ({"operator_emails": ["no address"], "mail_sender": "a@b"}, "operator_emails"),
        ({"operator_emails": ["a@b"] * (MAX_OPERATOR_EMAILS + 1), "mail_sender": "a@b"}, "operator_emails"),
        ({"operator_topic_arn": "alerts"}, "operator_topic_arn"),
    ],
)
def test_an_invalid_receiver_is_refused_with_its_key(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings_of(**changes)
