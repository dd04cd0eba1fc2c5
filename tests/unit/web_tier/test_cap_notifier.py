"""Messages on spending caps: one for each cap and level in a period, also if a process dies or SNS refuses."""

import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from core.fleet.models import CapMessages, FleetSpending, RollBackMessage, SpendingAllowance
from core.fleet.store import FleetStore
from services.errors import ConfigError
from services.lease import Tenure
from tests.conftest import ConfigMaker
from tests.support.autoscaler import Clock
from tests.support.clocks import PlayedClock
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.features.notifications.cap_notifier import (
    CHECK_SECONDS,
    MAX_ROLL_BACKS,
    SETTLE_SECONDS,
    CapNotifier,
)
from web_tier.features.notifications.notifier import MAX_PAUSE_SECONDS, TopicMessage

DAY = date(2026, 3, 1)
EVENING = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
BUSY = refusal("Throttling", "Publish")


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
    """A notifier; the test answers for SNS."""

    store: CapStore = field(default_factory=CapStore)
    clock: Clock = field(default_factory=Clock)
    sent: list[TopicMessage] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    has_topic: bool = True
    token: int = 1
    active: bool = True
    at: datetime = EVENING
    notifier: CapNotifier = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a controller, which remembers nothing but what is stored."""
        publish = self.publish if self.has_topic else None
        tenure = Tenure(token=self.token, active=lambda: self.active)
        self.notifier = CapNotifier(self.store, publish, tenure, PlayedClock(self.clock, lambda: self.at))

    def publish(self, message: TopicMessage) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(message)

    def round(self, *spendings: FleetSpending | None, seconds: float = CHECK_SECONDS) -> list[str]:
        """Let the autoscaler report, and run a round; return the ids that were sent."""
        before = len(self.sent)
        for spending in spendings:
            if spending is not None:
                self.at = max(self.at, datetime.combine(spending.day, EVENING.timetz()))
            self.notifier.observe(spending)
        self.clock.now += seconds
        self.notifier.tick()
        return [id_of(message) for message in self.sent[before:]]


def id_of(message: TopicMessage) -> str:
    return str(json.loads(message.body)["id"])


NEAR = ["cap-day-2026-03-01-near"]
REACHED = ["cap-day-2026-03-01-reached"]


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
    wrong = Scene()
    wrong.round(spent(10.0, 100.0, DAY.replace(year=2027)))
    assert len(wrong.store.cap_messages().messages) == 2
    scene = Scene(wrong.store)
    assert scene.round(None) == []
    assert scene.round(spent(8.0)) == NEAR


def test_without_a_cap_or_a_topic_nothing_is_stored() -> None:
    scene = Scene()
    assert scene.round(spent(99.0, dollars_per_day=None, dollars_per_month=None)) == []
    silent = Scene(has_topic=False)
    assert silent.round(spent(10.0)) == []
    assert scene.store.cap_messages() == silent.store.cap_messages() == CapMessages()


REASON = "access denied for <b>PutObject</b>"


def test_an_outage_is_announced_once_and_once_when_it_is_over_by_any_controller() -> None:
    scene = Scene()

    def observed(reason: str | None, seconds: float = SETTLE_SECONDS) -> list[str]:
        scene.notifier.observe_outage(reason)
        scene.clock.now += seconds
        scene.notifier.observe_outage(reason)
        return scene.round(spent(1.0))

    assert observed(None) == observed(REASON, SETTLE_SECONDS - 1) == observed(None) == []
    assert observed(REASON) == ["outage-20260301T235900Z-began"]
    assert observed("other", 3600) == []
    scene.start()
    assert observed(REASON) == observed(None, 0) == []
    assert observed(None) == ["outage-20260301T235900Z-over"]
    scene.start()
    assert observed(None) == []
    began, over = scene.sent
    assert REASON in began.text
    assert json.loads(began.body)["type"] == "fleet.outage_began"
    assert json.loads(began.body)["data"]["reason"] == REASON
    assert (began.subject, over.subject) == ("Fleetsight: the fleet cannot work", "Fleetsight: the fleet works again")
    assert json.loads(over.body)["type"] == "fleet.outage_over"
    scene.at += timedelta(hours=1)
    assert observed("later") == ["outage-20260302T005900Z-began"]
    assert len(scene.store.cap_messages().outages) == 1, "only the last outage is kept"


def test_a_roll_back_is_announced_once_by_any_controller() -> None:
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
    assert scene.round(spent(1.0))[0] == "roll-back-20260301T225900Z"
    assert len(scene.sent) == 2
    scene.start()
    scene.notifier.observe_roll_back(message(1))
    assert scene.round(None) == []
    sent = scene.sent[0]
    assert (sent.subject, sent.text.partition("\n")[0]) == (
        "Fleetsight: the model signs was rolled back",
        "Model signs was rolled back.",
    )
    body = json.loads(sent.body)
    assert (body["type"], body["data"]["model"]) == ("fleet.model_rolled_back", "signs")
    for minutes in range(2 * MAX_ROLL_BACKS):
        scene.notifier.observe_roll_back(message(1).model_copy(update={"at": EVENING + timedelta(minutes=minutes)}))
    assert len(scene.round(None)) == MAX_ROLL_BACKS, "the last ones are kept"


def test_a_new_controller_repeats_nothing_and_sends_what_the_last_one_did_not() -> None:
    scene = Scene(failures=[BUSY])
    assert scene.round(spent(10.0)) == []
    scene.start()
    assert scene.round(spent(10.0)) == REACHED
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
    scene = Scene()
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
    assert scene.round(spent(10.0)) == REACHED


def test_what_the_last_report_of_a_dead_controller_says_is_announced_after_midnight() -> None:
    scene = Scene()
    scene.notifier.observe(spent(10.0))  # it dies before its next round
    scene.start()
    assert scene.round(spent(10.0), spent(0.0, 10.0, date(2026, 3, 2))) == REACHED


def test_a_report_of_a_period_that_ended_more_than_a_day_ago_is_not_announced() -> None:
    scene = Scene()
    assert scene.round(spent(10.0, 99.0, date(2026, 1, 31)), spent(10.0, day=date(2026, 2, 27))) == []
    assert scene.round(spent(10.0, day=date(2026, 2, 28))) == ["cap-day-2026-02-28-reached"]


def test_a_failed_try_waits_and_is_repeated() -> None:
    scene = Scene(failures=[BUSY, ValueError("odd")])
    assert scene.round(spent(10.0)) == []
    assert scene.round(seconds=0) == []
    assert len(scene.failures) == 1, "the second try waits"
    assert scene.round(seconds=MAX_PAUSE_SECONDS) == []
    assert scene.round(seconds=MAX_PAUSE_SECONDS) == REACHED
    assert scene.round(seconds=MAX_PAUSE_SECONDS) == []


def test_while_sns_refuses_messages_of_old_days_go_and_the_others_are_sent_later() -> None:
    scene = Scene(failures=[BUSY] * 10_000)
    for number in range(24):
        scene.at = EVENING + timedelta(days=number)
        for today in (8.0, 10.0):
            scene.round(spent(today, 85.0, DAY + timedelta(days=number)), seconds=MAX_PAUSE_SECONDS)
    kept = [each.id for each in scene.store.cap_messages().messages]
    days = [f"cap-day-2026-03-{day}-{level}" for day in (23, 24) for level in ("near", "reached")]
    assert kept == ["cap-month-2026-03-01-near", *days]
    scene.failures.clear()
    assert scene.round(seconds=MAX_PAUSE_SECONDS) == kept
    scene.at += timedelta(days=1)
    scene.round(spent(10.0, 85.0, DAY + timedelta(days=24)))
    assert [each.id for each in scene.store.cap_messages().messages] == [kept[0], "cap-day-2026-03-25-reached"]


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
    scene = Scene()
    scene.round(spent(8.5, 30.0, allowance=SpendingAllowance(day=DAY, dollars=0.5, since=EVENING)))
    [near] = scene.sent
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
    reached = scene.sent[-1]
    assert reached.subject == "Fleetsight: the month's spending cap is reached"
    assert reached.text.startswith(
        "The month's spending cap is reached: instances cost $100.00 of $100.00 this month. No worker starts "
        "until 00:00 UTC on 1 April; uploads still queue.\n"
    )
    assert "cap-month-2026-03-01-reached" in reached.text


def test_a_topic_that_is_no_arn_is_refused_with_its_key(make_config: ConfigMaker) -> None:
    with pytest.raises(ConfigError, match="operator_topic_arn"):
        make_config(notifications={"operator_topic_arn": "alerts"})
