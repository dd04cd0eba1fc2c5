"""A plain head is read as gunicorn reads it, and what is not plain is left to gunicorn."""

from collections.abc import Iterable
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import get_parser
from gunicorn.http.wsgi import create
from hypothesis import given
from hypothesis import strategies as st

from localcloud.http_worker import MAX_BODY_BYTES, answer_of, connection_environ, environ_of

PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=12)
NAMES = st.one_of(
    st.sampled_from(["Authorization", "X-Amz-Date", "Content-Type", "amz-sdk-request", "Expect", "Connection"]),
    st.text("abcXYZ019-_!: ", min_size=1, max_size=6),
)
SERVER, CLIENT = ("127.0.0.1", 5000), ("127.0.0.1", 40000)


class Sink:
    def send(self, _data: bytes) -> None:
        """Take gunicorn's 100 Continue."""


def gunicorn_environ(head: bytes) -> dict[str, Any]:
    request = next(get_parser(Config(), iter([head + b"\r\n\r\n"]), CLIENT))
    environ: dict[str, Any] = create(request, Sink(), CLIENT, SERVER, Config())[1]
    return environ


def head_of(method: str, target: str, fields: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1:5000", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join(lines).encode("latin-1")


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "HEAD", "DELETE", "get", "BREW"]),
    path=PRINTABLE,
    fields=st.lists(st.tuples(NAMES, VALUES), max_size=5),
)
def test_plain_head_is_parsed_like_gunicorn_does(method: str, path: str, fields: list[tuple[str, str]]) -> None:
    head = head_of(method, f"/{path}", fields)
    ours = environ_of(head)
    if ours is not None:
        theirs = gunicorn_environ(head)
        assert {name: theirs[name] for name in ours} == ours
        assert {name for name in theirs if name.startswith(("HTTP_", "CONTENT_"))} <= ours.keys()


def test_connection_environ_is_that_of_gunicorn() -> None:
    theirs = gunicorn_environ(head_of("GET", "/", []))
    own = {"wsgi.errors", "wsgi.multithread"}  # gunicorn's threads say the latter later
    shared = {name: value for name, value in connection_environ(SERVER, CLIENT).items() if name not in own}
    assert {name: theirs[name] for name in shared} == shared


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.0\r\nHost: h",
        b"GET http://h/ HTTP/1.1\r\nHost: h",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: other",
        b"GET / HTTP/1.1\r\nHost: h\r\nX_Forged: 1",
        b"GET / HTTP/1.1\r\nHost: h\r\nName : 1",
        b"GET / HTTP/1.1\r\nHost: h\r\nFolded: 1\r\n more",
        b"GET / HTTP/1.1\r\nHost: h\nSmuggled: 1",
        b"GET / HTTP/1.1\r\nHost: h\r\nBell: \x07",
        b"GET / HTTP/1.1\r\nHost: h\r\nno colon",
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close",
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked",
        b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: -1",
        b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1",
        b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: \xb2",
        b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d" % (MAX_BODY_BYTES + 1),
        b"",
    ],
)
def test_a_head_that_is_not_plain_is_left_to_gunicorn(head: bytes) -> None:
    assert environ_of(head) is None


def application(status: str, headers: list[tuple[str, str]], *chunks: bytes) -> Any:
    def answer(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(status, headers)
        return chunks

    return answer


def test_answer_has_one_content_length() -> None:
    for headers in ([], [("content-length", "4")]):
        answer = application("200 OK", headers, b"ab", b"cd")
        head, body = answer_of(answer, {"REQUEST_METHOD": "GET"}, keep_alive=True)
        wire = head + bytes(body)
        assert wire.lower().count(b"content-length: 4\r\n") == 1
        assert wire.endswith(b"\r\n\r\nabcd")


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Same")])
def test_answer_without_body_has_none(method: str, status: str) -> None:
    head, body = answer_of(application(status, [], b"body"), {"REQUEST_METHOD": method}, keep_alive=True)
    wire = head + bytes(body)
    assert wire.endswith(b"\r\n\r\n")
    assert b"content-length" not in wire.lower()


def test_the_connection_s_end_is_announced() -> None:
    wire, _ = answer_of(application("200 OK", [("Connection", "x")]), {"REQUEST_METHOD": "GET"}, keep_alive=False)
    assert wire.count(b"Connection: close\r\n") == 1
    assert b"Connection: x" not in wire


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb"])
def test_a_header_field_cannot_break_out_of_its_line(value: str) -> None:
    with pytest.raises(ValueError, match="line end"):
        answer_of(application("200 OK", [("X", value)]), {"REQUEST_METHOD": "GET"}, keep_alive=True)
