"""A worker says that it lives, whatever becomes of what it says."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import EndpointConnectionError

from app_tier import heartbeat
from app_tier.heartbeat import Heartbeater, Send, WorkerStats
from core.messages import Heartbeat
from services.sqs import OutgoingMessage
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Post:
    """Takes heartbeats, and tells the time by how long the heart has waited."""

    def __init__(self, beats: int) -> None:
        self.taken: list[Heartbeat] = []
        self.now, self._left = NOON, beats

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        self.taken += [Heartbeat.from_json(message.body) for message in messages]
        return []

    def clock(self) -> float:
        return self.now.timestamp()

    def wait(self, seconds: float) -> bool:
        self.now += timedelta(seconds=seconds)
        self._left -= 1
        return self._left == 0


def heart(post: Post, look: Callable[[], WorkerStats], send: Send | None = None) -> Heartbeater:
    return Heartbeater(
        "i-1",
        look,
        send or post.send,
        every_seconds=10,
        now=lambda: post.now,
        clock=post.clock,
    )


def test_a_worker_is_heard_of_at_once_every_ten_seconds_and_at_its_end() -> None:
    post = Post(beats=2)
    looks = iter([WorkerStats(0, 0, False), WorkerStats(3, 2, False), WorkerStats(5, 0, True)])
    heart(post, lambda: next(looks)).run(post.wait)
    told = [((beat.at - NOON).total_seconds(), beat.state, beat.images, beat.in_hand) for beat in post.taken]
    assert told == [(0, "ready", 0, 0), (10, "busy", 3, 2), (20, "ended", 5, 0)]
    assert {beat.worker for beat in post.taken} == {"i-1"}
    assert [beat.images_per_second for beat in post.taken] == [0, 0.3, 0.2]


def test_a_worker_that_finishes_what_it_has_says_so() -> None:
    assert WorkerStats(1, 2, draining=True).state == "draining"


def test_what_cannot_be_sent_is_logged_and_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    post = Post(beats=3)
    errors: list[Exception] = [EndpointConnectionError(endpoint_url="http://sqs"), RuntimeError("odd")]

    def send(messages: Sequence[OutgoingMessage]) -> Sequence[OutgoingMessage]:
        if errors:
            raise errors.pop(0)
        return messages if post.taken else post.send(messages)

    heart(post, lambda: WorkerStats(0, 0, False), send).run(post.wait)
    assert len(post.taken) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "a heartbeat could not be sent",
        "a heartbeat could not be sent",
        "the response queue refused a heartbeat",
    ]


def test_the_end_does_not_wait_for_a_heartbeat_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "END_SECONDS", 0.01)
    hangs, may_go_on = threading.Event(), threading.Event()

    def send(_messages: Sequence[OutgoingMessage]) -> Sequence[OutgoingMessage]:
        hangs.set()
        assert may_go_on.wait(NEVER_SECONDS)
        return []

    beating = Heartbeater("i-1", lambda: WorkerStats(0, 0, False), send)
    beating.start()
    assert hangs.wait(DEADLINE_SECONDS)
    stopping = threading.Thread(target=beating.stop, daemon=True)
    stopping.start()
    stopping.join(DEADLINE_SECONDS)
    assert not stopping.is_alive(), "it waits for the heartbeat that is still on its way"
    may_go_on.set()
