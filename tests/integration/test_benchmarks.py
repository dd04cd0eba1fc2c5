"""Benchmarks that start parts of the system: a controller and a worker."""

import os
from pathlib import Path

import pytest
import urllib3

from app_tier.bundle import DEMO_BUNDLE
from benchmarks.billed_calls import CLIENT, EMPTY, EXTENSION, Billed, recording
from benchmarks.capacity import CapacityBench
from benchmarks.coldstart import StartBench
from core.cost import Requests
from localcloud.launch import LocalCloud
from services.clients import Clients
from services.endpoint import APP_ID, Endpoint
from tests.support.forked_system import ForkedCloud

pytestmark = [pytest.mark.processes, pytest.mark.thorough]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of this process, which a benchmark changes."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.usefixtures("environment")
def test_a_real_controller_records_each_answer_once_and_its_calls_are_counted(
    cloud: LocalCloud, tmp_path: Path
) -> None:
    bench = CapacityBench(cloud, tmp_path)
    for jobs, pack_images in ((1, 1), (3, 1), (3, 4)):
        found = bench.record(jobs, 120, pack_images)
        assert found.images_per_second > 0
        assert found.calls > 0


@pytest.mark.usefixtures("environment")
def test_a_start_is_measured_from_the_process_to_its_answer(cloud: LocalCloud) -> None:
    start = StartBench(cloud).start(DEMO_BUNDLE)
    assert 0 < start.poll_s < start.answer_s
    assert start.peak_mb > 20


def test_calls_of_tiers_and_signed_forms_are_recorded_with_what_aws_bills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        recording(tmp_path / "calls") as record,
        ForkedCloud(tmp_path, hypervisor=False, extensions=[EXTENSION]) as cloud,
    ):
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        own = Clients(Endpoint("us-east-1", cloud.endpoint_url))
        own.dynamodb.create_table(
            TableName="jobs",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
            BillingMode="PAY_PER_REQUEST",
        )
        own.s3.create_bucket(Bucket="images")
        queue = own.sqs.create_queue(QueueName="requests")["QueueUrl"]
        assert record.take() == {}, "this process is no tier"

        monkeypatch.setenv(APP_ID, "fleetsight-worker")
        worker = Clients(Endpoint("us-east-1", cloud.endpoint_url))
        item = {"pk": {"S": "p"}, "sk": {"S": "s"}, "v": {"S": "x" * 2_000}}
        worker.dynamodb.put_item(TableName="jobs", Item=item)
        worker.dynamodb.transact_write_items(TransactItems=[{"Put": {"TableName": "jobs", "Item": item}}])
        worker.dynamodb.query(
            TableName="jobs", KeyConditionExpression="pk = :p", ExpressionAttributeValues={":p": {"S": "p"}}
        )
        worker.sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=0)
        bodies = ["x" * 100_000, "y"]
        worker.sqs.send_message_batch(
            QueueUrl=queue,
            Entries=[{"Id": body[0], "MessageBody": body, "MessageGroupId": "user"} for body in bodies],
        )
        worker.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
        worker.sqs.get_queue_attributes(QueueUrl=queue)
        for number in range(3):
            worker.s3.put_object(Bucket="images", Key=f"{number}", Body=b"image")
        worker.s3.copy_object(Bucket="images", Key="copy", CopySource={"Bucket": "images", "Key": "0"})
        worker.s3.get_object(Bucket="images", Key="copy")
        worker.s3.head_object(Bucket="images", Key="copy")
        worker.s3.list_objects_v2(Bucket="images")
        worker.s3.delete_objects(Bucket="images", Delete={"Objects": [{"Key": "copy"}]})
        form = worker.s3_signing.generate_presigned_post("images", "form")
        fields = {**form["fields"], "file": ("image.jpg", b"image")}
        assert urllib3.request("POST", form["url"], fields=fields).status == 204

        put, get = Requests(s3_put=1), Requests(s3_get=1)
        expected = {
            ("worker", "dynamodb PutItem"): Billed(1, Requests(table_write=2)),
            ("worker", "dynamodb TransactWriteItems"): Billed(1, Requests(table_write=4)),
            ("worker", "dynamodb Query"): Billed(1, Requests(table_read=0.5)),
            ("worker", f"sqs {EMPTY}"): Billed(1, Requests(sqs=1)),
            ("worker", "sqs SendMessageBatch"): Billed(1, Requests(sqs=2, sqs_fair=2)),
            ("worker", "sqs ReceiveMessage"): Billed(1, Requests(sqs=2, sqs_fair=2)),
            ("worker", "sqs GetQueueAttributes"): Billed(1, Requests(sqs=1)),
            ("worker", "s3 PUT"): Billed(1, put) * 3,
            ("worker", "s3 COPY"): Billed(1, put),
            ("worker", "s3 LIST"): Billed(1, put),
            ("worker", "s3 GET"): Billed(1, get),
            ("worker", "s3 HEAD"): Billed(1, get),
            ("worker", "s3 DELETE"): Billed(1),
            (CLIENT, "s3 POST"): Billed(1, put),
        }
        assert record.take() == expected
        assert record.take() == {}
