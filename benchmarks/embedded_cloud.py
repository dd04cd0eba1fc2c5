"""The speed of patched parts of the local cloud: ratios, each of two things measured in this run."""

import http.client
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from benchmarks.report import Bar, Report, seconds_of
from benchmarks.signed import signed
from localcloud.access_keys import owner_key
from localcloud.dispatch import CachedDispatcher
from localcloud.launch import REGION, LocalCloud
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
    _create_table(dynamodb)
    calls = {
        "put_object_20_kb_ms": lambda: s3.put_object(Bucket="benchmark", Key="k", Body=b"x" * 20_000),
        "get_object_20_kb_ms": lambda: _read(s3, "k"),
        "send_10_ms": lambda: sqs.send_message_batch(QueueUrl=url, Entries=_entries(10)),
        "receive_10_ms": lambda: sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10),
        "batch_write_25_ms": lambda: dynamodb.batch_write_item(RequestItems={"t": _items(25)}),
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


def _read(s3: Any, key: str) -> bytes:
    body: bytes = s3.get_object(Bucket="benchmark", Key=key)["Body"].read()
    return body


def _filled_queue(sqs: Any, name: str, messages: int, visibility_seconds: int = 0) -> str:
    attributes = {"VisibilityTimeout": str(visibility_seconds)}
    url: str = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    for _ in range(messages // 10):
        sqs.send_message_batch(QueueUrl=url, Entries=_entries(10))
    return url


def _entries(count: int) -> list[dict[str, str]]:
    return [{"Id": str(n), "MessageBody": "m" * 200} for n in range(count)]


def _items(count: int) -> list[dict[str, Any]]:
    return [
        {"PutRequest": {"Item": {"pk": {"S": "job"}, "sk": {"S": str(n)}, "label": {"S": "stop"}}}}
        for n in range(count)
    ]


def _create_table(dynamodb: Any) -> None:
    dynamodb.create_table(
        TableName="t",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
        BillingMode="PAY_PER_REQUEST",
    )
