import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from app_tier.lifetime import Lifetime, is_standby, watch_notices
from services.metadata import DRAIN_TAG, STAY_TAG, Metadata
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS


def test_the_first_reason_stands() -> None:
    lifetime = Lifetime()
    lifetime.end("idle")
    lifetime.end("SIGTERM")
    assert (lifetime.over, lifetime.reason, lifetime.status) == (True, "idle", 0)


def test_a_fault_during_an_orderly_end_makes_the_end_a_failure() -> None:
    lifetime = Lifetime()
    lifetime.end("SIGTERM")
    lifetime.fail("access denied")
    lifetime.fail("out of memory")
    assert (lifetime.reason, lifetime.status) == ("access denied", 1)


def test_an_orderly_end_does_not_hide_a_fault() -> None:
    lifetime = Lifetime()
    lifetime.fail("access denied")
    lifetime.end("SIGTERM")
    assert (lifetime.reason, lifetime.status) == ("access denied", 1)


def test_the_end_is_told_once() -> None:
    told: list[bool] = []
    lifetime = Lifetime(on_end=lambda: told.append(True))
    lifetime.end("idle")
    lifetime.fail("again")
    assert told == [True]


def test_waiting_says_whether_the_end_has_come() -> None:
    lifetime = Lifetime()
    assert not lifetime.wait(0)
    lifetime.end("idle")
    assert lifetime.wait(0)


class _MetadataService(BaseHTTPRequestHandler):
    notices: list[tuple[int, bytes]]
    drains = False
    stay = (404, b"")

    def do_PUT(self) -> None:
        self._answer(200, b"token")

    def do_GET(self) -> None:
        if self.path.endswith(f"/tags/instance/{DRAIN_TAG}"):
            self._answer(*((200, b"asked") if self.drains else (404, b"")))
        elif self.path.endswith(f"/tags/instance/{STAY_TAG}"):
            self._answer(*self.stay)
        else:
            self._answer(*(self.notices.pop(0) if self.notices else (404, b"")))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata_service() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _MetadataService) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(DEADLINE_SECONDS)


def test_a_spot_notice_ends_the_worker_whatever_was_answered_before(metadata_service: HTTPServer) -> None:
    notice = json.dumps({"action": "terminate", "time": "2026-01-01T00:00:00Z"}).encode()
    _MetadataService.notices = [(404, b""), (500, b"broken"), (200, b"not JSON"), (200, notice)]
    lifetime = Lifetime()
    watch_notices(Metadata(f"http://127.0.0.1:{metadata_service.server_port}"), lifetime, every_seconds=0.001)
    assert (lifetime.reason, lifetime.status) == ("Spot notice: terminate", 0)


def test_a_worker_that_is_asked_to_drain_ends_in_good_order(
    metadata_service: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _MetadataService.notices = []
    monkeypatch.setattr(_MetadataService, "drains", True)
    lifetime = Lifetime()
    watch_notices(Metadata(f"http://127.0.0.1:{metadata_service.server_port}"), lifetime, every_seconds=0.001)
    assert (lifetime.reason, lifetime.status) == ("asked to drain", 0)


def test_the_watch_for_notices_ends_with_the_worker(metadata_service: HTTPServer) -> None:
    _MetadataService.notices = []
    lifetime = Lifetime()
    metadata = Metadata(f"http://127.0.0.1:{metadata_service.server_port}")
    watching = threading.Thread(target=watch_notices, args=(metadata, lifetime, NEVER_SECONDS), daemon=True)
    watching.start()
    lifetime.end("idle")
    watching.join(DEADLINE_SECONDS)
    assert not watching.is_alive()


@pytest.mark.parametrize(
    ("answer", "stays"), [((200, b"asked"), True), ((200, b""), True), ((404, b""), False), ((500, b"broken"), False)]
)
def test_an_idle_worker_stays_while_its_instance_has_the_tag_and_ends_when_that_is_not_known(
    metadata_service: HTTPServer, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes], stays: bool
) -> None:
    monkeypatch.setattr(_MetadataService, "stay", answer)
    assert is_standby(Metadata(f"http://127.0.0.1:{metadata_service.server_port}")) is stays


def test_a_worker_without_an_instance_is_no_standby() -> None:
    assert not is_standby(None)


def test_a_worker_that_is_to_stay_does_not_end_for_being_idle_but_for_any_other_reason() -> None:
    lifetime = Lifetime(stays=lambda: True)
    assert not lifetime.end_idle("idle for 5 s")
    assert lifetime.reason == ""
    lifetime.end("asked to drain")
    assert lifetime.reason == "asked to drain"
    ending = Lifetime()
    assert ending.end_idle("idle for 5 s")
    assert ending.reason == "idle for 5 s"
