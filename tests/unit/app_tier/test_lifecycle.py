"""The life of a worker: its size, its heartbeats, and its end."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from app_tier import heartbeat
from app_tier.heartbeat import Heartbeater, Send, WorkerStats
from app_tier.lifecycle import Lifetime, is_protected, watch_notices
from app_tier.sizing import HostResources, Sizing, fitting_workers, sized, this_machine
from app_tier.visibility import InFlightMessages
from core.config import AUTO_MAX_WORKERS, WorkerSettings, parse_config
from core.messages import Heartbeat
from services.metadata import DRAIN_TAG, PROTECTED_TAG, Metadata
from services.sqs import OutgoingMessage
from tests.conftest import shipped_values
from tests.support.clocks import PlayedClock
from tests.support.servers import SPOT_ACTION, SPOT_NOTICE, Answer, MetadataService
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS
from tests.support.worker import delivery


@given(st.lists(st.sampled_from(["end", "fail"]), max_size=5))
def test_the_first_event_gives_the_reason_and_a_fault_the_exit_status(events: list[str]) -> None:
    ends = list[bool]()
    lifetime = Lifetime(on_end=lambda: ends.append(lifetime.over))
    for number, event in enumerate(events):
        getattr(lifetime, event)(f"{event} {number}")
    decisive = events.index("fail") if "fail" in events else 0
    assert lifetime.reason == (f"{events[decisive]} {decisive}" if events else "")
    assert lifetime.status == int("fail" in events)
    assert lifetime.over is lifetime.wait(0) is bool(events)
    assert ends == [True] * bool(events), "the end is reported once"


@pytest.fixture
def service() -> Iterator[MetadataService]:
    with MetadataService.serve() as started:
        yield started


def test_a_spot_notice_ends_the_worker_after_any_earlier_answer(service: MetadataService) -> None:
    service.answers[SPOT_ACTION] = [(404, ""), (500, "broken"), (200, "not JSON"), (200, SPOT_NOTICE)]
    lifetime = Lifetime()
    watch_notices(Metadata(service.url), lifetime, every_seconds=0.001)
    assert (lifetime.reason, lifetime.status) == ("Spot notice: terminate", 0)


def test_a_worker_that_is_asked_to_drain_ends_in_good_order(service: MetadataService) -> None:
    service.answers[f"tags/instance/{DRAIN_TAG}"] = [(200, "asked")]
    lifetime = Lifetime()
    watch_notices(Metadata(service.url), lifetime, every_seconds=0.001)
    assert (lifetime.reason, lifetime.status) == ("asked to drain", 0)


@pytest.mark.parametrize(
    ("answer", "expected"), [((200, "asked"), True), ((200, ""), True), ((404, ""), False), ((500, "broken"), False)]
)
def test_an_instance_is_protected_only_if_its_metadata_has_the_tag(
    service: MetadataService, answer: Answer, expected: bool
) -> None:
    service.answers[f"tags/instance/{PROTECTED_TAG}"] = [answer]
    assert is_protected(Metadata(service.url)) is expected


def test_a_protected_worker_does_not_end_when_idle_but_when_asked_to_drain() -> None:
    lifetime = Lifetime(is_protected=lambda: True)
    assert not lifetime.stop_if_idle("idle for 5 s")
    assert lifetime.reason == ""
    lifetime.end("asked to drain")
    assert lifetime.reason == "asked to drain"
    ending = Lifetime()
    assert ending.stop_if_idle("idle for 5 s")
    assert (ending.ended, ending.reason) == ("idle", "idle for 5 s")
    ending.fail("no room left")
    assert (ending.ended, ending.reason) == ("failed", "no room left")


NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Post:
    """Takes heartbeats, and derives the time from how long the heart has waited, until `seconds` are over."""

    def __init__(self, seconds: float) -> None:
        self.taken: list[Heartbeat] = []
        self.now, self._end = NOON, NOON + timedelta(seconds=seconds)

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        self.taken += [Heartbeat.from_json(message.body) for message in messages]
        return []

    def clock(self) -> float:
        return self.now.timestamp()

    def wait(self, seconds: float) -> bool:
        self.now += timedelta(seconds=seconds)
        return self.now >= self._end


def heart(post: Post, stats: Callable[[], WorkerStats], send: Send | None = None) -> Heartbeater:
    return Heartbeater(
        "i-1",
        stats,
        send or post.send,
        every_seconds=10,
        clock=PlayedClock(post.clock, lambda: post.now),
    )


def test_a_worker_is_heard_of_at_once_every_ten_seconds_and_at_its_end() -> None:
    post = Post(seconds=20)
    broken = WorkerStats(3, 2, failed_model="b" * 64)
    samples = iter([WorkerStats(), broken, WorkerStats(5, 0, "failed", "no room left", ["a" * 64])])
    heart(post, lambda: next(samples)).run(post.wait)
    beats = [((beat.at - NOON).total_seconds(), beat.state, beat.images, beat.in_hand) for beat in post.taken]
    assert beats == [(0, "ready", 0, 0), (10, "busy", 3, 2), (20, "ended", 5, 0)]
    assert [beat.failed_model for beat in post.taken] == [None, "b" * 64, None]
    ends = [(beat.end, beat.reason, beat.models) for beat in post.taken]
    assert ends == [(None, "", ())] * 2 + [("failed", "no room left", ())]
    assert {beat.worker for beat in post.taken} == {"i-1"}
    assert [beat.images_per_second for beat in post.taken] == [0, 0.3, 0.2]


def test_a_worker_that_finishes_what_it_has_says_so() -> None:
    assert WorkerStats(1, 2, end="stopped").state == "draining"


def test_a_heartbeat_that_cannot_be_sent_is_forgotten() -> None:
    post = Post(seconds=30)
    errors: list[Exception] = [EndpointConnectionError(endpoint_url="http://sqs"), RuntimeError("odd")]

    def send(messages: Sequence[OutgoingMessage]) -> Sequence[OutgoingMessage]:
        if errors:
            raise errors.pop(0)
        return messages if post.taken else post.send(messages)

    heart(post, WorkerStats, send).run(post.wait)
    assert len(post.taken) == 1


@pytest.mark.parametrize(("max_bytes", "times"), [(65_536, [0, 2.0, 10]), (220, [0, 2.0, 10])])
def test_a_message_that_is_held_for_a_while_is_named_at_once_if_there_is_room(
    max_bytes: int, times: list[float]
) -> None:
    post = Post(seconds=10)
    held = InFlightMessages(10, 4, PlayedClock(post.clock, lambda: post.now))
    deliveries = [delivery(number) for number in range(9)]

    def wait(seconds: float) -> bool:
        is_over = post.wait(seconds)
        match (post.now - NOON).total_seconds():
            case 0.5:
                held.hold(deliveries[:1], post.clock())  # it is answered before it needs a name
            case 1.0:
                held.remove([deliveries[0]])
            case 1.5:
                held.hold(deliveries[1:], post.clock())
        return is_over

    clock = PlayedClock(post.clock, lambda: post.now)
    Heartbeater("i-1", WorkerStats, post.send, 20, clock, in_flight=held, max_bytes=max_bytes).run(wait)
    assert [(beat.at - NOON).total_seconds() for beat in post.taken] == times
    named = [len(beat.receipts) for beat in post.taken]
    assert named[0] == 0
    assert named[1:] == [8, 8] if max_bytes > 220 else 0 < named[1] < 8
    assert held.has_unnamed(0) == (max_bytes <= 220)


def test_the_end_does_not_wait_for_a_heartbeat_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "END_SECONDS", 0.01)
    hangs, may_go_on = threading.Event(), threading.Event()

    def send(_messages: Sequence[OutgoingMessage]) -> Sequence[OutgoingMessage]:
        hangs.set()
        assert may_go_on.wait(NEVER_SECONDS)
        return []

    beating = Heartbeater("i-1", WorkerStats, send)
    beating.start()
    assert hangs.wait(DEADLINE_SECONDS)
    stopping = threading.Thread(target=beating.stop, daemon=True)
    stopping.start()
    stopping.join(DEADLINE_SECONDS)
    assert not stopping.is_alive(), "it waits for the heartbeat that is still on its way"
    may_go_on.set()


GIB = 2**30
WAIT = 0.005


def config(**settings: Any) -> WorkerSettings:
    values = shipped_values()
    values["worker"] |= settings
    return parse_config(values).worker


def test_what_is_configured_stays() -> None:
    wanted = {
        "threads": 3,
        "batch_size": 32,
        "call_threads": 6,
        "model_megabytes": 100,
    }
    assert sized(config(**wanted), HostResources(16, 32 * GIB), 224) == Sizing(3, 3, 32, 3, 6, 6, WAIT, 100 * 2**20)


def test_little_memory_or_large_images_make_small_batches() -> None:
    assert sized(config(), HostResources(2, GIB // 2), 224).batch_size == 3
    assert [sized(config(), HostResources(2, 64 * GIB), side).batch_size for side in (64, 224, 600)] == [8, 4, 1]
    assert sized(config(), HostResources(64, GIB // 2), 1024).batch_size == 1


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """Return the folder of a control group within another one, and let a file name it as this process's."""
    folder = tmp_path / "groups" / "user.slice" / "shell.scope"
    folder.mkdir(parents=True)
    (tmp_path / "membership").write_text("3:cpuset:/elsewhere\n0::/user.slice/shell.scope\n")
    return folder


def machine_of(tmp_path: Path) -> HostResources:
    return this_machine(tmp_path / "groups", tmp_path / "membership")


@pytest.mark.parametrize("above", [0, 1, 2], ids=["its own", "the one above", "the first"])
def test_a_control_group_that_allows_less_than_the_machine_has_counts(
    tmp_path: Path, group: Path, above: int
) -> None:
    folder = [group, *group.parents][above]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert machine_of(tmp_path).cores == 1
    finally:
        os.sched_setaffinity(0, cores)
    unlimited = machine_of(tmp_path)
    assert unlimited.cores == len(os.sched_getaffinity(0))
    limit, quota = folder / "memory.max", folder / "cpu.max"
    for memory, cpus in (("max", "max 100000"), (str(2**60), f"{10**9} 100000"), ("", "")):
        limit.write_text(f"{memory}\n")
        quota.write_text(f"{cpus}\n")
        assert machine_of(tmp_path) == unlimited
    limit.write_text("1048576\n")
    quota.write_text("50000 100000\n")
    assert machine_of(tmp_path) == HostResources(cores=1, memory_bytes=1048576)


@pytest.mark.parametrize("name", ["", "3:cpuset:/elsewhere", "0::/../../other"])
def test_without_a_control_group_of_its_own_the_first_one_counts(tmp_path: Path, name: str) -> None:
    (tmp_path / "groups").mkdir()
    (tmp_path / "membership").write_text(name)
    (tmp_path / "groups" / "memory.max").write_text("1048576\n")
    assert machine_of(tmp_path).memory_bytes == 1048576


@given(cores=st.integers(1, 256), memory=st.integers(2**28, 2**40), each=st.integers(2**20, 2**34))
def test_a_machine_gets_as_many_workers_as_it_has_cores_and_memory_for(cores: int, memory: int, each: int) -> None:
    workers = fitting_workers(HostResources(cores, memory), each)
    assert 1 <= workers <= AUTO_MAX_WORKERS
    if workers > 1:
        assert workers <= cores
        assert workers * each <= memory / 2
    if workers < min(cores, AUTO_MAX_WORKERS):
        assert (workers + 1) * each > memory / 2, "one more would fit"
