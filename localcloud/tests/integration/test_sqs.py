"""Queues over the wire: what moto gets wrong."""

import json
import threading
from itertools import count
from typing import Any

import pytest

from localcloud.tests.support.cloud_clients import CloudClients
from localcloud.tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

_names = count()


def new_queue(sqs: Any, *, fifo: bool = False, **attributes: str) -> str:
    name = f"queue-{next(_names)}{'.fifo' if fifo else ''}"
    url: str = sqs.create_queue(QueueName=name, Attributes={**({"FifoQueue": "true"} if fifo else {}), **attributes})[
        "QueueUrl"
    ]
    return url


def send(sqs: Any, url: str, bodies: list[str]) -> None:
    for start in range(0, len(bodies), 10):
        batch = bodies[start : start + 10]
        entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(batch)]
        assert not sqs.send_message_batch(QueueUrl=url, Entries=entries).get("Failed")


def receive(sqs: Any, url: str, **options: Any) -> list[dict[str, Any]]:
    options = {"MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["All"], **options}
    messages: list[dict[str, Any]] = sqs.receive_message(QueueUrl=url, **options).get("Messages", [])
    return messages


def test_a_message_with_more_bytes_than_its_queue_allows_is_rejected_alone(apis: CloudClients) -> None:
    sqs = apis("sqs")
    url = new_queue(sqs, MaximumMessageSize="1024")
    bodies = {"fits": "x" * 1_024, "large": "x" * 1_025, "characters": "\u0444" * 513}
    entries = [{"Id": name, "MessageBody": body} for name, body in bodies.items()]
    answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)
    assert [each["Id"] for each in answer["Successful"]] == ["fits"]
    assert [(each["Id"], each["SenderFault"]) for each in answer["Failed"]] == [("large", True), ("characters", True)]
    assert "shorter than 1024 bytes" in answer["Failed"][0]["Message"]
    assert [message["Body"] for message in receive(sqs, url)] == [bodies["fits"]]


def test_two_creations_at_once_give_one_queue(apis: CloudClients) -> None:
    sqs = apis("sqs")
    name = f"queue-{next(_names)}"
    creators = [threading.Thread(target=sqs.create_queue, kwargs={"QueueName": name}) for _ in range(10)]
    for creator in creators:
        creator.start()
    for creator in creators:
        creator.join(DEADLINE_SECONDS)
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    send(sqs, url, ["m"])
    assert len(receive(sqs, url)) == 1


@pytest.mark.parametrize("fifo", [False, True])
def test_a_dead_letter_keeps_its_id_and_its_receive_count(apis: CloudClients, fifo: bool) -> None:
    sqs = apis("sqs")
    letters = new_queue(sqs, fifo=fifo)
    arn = sqs.get_queue_attributes(QueueUrl=letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"})
    url = new_queue(sqs, fifo=fifo, VisibilityTimeout="0", RedrivePolicy=policy)
    for body in ("a", "b"):
        group = {"MessageGroupId": body, "MessageDeduplicationId": "same" + body} if fifo else {}
        sqs.send_message(QueueUrl=url, MessageBody=body, **group)
    received = {each["Body"]: each["MessageId"] for each in receive(sqs, url)}
    assert set(received) == {"a", "b"}
    assert receive(sqs, url) == []
    dead = receive(sqs, letters)
    assert {each["Body"]: each["MessageId"] for each in dead} == received
    assert {each["Attributes"]["ApproximateReceiveCount"] for each in dead} == {"2"}
