"""Live feeds: the text of a stream, its bounds, the registry of feeds, and the rows that a feed publishes."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from core.ids import new_id
from core.jobs.models import Job, Resend
from core.jobs.store import JobStore
from core.messages import Response
from services.errors import NotFoundError
from tests.support.jobs import NOW, client_error, done, failed, record
from web_tier.bulkheads import Bulkhead
from web_tier.results.job_snapshot import ImageRow
from web_tier.results.live_feed import (
    HEARTBEAT_SECONDS,
    LINGER_SECONDS,
    STREAM_SECONDS,
    FeedEvent,
    FeedRegistry,
    JobFeed,
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

    def wait(self, cursor: str | None, seconds: float) -> list[tuple[str, FeedEvent]]:
        self.cursors.append(cursor)
        found = self.waits.pop(0) if self.waits else []
        if isinstance(found, Exception):
            raise found
        self.now += 0.0 if found else seconds
        return [(f"run-{event.number}", event) for event in found]


def lines(feed: ScriptedFeed, cursor: str | None = None) -> list[str]:
    return list(event_stream(cast(JobFeed, feed), cursor, lambda: feed.stopping, lambda: feed.now))


def test_an_event_has_its_cursor_as_id_so_that_a_browser_can_resume() -> None:
    feed = ScriptedFeed([FeedEvent(7, "results", '{"rows":[]}')], [FeedEvent(8, "end", "{}")])
    text = lines(feed, "run-6")
    assert text[0].startswith("retry: ")
    assert text[1:] == ['id: run-7\nevent: results\ndata: {"rows":[]}\n\n', "id: run-8\nevent: end\ndata: {}\n\n"]
    assert feed.cursors == ["run-6", "run-7"]


def test_a_stream_without_events_has_heartbeats_and_ends_after_a_while() -> None:
    feed = ScriptedFeed()
    text = lines(feed)
    assert text[1:] == [": alive\n\n"] * int(STREAM_SECONDS / HEARTBEAT_SECONDS)
    assert feed.now == STREAM_SECONDS


def test_a_stopping_process_ends_its_streams() -> None:
    feed = ScriptedFeed()
    feed.stopping = True
    assert len(lines(feed)) == 1


class BusyFeed(ScriptedFeed):
    """Has an event at each wait."""

    def wait(self, cursor: str | None, seconds: float) -> list[tuple[str, FeedEvent]]:
        self.now += seconds
        return [("run-1", FeedEvent(1, "results", "{}"))]


@pytest.mark.parametrize("feed", [ScriptedFeed(), BusyFeed()], ids=["silent", "busy"])
def test_s14_a_stream_ends_with_the_credentials_that_opened_it(feed: ScriptedFeed) -> None:
    ends = 3 * HEARTBEAT_SECONDS
    list(event_stream(cast(JobFeed, feed), None, clock=lambda: feed.now, is_allowed=lambda: feed.now < ends))
    assert ends <= feed.now <= ends + HEARTBEAT_SECONDS


def test_a_deleted_job_ends_its_stream() -> None:
    assert lines(ScriptedFeed(NotFoundError("gone")))[-1].startswith("event: gone")


def test_a_failed_read_of_the_table_ends_the_connection() -> None:
    assert len(lines(ScriptedFeed(client_error(500)))) == 1


@pytest.fixture
def clock() -> Iterator[list[float]]:
    yield [0.0]


def registry_of(size: int, clock: list[float]) -> FeedRegistry:
    def new_feed(job_id: str) -> JobFeed:
        return JobFeed(cast(JobStore, None), job_id, cast(Any, None))

    return FeedRegistry(Bulkhead(size), new_feed, clock=lambda: clock[0])


def test_no_user_holds_more_than_a_quarter_of_all_streams(clock: list[float]) -> None:
    registry = registry_of(8, clock)
    assert [registry.join(job, "ada") is not None for job in "abc"] == [True, True, False]
    assert registry.join("d", "ben") is not None
    registry.leave("a", "ada")
    assert registry.join("c", "ada") is not None


def test_viewers_of_one_job_share_its_feed_and_are_bounded_over_all_jobs(clock: list[float]) -> None:
    registry = registry_of(3, clock)
    first = registry.join("a")
    assert first is not None
    assert registry.join("a") is first
    assert registry.join("b") is not None
    assert registry.join("c") is None
    registry.leave("a")
    assert registry.join("c") is not None


def test_a_feed_is_kept_for_a_while_after_its_last_viewer(clock: list[float]) -> None:
    registry = registry_of(3, clock)
    first = registry.join("a")
    registry.leave("a")
    clock[0] += LINGER_SECONDS
    assert registry.join("a") is first
    registry.leave("a")
    clock[0] += LINGER_SECONDS + 1
    assert registry.join("a") is not first


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
def test_a_row_has_how_the_system_retried_its_image(response: Response | None, resends: int, retries: str) -> None:
    assert (
        ImageRow.of_result(ImageResult(IMAGE, response, new_resend(resends) if resends else None)).retries == retries
    )
