"""Messages to a topic about finished jobs, and the controller that publishes them."""

import json
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from core.config import Config
from core.ids import new_id
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import Job
from core.jobs.notifications import NotificationStore
from core.jobs.store import JobStore
from services.errors import ConfigError
from services.lease import Tenure
from services.table import TableBusyError
from tests.conftest import ConfigMaker
from tests.support.autoscaler import Clock
from tests.support.aws_stage import stubbed
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, add_images, done, put_results
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.controller.results_file import ResultsFileWriter
from web_tier.features.notifications.notifier import (
    CHECK_SECONDS,
    MAX_ATTEMPTS,
    MAX_PAUSE_SECONDS,
    Notifier,
    TopicMessage,
    publisher,
)

BUSY = refusal("Throttling", "Publish")


@dataclass
class Scene:
    """Jobs and a notifier; the test answers for SNS."""

    store: JobStore = field(default_factory=lambda: JobStore(MemoryTable()))
    clock: Clock = field(default_factory=Clock)
    published: list[TopicMessage] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    unfinished: set[str] = field(default_factory=set)
    active: bool = True
    notifier: Notifier = field(init=False)

    def __post_init__(self) -> None:
        self.notifications = NotificationStore(self.store.table)
        self.start()

    def start(self) -> None:
        """Start a notifier that remembers nothing, as after a crash."""
        self.notifier = Notifier(
            self.store,
            self.notifications,
            self.publish,
            cast(ResultsFileWriter, self),
            Tenure(active=lambda: self.active),
            PlayedClock(self.clock, lambda: NOW),
        )

    def is_done_with(self, job_id: str) -> bool:
        """Return whether the job needs no results file any more."""
        return job_id not in self.unfinished

    def publish(self, message: TopicMessage) -> None:
        self.tried.append(json.loads(message.body)["id"])
        if self.failures:
            raise self.failures.pop(0)
        self.published.append(message)

    @property
    def job_ids(self) -> list[str]:
        """The jobs of the messages that were published."""
        return [json.loads(message.body)["data"]["job_id"] for message in self.published]

    def job(self, *, is_done: bool = True) -> Job:
        """Return a new job of which the topic has to get a message."""
        job = Job(new_id(), "holiday", NOW)
        self.store.create(job)
        [image] = add_images(self.store, job, "a.jpg")
        put_results(self.store, job, *([done(image)] if is_done else []))
        self.notifications.add(job.job_id, NOW)
        return job

    def round(self, seconds: float = CHECK_SECONDS) -> None:
        """Run a round, after some time."""
        self.clock.now += seconds
        self.notifier.tick()


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
    assert scene.notifications.pending() == []
    body = json.loads(message.body)
    assert body["type"] == "job.finished"
    assert body["data"] == {
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
    assert scene.notifications.pending() == []


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
    assert scene.notifications.pending() == []


def test_a_message_is_not_published_again_because_its_outcome_could_not_be_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    scene.job()

    def rejected(*_: object) -> None:
        raise TableBusyError("the table rejects writes")

    with monkeypatch.context() as broken:
        broken.setattr(NotificationStore, "settle", rejected)
        for _ in range(3):
            scene.round()
    scene.round()
    assert (len(scene.published), scene.notifications.pending()) == (1, [])


def test_a_job_that_is_done_again_during_the_publishing_gets_another_message() -> None:
    scene = Scene()
    job = scene.job()

    def done_again(message: TopicMessage) -> None:
        scene.notifier.publish = scene.publish
        scene.notifications.add(job.job_id, NOW)
        scene.publish(message)

    scene.notifier.publish = done_again
    scene.round()
    scene.round()
    assert (scene.job_ids, len(set(scene.tried))) == ([job.job_id] * 2, 2)
    assert scene.notifications.pending() == []


def test_a_deleted_job_is_not_announced_and_leaves_nothing() -> None:
    scene = Scene()
    DeletedJobs(scene.store.table).delete(scene.job())
    scene.round()
    assert (scene.published, scene.notifications.pending()) == ([], [])


def test_a_controller_that_has_lost_its_lease_publishes_nothing() -> None:
    scene = Scene(active=False)
    scene.job()
    scene.round()
    assert not scene.published


@pytest.mark.parametrize(
    "key", ["webhook_hosts", "webhook_private", "operator_webhook", "mail_sender", "operator_emails"]
)
def test_a_removed_key_of_the_configuration_is_refused_with_its_name(make_config: ConfigMaker, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"notifications\.{key}: unknown key"):
        make_config(notifications={key: None})


def test_the_shipped_configuration_has_no_topic(config: Config) -> None:
    assert not any(config.notifications.model_dump().values())
    assert publisher(cast(Any, None), None) is None


@pytest.mark.parametrize("text", ["", "The cap is reached."])
def test_subscribers_by_email_get_the_text_of_a_message_that_has_one(text: str) -> None:
    topic, body = "arn:aws:sns:eu-central-1:123456789012:topic", '{"type": "a"}'
    expected = {"TopicArn": topic, "Message": body}
    if text:
        bodies = json.dumps({"default": body, "email": text})
        expected |= {"Subject": "Cap", "Message": bodies, "MessageStructure": "json"}
    with stubbed("sns") as sns:
        publish = publisher(cast(Any, type("Clients", (), {"sns": sns.client})), topic)
        assert publish is not None
        sns.add_response("publish", {"MessageId": "1"}, expected)
        publish(TopicMessage(body, "Cap" if text else "", text))
