"""Row 37: bodies that are too large, have too many parts, come too slowly or break off; memory stays bounded."""

import re
import socket
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from flask import Flask, Response, request
from flask.testing import FlaskClient
from werkzeug.exceptions import RequestEntityTooLarge

from core.ids import new_id
from services.clients import Clients
from tests.conftest import ConfigMaker
from web_tier.app import SMALL_BODY_BYTES, create_app
from web_tier.slow_clients import TimeoutStream
from web_tier.uploads.multipart import CHUNK_BYTES, MAX_BUFFER_BYTES, SPARE_PARTS, read_parts

BOUNDARY = "b"
MB = 2**20


class Endless:
    """A client that sends `start` and then `piece` for ever, and counts what was read of it."""

    def __init__(self, start: bytes, piece: bytes) -> None:
        self._start, self._piece, self.sent = start, piece, 0

    def read(self, size: int, /) -> bytes:
        data = self._start or (self._piece * (size // len(self._piece) + 1))[:size]
        self._start = b""
        self.sent += len(data)
        return data


def part(header: str) -> bytes:
    return f"--{BOUNDARY}\r\n{header}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"no boundary "),
        (f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=".encode(), b"a header without an end "),
        (b"", part('Content-Disposition: form-data; name="f"') + b"x\r\n"),
        (b"", part('Content-Disposition: form-data; name="f"; filename="a.jpg"') + b"x\r\n"),
    ],
    ids=["no part", "a header", "fields", "files"],
)
def test_a_form_that_goes_on_and_on_is_cut_off_before_it_fills_the_memory(start: bytes, piece: bytes) -> None:
    client = Endless(start, piece)
    with pytest.raises(RequestEntityTooLarge):
        for _ in read_parts(client.read, BOUNDARY, max_files=5, max_file_bytes=1000):
            pass
    assert client.sent <= MAX_BUFFER_BYTES + (SPARE_PARTS + 5) * CHUNK_BYTES


def test_a_field_that_is_too_long_is_dropped_and_not_kept() -> None:
    body = part('Content-Disposition: form-data; name="name"') + b"x" * MB + f"\r\n--{BOUNDARY}--\r\n".encode()
    [field] = read_parts(BytesIO(body).read, BOUNDARY, max_files=5, max_file_bytes=1000)
    assert (getattr(field, "name", None), getattr(field, "value", None)) == ("name", "")


@pytest.fixture
def tight(provisioned: Clients, make_config: ConfigMaker) -> FlaskClient:
    """A web tier that takes two files of 2 kB each and 20 kB in all."""
    limits = {"max_files_per_request": 2, "max_image_bytes": 2_000, "max_request_bytes": 20_000}
    return create_app(make_config(web=limits)).test_client()


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/api/v1/jobs", {"data": b"{" + b" " * SMALL_BODY_BYTES}),
        ("/", {"data": {"f": (BytesIO(b"x" * 30_000), "a.jpg")}}),
        ("/", {"data": {"f": [(BytesIO(b"x"), "a.jpg") for _ in range(3)]}}),
        ("/", {"data": {f"field {number}": "x" for number in range(SPARE_PARTS + 3)}}),
        ("/api/v1/classify", {"data": b"x" * 30_000, "content_type": "image/jpeg"}),
        ("/api/v1/classify", {"json": {"data": "A" * 100_000}}),
        ("/classify-image", {"data": {"f": (BytesIO(b"x" * 30_000), "a.jpg")}}),
    ],
    ids=["json", "form", "files", "fields", "image", "base64", "classic"],
)
def test_what_is_too_large_gets_a_413_with_a_sentence(tight: FlaskClient, path: str, sent: dict[str, Any]) -> None:
    if path == "/" and "f" not in sent["data"]:
        sent = {**sent, "content_type": "multipart/form-data"}
    answer = tight.post(path, **sent)
    assert answer.status_code == 413
    assert len(re.sub("<[^>]*>", "", answer.text).split()) > 5


class Stalled:
    """A client that sends nothing."""

    def read(self, _: int = -1, /) -> bytes:
        raise TimeoutError


def stalled(connection: socket.socket) -> dict[str, object]:
    """Return what gunicorn says of a request whose body does not come."""
    return {"gunicorn.socket": connection, "wsgi.input": Stalled(), "CONTENT_LENGTH": "10"}


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def test_every_route_is_patient_with_a_body_only_so_long(app: Flask, connection: socket.socket) -> None:
    bodies: dict[str, object] = {}

    def note(answer: Response) -> Response:
        bodies[str(request.endpoint)] = request.environ["wsgi.input"]
        assert answer.status_code < 500
        return answer

    app.after_request(note)
    rules = [rule for rule in app.url_map.iter_rules() if (rule.methods or set()) & {"POST", "PUT", "DELETE"}]
    for rule in rules:
        ids = {name: new_id() for name in rule.arguments}
        [method, *_] = sorted((rule.methods or set()) & {"POST", "PUT", "DELETE"})
        client = app.test_client()
        with app.test_request_context():
            path = rule.build(ids)[1]  # type: ignore[index]
        client.open(
            path,
            method=method,
            content_type="multipart/form-data; boundary=b",
            environ_overrides=stalled(connection),
        )
    assert {type(body) for body in bodies.values()} == {TimeoutStream}
    assert {rule.endpoint for rule in rules} <= bodies.keys()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/api/v1/jobs", "application/json"), ("/", "multipart/form-data; boundary=b"), ("/classify", "image/jpeg")],
)
def test_a_body_that_stalls_gets_a_408_that_says_so(
    client: FlaskClient, connection: socket.socket, path: str, kind: str
) -> None:
    answer = client.post(
        path,
        content_type=kind,
        environ_overrides=stalled(connection),
    )
    assert answer.status_code == 408
    assert "stalled after 0 bytes" in answer.text
