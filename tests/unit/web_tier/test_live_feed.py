"""Live feeds: each change is published once, one poll serves all viewers, and streams are bounded."""

import json
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest

from core.ids import new_id
from core.jobs.models import Counts, Job, JobStatus, MinScores, Resend
from core.jobs.store import JobStore
from core.messages import ClassificationResult, LabelScore
from services.errors import NotFoundError
from tests.support.clocks import ManualClock, PlayedClock
from tests.support.jobs import (
    NOW,
    add_images,
    client_error,
    done,
    failed,
    put_counts,
    put_results,
    record,
    request_again,
    send_again,
)
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, wait_until
from web_tier.http.bulkheads import Bulkhead
from web_tier.results import live_feed
from web_tier.results.job_snapshot import ImageRow
from web_tier.results.live_feed import (
    HEARTBEAT_SECONDS,
    LINGER_SECONDS,
    SEARCH_SECONDS,
    STREAM_SECONDS,
    FeedEvent,
    FeedRegistry,
    JobFeed,
    Stream,
    event_stream,
)
from web_tier.results.query import ImageResult


class ScriptedFeed:
    """Returns scripted events, one list for each wait; a wait without events lasts as long as it may."""

    job_id = "job"
    stopping = False

    def __init__(self, *waits: list[FeedEvent] | Exception) -> None:
        self.waits, self.now = list(waits), 0.0
        self.cursors: list[str | None] = []

    def wait(
        self, cursor: str | None, seconds: float, is_over: Callable[[], bool] = lambda: False
    ) -> list[tuple[str, FeedEvent]]:
        self.cursors.append(cursor)
        found = self.waits.pop(0) if self.waits else []
        if isinstance(found, Exception):
            raise found
        self.now += 0.0 if found else seconds
        return [(f"run-{event.number}", event) for event in found]


def stream_of(feed: ScriptedFeed, cursor: str = "") -> Stream:
    return Stream(cast(JobFeed, feed), "ada", cursor, "viewer")


def lines(feed: ScriptedFeed, cursor: str = "") -> list[str]:
    return list(event_stream(stream_of(feed, cursor), lambda: feed.stopping, PlayedClock(lambda: feed.now)))


def test_an_event_has_its_cursor_as_id_so_that_a_browser_can_resume() -> None:
    feed = ScriptedFeed([FeedEvent(7, "results", '{"rows":[]}')], [FeedEvent(8, "end", "{}")])
    text = lines(feed, "run-6")
    assert text[0].startswith("retry: ")
    assert text[1:] == [
        'id: run-7.viewer\nevent: results\ndata: {"rows":[]}\n\n',
        "id: run-8.viewer\nevent: end\ndata: {}\n\n",
    ]
    assert feed.cursors == ["run-6", "run-7"]


def test_a_stream_without_events_has_heartbeats_and_ends_after_a_while() -> None:
    feed = ScriptedFeed()
    text = lines(feed)
    assert text[1:] == ["event: alive\ndata: {}\n\n"] * int(STREAM_SECONDS / HEARTBEAT_SECONDS)
    assert feed.now == STREAM_SECONDS


class BusyFeed(ScriptedFeed):
    """Has an event at each wait."""

    def wait(
        self, cursor: str | None, seconds: float, is_over: Callable[[], bool] = lambda: False
    ) -> list[tuple[str, FeedEvent]]:
        self.now += seconds
        return [("run-1", FeedEvent(1, "results", "{}"))]


@pytest.mark.parametrize("feed", [ScriptedFeed(), BusyFeed()], ids=["silent", "busy"])
def test_s14_a_stream_ends_with_the_credentials_that_opened_it(feed: ScriptedFeed) -> None:
    ends = 3 * HEARTBEAT_SECONDS
    list(event_stream(stream_of(feed), clock=PlayedClock(lambda: feed.now), is_allowed=lambda: feed.now < ends))
    assert ends <= feed.now <= ends + HEARTBEAT_SECONDS


def test_a_deleted_job_ends_its_stream() -> None:
    assert lines(ScriptedFeed(NotFoundError("gone")))[-1].startswith("event: gone")


def test_a_failed_read_of_the_table_ends_the_connection() -> None:
    assert len(lines(ScriptedFeed(client_error(500)))) == 1


def registry_of(size: int, clock: ManualClock) -> FeedRegistry:
    def new_feed(job_id: str) -> JobFeed:
        return JobFeed(cast(JobStore, None), job_id, cast(Any, None))

    return FeedRegistry(Bulkhead(size), new_feed, clock=clock)


def joined(
    registry: FeedRegistry, job_id: str, owner: str = "", last: str = "", connection: socket.socket | None = None
) -> Stream:
    stream = registry.join(job_id, owner, last, connection)
    assert stream is not None
    return stream


def test_no_user_holds_more_than_a_quarter_of_all_streams(clock: ManualClock) -> None:
    registry = registry_of(8, clock)
    first, _ = joined(registry, "a", "ada"), joined(registry, "b", "ada")
    assert registry.join("c", "ada") is None
    joined(registry, "d", "ben")
    registry.leave(first)
    joined(registry, "c", "ada")


def test_viewers_of_one_job_share_its_feed_and_are_bounded_over_all_jobs(clock: ManualClock) -> None:
    registry = registry_of(3, clock)
    first = joined(registry, "a")
    assert joined(registry, "a").feed is first.feed
    joined(registry, "b")
    assert registry.join("c") is None
    registry.leave(first)
    joined(registry, "c")


def test_a_stream_that_its_client_has_closed_is_not_counted(clock: ManualClock) -> None:
    registry = registry_of(8, clock)
    with ExitStack() as connections:
        pairs = [[connections.enter_context(each) for each in socket.socketpair()] for _ in range(2)]
        closed, is_open = (joined(registry, "a", "ada", connection=server) for _, server in pairs)
        assert registry.join("a", "ada") is None
        pairs[0][0].close()
        third = joined(registry, "a", "ada")
        assert (closed.is_over(), is_open.is_over(), third.is_over()) == (True, False, False)
        assert registry.join("a", "ada") is None
        registry.leave(closed)  # late, in its own thread
        assert registry.join("a", "ada") is None, "its place was given back once"


def test_a_viewer_that_reconnects_replaces_its_stream_which_ends(clock: ManualClock) -> None:
    registry = registry_of(8, clock)
    with ExitStack() as connections:
        client, server = [connections.enter_context(each) for each in socket.socketpair()]
        first, other = joined(registry, "a", "ada", connection=server), joined(registry, "a", "ada")
        assert registry.join("a", "ada") is None
        last = first
        for _ in range(3):
            last = joined(registry, "a", "ada", f"run-7.{first.viewer}")
            assert (last.cursor, last.viewer, first.is_over()) == ("run-7", first.viewer, True)
        client.settimeout(DEADLINE_SECONDS)
        assert client.recv(1) == b"", "its thread no longer waits for this client"
        assert (other.is_over(), last.is_over()) == (False, False)
        assert registry.join("a", "ada") is None


@pytest.mark.parametrize(("job_id", "owner"), [("a", "ben"), ("b", "ada")])
def test_an_id_ends_no_stream_of_another_user_or_job(clock: ManualClock, job_id: str, owner: str) -> None:
    registry = registry_of(16, clock)
    first = joined(registry, "a", "ada")
    joined(registry, job_id, owner, f"run-7.{first.viewer}")
    assert not first.is_over()


def test_a_stream_that_ends_waits_no_longer(store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_feed, "POLL_SECONDS", NEVER_SECONDS)
    add_images(store, job, "a.jpg")
    feed = JobFeed(store, job.job_id, read_progress)
    stream = Stream(feed, "ada", feed.wait(None, 0.1)[-1][0], "viewer")
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(feed.wait, stream.cursor, NEVER_SECONDS, stream.is_over)
        wait_until(lambda: cast(Any, feed._changed)._waiters, "it waits")
        stream.end()
        assert waiting.result(DEADLINE_SECONDS) == []


def test_a_feed_is_kept_for_a_while_after_its_last_viewer(clock: ManualClock) -> None:
    registry = registry_of(3, clock)
    first = joined(registry, "a")
    registry.leave(first)
    clock.now += LINGER_SECONDS
    second = joined(registry, "a")
    assert second.feed is first.feed
    clock.now += LINGER_SECONDS + 1
    joined(registry, "b")
    third = joined(registry, "a")
    assert third.feed is first.feed, "it has a viewer again, so it stays"
    for stream in (second, third):
        registry.leave(stream)
    clock.now += LINGER_SECONDS + 1
    assert joined(registry, "a").feed is not first.feed


IMAGE = record(Job(new_id(), "job", NOW))
TRIED = "Tried 3 times: a worker failed"


def new_resend(times: int) -> Resend:
    return Resend(0, NOW, NOW, waited_seconds=60, times=times)


@pytest.mark.parametrize(
    ("response", "resends", "retries"),
    [
        (None, 0, ""),
        (done(IMAGE), 0, ""),
        (done(IMAGE).model_copy(update={"attempts": 3}), 0, TRIED),
        (None, 1, "Requested again: presumed lost"),
        (done(IMAGE), 2, "Requested again \N{MULTIPLICATION SIGN}2: presumed lost"),
        (failed(IMAGE).model_copy(update={"attempts": 3}), 1, f"{TRIED}\nRequested again: presumed lost"),
    ],
    ids=["waiting", "at once", "redelivered", "sent again", "sent again twice", "both"],
)
def test_a_row_has_how_the_system_retried_its_image(
    response: ClassificationResult | None, resends: int, retries: str
) -> None:
    assert (
        ImageRow.of_result(ImageResult(IMAGE, response, new_resend(resends) if resends else None)).retries == retries
    )


@pytest.mark.parametrize(
    ("scores", "also", "labels"),
    [
        ((0.9, 0.7, 0.2), "b", "a, b"),
        ((0.9, 0.05, 0.05), None, "a"),
        ((0.5, 0.5, 0), None, "a"),
        ((0.3, 0.2, 0), None, "a"),
    ],
    ids=["independent", "softmax", "two alike", "a guess"],
)
def test_a_row_has_each_independent_label(scores: tuple[float, ...], also: str | None, labels: str) -> None:
    top = tuple(LabelScore(label=label, score=score) for label, score in zip("abc", scores, strict=True))
    row = ImageRow.of_response(
        done(IMAGE).model_copy(update={"label": "a", "score": scores[0], "top": top}), MinScores()
    )
    assert (row.also, row.labels) == (also, labels)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def feed(store: JobStore, job: Job, clock: ManualClock) -> JobFeed:
    return JobFeed(store, job.job_id, read_progress, clock=clock)


def read_progress(status: JobStatus) -> tuple[str, bool]:
    return json.dumps({"done": status.counts.done}), status.state == "finished"


def poll(feed: JobFeed, cursor: str | None) -> tuple[list[tuple[str, Any]], str | None]:
    """Poll; return the kind and the body of each event after `cursor`, and the last cursor."""
    feed.poll()
    found = feed.wait(cursor, 0)
    events: list[tuple[str, Any]] = [(event.kind, json.loads(event.data)) for _, event in found]
    return events, found[-1][0] if found else cursor


def results_in(events: Sequence[tuple[str, Any]]) -> dict[str, str]:
    rows = [row for kind, body in events if kind == "results" for row in body["rows"]]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["status"] for row in rows}


def test_a_viewer_of_a_feed_that_nobody_watched_gets_no_old_progress(
    feed: JobFeed, store: JobStore, job: Job, clock: ManualClock
) -> None:
    [image] = add_images(store, job, "a.jpg")

    def joined() -> list[tuple[str, str]]:
        return [(event.kind, event.data) for _, event in feed.wait(None, 1.0)]

    put_results(store, failed(image))
    assert joined() == [("resync", "{}"), ("end", '{"done": 0}')]
    put_results(store, done(image))  # its retry
    clock.now += LINGER_SECONDS - 1
    assert joined() == [("resync", "{}"), ("end", '{"done": 1}')]


def test_results_are_published_once_in_any_order_of_arrival(feed: JobFeed, store: JobStore, job: Job) -> None:
    one, two, three = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    _, cursor = poll(feed, None)
    put_results(store, done(three))
    events, cursor = poll(feed, cursor)
    assert results_in(events) == {three.ref.image_id: "done"}
    put_results(store, done(three), failed(one))
    events, cursor = poll(feed, cursor)
    assert results_in(events) == {one.ref.image_id: "failed"}
    put_results(store, done(three), failed(one), done(two))
    events, cursor = poll(feed, cursor)
    assert results_in(events) == {two.ref.image_id: "done"}
    assert events[-1] == ("end", {"done": 2})


def test_an_image_whose_id_lies_in_between_is_found_by_a_search(
    feed: JobFeed, store: JobStore, job: Job, clock: ManualClock
) -> None:
    early = record(job, "of another process.jpg")
    add_images(store, job, "a.jpg")
    _, cursor = poll(feed, None)
    store.record_images([early], NOW)
    assert [kind for kind, _ in poll(feed, cursor)[0]] == []
    clock.now += SEARCH_SECONDS
    events, _ = poll(feed, cursor)
    assert [row["id"] for row in events[0][1]["rows"]] == [early.ref.image_id]


def test_a_failed_image_with_a_later_label_is_published_again(feed: JobFeed, store: JobStore, job: Job) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, failed(one), done(two))
    _, cursor = poll(feed, None)
    put_results(store, done(one), done(two))
    events, _ = poll(feed, cursor)
    assert results_in(events)[one.ref.image_id] == "done"


def rows_in(events: Sequence[tuple[str, Any]]) -> list[tuple[str, bool, str | None]]:
    """Return the id, whether it is being retried, and the reason of each row of a result."""
    rows = [row for kind, body in events if kind == "results" for row in body["rows"]]
    return [(row["id"], row.get("retrying", False), row.get("reason")) for row in rows]


def test_a_retry_is_published_and_so_is_its_failure(feed: JobFeed, store: JobStore, job: Job) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, failed(one), failed(two))
    events, cursor = poll(feed, None)
    assert events[-1][0] == "end"
    request_again(store, [one], NOW + timedelta(seconds=1))
    events, cursor = poll(feed, cursor)
    assert rows_in(events) == [(one.ref.image_id, True, "its workers crashed")]
    assert events[-1][0] == "progress"
    assert poll(feed, cursor)[0] == []
    put_results(store, failed(one, "worse", attempt=1))
    events, cursor = poll(feed, cursor)
    assert rows_in(events) == [(one.ref.image_id, False, "worse")]
    assert events[-1][0] == "end"
    request_again(store, [one], NOW + timedelta(seconds=3))
    events, cursor = poll(feed, cursor)
    assert rows_in(events) == [(one.ref.image_id, True, "worse")]


def test_each_resend_of_an_image_is_published(feed: JobFeed, store: JobStore, job: Job) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    events, cursor = poll(feed, None)
    for times in (1, 2):
        send_again(store, one)
        events, cursor = poll(feed, cursor)
        assert events == [("results", {"rows": [{"id": one.ref.image_id, "status": "waiting", "again": times}]})]
    put_results(store, done(two).model_copy(update={"attempts": 3}))
    events, cursor = poll(feed, cursor)
    [row] = [row for kind, body in events if kind == "results" for row in body["rows"]]
    assert (row["id"], row["tries"]) == (two.ref.image_id, 3)


@pytest.mark.parametrize("cursor", ["", "x", "01ARZ3NDEKTSV4RRFFQ69G5FAV-1", "-", "1" * 50])
def test_a_cursor_of_another_run_or_an_invalid_one_gets_a_resync(
    feed: JobFeed, store: JobStore, job: Job, cursor: str
) -> None:
    add_images(store, job, "a.jpg")
    assert poll(feed, cursor)[0][0][0] == "resync"


def test_a_cursor_older_than_the_history_gets_a_resync(store: JobStore, job: Job, clock: ManualClock) -> None:
    feed = JobFeed(store, job.job_id, read_progress, clock=clock, max_history=200)
    images = add_images(store, job, *[f"{n}.jpg" for n in range(4)])
    _, cursor = poll(feed, None)
    for count in range(1, 5):
        put_results(store, *[done(image) for image in images[:count]])
        feed.poll()
    assert feed.wait(cursor, 0)[0][1].kind == "resync"


def test_withdrawn_results_start_a_new_run(feed: JobFeed, store: JobStore, job: Job) -> None:
    one, _ = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, done(one))
    _, cursor = poll(feed, None)
    put_counts(store, job.job_id, Counts(images=2))
    assert poll(feed, cursor)[0][0][0] == "resync"


@dataclass(frozen=True)
class SlowStore(JobStore):
    """Records reads of statuses, and reads one only once the test lets it."""

    may_read: threading.Event = field(default_factory=threading.Event)
    status_reads: list[str] = field(default_factory=list)

    def status(self, job_id: str) -> JobStatus:
        self.status_reads.append(job_id)
        assert self.may_read.wait(DEADLINE_SECONDS)
        return super().status(job_id)


def test_many_viewers_share_one_poll(store: JobStore, job: Job) -> None:
    slow = SlowStore(store.table)
    feed = JobFeed(slow, job.job_id, read_progress)
    add_images(store, job, "a.jpg")
    with ThreadPoolExecutor(8) as viewers:
        waits = [viewers.submit(feed.wait, None, DEADLINE_SECONDS) for _ in range(8)]
        wait_until(lambda: len(cast(Any, feed._changed)._waiters) == 7, "one viewer polls and seven wait")
        slow.may_read.set()
        found = [[event.kind for _, event in each.result(DEADLINE_SECONDS)] for each in waits]
    assert found == [["resync", "progress"]] * 8
    assert len(slow.status_reads) == 1
