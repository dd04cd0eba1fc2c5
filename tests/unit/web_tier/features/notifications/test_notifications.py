"""Messages to a topic about finished jobs, caps and outages, and the controller that publishes them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.config import Config
from core.fleet.models import FleetSpending, SpendingAllowance
from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.errors import ConfigError
from services.lease import Tenure
from services.table import TableBusyError
from tests.conftest import ConfigMaker
from tests.support.autoscaler import Clock, fleet_snapshot
from tests.support.aws_stage import stubbed
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, add_images, done, put_results
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.controller.loops import FeatureContext
from web_tier.controller.results_file import ResultsFileWriter
from web_tier.features.notifications.loops import loops
from web_tier.features.notifications.notifier import (
    CHECK_SECONDS,
    MAX_ATTEMPTS,
    MAX_PAUSE_SECONDS,
    SETTLE_SECONDS,
    SUBJECTS,
    Notifier,
    publisher,
)
from web_tier.features.notifications.outbox import FleetMessages, Outbox

BUSY = refusal("Throttling", "Publish")
Body = Mapping[str, Any]


@dataclass
class Scene:
    """Jobs, a fleet and a notifier; the test answers for SNS."""

    store: JobStore = field(default_factory=lambda: JobStore(MemoryTable()))
    clock: Clock = field(default_factory=Clock)
    at: datetime = NOW
    published: list[Body] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    unfinished: set[str] = field(default_factory=set)
    active: bool = True
    token: int = 1
    notifier: Notifier = field(init=False)

    def __post_init__(self) -> None:
        self.outbox, self.fleet = Outbox(self.store.table), FleetStore(self.store.table)
        self.start()

    def start(self) -> None:
        """Start a notifier that remembers nothing, as after a crash."""
        self.notifier = Notifier(
            self.store,
            self.fleet,
            self.publish,
            cast(ResultsFileWriter, self),
            Tenure(token=self.token, active=lambda: self.active),
            PlayedClock(self.clock, lambda: self.at),
        )

    def is_done_with(self, job_id: str) -> bool:
        """Return whether the job needs no results file any more."""
        return job_id not in self.unfinished

    def publish(self, body: Body) -> None:
        self.tried.append(body["id"])
        if self.failures:
            raise self.failures.pop(0)
        self.published.append(body)

    @property
    def job_ids(self) -> list[str]:
        """The jobs of the messages that were published."""
        return [body["data"]["job_id"] for body in self.published]

    def job(self, *, is_done: bool = True) -> Job:
        """Return a new job of which the topic has to get a message."""
        job = Job(new_id(), "holiday", NOW)
        self.store.create(job)
        [image] = add_images(self.store, job, "a.jpg")
        put_results(self.store, *([done(image)] if is_done else []))
        self.outbox.add_job(job.job_id, NOW)
        return job

    def round(self, seconds: float = CHECK_SECONDS) -> list[str]:
        """Run a round, after some time; return the ids of the messages that were published."""
        before = len(self.published)
        self.clock.now += seconds
        self.notifier.tick()
        return [body["id"] for body in self.published[before:]]

    def spend(self, *spendings: FleetSpending) -> list[str]:
        """Let the autoscaler report, and run a round; return the ids of the messages that were published."""
        for spending in spendings:
            self.at = max(self.at, datetime.combine(spending.day, EVENING.timetz()))
            self.notifier.observe_spending(spending)
        return self.round()


def test_a_message_is_published_once_when_the_job_is_done() -> None:
    scene = Scene()
    job = scene.job()
    scene.unfinished.add(job.job_id)
    scene.round()
    assert not scene.published
    scene.unfinished.clear()
    scene.round()
    scene.round()
    [message] = scene.published
    assert scene.outbox.pending() == []
    assert message["type"] == "job.finished"
    assert message["data"] == {
        "job_id": job.job_id,
        "name": "holiday",
        "state": "finished",
        "images": 1,
        "done": 1,
        "failed": 0,
        "created_at": NOW.isoformat(),
    }


def test_a_job_with_images_without_results_is_not_done() -> None:
    scene = Scene()
    scene.job(is_done=False)
    scene.round()
    assert not scene.published


@pytest.mark.parametrize("error", [BUSY, UnicodeError("label too long")])
def test_a_failed_try_is_repeated_with_the_same_id_until_it_is_given_up(error: Exception) -> None:
    scene = Scene(failures=[error] * 100)
    scene.job()
    for _ in range(MAX_ATTEMPTS + 1):
        scene.round(MAX_PAUSE_SECONDS)
    assert (len(scene.tried), len(set(scene.tried))) == (MAX_ATTEMPTS, 1)
    assert scene.outbox.pending() == []


def test_a_failed_try_waits_before_the_next_one_and_delays_no_other_job() -> None:
    scene = Scene(failures=[BUSY])
    first, second = scene.job(), scene.job()
    scene.round()
    scene.round(0)
    assert scene.job_ids == [second.job_id]
    scene.round(MAX_PAUSE_SECONDS)
    assert scene.job_ids == [second.job_id, first.job_id]


def test_the_next_controller_publishes_what_the_last_one_did_not() -> None:
    scene = Scene(failures=[BUSY])
    scene.job()
    scene.round()
    scene.start()
    scene.round()
    assert (len(scene.published), len(set(scene.tried))) == (1, 1)


def test_without_a_topic_a_message_is_dropped() -> None:
    scene = Scene()
    scene.job()
    scene.notifier.publish = None
    scene.round()
    assert scene.outbox.pending() == []


def test_a_message_is_not_published_again_because_its_outcome_could_not_be_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    scene.job()

    def rejected(*_: object) -> None:
        raise TableBusyError("the table rejects writes")

    with monkeypatch.context() as broken:
        broken.setattr(Outbox, "settle", rejected)
        for _ in range(3):
            scene.round()
    scene.round()
    assert (len(scene.published), scene.outbox.pending()) == (1, [])


def test_a_job_that_is_done_again_during_the_publishing_gets_another_message() -> None:
    scene = Scene()
    job = scene.job()

    def done_again(message: Body) -> None:
        scene.notifier.publish = scene.publish
        scene.outbox.add_job(job.job_id, NOW)
        scene.publish(message)

    scene.notifier.publish = done_again
    scene.round()
    scene.round()
    assert (scene.job_ids, len(set(scene.tried))) == ([job.job_id] * 2, 2)
    assert scene.outbox.pending() == []


def test_a_deleted_job_is_not_announced_and_leaves_nothing() -> None:
    scene = Scene()
    DeletedJobs(scene.store.table).delete(scene.job())
    scene.round()
    assert (scene.published, scene.outbox.pending()) == ([], [])


def test_a_controller_that_has_lost_its_lease_publishes_nothing() -> None:
    scene = Scene(active=False)
    scene.job()
    scene.round()
    assert not scene.published


def test_the_shipped_configuration_has_no_topic(config: Config, make_config: ConfigMaker) -> None:
    assert not any(config.notifications.model_dump().values())
    assert publisher(cast(Any, None), None) is None
    with pytest.raises(ConfigError, match="topic_arn"):
        make_config(notifications={"topic_arn": "alerts"})


@pytest.mark.parametrize("topic", ["arn:aws:sns:eu-central-1:123456789012:topic", None])
def test_a_finished_job_is_added_to_the_outbox_only_with_a_topic(make_config: ConfigMaker, topic: str | None) -> None:
    scene, config = Scene(), make_config(notifications={"topic_arn": topic})
    services = cast(Any, SimpleNamespace(store=scene.store, config=config, clients=None))
    context = FeatureContext(services, cast(Any, None), Tenure(), cast(ResultsFileWriter, scene), [])
    loops(context)
    for observe in context.on_finished:
        observe("a job")
    assert [event.key for event in scene.outbox.pending()] == ([] if topic is None else ["a job"])


@pytest.mark.parametrize("kind", SUBJECTS)
def test_a_message_names_its_event_as_an_attribute_by_which_subscribers_filter(kind: str) -> None:
    topic, body = "arn:aws:sns:eu-central-1:123456789012:topic", {"type": kind}
    expected = {
        "TopicArn": topic,
        "Subject": SUBJECTS[kind],
        "Message": json.dumps(body),
        "MessageAttributes": {"event": {"DataType": "String", "StringValue": kind}},
    }
    with stubbed("sns") as sns:
        publish = publisher(cast(Any, type("Clients", (), {"sns": sns.client})), topic)
        assert publish is not None
        sns.add_response("publish", {"MessageId": "1"}, expected)
        publish(body)


# Spending caps

DAY = date(2026, 3, 1)
EVENING = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
REACHED = ["cap-day-2026-03-01-reached"]


def spent(today: float, month: float = 0.0, day: date = DAY, **fields: object) -> FleetSpending:
    """Cost of the day beside a cap of $10, and of the month beside one of $100."""
    caps = {"dollars_per_day": 10.0, "dollars_per_month": 100.0, "launch": 0.01}
    return FleetSpending.model_validate({"day": day, "today": today, "month": max(today, month), **caps, **fields})


def test_a_reached_cap_is_announced_once_in_its_period_by_any_controller() -> None:
    scene = Scene(at=EVENING)
    assert scene.spend(spent(9.9)) == []
    assert scene.spend(spent(10.0), spent(10.1)) == REACHED
    allowed = SpendingAllowance(day=DAY, dollars=2.0, since=EVENING)
    assert scene.spend(spent(11.0, allowance=allowed), spent(12.0, allowance=allowed)) == []
    scene.start()
    assert scene.spend(spent(12.0)) == []
    assert scene.spend(spent(0.0, 100.0, date(2026, 3, 2))) == ["cap-month-2026-03-01-reached"]
    assert scene.spend(spent(10.0, 100.0, date(2026, 3, 2))) == ["cap-day-2026-03-02-reached"]


def test_the_message_says_what_was_used_and_until_when() -> None:
    scene = Scene(at=EVENING)
    scene.spend(spent(10.5, 30.0, allowance=SpendingAllowance(day=DAY, dollars=0.5, since=EVENING)))
    [body] = scene.published
    assert body == {
        "type": "fleet.spending_cap_reached",
        "id": REACHED[0],
        "timestamp": EVENING.isoformat(),
        "data": {
            "text": "The day's spending cap is reached: instances cost $10.50 of $10.50 today. No worker starts "
            "until 00:00 UTC; uploads still queue.",
            "period": "day",
            "start": "2026-03-01",
            "ends_at": "2026-03-02T00:00:00+00:00",
            "cap_dollars": 10.5,
            "used_dollars": 10.5,
            "allowed_dollars": 0.5,
        },
    }


def test_a_day_of_the_future_that_a_wrong_clock_has_stored_suppresses_no_message() -> None:
    scene = Scene(at=EVENING)
    scene.notifier.observe_spending(spent(10.0, day=DAY.replace(year=2027)))
    assert len(scene.round()) == 1
    assert scene.spend(spent(10.0)) == REACHED


def test_what_the_last_report_of_a_dead_controller_says_is_announced_after_midnight() -> None:
    scene = Scene(at=EVENING + timedelta(minutes=2))
    scene.fleet.put_snapshot(fleet_snapshot(EVENING, spending=spent(10.0)))
    scene.start()
    assert scene.spend(spent(0.0, 10.0, date(2026, 3, 2))) == REACHED
    late = Scene(at=EVENING + timedelta(days=1, minutes=2))
    late.fleet.put_snapshot(fleet_snapshot(EVENING, spending=spent(10.0)))
    late.start()
    assert late.round() == [], "its day ended more than a day ago"


@pytest.mark.parametrize("write", ["put_all", "put_fenced"])
def test_a_message_of_the_fleet_is_lost_with_no_write_and_keeps_its_id(
    monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    def rejected(*_: object) -> None:
        raise TableBusyError("the table rejects writes")

    scene = Scene(at=EVENING)
    with monkeypatch.context() as broken:
        broken.setattr(MemoryTable, write, rejected)
        for _ in range(2):
            with pytest.raises(TableBusyError):
                scene.spend(spent(10.0))
    assert scene.published == []
    if write == "put_fenced":
        scene.start()  # the message is in the outbox, and nothing says so
        assert scene.spend(spent(10.0)) == REACHED
    else:
        assert scene.spend(spent(0.0, day=date(2026, 3, 2))) == REACHED, "midnight has passed meanwhile"
    assert scene.round() == []


def test_a_message_of_the_fleet_that_sns_refuses_is_published_by_the_next_controller() -> None:
    scene = Scene(at=EVENING, failures=[BUSY])
    assert scene.spend(spent(10.0)) == []
    scene.start()
    assert scene.round() == REACHED


def test_a_controller_that_has_lost_its_lease_announces_nothing_of_the_fleet() -> None:
    old = Scene(at=EVENING, active=False)
    assert old.spend(spent(10.0)) == []
    new = Scene(old.store, at=EVENING, token=2)
    assert new.spend(spent(10.0)) == REACHED
    stored = old.outbox.last_messages()
    old.active = True  # it was frozen, and does not know yet
    old.round()
    assert old.outbox.last_messages() == stored


def test_without_a_topic_nothing_of_the_fleet_is_stored() -> None:
    scene = Scene(at=EVENING)
    scene.notifier.publish = None
    assert scene.spend(spent(10.0)) == []
    assert scene.outbox.last_messages() == FleetMessages()


REASON = "access denied for <b>PutObject</b>"


def test_an_outage_is_announced_once_and_once_when_it_is_over_by_any_controller() -> None:
    scene = Scene(at=EVENING)

    def observed(reason: str | None, seconds: float = SETTLE_SECONDS) -> list[str]:
        scene.notifier.observe_outage(reason)
        scene.clock.now += seconds
        scene.notifier.observe_outage(reason)
        return scene.round()

    assert observed(None) == observed(REASON, SETTLE_SECONDS - 3) == observed(None) == []
    assert observed(REASON) == ["outage-20260301T235900Z-began"]
    assert observed("other", 3600) == []
    scene.start()
    assert observed(REASON) == observed(None, 0) == []
    assert observed(None) == ["outage-20260301T235900Z-over"]
    scene.start()
    assert observed(None) == []
    began, over = scene.published
    assert (began["type"], over["type"]) == ("fleet.outage_began", "fleet.outage_over")
    assert began["data"]["reason"] == over["data"]["reason"] == REASON
    assert began["data"]["text"] == f"The fleet cannot work since 1 March, 23:59 UTC, and images wait: {REASON}."
    scene.at += timedelta(hours=1)
    assert observed("later") == ["outage-20260302T005900Z-began"]
