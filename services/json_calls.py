"""Calls of SQS and DynamoDB without botocore's machinery: a signed POST on a kept connection, and its JSON.

botocore takes 0.8 ms of CPU for a call with any content; a call here takes less than a tenth of that. botocore
creates the client, finds the endpoint, and renews the credentials. It also repeats each call that fails here, for
any reason, with its own retries, so all errors and waits are botocore's. A call that fails is sent once more.
"""

import functools
import hashlib
import hmac
import http.client
import json
import os
import select
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from services.clock import CLOCK
from services.endpoint import APP_ID

OPERATIONS: Final = frozenset(
    {
        "ReceiveMessage",
        "SendMessageBatch",
        "DeleteMessageBatch",
        "ChangeMessageVisibilityBatch",
        "GetQueueAttributes",
        "BatchGetItem",
        "BatchWriteItem",
        "GetItem",
        "PutItem",
        "TransactWriteItems",
        "UpdateItem",
        "Query",
    }
)
"""Operations without binary parameters or results, so their JSON is what botocore takes and returns."""

MAX_HEAD_BYTES: Final = 65_536
RECEIVE_BYTES: Final = 262_144
_END_OF_HEAD: Final = b"\r\n\r\n"
_SIGNED_FIELDS: Final[Sequence[str]] = ("content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target")
"""In the order of the signature."""


class UnreadableReplyError(OSError):
    """Raised when a connection ended within a reply, or the reply has no length."""


@dataclass
class JsonCalls:
    """Replaces `_make_api_call` of a botocore client; threads may share it.

    Attributes:
        client: the client, with the protocol `json` and at least two attempts of a call.
        by_botocore: its own `_make_api_call`.
        tls: for an endpoint with TLS.
    """

    client: Any
    by_botocore: Callable[[str, Any], Any]
    tls: ssl.SSLContext | None
    _idle: deque[socket.socket] = field(default_factory=deque, init=False)

    def __post_init__(self) -> None:
        """Read what all calls share from the client."""
        meta = self.client.meta
        parts, model = urlsplit(meta.endpoint_url), meta.service_model
        self._address = (parts.hostname or "", parts.port)
        self._host = parts.netloc
        self._scope = (meta.region_name, model.signing_name)
        self._type = f"application/x-amz-json-{model.metadata['jsonVersion']}"
        self._target = model.metadata["targetPrefix"]
        weakref.finalize(self, _close_all, self._idle)

    @classmethod
    def install(cls, client: Any, ca_bundle: str | None = None) -> None:
        """Let `client` make these calls, unless its endpoint is behind a proxy."""
        url = client.meta.endpoint_url
        if get_environ_proxies(url):
            return
        is_tls = url.startswith("https:")
        tls = ssl.create_default_context(cafile=ca_bundle or get_cert_path(True)) if is_tls else None
        client._make_api_call = cls(client, client._make_api_call, tls)

    def __call__(self, operation: str, parameters: Mapping[str, Any]) -> Any:
        """Make a call; return its result as botocore does.

        Raises:
            ClientError, BotoCoreError: as botocore, which has made the call again.
        """
        credentials = self.client._request_signer._credentials
        current = credentials.get_frozen_credentials() if credentials is not None else None
        if operation not in OPERATIONS or current is None or current.secret_key is None:
            return self.by_botocore(operation, parameters)
        try:
            status, content = self._exchange(self._request(operation, parameters, current))
            result = json.loads(content) if status == http.HTTPStatus.OK else None
        except (OSError, ValueError):
            result = None
        if type(result) is not dict:
            return self._again(operation, parameters)
        found = {name: value for name, value in result.items() if value is not None}
        return found | {"ResponseMetadata": {"HTTPStatusCode": 200, "RetryAttempts": 0}}

    def _again(self, operation: str, parameters: Mapping[str, Any]) -> Any:
        """Let botocore make the call; its result counts the attempt that was made before."""
        try:
            reply = self.by_botocore(operation, parameters)
        except ClientError as error:
            metadata = error.response.get("ResponseMetadata")
            if metadata is not None:
                metadata["RetryAttempts"] = metadata.get("RetryAttempts", 0) + 1
            raise
        reply["ResponseMetadata"]["RetryAttempts"] += 1
        return reply

    def _request(self, operation: str, parameters: Mapping[str, Any], credentials: Any) -> bytes:
        body = json.dumps(parameters).encode()
        values = {
            "content-type": self._type,
            "host": self._host,
            "x-amz-date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            "x-amz-target": f"{self._target}.{operation}",
        }
        if credentials.token:
            values["x-amz-security-token"] = credentials.token
        fields: dict[str, str] = {name: values[name] for name in _SIGNED_FIELDS if name in values}
        fields["authorization"] = authorization(
            fields, body, (credentials.access_key, credentials.secret_key), self._scope
        )
        fields["user-agent"] = f"fleetsight app/{os.environ.get(APP_ID, 'fleetsight')}"
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST / HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body

    def _exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return the status and the body of the reply."""
        connection = self._connect()
        try:
            connection.sendall(request)
            status, date, body, is_kept = read_reply(connection)
        except BaseException:
            connection.close()
            raise
        if is_kept:
            self._idle.append(connection)
        else:
            connection.close()
        CLOCK.confirm(date)
        return status, body

    def _connect(self) -> socket.socket:
        """Return an idle connection that its server has not closed, or a new one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._new_connection()
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            if not poll.poll(0):
                return connection
            connection.close()

    def _new_connection(self) -> socket.socket:
        config = self.client.meta.config
        host, port = self._address
        opened = (
            http.client.HTTPConnection(host, port, timeout=config.connect_timeout)
            if self.tls is None
            else http.client.HTTPSConnection(host, port, timeout=config.connect_timeout, context=self.tls)
        )
        opened.connect()
        connection: socket.socket = opened.sock
        connection.settimeout(config.read_timeout)
        return connection


def _close_all(connections: deque[socket.socket]) -> None:
    while connections:
        connections.pop().close()


def authorization(fields: Mapping[str, str], body: bytes, key: tuple[str, str], scope: tuple[str, str]) -> str:
    """Return the field that signs a POST to `/` with these fields, in the order of their names in lower case.

    Args:
        fields: the fields; `x-amz-date` is the time of the signature.
        body: the body.
        key: id and secret of the access key.
        scope: region and service.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    moment = fields["x-amz-date"]
    names, place = ";".join(fields), f"{moment[:8]}/{'/'.join(scope)}/aws4_request"
    lines = "".join(f"{name}:{value}\n" for name, value in fields.items())
    request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{place}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.digest(_signing_key(key[1], moment[:8], *scope), text.encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={key[0]}/{place}, SignedHeaders={names}, Signature={signature}"


@functools.lru_cache(16)
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def read_reply(connection: socket.socket) -> tuple[int, str | None, bytes, bool]:
    """Return the status, the date and the body of a reply, and whether the connection can be used again.

    Raises:
        OSError: the connection ended, or was silent for too long, within the reply.
        ValueError: the reply is not HTTP.
    """
    data = b""
    while (end := data.find(_END_OF_HEAD)) < 0:
        if len(data) > MAX_HEAD_BYTES or not (more := connection.recv(RECEIVE_BYTES)):
            raise UnreadableReplyError("the connection ended within the head of a reply")
        data += more
    first, *rest = data[:end].decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    if "content-length" not in fields:
        raise UnreadableReplyError("the reply has no length")
    missing, parts = int(fields["content-length"]) - (len(data) - end - len(_END_OF_HEAD)), [data[end + 4 :]]
    while missing > 0:
        if not (more := connection.recv(RECEIVE_BYTES)):
            raise UnreadableReplyError("the connection ended within a reply")
        parts.append(more)
        missing -= len(more)
    is_kept = missing == 0 and fields.get("connection", "keep-alive").lower() == "keep-alive"
    return int(first.split(" ", 2)[1]), fields.get("date"), b"".join(parts), is_kept
