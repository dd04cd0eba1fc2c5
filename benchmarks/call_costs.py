"""The CPU time of a call of the controller: its own clients against a server that sends fixed replies.

The server is a thread of this process on loopback; only the CPU time of the calling thread counts. So the client
and the socket are measured, and TLS and the service are not.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import md5
from socket import create_server, socket
from typing import Any, Final

from benchmarks.virtual_aws import CallCosts, ModelJob, answer_body, encoded
from core.config import load_config
from core.ids import ImageRef
from core.messages import ClassificationResult
from scripts.run.system import ROOT
from services.clients import Clients
from services.endpoint import Endpoint
from services.table import BATCH, PAGE, READ_BATCH
from web_tier.controller.services import MAX_ATTEMPTS

ROUNDS: Final = 25
"""Calls of a kind; the fastest counts, since other processes disturb the others."""

_JOB: Final = ModelJob("0" * 26, "", [f"{number:026d}" for number in range(PAGE)])


def measure_call_costs(rounds: int = ROUNDS) -> CallCosts:
    """Measure every call with one entry and with as many as it can have; return base and share of an entry."""
    with canned_server() as (server, endpoint):
        clients = Clients(endpoint)
        clients.session.set_credentials("model", "model")
        calls: dict[str, tuple[float, float]] = {}
        for operation, (entries, call, reply) in _calls(clients):
            one = _seconds(server, partial(call, 1), reply(1), rounds)
            most = one if entries == 1 else _seconds(server, partial(call, entries), reply(entries), rounds)
            each = max(0.0, (most - one) / max(1, entries - 1))
            calls[operation] = max(0.0, one - each), each
    return CallCosts(calls)


REFERENCE_SECONDS: Final = 0.00252
"""What `core_seconds` returns on the machine of the figures in docs/scale.md: a core of an AMD EPYC of 2026."""


def core_speed(rounds: int = 30) -> float:
    """Return how fast a core of this machine is: 2 is twice as fast as that of the documented figures."""
    return REFERENCE_SECONDS / core_seconds(rounds)


def core_seconds(rounds: int) -> float:
    """Return the CPU seconds of some work of the controller's kind, of the fastest round."""
    body, took = answer_body(ImageRef(_JOB.job_id, _JOB.image_ids[0])), []
    for _ in range(rounds):
        began = time.thread_time()
        for at in range(100):
            parsed = ClassificationResult.from_json(body)
            json.loads(parsed.to_json())
            encoded(_JOB.record(at))
        took.append(time.thread_time() - began)
    return min(took)


class CannedServer:
    """Sends `reply` to every request."""

    def __init__(self) -> None:
        self.reply = b"{}"
        self._listening = create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket) -> None:
        received = b""
        with connection:
            while True:
                while (end := received.find(b"\r\n\r\n")) < 0:
                    if not (part := connection.recv(65_536)):
                        return
                    received += part
                length = next(
                    int(line.split(b":")[1])
                    for line in [*received[:end].split(b"\r\n"), b"content-length: 0"]
                    if line.lower().startswith(b"content-length:")
                )
                while len(received) < end + 4 + length:
                    received += connection.recv(65_536)
                received = received[end + 4 + length :]
                head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
                connection.sendall(f"{head}Content-Length: {len(self.reply)}\r\n\r\n".encode() + self.reply)


@contextmanager
def canned_server() -> Iterator[tuple[CannedServer, Endpoint]]:
    """Yield a server, and how the controller's clients reach it."""
    server = CannedServer()
    config = load_config(
        ROOT / "config.yaml",
        {"FLEETSIGHT__AWS__ENDPOINT_URL": f"http://127.0.0.1:{server.port}"},
    )
    try:
        yield server, replace(config.aws.endpoint(), max_attempts=MAX_ATTEMPTS)
    finally:
        server.close()


def _seconds(server: CannedServer, call: Callable[[], object], reply: Mapping[str, Any], rounds: int) -> float:
    """Return the CPU seconds of the fastest of some calls."""
    server.reply = json.dumps(reply).encode()
    call()
    took = []
    for _ in range(rounds):
        began = time.thread_time()
        call()
        took.append(time.thread_time() - began)
    return min(took)


def _calls(
    clients: Clients,
) -> Iterator[tuple[str, tuple[int, Callable[[int], object], Callable[[int], Mapping[str, Any]]]]]:
    """Yield each operation: most entries, a call with so many, and the reply to it."""
    table, queue = clients.dynamodb, clients.sqs
    key: Any = {"pk": {"S": f"JOB#{_JOB.job_id}"}, "sk": {"S": f"RESULT#{_JOB.image_ids[0]}"}}
    counts: Any = {**key, **{f"count_{number}": {"N": "1000"} for number in range(12)}}

    def put(items: int) -> object:
        requests: Any = [{"PutRequest": {"Item": item}} for item in _items(items)]
        return table.batch_write_item(RequestItems={"table": requests})

    def messages(count: int) -> Mapping[str, Any]:
        attributes = {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1772409600000",
            "ApproximateFirstReceiveTimestamp": "1772409600000",
        }
        bodies = [answer_body(ImageRef(_JOB.job_id, image_id)) for image_id in _JOB.image_ids[:count]]
        return {
            "Messages": [
                {"MessageId": "m" * 36, "ReceiptHandle": "r" * 400, "Body": body, "Attributes": attributes}
                for body in bodies
            ]
        }

    def entries(count: int, **more: Any) -> Any:
        return [{"Id": str(number), "ReceiptHandle": "r" * 400, **more} for number in range(count)]

    def nothing(_: int) -> Mapping[str, Any]:
        return {}

    url = "http://queue"
    yield "BatchWriteItem", (BATCH, put, nothing)
    yield (
        "PutItem",
        (
            1,
            lambda _: table.put_item(
                TableName="table",
                Item=counts,
                ConditionExpression="attribute_not_exists( #token ) OR #token <= :token",
                ExpressionAttributeNames={"#token": "token"},
                ExpressionAttributeValues={":token": {"N": "1"}},
            ),
            nothing,
        ),
    )
    yield (
        "UpdateItem",
        (
            1,
            lambda _: table.update_item(TableName="table", Key=key, UpdateExpression="SET #a = :a"),
            nothing,
        ),
    )
    yield "DeleteItem", (1, lambda _: table.delete_item(TableName="table", Key=key), nothing)
    yield "GetItem", (1, lambda _: table.get_item(TableName="table", Key=key), lambda _: {"Item": counts})
    yield (
        "BatchGetItem",
        (
            READ_BATCH,
            lambda count: table.batch_get_item(RequestItems={"table": {"Keys": [key] * count}}),
            lambda count: {"Responses": {"table": _items(count)}, "UnprocessedKeys": {}},
        ),
    )
    yield (
        "Query",
        (
            PAGE,
            lambda _: table.query(TableName="table", KeyConditionExpression="pk = :pk"),
            lambda count: {"Items": _items(count), "Count": count},
        ),
    )
    yield "ReceiveMessage", (10, lambda _: queue.receive_message(QueueUrl=url, MaxNumberOfMessages=10), messages)
    yield (
        "DeleteMessageBatch",
        (
            10,
            lambda count: queue.delete_message_batch(QueueUrl=url, Entries=entries(count)),
            lambda count: {"Successful": [{"Id": str(number)} for number in range(count)], "Failed": []},
        ),
    )
    yield (
        "ChangeMessageVisibilityBatch",
        (
            10,
            lambda count: queue.change_message_visibility_batch(
                QueueUrl=url, Entries=entries(count, VisibilityTimeout=1)
            ),
            lambda count: {"Successful": [{"Id": str(number)} for number in range(count)], "Failed": []},
        ),
    )
    yield (
        "SendMessageBatch",
        (
            10,
            lambda count: queue.send_message_batch(
                QueueUrl=url, Entries=[{"Id": str(number), "MessageBody": "b" * 300} for number in range(count)]
            ),
            lambda count: {
                "Successful": [
                    {
                        "Id": str(number),
                        "MessageId": "m" * 36,
                        "MD5OfMessageBody": md5(b"b" * 300, usedforsecurity=False).hexdigest(),
                    }
                    for number in range(count)
                ],
                "Failed": [],
            },
        ),
    )
    yield (
        "GetQueueAttributes",
        (
            1,
            lambda _: queue.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]),
            lambda _: {"Attributes": {"ApproximateNumberOfMessages": "1"}},
        ),
    )


def _items(count: int) -> list[Any]:
    return [encoded(_JOB.result(at)) for at in range(count)]
