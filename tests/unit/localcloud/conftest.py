"""The same moto twice: asked through the direct calls, and asked as stock."""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from localcloud.dispatch import CachedDispatcher, DirectCalls, WsgiApp, stock_dispatcher
from localcloud.launch import REGION
from localcloud.patches import apply_patches

JSON = "application/x-amz-json-1.0"


@dataclass(frozen=True)
class Reply:
    """An answer as a client sees it, its header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Asked:
    """A WSGI application that counts how often it is called."""

    def __init__(self, application: WsgiApp) -> None:
        self._application, self.times = application, 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.times += 1
        return self._application(environ, start_response)


class Door:
    """Asks one WSGI application in the name of a signed client."""

    def __init__(self, application: WsgiApp) -> None:
        self._application = application

    def ask(
        self, service: str, method: str, target: str, body: bytes = b"", *, length: int | None = None, **environ: Any
    ) -> Reply:
        """Send a request with these additions to its environ; an addition of None takes away."""
        path, _, query = target.partition("?")
        scope = f"AWS4-HMAC-SHA256 Credential=embedded/20260101/{REGION}/{service}/aws4_request, Signature=0"
        request = {
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
            {name: value for name, value in request.items() if value is not None},
            lambda status, headers, _error=None: begun.append((status, headers)),
        )
        content = b"".join(chunks)
        status, headers = begun[0]
        return Reply(int(status.split()[0]), {name.lower(): value for name, value in headers}, content)

    def call(self, service: str, operation: str, **parameters: Any) -> Reply:
        """Make a call in AWS's JSON protocol."""
        prefix = {"sqs": "AmazonSQS", "dynamodb": "DynamoDB_20120810"}[service]
        body = json.dumps(parameters).encode()
        return self.ask(service, "POST", "/", body, CONTENT_TYPE=JSON, HTTP_X_AMZ_TARGET=f"{prefix}.{operation}")


@dataclass(frozen=True)
class Doors:
    """Both ways to one moto."""

    direct: Door
    stock: Door
    asked: Asked

    def asks_stock(self, *arguments: Any, **environ: Any) -> bool:
        """Make a request through the direct calls and say whether stock moto had to answer it."""
        before = self.asked.times
        self.direct.ask(*arguments, **environ)
        return self.asked.times > before


@pytest.fixture(scope="session")
def doors() -> Doors:
    """One moto in this process, mended, with its state: tests use names of their own."""
    apply_patches("core")
    stock = Asked(CachedDispatcher(stock_dispatcher()))
    return Doors(Door(DirectCalls(stock)), Door(stock), stock)
