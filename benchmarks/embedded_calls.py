"""What the calls of an image cost the local cloud in CPU, against stock moto in the same run.

The client is bare: what it costs is not measured, and it leaves the machine to the server.
"""

import http.client
import itertools
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.measure import tree
from benchmarks.report import Bar, Report
from benchmarks.signed import signed
from localcloud.launch import HOST, LocalCloud

START_SECONDS = 60.0
CALLS_OF_AN_IMAGE: Mapping[str, float] = {
    "put_image": 1,
    "get_image": 1,
    "put_prediction": 1,
    "send_10": 2 / 10,
    "receive_10": 2 / 10,
    "delete_10": 2 / 10,
    "batch_write_25": 2 / 25,
}
"""How often each call is made for one image; receipts, counts and results come in batches."""

IMAGE, PREDICTION, MESSAGE = b"\x89PNG" * 1_200, b'{"probabilities": [0.033]}' * 50, "m" * 250


def run(quick: bool) -> Report:
    """Measure the CPU of each call on an image's way, here and with stock moto.

    Args:
        quick: fewer rounds.
    """
    rounds = 20 if quick else 200
    with tempfile.TemporaryDirectory() as state, LocalCloud(Path(state), hypervisor=False) as cloud:
        ours = cpu_milliseconds_of_calls(urlsplit(cloud.endpoint_url).port or 0, cloud.server_pid, rounds)
    with stock_moto() as (port, pid):
        stock = cpu_milliseconds_of_calls(port, pid, rounds)
    figures = {f"{name}_cpu_ms": milliseconds for name, milliseconds in ours.items()}
    figures |= {f"stock_{name}_cpu_ms": milliseconds for name, milliseconds in stock.items()}
    share = ours["an_image"] / stock["an_image"]
    return Report("embedded_calls", figures, (Bar("CPU of an image's calls ÷ stock moto's", share, at_most=0.2),))


class Client:
    """Signed requests, without looking at what comes back, on one kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=30)
        self._url = f"http://{HOST}:{port}"

    def ask(self, service: str, method: str, path: str, body: bytes | str | None, **headers: str) -> bytes:
        """Return the body of the answer.

        Raises:
            RuntimeError: the cloud refuses; the message says what.
        """
        content = body.encode() if isinstance(body, str) else body or b""
        named = signed(service, method, f"{self._url}{path}", content, **headers)
        self._connection.request(method, path, content, dict(named))
        reply = self._connection.getresponse()
        answer = reply.read()
        if reply.status >= 300:
            raise RuntimeError(f"{service} {method} {path} answered {reply.status}: {answer[:500]!r}")
        return answer

    def call(self, service: str, operation: str, **parameters: Any) -> Any:
        """Make a call in AWS's JSON protocol and return its answer."""
        target = {"sqs": "AmazonSQS", "dynamodb": "DynamoDB_20120810"}[service]
        headers = {"X_Amz_Target": f"{target}.{operation}", "Content_Type": "application/x-amz-json-1.0"}
        return json.loads(self.ask(service, "POST", "/", json.dumps(parameters), **headers) or b"{}")


def cpu_milliseconds_of_calls(port: int, pid: int, rounds: int) -> dict[str, float]:
    """Return the CPU milliseconds that the server `pid` and its children spend on each call, and on `an_image`'s.

    Args:
        port: where the server listens, on 127.0.0.1.
        pid: its process.
        rounds: how often each call is made; they take turns.
    """
    clocks = [_cpu_clock_of(each) for each in tree(pid)]
    calls = _calls(Client(port))
    spent: Counter[str] = Counter()
    for number in range(-rounds // 10, rounds):  # the first warm the server up
        for name, call in calls.items():
            before = sum(map(time.clock_gettime, clocks))
            call()
            spent[name] += int(1e9 * (sum(map(time.clock_gettime, clocks)) - before)) if number >= 0 else 0
    figures = {name: nanoseconds / rounds / 1e6 for name, nanoseconds in spent.items()}
    return {**figures, "an_image": sum(times * figures[name] for name, times in CALLS_OF_AN_IMAGE.items())}


def _cpu_clock_of(pid: int) -> int:
    """Return Linux's clock of the CPU time of another process, as clock_getcpuclockid(3) makes it."""
    return ~pid << 3 | 2


def _calls(client: Client) -> dict[str, Callable[[], object]]:
    """Return the calls by name, each ready to be made as often as the others."""
    for bucket in ("calls-in", "calls-out"):
        client.ask("s3", "PUT", f"/{bucket}", None)
    queue = client.call("sqs", "CreateQueue", QueueName="calls")["QueueUrl"]
    keys = (("pk", "HASH"), ("sk", "RANGE"))
    client.call(
        "dynamodb",
        "CreateTable",
        TableName="calls",
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in keys],
        BillingMode="PAY_PER_REQUEST",
    )
    numbers, receipts = itertools.count(), list[str]()

    def receive() -> None:
        messages = client.call("sqs", "ReceiveMessage", QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
        receipts[:] = [message["ReceiptHandle"] for message in messages]

    def batch(operation: str, entries: list[dict[str, str]]) -> object:
        numbered = [{"Id": str(number), **entry} for number, entry in enumerate(entries)]
        return client.call("sqs", operation, QueueUrl=queue, Entries=numbered)

    def item() -> dict[str, Any]:
        fields = {"pk": "job", "sk": f"image-{next(numbers):012}", "key": "k" * 60, "filename": "stop.png"}
        return {"PutRequest": {"Item": {name: {"S": value} for name, value in fields.items()}}}

    return {
        "put_image": lambda: client.ask("s3", "PUT", f"/calls-in/{next(numbers)}", IMAGE, Content_Type="image/png"),
        "get_image": lambda: client.ask("s3", "GET", f"/calls-in/{next(numbers) - 1}", None),  # the one put before
        "put_prediction": lambda: client.ask("s3", "PUT", f"/calls-out/{next(numbers)}", PREDICTION),
        "send_10": lambda: batch("SendMessageBatch", [{"MessageBody": MESSAGE}] * 10),
        "receive_10": receive,
        "delete_10": lambda: batch("DeleteMessageBatch", [{"ReceiptHandle": receipt} for receipt in receipts]),
        "batch_write_25": lambda: client.call(
            "dynamodb", "BatchWriteItem", RequestItems={"calls": [item() for _ in range(25)]}
        ),
    }


@contextmanager
def stock_moto() -> Iterator[tuple[int, int]]:
    """Run moto's own server, unmended; yield its port and its process."""
    with socket.create_server((HOST, 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield port, server.pid
        finally:
            server.kill()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
