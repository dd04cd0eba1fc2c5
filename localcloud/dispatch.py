"""From a request to the code that answers it: counted, answered directly, or passed to moto's application.

SQS, the calls on DynamoDB's items and the plain calls on S3's objects are answered directly: stock moto takes some
forty layers for a call that needs a few microseconds. All other calls go to it, so it provides their errors and
rarely used parameters.
"""

import gc
import importlib
import io
import json
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Any
from xml.sax.saxutils import escape

from moto.iam.models import get_account_id_from

from localcloud.page_guard import WsgiApp
from localcloud.patches import apply_patches
from localcloud.s3.contents import Body, pieces_of
from localcloud.store import StorageError

_SCOPE = re.compile(r"Credential=[^/\s]+/\d{8}/[a-z0-9-]+/([a-z0-9-]+)/aws4_request")

INLINE = "localcloud.inline"
"""Key of the environ of a call that the main thread of the server makes, so that it must not wait."""


is_in_part: ContextVar[bool] = ContextVar("is_in_part", default=False)
"""Whether the present call meets the fault `partial`: half of a batch is not processed, as on AWS under load."""

LEFT_OUT = "left out by the switch `faults`"


def processed(entries: int) -> int:
    """Return how many of the entries of a batch are processed, the first ones."""
    return entries // 2 if is_in_part.get() else entries


class WouldWaitError(Exception):
    """Raised when an inline call must wait or has no direct answer; a thread makes the call again."""


class CallCounter:
    """Counts calls by service and operation, failed ones included; threads may share an instance."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def record(self, service: str, operation: str) -> None:
        """Count a call."""
        with self._lock:
            self._calls[f"{service} {operation}"] += 1

    def figures(self) -> dict[str, int]:
        """Return the number of calls so far, such as of `sqs ReceiveMessage`."""
        with self._lock:
            return dict(self._calls)


MIDDLEWARE: list[Callable[[WsgiApp], WsgiApp]] = []
"""What a module that ``python -m localcloud cloud --extension MODULE`` imports may append to.

Each wraps the application of all APIs; it sees only requests with a valid signature.
"""

call_counter = CallCounter()
"""The counter of this process."""


class CountedCalls:
    """WSGI middleware that counts each signed request, which `aws` answers; 503 if a temporary file fails."""

    def __init__(self, aws: WsgiApp, counted: CallCounter) -> None:
        self._aws, self._counted = aws, counted

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        service, is_made = service_of(environ), True
        try:
            return self._aws(environ, start_response)
        except WouldWaitError:
            is_made = False
            raise
        except StorageError as error:
            return error_response(environ, service or "s3", ErrorReason.UNAVAILABLE, str(error)).send(start_response)
        finally:
            if service and is_made:
                self._counted.record(service, operation_of(service, environ))


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

_DIRECT_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/\s]+)/\d{8}/([a-z0-9-]+)/(s3|sqs|dynamodb)/aws4_request")

_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost)(?::\d+)?")

_DIRECT_QUERIES = frozenset({"", "delete"})
"""Queries of calls that may have a direct answer: none, and that of S3's DeleteObjects."""

_MODULES = {
    "s3": "localcloud.s3.objects",
    "sqs": "localcloud.sqs.calls",
    "dynamodb": "localcloud.dynamodb.calls",
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
        except (ValueError, RecursionError):
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
        if scope is None:
            return None
        key, region, service = scope.groups()
        is_plain = environ.get("QUERY_STRING", "") in _DIRECT_QUERIES
        if service == "s3" and not (is_plain and _LOOPBACK.fullmatch(environ.get("HTTP_HOST", ""))):
            return None  # another host names a bucket
        account = get_account_id_from(key)
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


def request_id() -> str:
    """Return a new request id for an answer."""
    return secrets.token_hex(8).upper()


def json_answer(body: bytes, *headers: tuple[str, str]) -> DirectResponse:
    """Return the answer of a call in the JSON protocol."""
    return DirectResponse([("Content-Type", JSON_TYPE), ("x-amzn-RequestId", request_id()), *headers], body)


class MotoServices:
    """WSGI application that passes a request to moto's application for the service that it is signed for, else to S3.

    moto's own dispatcher tries up to 200 patterns for each request, in a lock; some services share a signing name,
    and get the first application of that name.
    """

    def __init__(self) -> None:
        self._applications, self._making = dict[str, WsgiApp](), threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        service = service_of(environ) or "s3"
        if service not in self._applications:
            with self._making:
                if service not in self._applications:
                    self._applications[service] = _application_of(service)
        return self._applications[service](environ, start_response)


def _application_of(service: str) -> Any:
    """Return moto's application for a service by its signing name; it is patched before its first request."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    known = DomainDispatcherApplication(create_backend_app)
    name = known.get_backend_for_host(service) or known.get_backend_for_host(f"{service}.us-east-1.amazonaws.com")
    if name is None:
        message = f"The service {service} is not available in the local cloud"
        return lambda environ, start: error_response(environ, service, ErrorReason.NOT_KEPT, message).send(start)
    apply_patches(name)
    application = create_backend_app(name)
    # For debugging, Flask makes a class for each request, which holds the body until garbage is collected. Errors
    # are raised in any case: the server answers them.
    application.debug, application.config["PROPAGATE_EXCEPTIONS"] = False, True
    gc.freeze()  # a service's modules stay in memory: each full collection would traverse them for 100 ms
    return application


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
