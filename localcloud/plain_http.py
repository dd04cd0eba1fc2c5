"""HTTP/1.1 as AWS's clients speak it: a head becomes a WSGI environ, an answer becomes bytes.

Reading a request by all of HTTP's rules takes gunicorn's parser, which is Python, longer than a direct call takes to
answer it. A head that is plain is read here in a few string operations; one that is not is none of this module's.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

END_OF_HEAD = b"\r\n\r\n"
MAX_HEAD_BYTES = 32 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
"""Bytes that are kept in memory at once; more goes gunicorn's way."""

_REQUEST_LINE = re.compile(r"([A-Z]{3,7}) (/[!-~]*) HTTP/1\.1")
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # but the tab, and the line ends that were split away
_NOT_PLAIN = frozenset({"HTTP_TRANSFER_ENCODING", "HTTP_UPGRADE", "HTTP_TE", "HTTP_TRAILER"})
_BODILESS = ("1", "204", "304")


def environ_of(head: bytes) -> dict[str, Any] | None:
    """Return a request's part of the WSGI environ, or None where its head is not plain.

    Args:
        head: request line and header fields, without the empty line after them.
    """
    lines = head.split(b"\r\n")
    if any(map(_CONTROLS.search, lines)):
        return None
    request_line, *fields = head.decode("latin-1").split("\r\n")
    parsed = _REQUEST_LINE.fullmatch(request_line)
    if parsed is None or "#" in request_line:
        return None
    method, target = parsed.groups()
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "RAW_URI": target,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1") if "%" in path else path,
        "QUERY_STRING": query,
    }
    for field in fields:
        name, colon, value = field.partition(":")
        key = _variable(name)
        if not colon or key is None or key in environ:  # a field twice, or folded, or not a name
            return None
        environ[key] = value.strip(" \t")
    return environ if _is_plain(environ) else None


@lru_cache(maxsize=512)
def _variable(name: str) -> str | None:
    """Return the variable of a header field, None where it has a name that could be mistaken for another's."""
    if not name.isascii() or not name.replace("-", "").isalnum():
        return None
    key = name.upper().replace("-", "_")
    return key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"


def _is_plain(environ: dict[str, Any]) -> bool:
    length = environ.get("CONTENT_LENGTH", "0")
    return (
        "HTTP_HOST" in environ
        and not _NOT_PLAIN.intersection(environ)
        and environ.get("HTTP_CONNECTION", "keep-alive").lower() == "keep-alive"
        and environ.get("HTTP_EXPECT", "100-continue").lower() == "100-continue"
        and (length.isascii() and length.isdigit() and int(length) <= MAX_BODY_BYTES)
    )


def surroundings(server: tuple[str, int], client: tuple[str, int]) -> dict[str, Any]:
    """Return the part of the WSGI environ that all requests of a connection share."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


def answer_of(application: WsgiApp, environ: dict[str, Any], *, keep_alive: bool) -> bytes:
    """Call an application and return its whole answer as it goes over the wire.

    Raises:
        ValueError: a header field would break out of its line.
    """
    begun: list[tuple[str, list[tuple[str, str]]]] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> Callable[[bytes], None]:
        begun[:] = [(status, headers)]
        return written.append

    chunks = application(environ, start_response)
    try:
        written.extend(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, headers = begun[0]
    bodiless = environ["REQUEST_METHOD"] == "HEAD" or status.startswith(_BODILESS)
    body = b"".join(written)
    return _head_of_answer(status, headers, None if bodiless else len(body), keep_alive) + (b"" if bodiless else body)


def _head_of_answer(status: str, headers: list[tuple[str, str]], length: int | None, keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Server: local-cloud", f"Date: {_date(int(time.time()))}"]
    lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
    lines += [f"{name}: {value}" for name, value in headers if name.lower() != "connection"]
    if length is not None and all(name.lower() != "content-length" for name, _ in headers):
        lines.append(f"Content-Length: {length}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError(f"a header field of the answer to be sent has a line end in it: {headers}")
    return head.encode("latin-1") + END_OF_HEAD


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
