"""Records each call of a tier to the local cloud with what AWS bills for it: an extension of the local cloud.

- S3 bills PUT, COPY, POST and LIST requests, and at a lower price GET and all others; deletes are free
  (https://aws.amazon.com/s3/pricing/).
- SQS bills a request for each 64 KB of messages that a call sends or receives, and more for messages of a group in a
  standard queue (https://aws.amazon.com/sqs/pricing/).
- DynamoDB bills request units, which the local cloud answers as DynamoDB does (`localcloud.dynamodb.capacity`). A
  write whose condition fails takes a unit for each of its items, twice in a transaction.

Other calls are free. Each call is a line of the file that `FILE_VARIABLE` names.
"""

import io
import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Final

from core.cost import Requests
from localcloud.dispatch import MIDDLEWARE, operation_of, read_body, service_of
from localcloud.page_guard import WsgiApp

EXTENSION: Final = __name__
FILE_VARIABLE: Final = "FLEETSIGHT_BILLED_CALLS"

CLIENT: Final = "client"
"""The component of calls that the web tier has signed for a browser or a program of a user."""

EMPTY: Final = "ReceiveMessage, empty"
"""A poll that finds nothing."""

SQS_REQUEST_BYTES: Final = 64 * 1024

_TIER: Final = re.compile(r"\bapp/fleetsight-([a-z]+)")
_READS: Final = frozenset({"BatchGetItem", "GetItem", "Query", "Scan"})
_WRITES: Final = frozenset({"BatchWriteItem", "DeleteItem", "PutItem", "TransactWriteItems", "UpdateItem"})
_PUTS: Final = frozenset({"COPY", "LIST", "POST", "PUT"})
_OF_MESSAGES: Final = ("Send", "Receive", "Delete", "ChangeMessageVisibility")

Call = tuple[str, str]
"""The component that makes a call, such as `worker`, and the service and operation, such as `s3 PUT`."""


@dataclass(frozen=True, slots=True)
class Billed:
    """Calls, and what AWS bills for them."""

    calls: float = 0.0
    requests: Requests = field(default_factory=Requests)

    def __add__(self, other: "Billed") -> "Billed":
        """Return the sum."""
        return Billed(self.calls + other.calls, self.requests + other.requests)

    def __mul__(self, times: float) -> "Billed":
        """Return the calls multiplied."""
        return Billed(self.calls * times, self.requests * times)


class Record:
    """The calls that a local cloud with this extension has recorded since the last reading."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0

    def take(self) -> dict[Call, Billed]:
        """Return the calls since the last reading, by component and operation."""
        with self._file.open("rb") as lines:
            lines.seek(self._read)
            text = lines.read()
        text = text[: text.rfind(b"\n") + 1]  # the last line may be half written
        self._read += len(text)
        taken = defaultdict[Call, Billed](Billed)
        for component, operation, requests in map(json.loads, text.splitlines()):
            taken[component, operation] += Billed(1, Requests(*requests))
        return dict(taken)


@contextmanager
def recording(file: Path) -> Iterator[Record]:
    """Let local clouds that start within the block with this extension record their calls in `file`."""
    file.touch()
    os.environ[FILE_VARIABLE] = str(file)
    try:
        yield Record(file)
    finally:
        del os.environ[FILE_VARIABLE]


def s3_requests(operation: str) -> Requests:
    """Return what S3 bills for a call, named by its method, or by COPY, LIST or DELETE."""
    if operation == "DELETE":
        return Requests()
    return Requests(s3_put=1) if operation in _PUTS else Requests(s3_get=1)


def sqs_requests(messages: Iterable[str], *, has_group: bool) -> Requests:
    """Return what SQS bills for a call that sends or receives messages with these bodies."""
    count = max(1, -(-sum(len(body.encode()) for body in messages) // SQS_REQUEST_BYTES))
    return Requests(sqs=count, sqs_fair=count if has_group else 0)


def table_requests(operation: str, given: Mapping[str, Any], answered: Mapping[str, Any]) -> Requests:
    """Return what DynamoDB bills for a call with these parameters and this answer."""
    consumed = answered.get("ConsumedCapacity")
    if consumed is None:
        units = 2.0 * len(given["TransactItems"]) if operation == "TransactWriteItems" else 1.0
    else:
        units = sum(each["CapacityUnits"] for each in (consumed if isinstance(consumed, list) else [consumed]))
    return Requests(table_write=units) if operation in _WRITES else Requests(table_read=units)


class _Recorder:
    """WSGI middleware that records the calls of tiers, and those that the web tier has signed for its clients."""

    def __init__(self, aws: WsgiApp) -> None:
        self._aws, self._lock = aws, threading.Lock()
        self._file = Path(os.environ[FILE_VARIABLE]).open("a")  # noqa: SIM115 - as long as the process
        self._with_groups = set[str]()  # URLs of standard queues

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        service, tier = service_of(environ), _TIER.search(environ.get("HTTP_USER_AGENT", ""))
        component = tier[1] if tier else "" if service else CLIENT
        operation = operation_of(service or "s3", environ)
        if not component or service not in {"", "s3", "sqs", "dynamodb"}:
            return self._aws(environ, start_response)
        if service in {"", "s3"}:
            answer = self._aws(environ, start_response)
            if "HTTP_X_AMZ_COPY_SOURCE" in environ:
                operation = "COPY"
            elif operation == "POST" and environ.get("QUERY_STRING") == "delete":
                operation = "DELETE"
            self._write(component, f"s3 {operation}", s3_requests(operation))
            return answer
        given = json.loads(read_body(environ))
        if operation in _READS | _WRITES:
            body = json.dumps({**given, "ReturnConsumedCapacity": "TOTAL"}).encode()
            environ = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        content = b"".join(self._aws(environ, start_response))
        answered = json.loads(content or b"{}")
        if service == "sqs":
            operation, requests = self._of_queue(operation, given, answered)
            self._write(component, f"sqs {operation}", requests)
        elif operation in _READS | _WRITES:
            self._write(component, f"dynamodb {operation}", table_requests(operation, given, answered))
        return (content,)

    def _of_queue(self, operation: str, given: Any, answered: Any) -> tuple[str, Requests]:
        sent, received = given.get("Entries", [given]), answered.get("Messages", [])
        queue = given.get("QueueUrl", "")
        if any("MessageGroupId" in each for each in sent) and not queue.endswith(".fifo"):
            self._with_groups.add(queue)
        is_empty = operation == "ReceiveMessage" and not received
        has_group = queue in self._with_groups and operation.startswith(_OF_MESSAGES) and not is_empty
        bodies = [each.get("MessageBody", "") for each in sent] + [each["Body"] for each in received]
        return (EMPTY if is_empty else operation), sqs_requests(bodies, has_group=has_group)

    def _write(self, component: str, operation: str, requests: Requests) -> None:
        with self._lock:
            self._file.write(json.dumps([component, operation, astuple(requests)]) + "\n")
            self._file.flush()


if FILE_VARIABLE in os.environ:
    MIDDLEWARE.append(_Recorder)
