"""Notifications of finished jobs: requests, and the controller that sends them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, cast

import pytest
from flask.testing import FlaskClient

from core.config import Config
from core.ids import new_id
from core.jobs.items import partition
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import Job
from core.jobs.notifications import (
    MAX_REQUESTS,
    PENDING,
    DeliveryFailedError,
    DeliveryState,
    NotificationDelivery,
    NotificationStore,
)
from core.jobs.store import JobStore
from services.errors import ConfigError
from services.lease import Tenure
from services.table import Item, TableBusyError
from tests.conftest import ConfigMaker
from tests.support.api import AppMaker, problem
from tests.support.autoscaler import Clock
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, add_images, done, put_results
from tests.support.memory_aws.calls import run_effect
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.auth.identity import LOCAL
from web_tier.controller.results_file import ResultsFileWriter
from web_tier.features.notifications.notifier import (
    CHECK_SECONDS,
    MAX_ATTEMPTS,
    MAX_CONCURRENT,
    MAX_CONCURRENT_PER_USER,
    MAX_PAUSE_SECONDS,
    ChannelMessage,
    Notifier,
)

ADDRESS = "me@example.org"


# The controller


@dataclass
class Scene:
    """Jobs and a notifier; the test answers for the receivers, and runs the threads."""

    store: JobStore = field(default_factory=lambda: JobStore(MemoryTable()))
    clock: Clock = field(default_factory=Clock)
    sent: list[ChannelMessage] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    unfinished: set[str] = field(default_factory=set)
    threads: list[Callable[[], None]] = field(default_factory=list)
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
            {"email": self.send, "topic": self.send},
            cast(ResultsFileWriter, self),
            Tenure(active=lambda: self.active),
            PlayedClock(self.clock, lambda: NOW),
            self.threads.append,
        )

    def is_done_with(self, job_id: str) -> bool:
        """Return whether the job needs no results file any more."""
        return job_id not in self.unfinished

    def send(self, message: ChannelMessage) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(message)

    @property
    def job_ids(self) -> list[str]:
        """The jobs of the messages that were sent."""
        return [json.loads(message.body)["data"]["job_id"] for message in self.sent]

    def job(self, *, is_done: bool = True, owner: str = "") -> Job:
        job = Job(new_id(), "holiday", NOW, owner=owner)
        self.store.create(job)
        [image] = add_images(self.store, job, "a.jpg")
        put_results(self.store, job, *([done(image)] if is_done else []))
        return job

    def round(self, seconds: float = CHECK_SECONDS) -> None:
        """Run a round and the threads that it has started, after some time."""
        self.clock.now += seconds
        self.notifier.tick()
        while self.threads:
            self.threads.pop(0)()

    def request(self, job: Job, address: str = ADDRESS) -> None:
        self.notifications.request_email(job.job_id, address, "https://here/", NOW)

    def delivery(self, job: Job) -> NotificationDelivery:
        [delivery] = self.notifications.find(job.job_id).deliveries
        return delivery


def test_a_message_is_sent_once_when_the_job_is_done() -> None:
    scene = Scene()
    job = scene.job()
    scene.unfinished.add(job.job_id)
    scene.request(job)
    scene.round()
    assert not scene.sent
    scene.unfinished.clear()
    scene.round()
    scene.round()
    [message] = scene.sent
    assert (scene.delivery(job).state, scene.notifications.pending()) == ("sent", [])
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
        "page": "https://here/",
    }


def test_a_job_with_images_without_results_is_not_done() -> None:
    scene = Scene()
    scene.request(scene.job(is_done=False))
    scene.round()
    assert not scene.sent


def test_a_failed_try_is_repeated_with_the_same_id_until_it_is_given_up() -> None:
    scene = Scene(failures=[DeliveryFailedError(f"try {number}") for number in range(100)])
    job = scene.job()
    scene.request(job)
    first = scene.delivery(job)
    for _ in range(MAX_ATTEMPTS):
        scene.round(MAX_PAUSE_SECONDS)
        scene.start()  # the number of tries survives the controller
    last = scene.delivery(job)
    assert (last.id, last.state, last.attempts, last.error) == (first.id, "failed", MAX_ATTEMPTS, "try 7")
    scene.round(MAX_PAUSE_SECONDS)
    assert len(scene.failures) == 100 - MAX_ATTEMPTS
    assert scene.notifications.pending() == []


def test_a_channel_that_is_off_fails_at_once_and_leaves_the_other_one() -> None:
    scene = Scene()
    scene.notifier.send = {"topic": scene.send}
    job = scene.job()
    scene.request(job)
    scene.notifications.request_topic(job.job_id, "arn", NOW)
    scene.round()
    states = {each.channel: (each.state, each.attempts) for each in scene.notifications.find(job.job_id).deliveries}
    assert states == {"email": ("failed", 1), "topic": ("sent", 0)}
    assert [message.target for message in scene.sent] == ["arn"]
    assert scene.notifications.pending() == []


def test_a_webhook_that_an_earlier_release_has_stored_is_dropped() -> None:
    scene = Scene()
    alone, beside = scene.job(), scene.job()
    scene.request(beside)
    stored: Item = {
        "webhook": "https://example.com",
        "webhook_id": new_id(),
        "webhook_state": "waiting",
        "webhook_attempts": 1,
        "webhook_error": "busy",
        "secret": "whsec_x",
    }
    for job in (alone, beside):
        scene.store.table.set(partition(job.job_id), "NOTIFICATION", stored)
        scene.store.table.put_all([{"pk": PENDING, "sk": job.job_id, "at": "then"}])
    assert scene.notifications.find(alone.job_id).deliveries == ()
    scene.round()
    assert [message.target for message in scene.sent] == [ADDRESS]
    assert (scene.delivery(beside).state, scene.notifications.pending()) == ("sent", [])


def test_an_unexpected_error_is_a_failed_try_like_any_other() -> None:
    scene = Scene()
    job = scene.job()
    scene.request(job)
    scene.failures = [UnicodeError("label too long")] * MAX_ATTEMPTS
    for _ in range(MAX_ATTEMPTS + 1):
        scene.round(MAX_PAUSE_SECONDS)
    assert (scene.delivery(job).state, scene.delivery(job).attempts) == ("failed", MAX_ATTEMPTS)
    assert scene.notifications.pending() == []


def test_a_message_is_not_sent_again_because_its_outcome_could_not_be_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    job = scene.job()
    scene.request(job)

    def rejected(*_: object) -> None:
        raise TableBusyError("the table rejects writes")

    with monkeypatch.context() as broken:
        broken.setattr(NotificationStore, "record", rejected)
        for _ in range(3):
            scene.round()
    assert (len(scene.sent), scene.delivery(job).state) == (1, "waiting")
    scene.round()
    assert (len(scene.sent), scene.delivery(job).state) == (1, "sent")
    assert scene.notifications.pending() == []


@pytest.mark.parametrize("late", ["waiting", "failed"])
def test_a_failed_try_of_a_frozen_controller_does_not_hide_that_its_successor_sent(late: DeliveryState) -> None:
    scene = Scene()
    job = scene.job()
    scene.request(job)
    before = scene.delivery(job)
    scene.round()
    scene.notifications.record(job.job_id, replace(before, state=late, attempts=1))
    assert scene.delivery(job) == replace(before, state="sent")


def test_a_failed_try_waits_before_the_next_one() -> None:
    scene = Scene(failures=[DeliveryFailedError("busy")])
    scene.request(scene.job())
    scene.round()
    scene.round(0)
    assert not scene.sent
    scene.round(MAX_PAUSE_SECONDS)
    assert len(scene.sent) == 1


def test_a_request_during_the_sending_is_sent_too() -> None:
    scene = Scene()
    job = scene.job()
    scene.request(job)
    scene.clock.now += CHECK_SECONDS
    scene.notifier.tick()

    def request_again(message: ChannelMessage) -> None:
        scene.notifier.send = {"email": scene.send}
        scene.request(job, "other@example.org")
        scene.send(message)

    scene.notifier.send = {"email": request_again}
    scene.threads.pop()()
    assert scene.delivery(job).state == "waiting"
    scene.round()
    assert [message.target for message in scene.sent] == [ADDRESS, "other@example.org"]


def test_a_request_during_a_round_that_finds_nothing_to_send_is_sent_by_the_next() -> None:
    scene = Scene()
    job, table = scene.job(), cast(MemoryTable, scene.store.table)

    def round_first(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "UpdateItem":
            table.call = run_effect
            scene.round()
        return effect()

    table.call = round_first
    scene.request(job)
    scene.round()
    assert [message.target for message in scene.sent] == [ADDRESS]


def test_a_cancellation_during_the_sending_is_not_undone() -> None:
    scene = Scene()
    job = scene.job()
    scene.request(job)

    def cancel(message: ChannelMessage) -> None:
        scene.notifications.cancel_email(job.job_id)
        scene.send(message)

    scene.notifier.send = {"email": cancel}
    scene.round()
    assert len(scene.sent) == 1
    assert scene.notifications.find(job.job_id).deliveries == ()


def test_a_cancellation_without_a_request_stores_nothing() -> None:
    scene = Scene()
    scene.notifications.cancel_email(new_id())
    assert not cast(MemoryTable, scene.store.table).items


def test_slow_calls_take_a_bounded_number_of_threads_and_each_job_one() -> None:
    scene = Scene()
    for _ in range(MAX_CONCURRENT + 3):
        scene.request(scene.job())
    for _ in range(5):
        scene.clock.now += MAX_PAUSE_SECONDS
        scene.notifier.tick()
    assert len(scene.threads) == MAX_CONCURRENT
    scene.round()
    scene.round(MAX_PAUSE_SECONDS)
    assert len(scene.sent) == MAX_CONCURRENT + 3


def test_many_jobs_of_one_user_do_not_delay_the_messages_of_another() -> None:
    scene = Scene()
    jobs = [scene.job(owner="ann") for _ in range(2 * MAX_CONCURRENT)] + [scene.job(owner="bob")]
    for job in jobs:
        scene.request(job)
    scene.notifier.tick()
    for thread in scene.threads[MAX_CONCURRENT_PER_USER:]:  # the calls for the first ones have no reply
        thread()
    assert scene.job_ids == [jobs[-1].job_id]
    scene.round()
    assert len(scene.sent) == 1 + MAX_CONCURRENT_PER_USER
    for _ in jobs:
        scene.round()
    assert set(scene.job_ids) == {job.job_id for job in jobs}


def test_a_deleted_job_is_not_notified_and_leaves_nothing() -> None:
    scene = Scene()
    job = scene.job()
    scene.request(job)
    DeletedJobs(scene.store.table).delete(job)
    scene.round()
    assert (scene.sent, scene.notifications.pending()) == ([], [])


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError("it has not begun")])
def test_a_thread_that_cannot_start_delays_its_message_and_no_other(error: Exception) -> None:
    scene = Scene()
    jobs = [scene.job(), scene.job()]
    for job in jobs:
        scene.request(job)
    honest, failures = scene.notifier.start, [error]

    def start(run: Callable[[], None]) -> None:
        if failures:
            raise failures.pop()
        honest(run)

    scene.notifier.start = start
    scene.round()
    assert len(scene.sent) == 1
    scene.round()
    assert set(scene.job_ids) == {job.job_id for job in jobs}


def test_a_controller_that_has_lost_its_lease_sends_nothing() -> None:
    scene = Scene(active=False)
    scene.request(scene.job())
    scene.round()
    assert not scene.sent


# The API and the page


@pytest.fixture
def mailed(make_app: AppMaker, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A client of a user with an address, where e-mails are sent."""
    user = replace(LOCAL, email=ADDRESS)
    monkeypatch.setattr("web_tier.features.notifications.api.current_identity", lambda: user)
    return make_app(notifications={"mail_sender": "fleetsight@example.org"}).test_client()


def new_job(client: FlaskClient) -> str:
    return str(client.post("/api/v1/jobs", json={"name": "holiday"}).get_json()["job_id"])


def test_an_email_is_requested_shown_and_cancelled(mailed: FlaskClient) -> None:
    address = f"/api/v1/jobs/{new_job(mailed)}/notification"
    assert mailed.get(address).get_json() == {"email": None}
    waiting = {"email": {"to": ADDRESS, "state": "waiting", "attempts": 0, "error": None}}
    assert mailed.put(address, json={"email": True}).get_json() == waiting
    assert mailed.get(address).get_json() == waiting
    assert mailed.put(address, json={"email": False}).get_json() == {"email": None}
    assert mailed.get(address).get_json() == {"email": None}


@pytest.mark.parametrize(
    ("body", "reason"), [({"webhook": {"url": "https://example.com"}, "email": True}, "webhook"), ({}, "email")]
)
def test_a_notification_that_does_not_exist_is_refused(mailed: FlaskClient, body: object, reason: str) -> None:
    assert reason in problem(mailed.put(f"/api/v1/jobs/{new_job(mailed)}/notification", json=body), 422)


def test_requests_of_emails_about_a_job_are_bounded(mailed: FlaskClient) -> None:
    address = f"/api/v1/jobs/{new_job(mailed)}/notification"
    for _ in range(MAX_REQUESTS):
        assert mailed.put(address, json={"email": True}).status_code == 200
    problem(mailed.put(address, json={"email": True}), 429)
    assert mailed.put(address, json={"email": False}).get_json() == {"email": None}, "the last one can be cancelled"


def test_without_a_sender_or_an_address_there_is_no_email(client: FlaskClient) -> None:
    job_id = new_job(client)
    assert "mail_sender" in problem(client.put(f"/api/v1/jobs/{job_id}/notification", json={"email": True}), 422)
    assert 'id="notify" hidden' in client.get(f"/jobs/{job_id}").get_data(as_text=True)


def test_the_notification_of_a_missing_job_is_not_found(mailed: FlaskClient) -> None:
    problem(mailed.put(f"/api/v1/jobs/{new_id()}/notification", json={"email": False}), 404)


def test_an_email_is_requested_and_cancelled_by_the_page(mailed: FlaskClient) -> None:
    job_id = new_job(mailed)
    for form, is_requested in (({"email": "on"}, True), ({}, False)):
        assert mailed.post(f"/jobs/{job_id}/notify", data=form).status_code == 303
        page = mailed.get(f"/jobs/{job_id}").get_data(as_text=True)
        assert ('name="email" checked' in page) is is_requested
        assert ("E-mail saved: it will be sent when this job is done." in page) is is_requested


@pytest.mark.parametrize("key", ["webhook_hosts", "webhook_private", "operator_webhook"])
def test_a_removed_key_of_the_configuration_is_refused_with_its_name(make_config: ConfigMaker, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"notifications\.{key}: unknown key"):
        make_config(notifications={key: None})


def test_the_shipped_configuration_sends_nothing(config: Config) -> None:
    assert not any(config.notifications.model_dump().values())


def test_a_topic_gets_each_finish_of_a_job_without_limit() -> None:
    scene = Scene()
    job = scene.job()
    for _ in range(MAX_REQUESTS + 1):
        scene.notifications.request_topic(job.job_id, "arn", NOW + timedelta(seconds=1))
    assert scene.delivery(job).channel == "topic"


def test_a_deleted_job_keeps_no_notification() -> None:
    scene = Scene()
    job = scene.job()
    scene.request(job)
    DeletedJobs(scene.store.table).delete(job)
    [deleted] = DeletedJobs(scene.store.table).find_all()
    while DeletedJobs(scene.store.table).remove_items(deleted, 100):
        pass
    assert not scene.notifications.find(job.job_id).deliveries
