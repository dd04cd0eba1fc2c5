"""Live feeds over the job table and over HTTP: each change is published once, and one poll serves all viewers."""

import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from core.jobs.models import AcceptedCount, Counts, Job, JobStatus, Resend
from core.jobs.store import JobStore
from core.messages import Response
from scripts.run.system import free_port
from services.clients import Clients
from services.errors import NotFoundError
from services.table import LAST
from tests.conftest import ConfigMaker
from tests.integration.web_tier.conftest import WebTier, serving
from tests.support.jobs import NOW, add_images, done, failed, put_results, record, request_again
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS
from web_tier.results import job_snapshot
from web_tier.results.live_feed import SEARCH_SECONDS, FeedEvent, JobFeed


@dataclass(frozen=True)
class CountingStore(JobStore):
    """Records which results and statuses are read."""

    reads: list[tuple[str, str]] = field(default_factory=list)
    status_reads: list[str] = field(default_factory=list)

    def status(self, job_id: str) -> JobStatus:
        self.status_reads.append(job_id)
        return super().status(job_id)

    def results(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Response]:
        self.reads.append((first, last))
        return super().results(job_id, first, last)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def counting(store: JobStore) -> CountingStore:
    return CountingStore(store.table)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def feed(counting: CountingStore, job: Job, clock: Clock) -> JobFeed:
    return JobFeed(counting, job.job_id, read_progress, clock=clock)


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


def test_a_new_viewer_gets_a_resync_and_the_progress(feed: JobFeed, store: JobStore, job: Job) -> None:
    add_images(store, job, "a.jpg", "b.jpg")
    events, _ = poll(feed, None)
    assert events == [("resync", {}), ("progress", {"done": 0})]


def test_results_are_published_once_in_any_order_of_arrival(feed: JobFeed, store: JobStore, job: Job) -> None:
    one, two, three = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    _, cursor = poll(feed, None)
    put_results(store, job, done(three))
    events, cursor = poll(feed, cursor)
    assert results_in(events) == {three.ref.image_id: "done"}
    put_results(store, job, done(three), failed(one))
    events, cursor = poll(feed, cursor)
    assert results_in(events) == {one.ref.image_id: "failed"}
    put_results(store, job, done(three), failed(one), done(two))
    events, cursor = poll(feed, cursor)
    assert results_in(events) == {two.ref.image_id: "done"}
    assert events[-1] == ("end", {"done": 2})


def test_a_poll_without_changes_publishes_nothing(feed: JobFeed, store: JobStore, job: Job) -> None:
    add_images(store, job, "a.jpg")
    _, cursor = poll(feed, None)
    assert poll(feed, cursor)[0] == []


def test_results_are_read_only_if_the_counts_have_grown(feed: JobFeed, counting: CountingStore, job: Job) -> None:
    one, _ = add_images(counting, job, "a.jpg", "b.jpg")
    poll(feed, None)
    put_results(counting, job, done(one))
    poll(feed, None)
    counting.reads.clear()
    poll(feed, None)
    assert counting.reads == []


def test_blocks_in_which_every_image_has_its_result_are_not_read_again(
    feed: JobFeed, counting: CountingStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_snapshot, "BLOCK", 2)
    monkeypatch.setattr(job_snapshot, "MAX_BLOCKS_PER_POLL", 1)
    images = add_images(counting, job, *[f"{n}.jpg" for n in range(6)])
    events, cursor = poll(feed, None)
    put_results(counting, job, *[done(image) for image in images[:4]])
    found: dict[str, str] = {}
    for _ in range(3):  # one block per poll, in turn
        events, cursor = poll(feed, cursor)
        found |= results_in(events)
    assert set(found) == {image.ref.image_id for image in images[:4]}
    counting.reads.clear()
    monkeypatch.setattr(job_snapshot, "MAX_BLOCKS_PER_POLL", 3)
    put_results(counting, job, *[done(image) for image in images])
    events, cursor = poll(feed, cursor)
    assert counting.reads == [(images[4].ref.image_id, images[5].ref.image_id)]


def test_added_images_are_published_with_their_names(feed: JobFeed, store: JobStore, job: Job) -> None:
    add_images(store, job, "a.jpg")
    _, cursor = poll(feed, None)
    later = record(job, "b.jpg")
    store.record_images([later], NOW)
    store.put_accepted_count(job.job_id, "writer", AcceptedCount(2))
    events, _ = poll(feed, cursor)
    assert events[0] == (
        "images",
        {"rows": [{"id": later.ref.image_id, "name": "b.jpg", "bytes": 1234, "status": "waiting"}]},
    )


def test_an_image_whose_id_lies_in_between_is_found_by_a_search(
    feed: JobFeed, store: JobStore, job: Job, clock: Clock
) -> None:
    early = record(job, "of another process.jpg")
    add_images(store, job, "a.jpg")
    _, cursor = poll(feed, None)
    store.record_images([early], NOW)
    store.put_accepted_count(job.job_id, "writer", AcceptedCount(2))
    assert [kind for kind, _ in poll(feed, cursor)[0]] == []
    clock.now += SEARCH_SECONDS
    events, _ = poll(feed, cursor)
    assert [row["id"] for row in events[0][1]["rows"]] == [early.ref.image_id]


def test_a_failed_image_with_a_later_label_is_published_again(feed: JobFeed, store: JobStore, job: Job) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, job, failed(one), done(two))
    _, cursor = poll(feed, None)
    put_results(store, job, done(one), done(two))
    events, _ = poll(feed, cursor)
    assert results_in(events)[one.ref.image_id] == "done"


def rows_in(events: Sequence[tuple[str, Any]]) -> list[tuple[str, bool, str | None]]:
    """Return the id, whether it is being retried, and the reason of each row of a result."""
    rows = [row for kind, body in events if kind == "results" for row in body["rows"]]
    return [(row["id"], row.get("retrying", False), row.get("reason")) for row in rows]


def test_a_retry_is_published_and_so_is_its_failure(feed: JobFeed, store: JobStore, job: Job) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, job, failed(one), failed(two))
    events, cursor = poll(feed, None)
    assert events[-1][0] == "end"
    request_again(store, [one], NOW + timedelta(seconds=1))
    events, cursor = poll(feed, cursor)
    assert rows_in(events) == [(one.ref.image_id, True, "its workers crashed")]
    assert events[-1][0] == "progress"
    assert poll(feed, cursor)[0] == []
    store.put_failed(failed(one, "worse", attempt=1))
    events, cursor = poll(feed, cursor)
    assert rows_in(events) == [(one.ref.image_id, False, "worse")]
    assert events[-1][0] == "end"
    request_again(store, [one], NOW + timedelta(seconds=3))
    events, cursor = poll(feed, cursor)
    assert rows_in(events) == [(one.ref.image_id, True, "worse")]


def test_a_failure_between_two_polls_of_a_retry_is_published(feed: JobFeed, store: JobStore, job: Job) -> None:
    [one] = add_images(store, job, "a.jpg")
    put_results(store, job, failed(one))
    _, cursor = poll(feed, None)
    request_again(store, [one], NOW + timedelta(seconds=1))
    store.put_failed(failed(one, "worse", attempt=1))
    events, cursor = poll(feed, cursor)
    assert rows_in(events) == [(one.ref.image_id, False, "worse")]
    assert poll(feed, cursor)[0] == []


def test_a_retry_with_a_label_is_published_and_ends_the_job(feed: JobFeed, store: JobStore, job: Job) -> None:
    [one] = add_images(store, job, "a.jpg")
    put_results(store, job, failed(one))
    request_again(store, [one], NOW + timedelta(seconds=1))
    _, cursor = poll(feed, None)
    put_results(store, job, done(one))
    events, _ = poll(feed, cursor)
    assert "done" in [row["status"] for kind, body in events if kind == "results" for row in body["rows"]]
    assert events[-1][0] == "end"


def test_each_resend_of_an_image_is_published(feed: JobFeed, counting: CountingStore, job: Job) -> None:
    one, two = add_images(counting, job, "a.jpg", "b.jpg")
    events, cursor = poll(feed, None)
    for times in (1, 2):
        resend = Resend(0, NOW, NOW, waited_seconds=60, times=times)
        counting.put_resends(job.job_id, {one.ref.image_id: resend})
        counting.store_counts(job.job_id, Counts(images=2, system_retried=1, resends=times))
        events, cursor = poll(feed, cursor)
        assert events == [("results", {"rows": [{"id": one.ref.image_id, "status": "waiting", "again": times}]})]
    put_results(counting, job, done(two).model_copy(update={"attempts": 3}))
    events, cursor = poll(feed, cursor)
    [row] = [row for kind, body in events if kind == "results" for row in body["rows"]]
    assert (row["id"], row["tries"]) == (two.ref.image_id, 3)


def test_many_retries_are_checked_over_several_polls(
    feed: JobFeed, store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_snapshot, "MAX_RETRIES_PER_POLL", 2)
    images = add_images(store, job, *[f"{n}.jpg" for n in range(5)])
    put_results(store, job, *[failed(image) for image in images])
    _, cursor = poll(feed, None)
    request_again(store, images, NOW + timedelta(seconds=1))
    found: list[tuple[str, bool, str | None]] = []
    for _ in range(3):
        events, cursor = poll(feed, cursor)
        found += rows_in(events)
    assert [row[0] for row in found] == [image.ref.image_id for image in images]
    store.put_failed(failed(images[4], "worse", attempt=1))
    ended: list[tuple[str, bool, str | None]] = []
    for _ in range(3):
        events, cursor = poll(feed, cursor)
        ended += rows_in(events)
    assert ended == [(images[4].ref.image_id, False, "worse")]


def test_a_viewer_that_reconnects_resumes_at_its_cursor(feed: JobFeed, store: JobStore, job: Job) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    _, cursor = poll(feed, None)
    put_results(store, job, done(one))
    feed.poll()
    put_results(store, job, done(one), done(two))
    feed.poll()
    events = [(event.kind, json.loads(event.data)) for _, event in feed.wait(cursor, 0)]
    assert set(results_in(events)) == {one.ref.image_id, two.ref.image_id}
    assert events[-1] == ("end", {"done": 2})


@pytest.mark.parametrize("cursor", ["", "x", "01ARZ3NDEKTSV4RRFFQ69G5FAV-1", "-", "1" * 50])
def test_a_cursor_of_another_run_or_an_invalid_one_gets_a_resync(
    feed: JobFeed, store: JobStore, job: Job, cursor: str
) -> None:
    add_images(store, job, "a.jpg")
    assert poll(feed, cursor)[0][0][0] == "resync"


def test_a_cursor_older_than_the_history_gets_a_resync(store: JobStore, job: Job, clock: Clock) -> None:
    feed = JobFeed(store, job.job_id, read_progress, clock=clock, max_history=200)
    images = add_images(store, job, *[f"{n}.jpg" for n in range(4)])
    _, cursor = poll(feed, None)
    for count in range(1, 5):
        put_results(store, job, *[done(image) for image in images[:count]])
        feed.poll()
    assert feed.wait(cursor, 0)[0][1].kind == "resync"


def test_withdrawn_results_start_a_new_run(feed: JobFeed, store: JobStore, job: Job) -> None:
    one, _ = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, job, done(one))
    _, cursor = poll(feed, None)
    store.store_counts(job.job_id, Counts(images=2))
    assert poll(feed, cursor)[0][0][0] == "resync"


def test_many_viewers_share_one_poll(counting: CountingStore, job: Job) -> None:
    feed = JobFeed(counting, job.job_id, read_progress)
    add_images(counting, job, "a.jpg")
    found: list[list[tuple[str, FeedEvent]]] = []
    viewers = [threading.Thread(target=lambda: found.append(feed.wait(None, 5))) for _ in range(8)]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join(DEADLINE_SECONDS)
    assert [[event.kind for _, event in events] for events in found] == [["resync", "progress"]] * 8
    assert len(counting.status_reads) == 1


def test_a_poll_of_a_deleted_job_raises(feed: JobFeed, store: JobStore, job: Job) -> None:
    add_images(store, job, "a.jpg")
    feed.poll()
    store.delete(job)
    with pytest.raises(NotFoundError):
        feed.poll()


@dataclass
class Viewer:
    """One connection to a job's stream."""

    answer: requests.Response

    def __post_init__(self) -> None:
        self.lines = self.answer.iter_lines(chunk_size=1, decode_unicode=True)
        self.last = ""

    def events(self) -> Iterator[tuple[str, Any]]:
        """Yield each event's kind and body, until the stream ends."""
        event: dict[str, str] = {}
        for line in self.lines:
            name, _, value = line.partition(": ")
            if line:
                event[name] = value
            elif "data" in event:
                self.last = event.get("id", self.last)
                yield event["event"], json.loads(event["data"])
                event = {}

    def until(self, kind: str) -> list[tuple[str, Any]]:
        """Return the events up to the first of `kind`."""
        events = []
        for event in self.events():
            events.append(event)
            if event[0] == kind:
                return events
        pytest.fail(f"the stream ended before {kind!r}: {events}")


@contextmanager
def viewer(web: WebTier, job: Job, last: str = "") -> Iterator[Viewer]:
    url = f"{web.url}/api/v1/jobs/{job.job_id}/events"
    headers = {"Last-Event-ID": last} if last else {}
    with requests.get(url, headers=headers, stream=True, timeout=DEADLINE_SECONDS) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        yield Viewer(answer)


@pytest.mark.processes
def test_results_arrive_as_they_are_stored_and_the_stream_ends_with_the_job(
    web_tier: WebTier, store: JobStore, job: Job
) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    with viewer(web_tier, job) as watcher:
        assert [kind for kind, _ in watcher.until("progress")] == ["resync", "progress"]
        put_results(store, job, done(one))
        [*_, (_, body)] = watcher.until("results")
        assert [row["id"] for row in body["rows"]] == [one.ref.image_id]
        put_results(store, job, done(one), done(two))
        [*_, (_, progress)] = watcher.until("end")
        assert (progress["state"], progress["done"], progress["settled"]) == ("finished", 2, True)
        assert list(watcher.events()) == []


@pytest.mark.processes
def test_a_viewer_that_reconnects_to_any_process_misses_no_event(
    web_tier: WebTier, store: JobStore, job: Job
) -> None:
    images = add_images(store, job, *[f"{n}.jpg" for n in range(6)])
    seen: set[str] = set()
    last = ""
    for count in range(1, 6):
        with viewer(web_tier, job, last) as watcher:
            for kind, body in watcher.events():
                if kind == "resync":  # read everything, as the page does
                    rows = requests.get(f"{web_tier.url}/jobs/{job.job_id}/rows", timeout=DEADLINE_SECONDS).json()[
                        "rows"
                    ]
                    seen |= {row["id"] for row in rows if row["status"] == "done"}
                if kind == "results":
                    seen |= {row["id"] for row in body["rows"]}
                if len(seen) == count - 1 and kind == "progress":
                    put_results(store, job, *[done(image) for image in images[:count]])
                if len(seen) == count:
                    break
        last = watcher.last
    assert seen == {image.ref.image_id for image in images[:5]}


@pytest.mark.processes
def test_viewers_leave_threads_for_other_requests(web_tier: WebTier, store: JobStore, job: Job) -> None:
    add_images(store, job, "a.jpg")
    url = f"{web_tier.url}/api/v1/jobs/{job.job_id}/events"
    answers: list[requests.Response] = []
    try:  # two of 16 threads, in each of two processes, hold a stream
        answers.extend(requests.get(url, stream=True, timeout=DEADLINE_SECONDS) for _ in range(12))
        codes = [answer.status_code for answer in answers]
        assert 1 <= codes.count(200) <= 4
        assert set(codes) == {200, 503}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert "Retry-After" in refused.headers
        assert requests.get(f"{web_tier.url}/jobs/{job.job_id}/progress", timeout=DEADLINE_SECONDS).status_code == 200
    finally:
        for answer in answers:
            answer.close()


@pytest.mark.processes
def test_an_open_stream_does_not_delay_the_stop_of_the_web_tier(
    provisioned: Clients, make_config: ConfigMaker, store: JobStore, job: Job, tmp_path: Path
) -> None:
    add_images(store, job, "a.jpg")
    config = make_config(web={"port": free_port()})
    with serving(config, tmp_path, "--graceful-timeout", f"{NEVER_SECONDS:.0f}") as web, viewer(web, job) as watcher:
        watcher.until("progress")
        web.process.send_signal(signal.SIGTERM)
        web.process.wait(DEADLINE_SECONDS)
