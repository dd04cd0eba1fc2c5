"""A state has what calls changed, whichever they were: a local cloud that is restored from it answers as before."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from moto.core.base_backend import BackendDict
from werkzeug.wsgi import ClosingIterator

from localcloud.dispatch import DirectCalls, MotoServices
from localcloud.patches import apply_patches
from localcloud.state.calls import DurableCalls, restore
from localcloud.store import Store, create, data, use
from localcloud.tests.support.power_cuts import files_of, write_files
from localcloud.tests.support.whole_states import check
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
COMPLETED = (
    b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>%s</ETag></Part></CompleteMultipartUpload>"
)
SERVICES = ("s3", "dynamodb", "sqs")
EVERY = [(number, name) for number in range(18) for name in NAMES]
"""Every call, then those again that create something: buckets, tables and queues are deleted and created again."""
CALLS = st.lists(st.sampled_from(EVERY))


class DurableCloud:
    """A local cloud of this process with a state, which `kill` empties and restores."""

    def __init__(self, service: str, folder: Path) -> None:
        self.service, self.folder, self.texts = service, folder, iter(range(1_000_000))
        self.application = DirectCalls(MotoServices())
        create(folder)
        BackendDict.reset()
        self._begin()

    def _begin(self) -> None:
        use(Store(self.folder))
        restore()
        self.client = WsgiClient(DurableCalls(self.application))

    def kill(self) -> None:
        """Forget everything, and continue with a copy of what the disk has."""
        self.folder = write_files(files_of(self.folder), Path(tempfile.mkdtemp(dir=self.folder)) / "state")
        self._forget()
        self._begin()

    def stop(self) -> None:
        self._forget()
        use(Store())

    def _forget(self) -> None:
        BackendDict.reset()
        data()._connection.close()

    def call(self, service: str, operation: str, **parameters: Any) -> Reply:
        return self.client.call(service, operation, **parameters)

    def make(self, number: int, name: str) -> None:
        """Make one of the calls that change something; some fail, which changes nothing or a part."""
        changes = {"s3": self._change_object, "dynamodb": self._change_item, "sqs": self._change_message}
        changes[self.service](number, name)

    def seen(self) -> Any:
        """Return what clients can read of everything."""
        return {"s3": self._objects, "dynamodb": self._items, "sqs": self._messages}[self.service]()

    def _change_object(self, number: int, name: str) -> None:
        text, key = str(next(self.texts)).encode(), f"/bucket/{name}"
        requests: list[tuple[str, str, bytes, dict[str, Any]]] = [
            ("PUT", "/bucket", b"", {}),
            ("PUT", key, text, {}),
            ("PUT", key, text, {"HTTP_X_AMZ_TAGGING": "k=put", "HTTP_X_AMZ_META_NAME": "m"}),
            ("PUT", "/bucket/a", b"", {"HTTP_X_AMZ_COPY_SOURCE": "/bucket/b"}),
            ("PUT", f"{key}?tagging", TAGS % text, {}),
            ("DELETE", key, b"", {}),
            ("POST", "/bucket?delete", DELETED, {}),
            ("DELETE", "/bucket", b"", {}),
            ("PUT", key, text, {"HTTP_X_AMZ_STORAGE_CLASS": "GLACIER"}),
            ("POST", f"{key}?uploads", b"", {"HTTP_X_AMZ_ACL": "private"}),
        ]
        method, target, body, environ = requests[number % len(requests)]
        with suppress(AttributeError):  # in moto, about the tags of an object that does not exist
            answer = self.client.request("s3", method, target, body, **environ)
            if found := re.search(rb"<UploadId>(.*)</UploadId>", answer.body):
                upload = f"{key}?uploadId={found[1].decode()}"
                part = self.client.request("s3", "PUT", f"{upload}&partNumber=1", text)
                self.client.request("s3", "POST", upload, COMPLETED % part.headers["etag"].encode())

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
        receipts = data().read("SELECT sequence || '-' || receipt FROM messages WHERE receipt IS NOT NULL LIMIT 1")
        handle = {"ReceiptHandle": receipts[0][0] if receipts else "none"}
        calls: list[tuple[str, dict[str, Any]]] = [
            ("CreateQueue", {"QueueName": name, "Attributes": {"VisibilityTimeout": "600"}}),
            ("SendMessage", {**queue, "MessageBody": str(next(self.texts))}),
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

    def _objects(self) -> Any:
        queries = ("", "?tagging")
        targets = [*(f"/bucket/{name}{query}" for name in NAMES for query in queries)]
        replies = [self.client.request("s3", "GET", target) for target in targets]
        headers = ("etag", "last-modified", "content-type", "x-amz-meta-name")
        return [(each.status, each.status < 300 and each.body, *map(each.headers.get, headers)) for each in replies]

    def _items(self) -> Any:
        items = self.call("dynamodb", "Scan", TableName="t").json.get("Items", [])
        time_to_live = self.call("dynamodb", "DescribeTimeToLive", TableName="t").json
        return sorted(items, key=lambda item: item["pk"]["S"]), time_to_live

    def _messages(self) -> Any:
        urls = [f"http://127.0.0.1:5000/{ACCOUNT}/{name}" for name in NAMES]
        names = {"AttributeNames": ["All"]}
        of_queues = [self.call("sqs", "GetQueueAttributes", QueueUrl=url, **names).json for url in urls]
        return of_queues, data().read("SELECT * FROM messages ORDER BY sequence")


@pytest.fixture(scope="module", autouse=True)
def _patched() -> Iterator[None]:
    for service in ("core", "s3", "dynamodb"):
        apply_patches(service)
    before = data()
    yield
    BackendDict.reset()
    use(before)


@pytest.mark.parametrize("service", SERVICES)
@given(before=CALLS, after=CALLS)
@example(before=[call for call in EVERY if call[0] < 6], after=EVERY)
@example(before=[(6, "a"), (9, "b")], after=[(7, "a"), (8, "a")])
@example(before=[(8, "a")], after=[(9, "a")])
@example(before=[(1, "a"), (11, "b")], after=[(3, "a"), (7, "a"), (8, "a"), (9, "a"), (1, "a")])
def test_what_any_calls_changed_is_there_after_a_restart_twice(service: str, before: Any, after: Any) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        cloud = DurableCloud(service, Path(scratch))
        try:
            for name in NAMES:
                cloud.make(0, name)
            for calls in (before, after):
                for call in calls:
                    cloud.make(*call)
                seen = cloud.seen()
                cloud.kill()
                assert cloud.seen() == seen
                check(cloud.folder)
        finally:
            cloud.stop()


def test_a_call_that_fails_in_its_middle_changes_nothing() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        cloud = DurableCloud("s3", Path(scratch))
        cloud.client.request("s3", "PUT", "/bucket")
        refused = cloud.client.request("s3", "PUT", "/bucket/a", b"x", HTTP_X_AMZ_TAGGING="aws:k=v", HTTP_RANGE="-")
        assert (refused.status, cloud.client.request("s3", "GET", "/bucket/a").status) == (400, 404)
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
    client = WsgiClient(DurableCalls(answer))
    reply = client.request(service, method, target, HTTP_X_AMZ_TARGET=operation)
    assert (reply.status, ended) == ((501, []) if reason else (200, [True]))
    assert (reason or "answered") in reply.body.decode()
