"""Clients of the local cloud's WSGI applications in the test's own process."""

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from localcloud.launch import REGION
from localcloud.page_guard import WsgiApp

JSON = "application/x-amz-json-1.0"


@dataclass(frozen=True)
class Reply:
    """An answer, its header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class CountingApplication:
    """A WSGI application that counts its requests."""

    def __init__(self, application: WsgiApp) -> None:
        self._application, self.times = application, 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.times += 1
        return self._application(environ, start_response)


class WsgiClient:
    """Sends signed requests to a WSGI application."""

    def __init__(self, application: WsgiApp) -> None:
        self._application = application

    def request(
        self, service: str, method: str, target: str, body: bytes = b"", *, length: int | None = None, **environ: Any
    ) -> Reply:
        """Send a request with these additions to its environ; None removes an entry."""
        path, _, query = target.partition("?")
        scope = f"AWS4-HMAC-SHA256 Credential=embedded/20260101/{REGION}/{service}/aws4_request, Signature=0"
        environ_of_request = {
            "REQUEST_METHOD": method,
            "RAW_URI": target,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SCRIPT_NAME": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "5000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "127.0.0.1:5000",
            "HTTP_AUTHORIZATION": scope,
            "CONTENT_LENGTH": str(len(body) if length is None else length),
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.url_scheme": "http",
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            **environ,
        }
        begun: list[Any] = []
        chunks = self._application(
            {name: value for name, value in environ_of_request.items() if value is not None},
            lambda status, headers, _error=None: begun.append((status, headers)),
        )
        content = b"".join(chunks)
        status, headers = begun[0]
        return Reply(int(status.split()[0]), {name.lower(): value for name, value in headers}, content)

    def call(self, service: str, operation: str, **parameters: Any) -> Reply:
        """Make a call in AWS's JSON protocol."""
        prefix = {"sqs": "AmazonSQS", "dynamodb": "DynamoDB_20120810"}[service]
        body = json.dumps(parameters).encode()
        return self.request(service, "POST", "/", body, CONTENT_TYPE=JSON, HTTP_X_AMZ_TARGET=f"{prefix}.{operation}")


@dataclass(frozen=True)
class ClientPair:
    """Clients of one moto: through the direct calls, and of stock moto."""

    direct: WsgiClient
    stock: WsgiClient
    stock_application: CountingApplication

    def needs_stock(self, *arguments: Any, **environ: Any) -> bool:
        """Make a request through the direct calls and return True if stock moto answered it."""
        before = self.stock_application.times
        self.direct.request(*arguments, **environ)
        return self.stock_application.times > before

    def stock_replies(self, call: Callable[[WsgiClient], Reply]) -> list[Reply]:
        """Make a call through both clients, and return their replies, each of which stock moto must have answered."""
        replies = []
        for client in (self.direct, self.stock):
            before = self.stock_application.times
            replies.append(call(client))
            assert self.stock_application.times > before
        return replies
