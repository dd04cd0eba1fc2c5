"""A local cloud with a state has everything that it acknowledged, after kill -9 and a new start.

A start takes two seconds of CPU time, so the tests share one cloud. A story is what clients do before a kill and see
after it. All stories begin before the first test of one, then the cloud is killed once.
"""

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.exceptions import BotoCoreError
from moto.s3.models import S3_UPLOAD_PART_MIN_SIZE

from localcloud.launch import LocalCloud
from localcloud.store import CONTENTS, DATABASE, LARGE_BYTES, connect
from localcloud.tests.support.cloud_clients import CloudClients, error_of, presigned_form
from localcloud.tests.support.processes import children_of
from localcloud.tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes


def url_of(clients: CloudClients, name: str) -> str:
    return str(clients("sqs").get_queue_url(QueueName=name)["QueueUrl"])


class KeptCloud:
    """A local cloud with a state, which `kill` ends by kill -9 and starts again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number, self.state = folder, 0, folder / "state"
        self._start()

    def _start(self) -> None:
        self._number += 1
        folder = self._folder / f"run-{self._number}"
        self.cloud = LocalCloud(folder, hypervisor=False, state=self.state, start_seconds=DEADLINE_SECONDS).start()
        self.clients = CloudClients(self.cloud.endpoint_url)

    def kill(self) -> CloudClients:
        """Kill both processes of the server, if they still run, and start new ones; return clients of those."""
        for pid in (self.cloud.server_pid, *children_of(self.cloud.server_pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.cloud.stop()
        self._start()
        return self.clients


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptCloud]:
    """A cloud with a state, shared: tests use names of their own."""
    kept = KeptCloud(tmp_path_factory.mktemp("kept"))
    yield kept
    kept.cloud.stop()


Story = Callable[[KeptCloud], Iterator[None]]
STORIES: dict[str, Story] = {}


def story(steps: Story) -> Story:
    """Add a generator that yields once: the cloud is killed there."""
    STORIES[steps.__name__] = steps
    return steps


@pytest.fixture(scope="module")
def begun(kept: KeptCloud) -> dict[str, Iterator[None]]:
    """Every story, after the kill."""
    stories = {name: steps(kept) for name, steps in STORIES.items()}
    for each in stories.values():
        next(each)
    kept.kill()
    return stories


def described_object(s3: Any, key: str) -> dict[str, Any]:
    answer = s3.get_object(Bucket="bucket", Key=key)
    tags = s3.get_object_tagging(Bucket="bucket", Key=key)["TagSet"]
    names = ("ContentType", "ContentDisposition", "ETag", "LastModified", "Metadata", "StorageClass")
    return {"body": answer["Body"].read(), "tags": tags} | {name: answer.get(name) for name in names}


@story
def objects_are_kept_however_they_were_written(kept: KeptCloud) -> Iterator[None]:
    s3 = kept.clients("s3")
    s3.create_bucket(Bucket="bucket")
    rule = {"AllowedMethods": ["POST"], "AllowedOrigins": ["https://photos.example.org"], "AllowedHeaders": ["*"]}
    s3.put_bucket_cors(Bucket="bucket", CORSConfiguration={"CORSRules": [rule]})
    s3.put_object(
        Bucket="bucket", Key="plain", Body=bytes(range(256)) * 400, ContentType="image/png", Tagging="keep=true"
    )
    s3.put_object(
        Bucket="bucket", Key="with metadata", Body=b"x", Metadata={"name": "value"}, StorageClass="STANDARD_IA"
    )
    s3.copy_object(Bucket="bucket", Key="copy", CopySource={"Bucket": "bucket", "Key": "plain"})
    form = presigned_form(kept.clients, "bucket", "form.png")
    requests.post(form["url"], data=form["fields"], files={"file": b"form"}, timeout=30).raise_for_status()
    upload = s3.create_multipart_upload(Bucket="bucket", Key="parts")["UploadId"]
    parts = list[dict[str, Any]]()
    for number, part in enumerate((b"a" * S3_UPLOAD_PART_MIN_SIZE, b"last"), 1):
        sent = s3.upload_part(Bucket="bucket", Key="parts", UploadId=upload, PartNumber=number, Body=part)
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    s3.complete_multipart_upload(Bucket="bucket", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    s3.put_object_tagging(Bucket="bucket", Key="copy", Tagging={"TagSet": [{"Key": "new", "Value": "tag"}]})
    names = ["copy", "form.png", "parts", "plain", "with metadata"]
    before = [described_object(s3, name) for name in names]
    yield
    s3 = kept.clients("s3")
    assert [each["Key"] for each in s3.list_objects_v2(Bucket="bucket")["Contents"]] == names
    assert [described_object(s3, name) for name in names] == before
    assert s3.get_bucket_cors(Bucket="bucket")["CORSRules"] == [rule]
    refused = error_of(s3.put_object, Bucket="bucket", Key="plain", Body=b"", IfNoneMatch="*")
    assert refused == ("PreconditionFailed", 412)


@story
def a_fifo_queue_drops_duplicates_of_before_and_keeps_its_order(kept: KeptCloud) -> Iterator[None]:
    sqs = kept.clients("sqs")
    dead = sqs.create_queue(QueueName="dead.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = f'{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": 1}}'
    attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "false", "RedrivePolicy": redrive}
    url = sqs.create_queue(QueueName="q.fifo", Attributes=attributes)["QueueUrl"]

    def send(url: str, name: str) -> str:
        options = {"MessageGroupId": "g", "MessageDeduplicationId": name}
        return str(sqs.send_message(QueueUrl=url, MessageBody=name, **options)["SequenceNumber"])

    numbers = [send(url, name) for name in "abc"]
    yield
    sqs, url = kept.clients("sqs"), url_of(kept.clients, "q.fifo")
    assert send(url, "a") == numbers[0]
    assert send(url, "d") > numbers[-1]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])["Attributes"]
    assert found["RedrivePolicy"] == redrive
    options = {"MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["MessageGroupId"]}
    received = sqs.receive_message(QueueUrl=url, **options)["Messages"]
    assert [message["Body"] for message in received] == ["a", "b", "c", "d"]
    assert {message["Attributes"]["MessageGroupId"] for message in received} == {"g"}


@story
def an_instance_of_before_is_terminated_and_keeps_its_tags(kept: KeptCloud) -> Iterator[None]:
    ec2 = kept.clients("ec2")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "worker"}]}]
    options = {"ImageId": "ami-12c6146b", "InstanceType": "c7a.large", "MinCount": 2, "MaxCount": 2}
    launched = ec2.run_instances(**options, TagSpecifications=tags)["Instances"]
    yield
    ec2 = kept.clients("ec2")
    found = ec2.describe_instances(Filters=[{"Name": "tag:Name", "Values": ["worker"]}])["Reservations"]
    instances = [instance for reservation in found for instance in reservation["Instances"]]
    assert {each["InstanceId"] for each in instances} == {each["InstanceId"] for each in launched}
    assert {each["State"]["Name"] for each in instances} == {"terminated"}
    assert {each["InstanceType"] for each in instances} == {"c7a.large"}
    assert ec2.run_instances(**options)["Instances"][0]["State"]["Name"] in {"pending", "running"}


@pytest.mark.parametrize("name", STORIES)
def test_what_was_acknowledged_is_there_after_a_kill(begun: dict[str, Iterator[None]], name: str) -> None:
    assert next(begun[name], None) is None


CALLS: dict[str, Callable[[CloudClients, str], Any]] = {
    "message": lambda clients, name: clients("sqs").send_message_batch(
        QueueUrl=url_of(clients, "calls"), Entries=[{"Id": "1", "MessageBody": name}]
    ),
    "queue": lambda clients, name: clients("sqs").create_queue(QueueName=name),
    "small-object": lambda clients, name: clients("s3").put_object(Bucket="calls", Key=name, Body=b"x"),
    "large-object": lambda clients, name: clients("s3").put_object(Bucket="calls", Key=name, Body=bytes(2_000_000)),
    "bucket": lambda clients, name: clients("s3").create_bucket(Bucket=name),
}
"""A message and a small object are written by the main thread of the server, the others by other threads."""

NAMES = "SELECT name FROM resources UNION SELECT CAST(name AS TEXT) FROM objects UNION SELECT body FROM messages"


def names_after_kill(state: Path, copy: Path) -> set[str]:
    """Return the names of resources and objects, and the messages, of a state that a kill would leave now."""
    copy.mkdir()
    for path in state.glob(f"{DATABASE}*"):
        if not path.name.endswith("-shm"):
            shutil.copy(path, copy)
    with closing(connect(copy / DATABASE)) as connection:
        return {name for (name,) in connection.execute(NAMES)}


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_is_answered_only_after_its_commit(kept: KeptCloud, tmp_path: Path, kind: str) -> None:
    kept.clients("sqs").create_queue(QueueName="calls")
    kept.clients("s3").create_bucket(Bucket="calls")
    url_of(kept.clients, "calls")
    name = f"new-{kind}"
    with closing(connect(kept.state / DATABASE)) as other, ThreadPoolExecutor(1) as client:
        other.execute("BEGIN IMMEDIATE")  # the commit waits for this
        answer = client.submit(CALLS[kind], kept.clients, name)
        is_early = bool(wait([answer], 1.0).done)
        assert name not in names_after_kill(kept.state, tmp_path / "before")
        other.execute("COMMIT")
        answer.result()
        assert name in names_after_kill(kept.state, tmp_path / "after")
    assert not is_early


def test_a_call_that_the_disk_has_no_room_for_is_not_answered_and_nothing_is_lost(kept: KeptCloud) -> None:
    s3 = kept.clients("s3")
    s3.create_bucket(Bucket="full")
    s3.put_object(Bucket="full", Key="kept", Body=bytes(10_000))
    [worker] = children_of(kept.cloud.server_pid)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(BotoCoreError):
        s3.put_object(Bucket="full", Key="too large", Body=bytes(1_000_000))
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the process ends")
    assert "the state cannot be written" in (kept.cloud.state_dir / "cloud.log").read_text()
    s3 = kept.kill()("s3")
    assert [each["Key"] for each in s3.list_objects_v2(Bucket="full")["Contents"]] == ["kept"]
    s3.put_object(Bucket="full", Key="too large", Body=bytes(1_000_000))


def test_a_large_content_is_one_file_in_the_folder_of_the_state(kept: KeptCloud) -> None:
    s3 = kept.clients("s3")
    s3.create_bucket(Bucket="large")
    content = os.urandom(LARGE_BYTES)
    s3.put_object(Bucket="large", Key="a", Body=content)
    [file] = [file for file in (kept.state / CONTENTS).iterdir() if file.read_bytes() == content]
    s3.delete_object(Bucket="large", Key="a")
    assert not file.exists()
