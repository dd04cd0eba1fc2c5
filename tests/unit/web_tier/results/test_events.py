"""Streams of a job's news: bounded in number and in time, and taken up again where they were."""

from collections.abc import Iterator
from typing import Any, cast

import pytest

from core.jobs.store import JobStore
from services.errors import NotFoundError
from tests.support.jobs import client_error
from web_tier.bulkheads import Bulkhead
from web_tier.results.events import HEARTBEAT_SECONDS, LINGER_SECONDS, STREAM_SECONDS, FeedRegistry, event_lines
from web_tier.results.watch import Event, Watch


class ScriptedWatch:
    """Tells what it is given, one list for each wait; a wait for nothing takes as long as it may."""

    job_id = "job"
    stopping = False

    def __init__(self, *waits: list[Event] | Exception) -> None:
        self.waits, self.now = list(waits), 0.0
        self.cursors: list[str | None] = []

    def wait(self, cursor: str | None, seconds: float) -> list[tuple[str, Event]]:
        self.cursors.append(cursor)
        found = self.waits.pop(0) if self.waits else []
        if isinstance(found, Exception):
            raise found
        self.now += 0.0 if found else seconds
        return [(f"run-{event.number}", event) for event in found]


def lines(watch: ScriptedWatch, cursor: str | None = None) -> list[str]:
    return list(event_lines(cast(Watch, watch), cursor, lambda: watch.stopping, lambda: watch.now))


def test_an_event_has_its_id_so_that_a_browser_comes_back_with_it() -> None:
    watch = ScriptedWatch([Event(7, "results", '{"rows":[]}')], [Event(8, "end", "{}")])
    told = lines(watch, "run-6")
    assert told[0].startswith("retry: ")
    assert told[1:] == ['id: run-7\nevent: results\ndata: {"rows":[]}\n\n', "id: run-8\nevent: end\ndata: {}\n\n"]
    assert watch.cursors == ["run-6", "run-7"]


def test_silence_is_filled_with_heartbeats_and_a_connection_ends_after_a_while() -> None:
    watch = ScriptedWatch()
    told = lines(watch)
    assert told[1:] == [": alive\n\n"] * int(STREAM_SECONDS / HEARTBEAT_SECONDS)
    assert watch.now == STREAM_SECONDS


def test_a_process_that_is_told_to_end_ends_its_streams() -> None:
    watch = ScriptedWatch()
    watch.stopping = True
    assert len(lines(watch)) == 1


class BusyWatch(ScriptedWatch):
    """Has news at each wait."""

    def wait(self, cursor: str | None, seconds: float) -> list[tuple[str, Event]]:
        self.now += seconds
        return [("run-1", Event(1, "results", "{}"))]


@pytest.mark.parametrize("watch", [ScriptedWatch(), BusyWatch()], ids=["silent", "busy"])
def test_s14_a_stream_ends_with_the_credentials_that_opened_it(watch: ScriptedWatch) -> None:
    ends = 3 * HEARTBEAT_SECONDS
    list(event_lines(cast(Watch, watch), None, clock=lambda: watch.now, is_allowed=lambda: watch.now < ends))
    assert ends <= watch.now <= ends + HEARTBEAT_SECONDS


def test_a_job_that_is_gone_ends_its_stream() -> None:
    assert lines(ScriptedWatch(NotFoundError("gone")))[-1].startswith("event: gone")


def test_a_table_that_does_not_answer_ends_the_connection_and_the_browser_comes_back() -> None:
    assert len(lines(ScriptedWatch(client_error(500)))) == 1


@pytest.fixture
def clock() -> Iterator[list[float]]:
    yield [0.0]


def streams(most: int, clock: list[float]) -> FeedRegistry:
    def watch(job_id: str) -> Watch:
        return Watch(cast(JobStore, None), job_id, cast(Any, None))

    return FeedRegistry(Bulkhead(most), watch, clock=lambda: clock[0])


def test_no_user_holds_more_than_a_quarter_of_all_streams(clock: list[float]) -> None:
    found = streams(8, clock)
    assert [found.join(job, "ada") is not None for job in "abc"] == [True, True, False]
    assert found.join("d", "ben") is not None
    found.leave("a", "ada")
    assert found.join("c", "ada") is not None


def test_viewers_of_one_job_share_its_watch_and_are_bounded_over_all_jobs(clock: list[float]) -> None:
    found = streams(3, clock)
    first = found.join("a")
    assert first is not None
    assert found.join("a") is first
    assert found.join("b") is not None
    assert found.join("c") is None
    found.leave("a")
    assert found.join("c") is not None


def test_a_watch_outlives_its_last_viewer_for_a_while(clock: list[float]) -> None:
    found = streams(3, clock)
    first = found.join("a")
    found.leave("a")
    clock[0] += LINGER_SECONDS
    assert found.join("a") is first
    found.leave("a")
    clock[0] += LINGER_SECONDS + 1
    assert found.join("a") is not first
