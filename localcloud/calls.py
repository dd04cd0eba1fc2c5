"""Counts what the cloud is asked: calls by service and operation, and items of the tables by what they are about.

AWS bills for both. A call that fails counts too, as it does there.
"""

import io
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

_SCOPE = re.compile(r"Credential=[^/\s]+/\d{8}/[a-z0-9-]+/([a-z0-9-]+)/aws4_request")
_ITEM = re.compile(rb'":?pk": ?\{"S": ?"([A-Z]+)')
"""A partition key in the body of a call. What users wrote cannot look like one: its quotes are escaped."""


class Calls:
    """Figures that only ever grow; threads may share them."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._items: Counter[str] = Counter()
        self._turn = threading.Lock()

    def note(self, service: str, operation: str, kinds: Iterable[str] = ()) -> None:
        """Count a call, and the items that it names by the beginning of their partition key."""
        call = f"{service} {operation}"
        with self._turn:
            self._calls[call] += 1
            self._items.update(f"{call} {kind}" for kind in kinds)

    def figures(self) -> dict[str, dict[str, int]]:
        """Return `calls` such as `sqs ReceiveMessage`, and `items` such as `dynamodb BatchWriteItem JOB`."""
        with self._turn:
            return {"calls": dict(self._calls), "items": dict(self._items)}


calls = Calls()
"""Those of this process."""


class CountedCalls:
    """WSGI: counts each signed request and passes it on.

    Args:
        aws: answers it.
        counted: the figures.
    """

    def __init__(self, aws: WsgiApp, counted: Calls) -> None:
        self._aws, self._counted = aws, counted

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        if service := service_of(environ):
            kinds = _kinds(environ) if service == "dynamodb" else ()
            self._counted.note(service, operation_of(service, environ), kinds)
        return self._aws(environ, start_response)


def service_of(environ: dict[str, Any]) -> str:
    """Return the service that a request was signed for in its header, such as ``s3``; empty if it was not."""
    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    return scope[1] if scope else ""


def operation_of(service: str, environ: dict[str, Any]) -> str:
    """Return the operation: its name where the protocol has one, else the HTTP method; a list of S3 reads LIST."""
    target = str(environ.get("HTTP_X_AMZ_TARGET", "")).rpartition(".")[2]
    if service == "s3" and environ["REQUEST_METHOD"] == "GET" and "list-type=" in environ.get("QUERY_STRING", ""):
        return "LIST"
    return target or str(environ["REQUEST_METHOD"])


def _kinds(environ: dict[str, Any]) -> list[str]:
    if not (length := environ.get("CONTENT_LENGTH", "")).isdigit():
        return []  # in chunks, which our clients do not send
    body: bytes = environ["wsgi.input"].read(int(length))
    environ["wsgi.input"] = io.BytesIO(body)
    return [kind.decode() for kind in _ITEM.findall(body)]
