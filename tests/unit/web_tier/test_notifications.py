"""Notifications of finished jobs: requests, the controller that sends them, and webhooks on the wire."""

import json
import socketserver
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import cast

import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient

from core.config import Config, NotificationSettings
from core.ids import new_id
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import Job
from core.jobs.notifications import (
    MAX_REQUESTS,
    DeliveryFailedError,
    DeliveryState,
    NotificationDelivery,
    NotificationStore,
)
from core.jobs.store import JobStore
from services.lease import Tenure
from services.table import TableBusyError
from tests.conftest import ConfigMaker
from tests.support.api import AppMaker, problem
from tests.support.autoscaler import Clock
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, add_images, done, put_results
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.servers import served
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
from web_tier.features.notifications.webhooks import (
    WebhookMessage,
    WebhookRefusedError,
    is_public,
    new_secret,
    parse_webhook,
    send_webhook,
)

URL = "https://example.com/done"
HOSTS = {"webhook_hosts": ["example.com", "*.example.org:8443"]}


def settings(*hosts: str, private: bool = False) -> NotificationSettings:
    return NotificationSettings(
        webhook_hosts=hosts, webhook_private=private, mail_sender=None, topic_arn=None, operator_emails=(),
        operator_webhook=None, operator_topic_arn=None,
    )  # fmt: skip


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
            {"webhook": self.send, "email": self.send},
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

    def request(self, job: Job, **targets: str) -> None:
        self.notifications.request(job.job_id, targets, NOW, secret="whsec_x", page="https://here/")  # type: ignore[arg-type]

    def delivery(self, job: Job) -> NotificationDelivery:
        [delivery] = self.notifications.find(job.job_id).deliveries
        return delivery


def test_a_message_is_sent_once_when_the_job_is_done() -> None:
    scene = Scene()
    job = scene.job()
    scene.unfinished.add(job.job_id)
    scene.request(job, webhook=URL)
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
    scene.request(scene.job(is_done=False), webhook=URL)
    scene.round()
    assert not scene.sent


def test_a_failed_try_is_repeated_with_the_same_id_until_it_is_given_up() -> None:
    scene = Scene(failures=[DeliveryFailedError(f"try {number}") for number in range(100)])
    job = scene.job()
    scene.request(job, webhook=URL)
    first = scene.delivery(job)
    for _ in range(MAX_ATTEMPTS):
        scene.round(MAX_PAUSE_SECONDS)
        scene.start()  # the number of tries survives the controller
    last = scene.delivery(job)
    assert (last.id, last.state, last.attempts, last.error) == (first.id, "failed", MAX_ATTEMPTS, "try 7")
    scene.round(MAX_PAUSE_SECONDS)
    assert len(scene.failures) == 100 - MAX_ATTEMPTS
    assert scene.notifications.pending() == []


def test_a_final_failure_ends_the_tries_and_leaves_the_other_channel() -> None:
    scene = Scene(failures=[DeliveryFailedError("no such page", is_final=True)])
    job = scene.job()
    scene.request(job, email="me@example.org", webhook=URL)
    scene.round()
    scene.round(MAX_PAUSE_SECONDS)
    states = {each.channel: each.state for each in scene.notifications.find(job.job_id).deliveries}
    assert states == {"email": "failed", "webhook": "sent"}
    assert [message.target for message in scene.sent] == [URL]


def test_an_unexpected_error_is_a_failed_try_like_any_other() -> None:
    scene = Scene()
    job = scene.job()
    scene.request(job, webhook=URL)
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
    scene.request(job, email="me@example.com")

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
    scene.request(job, webhook=URL)
    before = scene.delivery(job)
    scene.round()
    scene.notifications.record(job.job_id, replace(before, state=late, attempts=1))
    assert scene.delivery(job) == replace(before, state="sent")


def test_a_failed_try_waits_before_the_next_one() -> None:
    scene = Scene(failures=[DeliveryFailedError("busy")])
    scene.request(scene.job(), webhook=URL)
    scene.round()
    scene.round(0)
    assert not scene.sent
    scene.round(MAX_PAUSE_SECONDS)
    assert len(scene.sent) == 1


def test_a_request_during_the_sending_is_sent_too() -> None:
    scene = Scene()
    job = scene.job()
    scene.request(job, webhook=URL)
    scene.clock.now += CHECK_SECONDS
    scene.notifier.tick()
    send = scene.notifier.send["webhook"]

    def request_again(message: ChannelMessage) -> None:
        scene.notifier.send = {"webhook": send}
        scene.request(job, webhook="https://example.com/other")
        send(message)

    scene.notifier.send = {"webhook": request_again}
    scene.threads.pop()()
    assert scene.delivery(job).state == "waiting"
    scene.round()
    assert [message.target for message in scene.sent] == [URL, "https://example.com/other"]


def test_slow_receivers_take_a_bounded_number_of_threads_and_each_job_one() -> None:
    scene = Scene()
    for _ in range(MAX_CONCURRENT + 3):
        scene.request(scene.job(), webhook=URL)
    for _ in range(5):
        scene.clock.now += MAX_PAUSE_SECONDS
        scene.notifier.tick()
    assert len(scene.threads) == MAX_CONCURRENT
    scene.round()
    scene.round(MAX_PAUSE_SECONDS)
    assert len(scene.sent) == MAX_CONCURRENT + 3


def test_the_slow_receiver_of_one_user_does_not_delay_the_messages_of_another() -> None:
    scene = Scene()
    jobs = [scene.job(owner="ann") for _ in range(2 * MAX_CONCURRENT)] + [scene.job(owner="bob")]
    for job in jobs:
        scene.request(job, webhook=URL)
    scene.notifier.tick()
    for thread in scene.threads[MAX_CONCURRENT_PER_USER:]:  # the receiver of the first ones does not answer
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
    scene.request(job, webhook=URL)
    DeletedJobs(scene.store.table).delete(job)
    scene.round()
    assert (scene.sent, scene.notifications.pending()) == ([], [])


def test_a_thread_that_cannot_start_delays_its_message_and_no_other() -> None:
    scene = Scene()
    jobs = [scene.job(), scene.job()]
    for job in jobs:
        scene.request(job, webhook=URL)
    honest, failures = scene.notifier.start, [RuntimeError("can't start new thread")]

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
    scene.request(scene.job(), webhook=URL)
    scene.round()
    assert not scene.sent


# Addresses and signatures


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://example.com/a?b=c", True),
        ("https://EXAMPLE.com", True),
        ("https://example.com:8443/", False),
        ("https://www.example.com/", False),
        ("https://a.example.org:8443/", True),
        ("https://example.org:8443/", False),
        ("https://evilexample.org:8443/", False),
        ("http://example.com/", False),
        ("https://me:secret@example.com/", False),
        ("https://example.com\\@localhost/", False),
        ("https://example.com/\n", False),
        ("https://example.com:port/", False),
        ("https://[::1/", False),
        ("https://.example.org:8443/", False),
        ("https://a..example.org:8443/", False),
        (f"https://{'a' * 64}.example.org:8443/", False),
        ("https://a%2fb.example.org:8443/", False),
        ("ftp://example.com/", False),
        ("/done", False),
        ("", False),
    ],
)
def test_webhooks_go_to_allowed_hosts_only(url: str, allowed: bool) -> None:
    wanted = settings("example.com", "*.example.org:8443")
    if allowed:
        assert parse_webhook(url, wanted).scheme == "https"
    else:
        with pytest.raises(WebhookRefusedError):
            parse_webhook(url, wanted)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("::1", "::", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "ff02::1"),
        *("192.88.99.1", "192.0.0.9", "192.0.0.100", "168.63.129.16", "::ffff:168.63.129.16", "3fff::1"),
        *("fec0::1", "::a00:1", "::ffff:0:a00:1", "64:ff9b:1::a00:1", "2002:a00:1::1", "2001::1"),
    ],
)
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are_public() -> None:
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1::1")


def test_a_host_with_a_private_address_gets_no_webhook() -> None:
    with pytest.raises(DeliveryFailedError, match="private address") as caught:
        send(URL, settings("example.com"), lambda host, port: ["93.184.216.34", "10.0.0.1"])
    assert caught.value.is_final


def test_a_host_that_is_not_allowed_any_more_gets_no_webhook() -> None:
    with pytest.raises(DeliveryFailedError, match=r"allowed: other\.com"):
        send(URL, settings("other.com"), lambda host, port: pytest.fail("it was resolved"))


def test_the_signature_of_the_specifications_example() -> None:
    # https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    message = WebhookMessage("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert (
        message.signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def send(
    url: str, wanted: NotificationSettings, resolver: Callable[[str, int], Sequence[str]] = lambda *_: ["127.0.0.1"]
) -> None:
    send_webhook(url, new_secret(), WebhookMessage("msg_1", 1, b'{"a": 1}'), wanted, resolver)


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, None), (204, None), (302, True), (404, True), (429, False), (500, False)]
)
def test_a_webhook_on_the_wire(status: int, outcome: bool | None) -> None:
    app, seen = Flask(__name__), list[tuple[str, bytes, str]]()

    @app.post("/done")
    def receive() -> Response:
        seen.append((request.headers["webhook-id"], request.get_data(), request.host))
        return Response(status=status, headers={"Location": "/elsewhere"})

    with served(app) as address:
        port = address.rpartition(":")[2]
        url, wanted = f"http://receiver.test:{port}/done", settings(f"receiver.test:{port}", private=True)
        if outcome is None:
            send(url, wanted)
        else:
            with pytest.raises(DeliveryFailedError, match=f"answered {status}") as caught:
                send(url, wanted)
            assert caught.value.is_final is outcome
    assert seen == [("msg_1", b'{"a": 1}', f"receiver.test:{port}")]


def test_a_receiver_that_does_not_answer_is_tried_again() -> None:
    with pytest.raises(DeliveryFailedError, match="did not answer") as caught:
        send("http://receiver.test:1/", settings("receiver.test:1", private=True))
    assert not caught.value.is_final


def test_a_reply_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web_tier.features.notifications.webhooks.TOTAL_SECONDS", 0.2)
    is_closed = threading.Event()

    class Endless(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                while not is_closed.wait(0.01):
                    self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            except OSError:
                is_closed.set()

    with socketserver.TCPServer(("127.0.0.1", 0), Endless) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        port = server.server_address[1]
        with pytest.raises(DeliveryFailedError, match="did not answer") as caught:
            send(f"http://receiver.test:{port}/", settings(f"receiver.test:{port}", private=True))
        is_closed.set()
        thread.join()
    assert not caught.value.is_final


# The API and the page


@pytest.fixture
def hooked(make_app: AppMaker) -> FlaskClient:
    return make_app(notifications=HOSTS).test_client()


def new_job(client: FlaskClient) -> str:
    return str(client.post("/api/v1/jobs", json={"name": "holiday"}).get_json()["job_id"])


def test_a_webhook_is_requested_shown_without_its_secret_and_cancelled(hooked: FlaskClient) -> None:
    address = f"/api/v1/jobs/{new_job(hooked)}/notification"
    made = hooked.put(address, json={"webhook": {"url": URL}}).get_json()
    assert made["webhook"]["secret"].startswith("whsec_")
    assert hooked.get(address).get_json() == {
        "email": None,
        "webhook": {"to": URL, "state": "waiting", "attempts": 0, "error": None, "secret": None},
    }
    assert hooked.delete(address).status_code == 204
    assert hooked.get(address).get_json() == {"email": None, "webhook": None}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"webhook": {"url": "https://evil.test/"}}, "allowed: example.com"),
        ({"webhook": {"url": URL, "secret": "short"}}, "webhook.secret"),
        ({"email": True}, "leave email out"),
        ({"mail": True}, "mail"),
    ],
)
def test_a_notification_that_cannot_be_sent_is_refused(hooked: FlaskClient, body: object, reason: str) -> None:
    assert reason in problem(hooked.put(f"/api/v1/jobs/{new_job(hooked)}/notification", json=body), 422)


def test_requests_of_notifications_of_a_job_are_bounded(hooked: FlaskClient) -> None:
    address = f"/api/v1/jobs/{new_job(hooked)}/notification"
    for _ in range(MAX_REQUESTS):
        assert hooked.put(address, json={"webhook": {"url": URL}}).status_code == 200
    problem(hooked.put(address, json={"webhook": {"url": URL}}), 429)
    assert hooked.delete(address).status_code == 204, "the last one can be cancelled"
    assert hooked.get(address).get_json()["webhook"] is None


def test_without_allowed_hosts_there_are_no_webhooks(client: FlaskClient) -> None:
    address = f"/api/v1/jobs/{new_job(client)}/notification"
    assert "webhooks are off" in problem(client.put(address, json={"webhook": {"url": URL}}), 422)


def test_the_notification_of_a_missing_job_is_not_found(hooked: FlaskClient) -> None:
    problem(hooked.put(f"/api/v1/jobs/{new_id()}/notification", json={}), 404)


def test_a_webhook_is_requested_by_the_page(hooked: FlaskClient) -> None:
    job_id = new_job(hooked)
    reply = hooked.post(f"/jobs/{job_id}/notify", data={"webhook": URL})
    assert reply.status_code == 303
    page = hooked.get(f"/jobs/{job_id}").get_data(as_text=True)
    assert f'value="{URL}"' in page
    assert "Webhook saved: it will be sent when this job is done." in page
    assert hooked.post(f"/jobs/{job_id}/notify", data={"webhook": URL, "secret": "x"}).status_code == 422


def test_the_page_keeps_the_secret_of_a_webhook_that_it_leaves_as_it_is(hooked: FlaskClient, store: JobStore) -> None:
    job_id, secret = new_job(hooked), new_secret()
    hooked.put(f"/api/v1/jobs/{job_id}/notification", json={"webhook": {"url": URL, "secret": secret}})
    for url, is_kept in ((URL, True), (f"{URL}/other", False)):
        hooked.post(f"/jobs/{job_id}/notify", data={"webhook": url, "secret": ""})
        found = NotificationStore(store.table).find(job_id)
        assert ([each.target for each in found.deliveries], found.secret == secret) == ([url], is_kept)


@pytest.mark.parametrize(
    "host",
    [
        *("https://example.com", "example.com/path", "*", "a b", "a..b", "-a.b", "a.b:0", "a.b:70000"),
        *("localhost", "a.localhost", "*.com", "127.0.0.1:8443", "169.254.169.254", "2130706433", "0x7f.1"),
    ],
)
def test_a_wrong_host_in_the_configuration_stops_the_process(make_config: ConfigMaker, host: str) -> None:
    with pytest.raises(Exception, match=r"notifications\.webhook_hosts"):
        make_config(notifications={"webhook_hosts": [host]})


def test_hosts_of_this_machine_are_allowed_where_private_webhooks_are(
    make_config: ConfigMaker,
) -> None:
    hosts = ["localhost", "127.0.0.1:8443"]
    made = make_config(notifications={"webhook_hosts": hosts, "webhook_private": True})
    assert [*made.notifications.webhook_hosts] == hosts


def test_the_shipped_configuration_sends_nothing(config: Config) -> None:
    assert config.notifications == settings()


def test_a_topic_gets_each_finish_of_a_job_without_limit() -> None:
    scene = Scene()
    job = scene.job()
    for _ in range(MAX_REQUESTS + 1):
        scene.notifications.request(job.job_id, {"topic": "arn"}, NOW + timedelta(seconds=1), is_bounded=False)
    assert scene.delivery(job).channel == "topic"


def test_a_deleted_job_keeps_no_notification() -> None:
    scene = Scene()
    job = scene.job()
    scene.request(job, webhook=URL)
    DeletedJobs(scene.store.table).delete(job)
    [deleted] = DeletedJobs(scene.store.table).find_all()
    while DeletedJobs(scene.store.table).remove_items(deleted, 100):
        pass
    assert not scene.notifications.find(job.job_id).deliveries
