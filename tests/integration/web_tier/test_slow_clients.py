"""Row 37, with production's gunicorn: bodies that break off or never end, and answers that are not taken."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from itertools import repeat

import pytest
import requests

from core.ids import new_id
from core.provision import provision
from localcloud.launch import LocalCloud
from scripts.run.system import WEB_TIER, free_port
from services.clients import Clients
from tests.conftest import ROOT, config_of
from tests.integration.web_tier.conftest import WebTier, serving
from tests.support.jobs import picture
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

THREADS = 8
MAX_BYTES = 50_000_000


HURRIED = """
from web_tier.http import slow_clients
slow_clients.ANSWER_SECONDS, slow_clients.LINGER_SECONDS = 1.0, 3.0
from web_tier.gunicorn import *
"""
"""The configuration of production, with bounds that a test can wait for."""


@pytest.fixture(scope="module")
def hurried(cloud: LocalCloud, clients: Clients, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebTier]:
    """A web tier of one process with few threads and short bounds; one for all tests, which it must survive."""
    web = {"port": free_port(), "processes": 1, "threads": THREADS, "max_request_bytes": MAX_BYTES}
    config, folder = config_of(cloud, new_id().lower(), web=web), tmp_path_factory.mktemp("web")
    provision(clients, config)
    (folder / "configuration.py").write_text(HURRIED)
    with serving(config, folder, "-c", str(folder / "configuration.py")) as web_tier:
        yield web_tier


def test_production_starts_the_command_that_is_tested_here() -> None:
    unit = (ROOT / "ami/files/web/etc/systemd/system/fleetsight-web.service").read_text()
    assert f"\nExecStart=/opt/fleetsight/venv/bin/{' '.join(WEB_TIER)}\n" in unit


def connect(web: WebTier, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", web.port), 10)
    connection.sendall(sent)
    return connection


def answer_to(web: WebTier, sent: bytes, *, breaks_off: bool = False) -> bytes:
    """Send something, and nothing more; return all that comes back until the connection is closed.

    A client that `breaks_off` ends its side of the connection.
    """
    with connect(web, sent) as connection:
        if breaks_off:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
        return received


class Trickle:
    """A client that sends a byte more than `begun` now and then, for ever."""

    def __init__(self, web: WebTier, begun: bytes) -> None:
        self.connection = connect(web, begun)
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        try:
            while True:
                self.connection.sendall(b"x")
                time.sleep(0.05)
        except OSError:
            return


GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


def test_a_client_that_takes_nothing_of_its_answer_holds_no_thread(hurried: WebTier) -> None:
    page = b"GET /static/fonts/inter-latin-ext-wght-normal.woff2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as open_connections:
        for _ in range(2 * THREADS):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            open_connections.enter_context(connection)
            connection.connect(("127.0.0.1", hurried.port))
            connection.sendall(page * 40)
        assert requests.get(f"{hurried.url}/healthz", timeout=DEADLINE_SECONDS).status_code == 200


FILE = b'Content-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\n'

CHUNKED = b"Content-Type: %s\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "chunks",
    [b"-1\r\n\r\n", b"zz\r\n\r\n", b"5\r\nab", b"2\r\nabXX0\r\n\r\n", b"1;" + b"x" * 20_000 + b"\r\na\r\n0\r\n\r\n"],
    ids=["negative", "no number", "ends early", "no end of chunk", "long extension"],
)
@pytest.mark.parametrize(
    ("path", "kind"), [(b"/", b"multipart/form-data; boundary=b"), (b"/api/v1/jobs", b"application/json")]
)
def test_s13_a_malformed_chunked_body_is_a_bad_request(
    hurried: WebTier, path: bytes, kind: bytes, chunks: bytes
) -> None:
    with connect(hurried, b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + CHUNKED % kind + chunks) as client:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in hurried.log.read_text()


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        (b"/api/v1/jobs", b"application/json", b""),
        (b"/fleet/limits", b"application/x-www-form-urlencoded", b"min=1&max=1"),
        (b"/classify", b"image/jpeg", b"half a picture"),
        (b"/", b"multipart/form-data; boundary=b", b"--b"),
        (b"/api/v1/classify", b"image/jpeg", picture()),
        (b"/api/image", b"multipart/form-data; boundary=b", b"--b\r\n" + FILE + picture() + b"\r\n--b--\r\n"),
    ],
    ids=["json", "urlencoded", "classic json", "form", "whole image", "whole form"],
)
def test_a_body_that_breaks_off_is_not_taken_for_a_short_one(
    hurried: WebTier, path: bytes, kind: bytes, body: bytes
) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    answer = answer_to(hurried, head % (path, kind, len(body) + 1) + body, breaks_off=True)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"the body ended after %d of %d bytes" % (len(body), len(body) + 1) in answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 9_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Many: x\r\n" * 65 + b"\r\n", 431),
        (b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 421),
        (b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 421),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 421),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: evil.example\r\nSCRIPT_NAME: /x\r\n"
            b"X-Forwarded-Proto: https\r\nConnection: close\r\n\r\n",
            200,
        ),
    ],
    ids=[
        "line",
        "header",
        "headers",
        "absolute",
        "host",
        "no host",
        "two hosts",
        "two lengths",
        "forwarded",
    ],
)
def test_a_head_that_is_too_much_or_says_too_much_is_refused(hurried: WebTier, sent: bytes, status: int) -> None:
    answer = answer_to(hurried, sent)
    assert answer.split()[1] == str(status).encode()
    assert b"Traceback" not in answer
    assert b"Strict-Transport-Security" not in answer


def test_the_body_of_a_request_that_is_refused_is_not_waited_for(hurried: WebTier) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n"
    assert answer_to(hurried, head + b"x").startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("body", [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"])
def test_clients_that_trickle_bodies_that_are_refused_hold_no_thread(hurried: WebTier, body: bytes) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
    with ExitStack() as open_connections:
        for client in [Trickle(hurried, head + body) for _ in range(2 * THREADS)]:
            open_connections.enter_context(client.connection)
            answer = client.connection.recv(65536)
            while received := client.connection.recv(65536):
                answer += received
            assert answer.startswith(b"HTTP/1.1 404 ")


ERRORS = {
    400: ("POST", "/api/v1/classify?wait=x", {"Content-Type": "image/jpeg"}),
    403: ("POST", "/api/v1/classify", {"Origin": "http://evil.example"}),
    404: ("POST", "/nowhere", {}),
    405: ("PUT", "/api/v1/classify", {}),
    413: ("POST", "/api/v1/fleet/pause", {}),
    415: ("POST", "/api/v1/classify", {"Content-Type": "text/xml"}),
    421: ("POST", "/api/v1/classify", {"Host": "evil.example"}),
    422: ("POST", "/api/v1/classify", {"Content-Type": "image/jpeg"}),
}
"""A request with each error status, whose body is refused unread but for the last one."""


@pytest.mark.parametrize("size", [100_000, 300_000])
@pytest.mark.parametrize("status", ERRORS)
def test_after_an_error_the_connection_is_closed_as_it_says_or_takes_the_next_request(
    hurried: WebTier, status: int, size: int
) -> None:
    method, path, headers = ERRORS[status]
    with closing(HTTPConnection("127.0.0.1", hurried.port, timeout=DEADLINE_SECONDS)) as client:
        client.request(method, path, b"x" * size, headers)
        answer = client.getresponse()
        answer.read()
        assert answer.status == status
        if answer.headers["Connection"] == "keep-alive":
            client.auto_open = 0
        client.request("POST", "/api/v1/jobs", b"{}")
        assert client.getresponse().status == 201
    with requests.Session() as session:
        for _ in range(5):
            url = f"{hurried.url}{path}"
            assert session.request(method, url, headers=headers, data=b"x" * size).status_code == status
            assert session.post(f"{hurried.url}/api/v1/jobs", json={}).status_code == 201


@pytest.mark.parametrize("status", sorted(ERRORS.keys() - {422}))
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
def test_a_client_that_sends_all_before_it_reads_gets_the_refusal(
    hurried: WebTier, status: int, is_chunked: bool
) -> None:
    method, path, headers = ERRORS[status]
    # More than both ends buffer, and no more: a busy machine must send it while the server lingers.
    body = repeat(b"x" * 100_000, 150) if is_chunked else b"x" * 15_000_000
    with closing(HTTPConnection("127.0.0.1", hurried.port, timeout=DEADLINE_SECONDS)) as client:
        client.request(method, path, body, headers)
        assert client.getresponse().status == status


@pytest.mark.parametrize(
    ("path", "kind", "size"),
    [
        ("/api/v1/classify", "image/jpeg", 30_000_000),
        ("/fleet/limits", "application/x-www-form-urlencoded", 70_000),
        ("/api/v1/fleet/pause", "application/json", 70_000),
    ],
)
def test_a_body_of_unknown_length_that_is_too_large_is_refused_and_not_cut(
    hurried: WebTier, path: str, kind: str, size: int
) -> None:
    body = picture() + bytes(size) if kind == "image/jpeg" else b'{"min": 1, "max": 1}' + b" " * size
    with closing(HTTPConnection("127.0.0.1", hurried.port, timeout=DEADLINE_SECONDS)) as client:
        client.request("POST", path, iter([body]), {"Content-Type": kind})
        assert client.getresponse().status == 413


def test_a_refused_body_without_an_end_is_received_up_to_a_bound(hurried: WebTier) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % 2**50
    sent = 0
    with connect(hurried, head) as client, pytest.raises(ConnectionError):
        while sent < 20 * MAX_BYTES:
            sent += client.send(b"x" * 1_000_000)
    assert sent > MAX_BYTES


def test_a_small_body_that_is_refused_leaves_its_connection_open(hurried: WebTier) -> None:
    sent = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000
    answers = answer_to(hurried, sent + GET + b"Connection: close\r\n\r\n")
    assert answers.count(b"HTTP/1.1 ") == 2
    assert answers.startswith(b"HTTP/1.1 404 ")


def test_a_client_that_awaits_100_gets_it_and_the_next_request_is_answered(hurried: WebTier) -> None:
    head = b"POST /api/v1/classify HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    with connect(hurried, head) as client:
        received = client.recv(65536)
        assert received.split()[1] == b"100"
        client.sendall(b"text" + GET + b"Connection: close\r\n\r\n")
        while piece := client.recv(65536):
            received += piece
    assert re.findall(rb"HTTP/1\.1 (\d+) ", received) == [b"100", b"415", b"200"]


def test_every_line_of_the_log_is_json_for_any_request(hurried: WebTier) -> None:
    for sent in (
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x1b[2J\r\n\r\n",
        b"GET /%0a%1b[2J{} HTTP/1.1\r\n\r\n",
    ):
        with connect(hurried, sent) as connection:
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
    lines = hurried.log.read_text().splitlines()
    assert lines
    assert all(json.loads(line)["process"] == "web" for line in lines)
