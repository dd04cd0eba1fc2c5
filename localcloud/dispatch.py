"""From a request to the code that answers it: counted, answered directly, or passed to moto's application.

The plain form of the calls that are made for each image works directly on moto's models: in stock moto such a call
goes through some forty layers to reach a model that needs a few microseconds. All other calls go to stock moto, which
so provides every error message and every rarely used parameter.
"""

import gc
import importlib
import io
import json
import math
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any
from xml.sax.saxutils import escape

from moto import settings
from moto.core.responses import BaseResponse
from moto.iam.models import get_account_id_from, mark_account_as_visited
from moto.moto_api import recorder

from localcloud.extensions import APPLICATIONS
from localcloud.page_guard import WsgiApp
from localcloud.patches import apply_patches
from localcloud.temporary import Body, TemporaryStorageError, pieces_of

_SCOPE = re.compile(r"Credential=[^/\s]+/\d{8}/[a-z0-9-]+/([a-z0-9-]+)/aws4_request")

_ITEM = re.compile(rb'":?pk": ?\{"S": ?"([A-Z]+)')
"""A partition key in the body of a call. Text from users cannot match: its quotes are escaped."""


INLINE = "localcloud.inline"
"""Key of the environ of a call that the main thread of the server makes, so that it must not wait."""


class WouldWaitError(Exception):
    """Raised when an inline call must wait or has no direct answer; nothing was done, and a thread makes the call."""


class CallCounter:
    """Counts calls by service and operation, and table items by kind; threads may share an instance.

    AWS bills for both, failed calls included.
    """

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._items: Counter[str] = Counter()
        self._lock = threading.Lock()

    def record(self, service: str, operation: str, kinds: Iterable[str] = ()) -> None:
        """Count a call, and its items by the prefix of their partition key."""
        call = f"{service} {operation}"
        with self._lock:
            self._calls[call] += 1
            self._items.update(f"{call} {kind}" for kind in kinds)

    def figures(self) -> dict[str, dict[str, int]]:
        """Return `calls` such as `sqs ReceiveMessage`, and `items` such as `dynamodb BatchWriteItem JOB`."""
        with self._lock:
            return {"calls": dict(self._calls), "items": dict(self._items)}


call_counter = CallCounter()
"""The counter of this process."""


class CountedCalls:
    """WSGI middleware that counts each signed request, which `aws` answers; 503 if a temporary file fails."""

    def __init__(self, aws: WsgiApp, counted: CallCounter) -> None:
        self._aws, self._counted = aws, counted

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        service, kinds, is_made = service_of(environ), list[str](), True
        if service == "dynamodb" and environ.get("CONTENT_LENGTH", "").isdigit():  # our clients send no chunks
            kinds = [kind.decode() for kind in _ITEM.findall(read_body(environ))]
        try:
            return self._aws(environ, start_response)
        except WouldWaitError:
            is_made = False
            raise
        except TemporaryStorageError as error:
            return error_response(environ, service or "s3", ErrorReason.UNAVAILABLE, str(error)).send(start_response)
        finally:
            if service and is_made:
                self._counted.record(service, operation_of(service, environ), kinds)


def service_of(environ: dict[str, Any]) -> str:
    """Return the service in the signature of a request's header, such as ``s3``; empty without a signature."""
    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    return scope[1] if scope else ""


def operation_of(service: str, environ: dict[str, Any]) -> str:
    """Return the operation: its name if the protocol has one, else the HTTP method; ``LIST`` for a list of S3."""
    target = str(environ.get("HTTP_X_AMZ_TARGET", "")).rpartition(".")[2]
    if service == "s3" and environ["REQUEST_METHOD"] == "GET" and "list-type=" in environ.get("QUERY_STRING", ""):
        return "LIST"
    return target or str(environ["REQUEST_METHOD"])


JSON_TYPE = "application/x-amz-json-1.0"

_DIRECT_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/\s]+/\d{8}/([a-z0-9-]+)/(s3|sqs|dynamodb)/aws4_request")

_REGION_IN_AGENT = re.compile(r"region/[a-z]{2}-[a-z]+-\d")

_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost)(?::\d+)?")

_DIRECT_QUERIES = frozenset({"", "delete"})
"""Queries of calls that may have a direct answer: none, and that of S3's DeleteObjects."""

# Headers that change what moto does with a call: another account, a compressed or streamed body, a browser.
_STEERING = frozenset({"HTTP_X_MOTO_ACCOUNT_ID", "HTTP_CONTENT_ENCODING", "HTTP_TRANSFER_ENCODING", "HTTP_ORIGIN"})

_MODULES = {
    "s3": "localcloud.s3.objects",
    "sqs": "localcloud.sqs.direct_calls",
    "dynamodb": "localcloud.dynamodb",
}


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """The answer to a call, without the header of the body's length."""

    headers: list[tuple[str, str]]
    body: Body = b""
    status: str = "200 OK"

    def send(self, start_response: Any) -> Iterable[bytes]:
        """Begin the answer of a WSGI application, and return its body."""
        length = [] if self.status.startswith("204") else [("Content-Length", str(len(self.body)))]
        start_response(self.status, self.headers + length)
        return pieces_of(self.body)


@dataclass(frozen=True, slots=True)
class DirectRequest:
    """A signed request, with the account and the region that moto would find for it."""

    environ: dict[str, Any]
    account: str
    region: str

    def read_json(self) -> dict[str, Any]:
        """Return the body of a call in AWS's JSON protocol; empty if the body is not a JSON object."""
        try:
            parsed = json.loads(read_body(self.environ))
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
    """WSGI middleware that answers plain calls itself; `stock` answers all other calls."""

    def __init__(self, stock: WsgiApp) -> None:
        self._stock = stock
        self._services: dict[str, Callable[[DirectRequest], DirectResponse | None]] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        answer = self._answer(environ)
        if answer is None and INLINE in environ:
            raise WouldWaitError
        return self._stock(environ, start_response) if answer is None else answer.send(start_response)

    def _answer(self, environ: dict[str, Any]) -> DirectResponse | None:
        scope = _DIRECT_SCOPE.match(environ.get("HTTP_AUTHORIZATION", ""))
        if scope is None or environ.get("QUERY_STRING", "") not in _DIRECT_QUERIES or is_steered(environ):
            return None
        region, service = scope.groups()
        found = BaseResponse.access_key_regex.search(environ["HTTP_AUTHORIZATION"])
        key = found.group(1) if found else "AKIAEXAMPLE"  # as in BaseResponse.get_access_key
        account = get_account_id_from(key)
        mark_account_as_visited(account, key, service, region)
        if service not in self._services:  # imported late, like moto's own services, and patched first
            apply_patches(service)
            self._services[service] = importlib.import_module(_MODULES[service]).answer
        return self._services[service](DirectRequest(environ, account, region))


def is_direct(environ: dict[str, Any]) -> bool:
    """Return whether a request may have a direct answer."""
    has_scope = _DIRECT_SCOPE.match(environ.get("HTTP_AUTHORIZATION", "")) is not None
    return has_scope and environ.get("QUERY_STRING", "") in _DIRECT_QUERIES


def read_body(environ: dict[str, Any]) -> bytes:
    """Return the body of a request, which can be read again; shorter than announced if the client disconnected."""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def is_steered(environ: dict[str, Any]) -> bool:
    """Return True if only stock moto can answer: its settings or the headers ask for more than the plain call."""
    return (
        not math.isinf(settings.INITIAL_NO_AUTH_ACTION_COUNT)
        or recorder._user_enabled
        or not _STEERING.isdisjoint(environ)
        or _LOOPBACK.fullmatch(environ.get("HTTP_HOST", "")) is None
        or _REGION_IN_AGENT.search(environ.get("HTTP_USER_AGENT", "")) is not None
    )


def request_id() -> str:
    """Return a new request id for an answer."""
    return secrets.token_hex(8).upper()


def json_answer(body: bytes, *headers: tuple[str, str]) -> DirectResponse:
    """Return the answer of a call in the JSON protocol."""
    return DirectResponse([("Content-Type", JSON_TYPE), ("x-amzn-RequestId", request_id()), *headers], body)


CACHED_SERVICES = frozenset(
    {"autoscaling", "cloudformation", "cognito-idp", "dynamodb", "ec2", "iam", "logs", "sqs", "ssm", "sts"}
)
"""Services for which the scope decides the application: others share a signing name, or need the path, too."""

_NEVER_CACHED = ("/moto-api", "/favicon.ico", "/latest/", "/v20180820/")


class CachedDispatcher:
    """WSGI application that passes a request to moto's application for its service, looked up once for each service.

    Stock moto takes one lock for each request, and while it holds the lock, it lists a directory, stats some 190
    files and tries up to 200 patterns: 71% of the server's samples were there. The result depends only on the
    request's credential scope for `CACHED_SERVICES`; stock moto looks up the application of any other request.
    """

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._applications: dict[str, WsgiApp] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Pass the request to the application of its service, found once if the cache key decides it."""
        key = cache_key(environ)
        application = None if key is None else self._applications.get(key)
        if application is None:
            application = self._stock.get_application(environ)
            if key is not None:
                self._applications[key] = application
        return application(environ, start_response)


def cache_key(environ: dict[str, Any]) -> str | None:
    """Return the key that decides the application of a request, or None if more than its scope decides it."""
    service, path = service_of(environ), environ.get("PATH_INFO", "")
    if not service or path.startswith(_NEVER_CACHED):
        return None
    if service == "s3":
        return None if "s3-control" in environ.get("HTTP_HOST", "") else service
    if service == "dynamodb":  # its API version and its streams are in the target
        return f"dynamodb {environ.get('HTTP_X_AMZ_TARGET', '').partition('.')[0]}"
    return service if service in CACHED_SERVICES else None


def stock_dispatcher() -> Any:
    """Return moto's own dispatcher; its applications are patched before their first request."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    def create_patched(service: Any) -> Any:
        if service in APPLICATIONS:
            return APPLICATIONS[service]()
        apply_patches(service)
        application = create_backend_app(service)
        # For debugging, Flask makes a class for each request, which holds the body until garbage is collected. Errors
        # are raised in any case: the server answers them.
        application.debug, application.config["PROPAGATE_EXCEPTIONS"] = False, True
        gc.freeze()  # a service's modules stay in memory: each full collection would traverse them for 100 ms
        return application

    return DomainDispatcherApplication(create_patched)


class ErrorReason(Enum):
    """The reason of an error, with the error code of S3, EC2, the Query protocol and the JSON protocol.

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
    https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
    """

    DENIED = ("AccessDenied", "UnauthorizedOperation", "AccessDenied", "AccessDeniedException")
    UNSIGNED = (
        "AccessDenied",
        "MissingAuthenticationToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
    )
    UNKNOWN_KEY = ("InvalidAccessKeyId", "AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException")
    WRONG_SIGNATURE = ("SignatureDoesNotMatch", "AuthFailure", "SignatureDoesNotMatch", "InvalidSignatureException")
    SKEWED = ("RequestTimeTooSkewed", "RequestExpired", "RequestExpired", "InvalidSignatureException")
    EXPIRED = ("AccessDenied", "RequestExpired", "RequestExpired", "InvalidSignatureException")
    TOKEN_EXPIRED = ("ExpiredToken", "RequestExpired", "ExpiredToken", "ExpiredTokenException")
    THROTTLED = ("SlowDown", "RequestLimitExceeded", "ThrottlingException", "ThrottlingException")
    UNAVAILABLE = ("ServiceUnavailable", "Unavailable", "ServiceUnavailable", "ServiceUnavailable")
    NOT_KEPT = ("NotImplemented", "UnsupportedOperation", "NotImplemented", "UnsupportedOperationException")

    def status(self, service: str) -> str | None:
        """Return the status line of the answer, or None for the usual status of the protocol's errors."""
        if self is ErrorReason.NOT_KEPT:
            return "501 Not Implemented"
        if self is ErrorReason.UNAVAILABLE or (self is ErrorReason.THROTTLED and service in {"s3", "ec2"}):
            return "503 Service Unavailable"
        return "400 Bad Request" if self in {ErrorReason.TOKEN_EXPIRED, ErrorReason.THROTTLED} else None


def error_response(environ: dict[str, Any], service: str, reason: ErrorReason, message: str) -> DirectResponse:
    """Return the answer to a request that is denied or meets a fault.

    S3, EC2 and the Query protocol answer 403, each in its own XML, and the JSON protocol 400, with the code in the
    body. SQS, which used the Query protocol before, also has that code in a header and answers 403.
    """
    s3, ec2, query, in_json = reason.value
    status = reason.status(service) or "403 Forbidden"
    headers, text, identity = [("Content-Type", "text/xml")], escape(message), request_id()
    if "HTTP_X_AMZ_TARGET" in environ:
        kind = f"com.amazon.coral.service#{in_json}"
        headers = [("Content-Type", JSON_TYPE), ("x-amzn-RequestId", identity)]
        if service == "sqs":
            headers.append(("x-amzn-query-error", f"{query};Sender"))
            kind = "com.amazonaws.sqs#AccessDenied" if reason is ErrorReason.DENIED else kind
        else:
            status = reason.status(service) or "400 Bad Request"
        body = json.dumps({"__type": kind, "message": message, "Message": message})
    elif service == "s3":
        headers = [("Content-Type", "application/xml"), ("x-amz-request-id", identity)]
        error = f"<Code>{s3}</Code><Message>{text}</Message><RequestId>{identity}</RequestId>"
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{error}</Error>'
    elif service == "ec2":
        begin = "You are not authorized to perform this operation. " if reason is ErrorReason.DENIED else ""
        error = f"<Error><Code>{ec2}</Code><Message>{begin}{text}</Message></Error>"
        body = f"<Response><Errors>{error}</Errors><RequestID>{identity}</RequestID></Response>"
    else:
        error = f"<Error><Type>Sender</Type><Code>{query}</Code><Message>{text}</Message></Error>"
        body = f"<ErrorResponse>{error}<RequestId>{identity}</RequestId></ErrorResponse>"
    is_head = service == "s3" and environ["REQUEST_METHOD"] == "HEAD"
    return DirectResponse(headers, b"" if is_head else body.encode(), status)
