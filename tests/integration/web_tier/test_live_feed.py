"""Live feeds over HTTP, by the processes of a web tier."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from core.config import Config
from core.jobs.models import Job
from core.jobs.store import JobStore
from scripts.run.system import free_port
from tests.integration.web_tier.conftest import WebTier, cloud_table, serving
from tests.support.jobs import add_images, done, put_results
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, wait_until

STREAMS = 4
"""Streams at once in both processes of the web tier: two of 16 threads in each."""

table = cloud_table


@pytest.fixture
def config(shared_tier: WebTier) -> Config:
    """The configuration of the shared web tier, so that `store` and `job` are of its table."""
    return shared_tier.config


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
def test_a_viewer_that_reconnects_to_any_process_misses_no_event(
    shared_tier: WebTier, store: JobStore, job: Job
) -> None:
    images = add_images(store, job, *[f"{n}.jpg" for n in range(6)])
    seen: set[str] = set()
    last = ""
    for count in range(1, 6):
        with viewer(shared_tier, job, last) as watcher:
            for kind, body in watcher.events():
                if kind == "resync":  # read everything, as the page does
                    rows = requests.get(f"{shared_tier.url}/jobs/{job.job_id}/rows", timeout=DEADLINE_SECONDS).json()[
                        "rows"
                    ]
                    seen |= {row["id"] for row in rows if row["status"] == "done"}
                if kind == "results":
                    seen |= {row["id"] for row in body["rows"]}
                if len(seen) == count - 1 and kind == "progress":
                    put_results(store, *[done(image) for image in images[:count]])
                if len(seen) == count:
                    break
        last = watcher.last
    assert seen == {image.ref.image_id for image in images[:5]}


@pytest.mark.processes
def test_viewers_leave_threads_for_other_requests(shared_tier: WebTier, store: JobStore, job: Job) -> None:
    add_images(store, job, "a.jpg")
    url = f"{shared_tier.url}/api/v1/jobs/{job.job_id}/events"
    answers: list[requests.Response] = []
    try:
        answers.extend(requests.get(url, stream=True, timeout=DEADLINE_SECONDS) for _ in range(3 * STREAMS))
        codes = [answer.status_code for answer in answers]
        assert 1 <= codes.count(200) <= STREAMS
        assert set(codes) == {200, 503}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert "Retry-After" in refused.headers
        assert (
            requests.get(f"{shared_tier.url}/jobs/{job.job_id}/progress", timeout=DEADLINE_SECONDS).status_code == 200
        )
    finally:
        for answer in answers:
            answer.close()


def on_another_port(config: Config) -> Config:
    """Return the configuration of a web tier that may run beside the one with `config`."""
    return config.model_copy(update={"web": config.web.model_copy(update={"port": free_port()})})


STOPPED_AT_ONCE = """
import os, signal
from web_tier import gunicorn
from web_tier.gunicorn import *

def post_fork(server, worker):
    gunicorn.post_fork(server, worker)
    if worker.age == 1:
        os.kill(os.getpid(), signal.SIGTERM)
"""
"""A configuration that tells the first process to end before it has handlers of signals."""


@pytest.mark.processes
def test_a_process_that_has_just_been_forked_ends_when_it_is_told_to(shared_tier: WebTier, tmp_path: Path) -> None:
    (tmp_path / "stopped.py").write_text(STOPPED_AT_ONCE)
    with serving(on_another_port(shared_tier.config), tmp_path, "-c", str(tmp_path / "stopped.py")) as web:
        wait_until(lambda: "Worker exiting" in web.log.read_text(), "the process ends")


@pytest.mark.processes
def test_an_open_stream_does_not_delay_the_stop_of_the_web_tier(
    shared_tier: WebTier, store: JobStore, job: Job, tmp_path: Path
) -> None:
    add_images(store, job, "a.jpg")
    config = on_another_port(shared_tier.config)
    with serving(config, tmp_path, "--graceful-timeout", f"{NEVER_SECONDS:.0f}") as web, viewer(web, job) as watcher:
        watcher.until("progress")
        web.process.send_signal(signal.SIGTERM)
        web.process.wait(DEADLINE_SECONDS)
