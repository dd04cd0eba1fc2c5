"""The local cloud: the speed of its patched parts, and what the calls of an image cost it in CPU.

`embedded_cloud` measures ratios, each of two things measured in this run. `embedded_calls` measures against stock
moto in the same run; its client is bare: what it costs is not measured, and it leaves the machine to the server.
"""

import http.client
import itertools
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from benchmarks.measure import tree
from benchmarks.report import Bar, Report, seconds_of
from localcloud.access_keys import owner_key
from localcloud.dispatch import CachedDispatcher
from localcloud.launch import HOST, REGION, LocalCloud
from localcloud.sqs.queues import MessageQueue

WAITING = 1000
CONSUMERS = 20


def run(quick: bool) -> Report:
    """Measure queues, dispatcher, connections and the calls that the system makes most.

    Args:
        quick: fewer rounds.
    """
    rounds = 20 if quick else 100
    queue = queue_against_stock(rounds // 4)
    dispatch = dispatcher_against_stock(rounds)
    with tempfile.TemporaryDirectory() as state:
        started = time.perf_counter()
        with LocalCloud(Path(state)) as cloud:
            start_seconds = time.perf_counter() - started
            depth = receive_by_depth(cloud, rounds)
            connections = connections_kept_against_closed(cloud, rounds * 5)
            calls = milliseconds_of_calls(cloud, rounds)
            drained = messages_per_second(cloud, 1000 if quick else 4000)
            launch = launch_to_running_seconds(cloud, 3 if quick else 10)
    figures = {
        "start_s": start_seconds,
        "launch_to_running_s": launch,
        "messages_per_s_over_20_consumers": drained,
        **calls,
        **{f"receive_10_with_{waiting}_waiting_ms": s * 1e3 for waiting, s in depth.items()},
    }
    bars = (
        Bar("receive of 10 with 5,000 waiting, times one with 50", depth[5000] / depth[50], at_most=3),
        Bar(f"our queue, times as fast as stock with {WAITING} waiting", queue, at_least=10),
        Bar("dispatcher remembered, times as fast as stock", dispatch, at_least=5),
        Bar("connections kept, times as fast as closed", connections, at_least=1),
    )
    return Report("embedded_cloud", figures, bars)


def queue_against_stock(rounds: int) -> float:
    """Return how many times as fast ours takes 10 of many messages as moto's own queue does, in one process."""
    from moto.sqs.models import SQSBackend

    stock = SQSBackend(REGION, "123456789012")
    stock.create_queue("stock")
    ours: MessageQueue[str] = MessageQueue()
    for number in range(WAITING):
        stock.send_message("stock", "m")
        ours.send(str(number), "m")
    slow = seconds_of(lambda: stock.receive_message("stock", 10, 0, 0), rounds, time.perf_counter)
    fast = seconds_of(lambda: ours.receive(10, 0), rounds, time.perf_counter)
    return slow / fast


def dispatcher_against_stock(rounds: int) -> float:
    """Return how many times as fast a remembered application is found as stock moto finds it."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    stock = DomainDispatcherApplication(create_backend_app)
    remembering = CachedDispatcher(stock)
    authorization = signed("sqs", "POST", "http://127.0.0.1/")["Authorization"]
    environ = {"PATH_INFO": "/", "HTTP_AUTHORIZATION": authorization, "HTTP_HOST": "127.0.0.1"}
    for dispatcher in (stock.get_application, remembering.application_for):
        dispatcher(environ)
    slow = seconds_of(lambda: stock.get_application(environ), rounds, time.perf_counter)
    fast = seconds_of(lambda: remembering.application_for(environ), rounds, time.perf_counter)
    return slow / fast


def receive_by_depth(cloud: LocalCloud, rounds: int) -> dict[int, float]:
    """Return the seconds of a receive of 10 by the number of messages that wait, over the wire."""
    sqs = _client(cloud, "sqs")
    best: dict[int, float] = {}
    urls = {waiting: _filled_queue(sqs, f"depth-{waiting}", waiting) for waiting in (50, 5000)}
    for _ in range(rounds):  # in turns: what else the machine does slows both
        for waiting, url in urls.items():
            started = time.perf_counter()
            sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
            best[waiting] = min(best.get(waiting, 1e9), time.perf_counter() - started)
    return best


def connections_kept_against_closed(cloud: LocalCloud, requests: int) -> float:
    """Return how many times as fast requests are answered on one connection as on one each."""
    place = urlsplit(cloud.endpoint_url)
    target, kind = "AmazonSQS.ListQueues", "application/x-amz-json-1.0"
    headers = signed("sqs", "POST", f"{cloud.endpoint_url}/", b"{}", X_Amz_Target=target, Content_Type=kind)
    kept = http.client.HTTPConnection(place.hostname or "", place.port)

    def ask(connection: http.client.HTTPConnection, **extra: str) -> None:
        connection.request("POST", "/", "{}", {**headers, **extra})
        connection.getresponse().read()

    def ask_and_close() -> None:
        connection = http.client.HTTPConnection(place.hostname or "", place.port)
        ask(connection, Connection="close")
        connection.close()

    best = {"kept": 1e9, "closed": 1e9}
    for _ in range(requests):  # in turns: what else the machine does slows both
        for name, action in (("kept", lambda: ask(kept)), ("closed", ask_and_close)):
            best[name] = min(best[name], seconds_of(action, 1, time.perf_counter))
    kept.close()
    return best["closed"] / best["kept"]


def milliseconds_of_calls(cloud: LocalCloud, rounds: int) -> dict[str, float]:
    """Return the milliseconds of the calls on an image's way, boto3 and server together; the fastest of several."""
    s3, sqs, dynamodb = (_client(cloud, service) for service in ("s3", "sqs", "dynamodb"))
    s3.create_bucket(Bucket="benchmark")
    url = _filled_queue(sqs, "calls", 1000)
    dynamodb.create_table(
        TableName="t",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
        BillingMode="PAY_PER_REQUEST",
    )
    fields = {"pk": {"S": "job"}, "label": {"S": "stop"}}
    items = [{"PutRequest": {"Item": {**fields, "sk": {"S": str(number)}}}} for number in range(25)]
    calls = {
        "put_object_20_kb_ms": lambda: s3.put_object(Bucket="benchmark", Key="k", Body=b"x" * 20_000),
        "get_object_20_kb_ms": lambda: bytes(s3.get_object(Bucket="benchmark", Key="k")["Body"].read()),
        "send_10_ms": lambda: sqs.send_message_batch(QueueUrl=url, Entries=_entries(10)),
        "receive_10_ms": lambda: sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10),
        "batch_write_25_ms": lambda: dynamodb.batch_write_item(RequestItems={"t": items}),
    }
    return {name: 1e3 * seconds_of(call, rounds, time.perf_counter) for name, call in calls.items()}


def messages_per_second(cloud: LocalCloud, messages: int) -> float:
    """Return how fast 20 consumers receive and delete what waits, in batches of 10."""
    sqs = _client(cloud, "sqs")
    url = _filled_queue(sqs, "drain", messages, visibility_seconds=120)

    def consume() -> None:
        options = {"QueueUrl": url, "MaxNumberOfMessages": 10}
        while received := sqs.receive_message(**options).get("Messages"):
            entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(received)]
            sqs.delete_message_batch(QueueUrl=url, Entries=entries)

    consumers = [threading.Thread(target=consume) for _ in range(CONSUMERS)]
    started = time.perf_counter()
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join()
    return messages / (time.perf_counter() - started)


def launch_to_running_seconds(cloud: LocalCloud, rounds: int) -> float:
    """Return the seconds from the call that launches an instance until it is seen to run; the fastest of several."""
    ec2 = _client(cloud, "ec2")

    def launch() -> None:
        options = {"ImageId": "ami-12c6146b", "MinCount": 1, "MaxCount": 1}
        launched = ec2.run_instances(**options, UserData="#!/bin/sh\nexec sleep 60\n")
        ids = [launched["Instances"][0]["InstanceId"]]
        while ec2.describe_instance_status(InstanceIds=ids)["InstanceStatuses"] == []:
            time.sleep(0.005)

    return seconds_of(launch, rounds, time.perf_counter)


def _client(cloud: LocalCloud, service: str) -> Any:
    config = Config(
        max_pool_connections=CONSUMERS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client(
        service,  # type: ignore[call-overload]
        endpoint_url=cloud.endpoint_url,
        region_name=REGION,
        aws_access_key_id=owner_key().id,
        aws_secret_access_key=owner_key().secret,
        config=config,
    )


def _filled_queue(sqs: Any, name: str, messages: int, visibility_seconds: int = 0) -> str:
    attributes = {"VisibilityTimeout": str(visibility_seconds)}
    url: str = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    for _ in range(messages // 10):
        sqs.send_message_batch(QueueUrl=url, Entries=_entries(10))
    return url


def _entries(count: int) -> list[dict[str, str]]:
    return [{"Id": str(n), "MessageBody": "m" * 200} for n in range(count)]


def signed(service: str, method: str, url: str, body: bytes = b"", **headers: str) -> Mapping[str, str]:
    """Return the headers of a request, the given ones and the signature of the cloud's owner.

    Args:
        service: as its signature names it, such as ``sqs``.
        method: of HTTP.
        url: with address and path.
        body: of the request.
        headers: with underscores for dashes.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = AWSRequest(method, url, named, body)
    auth = S3SigV4Auth if service == "s3" else SigV4Auth
    auth(Credentials(owner_key().id, owner_key().secret), service, REGION).add_auth(request)
    return dict(request.headers.items())


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


def run_calls(quick: bool) -> Report:
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
    """Sends signed requests on one kept-alive connection, without checking the responses."""

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
    clocks = [~each << 3 | 2 for each in tree(pid)]  # as clock_getcpuclockid(3) makes them, of CPU time
    calls = _calls(Client(port))
    spent: Counter[str] = Counter()
    for number in range(-rounds // 10, rounds):  # the first warm the server up
        for name, call in calls.items():
            before = sum(map(time.clock_gettime, clocks))
            call()
            spent[name] += int(1e9 * (sum(map(time.clock_gettime, clocks)) - before)) if number >= 0 else 0
    figures = {name: nanoseconds / rounds / 1e6 for name, nanoseconds in spent.items()}
    return {**figures, "an_image": sum(times * figures[name] for name, times in CALLS_OF_AN_IMAGE.items())}


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
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    socket.create_connection((HOST, port), 1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield port, server.pid
        finally:
            server.kill()
