"""A state has what calls changed, whichever they were: a local cloud that is restored from it answers as before."""

import shutil
import tempfile
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from moto.core.base_backend import BackendDict
from moto.sqs.models import sqs_backends
from werkzeug.wsgi import ClosingIterator

from localcloud.dispatch import CachedDispatcher, DirectCalls, stock_dispatcher
from localcloud.launch import REGION
from localcloud.patches import apply_patches
from localcloud.state import resources
from localcloud.state.folder import DATABASE
from localcloud.state.recorder import RecordedCalls, Recorder, recorder
from localcloud.state.store import Record, Store, create
from localcloud.tests.support.wsgi_clients import Reply, WsgiClient

ACCOUNT = "123456789012"
NAMES = ("a", "b")
TAGS = b"<Tagging><TagSet><Tag><Key>k</Key><Value>%s</Value></Tag></TagSet></Tagging>"
DELETED = b"<Delete><Object><Key>a</Key></Object><Object><Key>b</Key></Object></Delete>"
TYPED = {
    "bytes": {"B": "AP8="},
    "set": {"BS": ["AQ=="]},
    "map": {"M": {"list": {"L": [{"N": "1.5"}, {"BOOL": True}, {"NULL": True}]}}},
    "text": {"S": "\u0444 \U0001f6d1"},
}
SERVICES = ("s3", "dynamodb", "sqs")
EVERY = [(service, number, name) for service in SERVICES for number in range(14) for name in NAMES]
"""Every call, then those again that create something: buckets, tables and queues are deleted and created again."""
CALLS = st.lists(st.sampled_from(EVERY))


class RecordedCloud:
    """A local cloud of this process with a state, which `kill` empties and restores."""

    def __init__(self, folder: Path) -> None:
        create(folder / DATABASE)
        self.folder, self.texts = folder, iter(range(1_000_000))
        application = RecordedCalls(DirectCalls(CachedDispatcher(stock_dispatcher())), recorder)
        self.client = WsgiClient(application)
        self._begin(folder / DATABASE)

    def _begin(self, database: Path) -> None:
        BackendDict.reset()
        self.store = Store(database)
        recorder.start(self.store)

    def kill(self) -> None:
        """Forget everything, and restore it from a copy of what the disk has."""
        copy = Path(tempfile.mkdtemp(dir=self.folder))
        for path in self.folder.glob(f"{DATABASE}*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, copy)
        self.stop()
        self.folder = copy
        self._begin(copy / DATABASE)

    def stop(self) -> None:
        recorder.store = None
        self.store._connection.close()

    def call(self, service: str, operation: str, **parameters: Any) -> Reply:
        return self.client.call(service, operation, **parameters)

    def make(self, service: str, number: int, name: str) -> None:
        """Make one of the calls that change something; some fail, which changes nothing or a part."""
        {"s3": self._change_object, "dynamodb": self._change_item, "sqs": self._change_message}[service](number, name)

    def _change_object(self, number: int, name: str) -> None:
        text, key = str(next(self.texts)).encode(), f"/bucket/{name}"
        requests: list[tuple[str, str, bytes, dict[str, Any]]] = [
            ("PUT", "/bucket", b"", {}),
            ("PUT", key, text, {}),
            ("PUT", key, text, {"HTTP_X_AMZ_TAGGING": "k=put", "HTTP_X_AMZ_META_NAME": "m"}),
            ("PUT", "/bucket/a", b"", {"HTTP_X_AMZ_COPY_SOURCE": "/bucket/b"}),
            ("PUT", f"{key}?tagging", TAGS % text, {}),
            ("DELETE", f"{key}?tagging", b"", {}),
            ("DELETE", key, b"", {}),
            ("POST", "/bucket?delete", DELETED, {}),
            ("DELETE", "/bucket", b"", {}),
        ]
        method, target, body, environ = requests[number % len(requests)]
        with suppress(AttributeError):  # in moto, about the tags of an object that does not exist
            self.client.request("s3", method, target, body, **environ)

    def _change_item(self, number: int, name: str) -> None:
        key, value = {"pk": {"S": name}, "sk": {"N": "1"}}, {"v": {"S": str(next(self.texts))}}
        table, other = {"TableName": "t"}, {"pk": {"S": "other"}, "sk": {"N": "1.0"}}
        schema = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
        types = [{"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "N"}]
        update = {"UpdateExpression": "SET v = :v", "ExpressionAttributeValues": {":v": value["v"]}}
        calls: list[tuple[str, dict[str, Any]]] = [
            (
                "CreateTable",
                {**table, "KeySchema": schema, "AttributeDefinitions": types, "BillingMode": "PAY_PER_REQUEST"},
            ),
            ("PutItem", {**table, "Item": {**key, **value}}),
            ("PutItem", {**table, "Item": {**other, **value, **TYPED}}),
            ("UpdateItem", {**table, "Key": key, **update}),
            ("DeleteItem", {**table, "Key": key}),
            ("DeleteItem", {**table, "Key": {**other, "sk": {"N": "1"}}}),
            ("BatchWriteItem", {"RequestItems": {"t": [{"PutRequest": {"Item": {**key, **value}}}]}}),
            ("BatchWriteItem", {"RequestItems": {"t": [{"DeleteRequest": {"Key": key}}]}}),
            ("TransactWriteItems", {"TransactItems": [{"Put": {**table, "Item": {**key, **value}}}]}),
            (
                "TransactWriteItems",
                {"TransactItems": [{"Delete": {**table, "Key": key}}, {"Update": {**table, "Key": other, **update}}]},
            ),
            (
                "UpdateTimeToLive",
                {**table, "TimeToLiveSpecification": {"Enabled": name == "a", "AttributeName": "expires_at"}},
            ),
            ("DeleteTable", table),
        ]
        operation, parameters = calls[number % len(calls)]
        self.call("dynamodb", operation, **parameters)

    def _change_message(self, number: int, name: str) -> None:
        queue = {"QueueUrl": f"http://127.0.0.1:5000/{ACCOUNT}/{name}"}
        if (found := sqs_backends[ACCOUNT][REGION].queues.get(name)) is not None:
            receipts = [entry.receipt for entry in found.store.messages() if entry.receipt]
        else:
            receipts = []
        handle = {"ReceiptHandle": receipts[0] if receipts else "none"}
        attributes = {"a": {"DataType": "Binary", "BinaryValue": "AP8="}}
        calls: list[tuple[str, dict[str, Any]]] = [
            ("CreateQueue", {"QueueName": name, "Attributes": {"VisibilityTimeout": "600"}, "tags": {"k": "v"}}),
            ("SendMessage", {**queue, "MessageBody": str(next(self.texts)), "MessageAttributes": attributes}),
            ("SendMessage", {**queue, "MessageBody": "delayed", "DelaySeconds": 900}),
            ("ReceiveMessage", queue),
            ("ChangeMessageVisibility", {**queue, **handle, "VisibilityTimeout": 0}),
            ("DeleteMessage", {**queue, **handle}),
            ("SetQueueAttributes", {**queue, "Attributes": {"VisibilityTimeout": "60"}}),
            ("PurgeQueue", queue),
            ("DeleteQueue", queue),
        ]
        operation, parameters = calls[number % len(calls)]
        self.call("sqs", operation, **parameters)

    def seen(self) -> dict[str, Any]:
        """Return what clients can read of everything."""
        read = self.client.request
        replies = [read("s3", "GET", f"/bucket/{name}{query}") for name in NAMES for query in ("", "?tagging")]
        headers = ("etag", "last-modified", "content-type", "x-amz-meta-name", "x-amz-tagging-count")
        items = self.call("dynamodb", "Scan", TableName="t").json.get("Items", [])
        queues = sqs_backends[ACCOUNT][REGION].queues
        return {
            "objects": [
                (each.status, each.status == 200 and each.body, *map(each.headers.get, headers)) for each in replies
            ],
            "items": sorted(items, key=lambda item: item["pk"]["S"]),
            "time to live": self.call("dynamodb", "DescribeTimeToLive", TableName="t").json,
            "messages": {
                (name, entry.message_id): (entry.payload, entry.receipt, entry.state)
                for name, queue in queues.items()
                for entry in queue.store.messages()
            },
            "queues": {name: (queue.visibility_timeout, queue.tags) for name, queue in queues.items()},
        }


@pytest.fixture(scope="module", autouse=True)
def _patched() -> Iterator[None]:
    for service in ("core", "s3", "sqs", "dynamodb"):
        apply_patches(service)
    yield
    BackendDict.reset()


@given(before=CALLS, after=CALLS)
@example(before=[call for call in EVERY if call[1] < 6], after=EVERY)
@example(before=[("dynamodb", 6, "a"), ("dynamodb", 9, "b")], after=[("dynamodb", 7, "a"), ("sqs", 8, "a")])
@example(before=[("dynamodb", 8, "a")], after=[("dynamodb", 9, "a")])
def test_what_any_calls_changed_is_restored_twice(before: list[Any], after: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        cloud = RecordedCloud(Path(scratch))
        try:
            for service in SERVICES:
                for name in NAMES:
                    cloud.make(service, 0, name)
            for calls in (before, after):
                for call in calls:
                    cloud.make(*call)
                seen = cloud.seen()
                cloud.kill()
                assert cloud.seen() == seen
        finally:
            cloud.stop()


@pytest.mark.parametrize(
    ("service", "request_line", "operation", "reason"),
    [
        ("s3", "PUT /b?versioning&acl", None, "the S3 call with ?versioning is not available"),
        ("", "POST /b?acl", None, "<Error><Code>NotImplemented</Code><Message>the S3 call with ?acl is"),
        ("dynamodb", "POST /", "DynamoDB_20120810.UpdateTable", '"message": "UpdateTable is not available'),
        ("dynamodb", "POST /", "DynamoDB_20120810.PutItem", None),
        ("s3", "PUT /b/k?partNumber=1&uploadId=2&X-Amz-Signature=0", None, None),
        *(("s3", f"{method} /b?versioning", None, None) for method in ("GET", "HEAD", "OPTIONS")),
    ],
)
def test_a_call_is_refused_if_its_effect_would_be_lost(
    service: str, request_line: str, operation: str | None, reason: str | None
) -> None:
    ended = list[bool]()

    def answer(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return ClosingIterator([b"answered"], lambda: ended.append(True))

    method, target = request_line.split()
    client = WsgiClient(RecordedCalls(answer, Recorder()))
    reply = client.request(service, method, target, HTTP_X_AMZ_TARGET=operation)
    assert (reply.status, ended) == ((501, []) if reason else (200, [True]))
    assert (reason or "answered") in reply.body.decode()


def restored_order(messages: int) -> tuple[list[int], int]:
    """Return the numbers of so many restored messages as they are received, and the most memory of the restore."""
    BackendDict.reset()
    apply_patches("sqs")
    sqs_backends[ACCOUNT][REGION].create_queue("jobs", None)
    queues = [
        Record(resources.key_bytes(key), resources.value_bytes(value)) for key, value in resources.DESCRIBED["sqs"]()
    ]
    BackendDict.reset()

    def records_of(kind: str) -> Iterator[Record]:
        yield from queues if kind == "queue" else ()
        for number in range(messages if kind == "message" else 0, 0, -1):
            sent = {"payload": {"number": number}, "group": None, "sent_at": 0.0, "sequence": number, "visible_at": 0}
            key = ("message", ACCOUNT, REGION, "jobs", str(number))
            yield Record(resources.key_bytes(key), resources.value_bytes(sent))

    tracemalloc.start()
    try:
        resources.restore(records_of)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    queue, received = sqs_backends[ACCOUNT][REGION].queues["jobs"].store, list[int]()
    while deliveries := queue.receive(1_000, 60):
        received += [delivery.payload["number"] for delivery in deliveries]
    BackendDict.reset()
    return received, most


def test_a_restore_holds_a_bounded_number_of_messages_and_keeps_their_order() -> None:
    few, many = 2_500, 6_000
    received, most_of_few = restored_order(few)
    assert received == list(range(1, few + 1))
    received, most_of_many = restored_order(many)
    assert received == list(range(1, many + 1))
    assert most_of_many < 1.5 * most_of_few
