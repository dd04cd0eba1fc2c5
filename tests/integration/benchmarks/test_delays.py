import http.client
import os
import select
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from benchmarks.relay import DelayedCloud
from tests.support.served import serving

pytestmark = pytest.mark.processes

SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=embedded/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}


class Echo(BaseHTTPRequestHandler):
    """Answers a request with its body."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Echo)) as address:  # its threads are daemons
        yield address


@pytest.fixture
def lifeline() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # closed by the test


def test_calls_pass_through_the_process_and_are_counted(url: str, lifeline: tuple[int, int]) -> None:
    with DelayedCloud(url, {"s3": 0.001}, lifeline[0]) as proxy:
        near = urlsplit(proxy.endpoint_url)
        connection = http.client.HTTPConnection(near.hostname or "", near.port, timeout=120)
        for body in (b"one", b"two"):
            connection.request("POST", "/", body, SIGNED)
            assert connection.getresponse().read() == body
        connection.close()
    assert proxy.calls == {"s3": 2}


def test_the_process_ends_with_the_one_that_holds_its_lifeline(url: str, lifeline: tuple[int, int]) -> None:
    with DelayedCloud(url, {}, lifeline[0]) as proxy:
        process = os.pidfd_open(proxy.pid)
        os.close(lifeline[1])
        ended, _, _ = select.select([process], [], [], 10)
        os.close(process)
    assert ended == [process]


def test_nothing_listens_once_the_context_has_ended(url: str, lifeline: tuple[int, int]) -> None:
    with DelayedCloud(url, {}, lifeline[0]) as proxy:
        port = urlsplit(proxy.endpoint_url).port
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0
