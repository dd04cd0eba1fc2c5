"""The calls that are made for each image, answered without Flask and moto's generic dispatch.

A call goes through some forty layers of stock moto to reach a model that needs some microseconds. Here the plain form
of a few calls works on the very same models; all other calls fall through to stock moto, which so keeps every
error message and every rarely used parameter.
"""

import importlib
import io
import json
import math
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from moto import settings
from moto.core.responses import BaseResponse
from moto.iam.models import get_account_id_from, mark_account_as_visited
from moto.moto_api import recorder

from localcloud.mends import mend_service

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

JSON_TYPE = "application/x-amz-json-1.0"
_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/\s]+/\d{8}/([a-z0-9-]+)/(s3|sqs|dynamodb)/aws4_request")
_REGION_IN_AGENT = re.compile(r"region/[a-z]{2}-[a-z]+-\d")
_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost)(?::\d+)?")
# what steers moto from outside of the call itself: another account, a compressed or streamed body, a browser
_STEERING = frozenset({"HTTP_X_MOTO_ACCOUNT_ID", "HTTP_CONTENT_ENCODING", "HTTP_TRANSFER_ENCODING", "HTTP_ORIGIN"})
_MODULES = {
    "s3": "localcloud.object_calls",
    "sqs": "localcloud.queue_calls",
    "dynamodb": "localcloud.table_calls",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a direct call answers; the body's length is added to `headers`."""

    headers: list[tuple[str, str]]
    body: bytes = b""
    status: str = "200 OK"


@dataclass(frozen=True, slots=True)
class Request:
    """A signed request, with the account and the region that moto would find for it."""

    environ: dict[str, Any]
    account: str
    region: str

    def read_body(self) -> bytes:
        """Return the body and put it back, for stock moto in case it is needed there; shorter if the client left."""
        return read_body(self.environ)

    def read_json(self) -> dict[str, Any]:
        """Return the body of a call in AWS's JSON protocol; empty where it is none."""
        try:
            parsed = json.loads(self.read_body())
        except ValueError:
            return {}
        return parsed if type(parsed) is dict else {}

    @property
    def target(self) -> str:
        """The operation of a call in the JSON protocol, without the service's name and version."""
        if self.environ.get("CONTENT_TYPE") != JSON_TYPE or self.environ["REQUEST_METHOD"] != "POST":
            return ""
        return str(self.environ.get("HTTP_X_AMZ_TARGET", "")).rpartition(".")[2]


class DirectCalls:
    """A WSGI application that answers plain calls itself and passes the others on.

    Args:
        stock: answers what no direct call does.
    """

    def __init__(self, stock: WsgiApp) -> None:
        self._stock = stock
        self._services: dict[str, Callable[[Request], Answer | None]] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        answer = self._answer(environ)
        if answer is None:
            return self._stock(environ, start_response)
        length = [] if answer.status.startswith("204") else [("Content-Length", str(len(answer.body)))]
        start_response(answer.status, answer.headers + length)
        return (answer.body,)

    def _answer(self, environ: dict[str, Any]) -> Answer | None:
        scope = _SCOPE.match(environ.get("HTTP_AUTHORIZATION", ""))
        if scope is None or environ.get("QUERY_STRING") or is_steered(environ):
            return None
        region, service = scope.groups()
        key = _access_key(environ["HTTP_AUTHORIZATION"])
        account = get_account_id_from(key)
        mark_account_as_visited(account, key, service, region)
        return self._calls_of(service)(Request(environ, account, region))

    def _calls_of(self, service: str) -> Callable[[Request], Answer | None]:
        if service not in self._services:  # imported late, like moto's own services, and mended first
            mend_service(service)
            self._services[service] = importlib.import_module(_MODULES[service]).answer
        return self._services[service]


def read_body(environ: dict[str, Any]) -> bytes:
    """Return the body of a request, and put it back so that it can be read again."""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def is_steered(environ: dict[str, Any]) -> bool:
    """Say whether moto must decide: it checks permissions, records, or is told more than the call by its headers."""
    return (
        not math.isinf(settings.INITIAL_NO_AUTH_ACTION_COUNT)
        or recorder._user_enabled
        or not _STEERING.isdisjoint(environ)
        or _LOOPBACK.fullmatch(environ.get("HTTP_HOST", "")) is None
        or _REGION_IN_AGENT.search(environ.get("HTTP_USER_AGENT", "")) is not None
    )


def _access_key(authorization: str) -> str:
    match = BaseResponse.access_key_regex.search(authorization)
    return match.group(1) if match else "AKIAEXAMPLE"  # as in BaseResponse.get_access_key


def request_id() -> str:
    """Return an identity for an answer."""
    return secrets.token_hex(8).upper()


def json_answer(body: bytes, *headers: tuple[str, str]) -> Answer:
    """Return the answer of a call in the JSON protocol."""
    return Answer([("Content-Type", JSON_TYPE), ("x-amzn-RequestId", request_id()), *headers], body)
