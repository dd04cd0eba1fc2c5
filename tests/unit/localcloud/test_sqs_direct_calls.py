"""A plain call on a queue gets stock moto's answer without stock moto; every other call gets it from stock moto."""

import re
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.dispatch import DirectCalls
from tests.support.wsgi_clients import ClientPair, WsgiClient

_names = count()
COUNTS = [f"ApproximateNumberOfMessages{state}" for state in ("", "NotVisible", "Delayed")]
SYSTEM = ["ApproximateReceiveCount", "SentTimestamp", "SenderId", "MessageGroupId", "SequenceNumber"]
BODIES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
LONG = 36_000
"""A visibility timeout in seconds. Both clouds go by the real clock, so none may end during a test."""

OPERATIONS = st.one_of(
    st.tuples(st.just("send"), st.lists(BODIES, min_size=1, max_size=10)),
    st.tuples(st.just("receive"), st.integers(1, 10), st.sampled_from([0, LONG]), st.lists(st.sampled_from(SYSTEM))),
    st.tuples(st.just("receive"), st.integers(1, 10), st.just(LONG), st.just(["All"])),
    st.tuples(st.just("delete"), st.integers(1, 3)),
    st.tuples(st.just("hide"), st.integers(1, 3), st.sampled_from([0, LONG, 50_000])),
    st.tuples(st.just("count")),
)


def new_queue(moto: ClientPair, *, fifo: bool = False, **attributes: str) -> str:
    name = f"queue-{next(_names)}{'.fifo' if fifo else ''}"
    all_attributes = {**({"FifoQueue": "true"} if fifo else {}), **attributes}
    reply = moto.stock.call("sqs", "CreateQueue", QueueName=name, Attributes=all_attributes)
    return str(reply.json["QueueUrl"])


def entries(bodies: list[str], fifo: bool = False) -> list[dict[str, str]]:
    group = {"MessageGroupId": "g", "MessageDeduplicationId": "d"}
    return [
        {"Id": str(n), "MessageBody": body, **({k: f"{v}{body}" for k, v in group.items()} if fifo else {})}
        for n, body in enumerate(bodies)
    ]


def comparable(value: Any, name: str = "") -> Any:
    """An answer without what no two sends or receives have in common."""
    if isinstance(value, dict):
        return {key: comparable(member, key) for key, member in value.items()}
    if isinstance(value, list):
        return [comparable(member) for member in value]
    if name in {"MessageId", "ReceiptHandle"}:
        return name
    if name == "Message":
        return re.sub(r"(Value|handle) (\S+)", r"\1", value)
    return re.sub(r"\d", "9", value) if name.endswith("Timestamp") else value


def play(door: WsgiClient, url: str, operations: list[Any], fifo: bool) -> list[Any]:
    receipts = ["no receipt"]
    answers = []
    for operation, *arguments in operations:
        if operation == "send":
            reply = door.call("sqs", "SendMessageBatch", QueueUrl=url, Entries=entries(arguments[0], fifo))
        elif operation == "receive":
            options = {"MaxNumberOfMessages": arguments[0], "VisibilityTimeout": arguments[1]}
            options["MessageSystemAttributeNames"] = arguments[2]
            reply = door.call("sqs", "ReceiveMessage", QueueUrl=url, WaitTimeSeconds=0, **options)
            receipts += [message["ReceiptHandle"] for message in reply.json.get("Messages", [])]
        elif operation == "count":
            reply = door.call("sqs", "GetQueueAttributes", QueueUrl=url, AttributeNames=COUNTS)
        else:
            some = [{"Id": str(n), "ReceiptHandle": r} for n, r in enumerate(receipts[-arguments[0] :])]
            if operation == "hide":
                some = [{**entry, "VisibilityTimeout": arguments[1]} for entry in some]
            name = "DeleteMessageBatch" if operation == "delete" else "ChangeMessageVisibilityBatch"
            reply = door.call("sqs", name, QueueUrl=url, Entries=some)
        answers.append((reply.status, comparable(reply.json), reply.headers["content-type"]))
    return answers


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
@given(operations=st.lists(OPERATIONS, max_size=12))
def test_any_calls_are_answered_as_by_stock_moto(moto: ClientPair, operations: list[Any], fifo: bool) -> None:
    direct, stock = new_queue(moto, fifo=fifo), new_queue(moto, fifo=fifo)
    before = moto.stock_application.times
    answers = play(moto.direct, direct, operations, fifo)
    assert moto.stock_application.times == before
    assert answers == play(moto.stock, stock, operations, fifo)


UNUSUAL: list[tuple[str, dict[str, Any]]] = [
    ("SendMessageBatch", {"Entries": []}),
    ("SendMessageBatch", {"Entries": entries(["m"] * 11)}),
    ("SendMessageBatch", {"Entries": entries(["m"]) * 2}),
    ("SendMessageBatch", {"Entries": entries(["m" * 600_000] * 2)}),
    ("SendMessageBatch", {"Entries": [{"Id": "not an id", "MessageBody": "m"}]}),
    ("SendMessageBatch", {"Entries": [{"Id": "0", "MessageBody": "m", "DelaySeconds": 1}]}),
    ("SendMessageBatch", {"Entries": [{"Id": "0", "MessageBody": "m", "DelaySeconds": 5000}]}),
    (
        "SendMessageBatch",
        {
            "Entries": [
                {
                    "Id": "0",
                    "MessageBody": "m",
                    "MessageAttributes": {"a": {"DataType": "String", "StringValue": "v"}},
                }
            ]
        },
    ),
    ("ReceiveMessage", {"MaxNumberOfMessages": 11}),
    ("ReceiveMessage", {"WaitTimeSeconds": 21}),
    ("ReceiveMessage", {"VisibilityTimeout": 50_000}),
    ("ReceiveMessage", {"MessageSystemAttributeNames": ["NoSuchAttribute"]}),
    ("ReceiveMessage", {"MessageAttributeNames": ["All"]}),
    ("DeleteMessageBatch", {"Entries": []}),
    ("DeleteMessageBatch", {"Entries": [{"Id": "0", "ReceiptHandle": "r"}, {"Id": "1", "ReceiptHandle": "r"}]}),
    ("GetQueueAttributes", {"AttributeNames": ["All"]}),
    ("GetQueueAttributes", {"AttributeNames": ["NoSuchAttribute"]}),
    ("GetQueueAttributes", {}),
    ("ListQueueTags", {}),
]


@pytest.mark.parametrize(("operation", "parameters"), UNUSUAL)
def test_an_unusual_call_is_answered_by_stock_moto(
    moto: ClientPair, operation: str, parameters: dict[str, Any]
) -> None:
    replies = []
    for door in (moto.direct, moto.stock):
        before = moto.stock_application.times
        reply = door.call("sqs", operation, QueueUrl=new_queue(moto), **parameters)
        assert moto.stock_application.times > before
        body = re.sub(r"[\d.]+|queue-\d+", "9", str(comparable(reply.json)))
        replies.append((reply.status, body))
    assert replies[0] == replies[1]


@pytest.mark.parametrize("operation", ["ReceiveMessage", "GetQueueAttributes"])
def test_stock_moto_answers_for_a_missing_queue(moto: ClientPair, operation: str) -> None:
    reply = moto.direct.call("sqs", operation, QueueUrl="http://127.0.0.1/1/no-such-queue")
    assert reply.status == 400
    assert reply.json["__type"] == "com.amazonaws.sqs#QueueDoesNotExist"


def test_a_fifo_queue_that_deduplicates_by_content_is_stock_moto_s(moto: ClientPair) -> None:
    url = new_queue(moto, fifo=True, ContentBasedDeduplication="true")
    sent = [{"Id": str(n), "MessageBody": "same", "MessageGroupId": "g"} for n in range(2)]
    assert moto.direct.call("sqs", "SendMessageBatch", QueueUrl=url, Entries=sent).status == 200
    assert len(moto.direct.call("sqs", "ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=10).json["Messages"]) == 1


def test_queue_with_a_delay_delays_messages(moto: ClientPair) -> None:
    url = new_queue(moto, DelaySeconds="600")
    moto.direct.call("sqs", "SendMessageBatch", QueueUrl=url, Entries=entries(["m"]))
    assert moto.direct.call("sqs", "GetQueueAttributes", QueueUrl=url, AttributeNames=COUNTS).json == {
        "Attributes": dict(zip(COUNTS, "001", strict=True))
    }


def test_a_message_that_is_received_too_often_goes_to_the_dead_letters(moto: ClientPair) -> None:
    letters = new_queue(moto)
    arn = moto.stock.call("sqs", "GetQueueAttributes", QueueUrl=letters, AttributeNames=["QueueArn"]).json
    policy = f'{{"deadLetterTargetArn": "{arn["Attributes"]["QueueArn"]}", "maxReceiveCount": 2}}'
    url = new_queue(moto, RedrivePolicy=policy, VisibilityTimeout="0")
    moto.direct.call("sqs", "SendMessageBatch", QueueUrl=url, Entries=entries(["poison"]))
    received = [moto.direct.call("sqs", "ReceiveMessage", QueueUrl=url).json for _ in range(3)]
    assert [len(reply.get("Messages", [])) for reply in received] == [1, 1, 0]
    assert moto.direct.call("sqs", "ReceiveMessage", QueueUrl=letters).json["Messages"][0]["Body"] == "poison"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"QueueUrl": 7}', b'{"QueueUrl": null}'])
def test_invalid_body_reaches_stock_moto_unchanged(moto: ClientPair, body: bytes) -> None:
    environ: dict[str, Any] = {
        "CONTENT_TYPE": "application/x-amz-json-1.0",
        "HTTP_X_AMZ_TARGET": "AmazonSQS.ReceiveMessage",
    }
    seen: list[bytes] = []

    def stock(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["wsgi.input"].read())
        start_response("400 Bad Request", [])
        return []

    WsgiClient(DirectCalls(stock)).request("sqs", "POST", "/", body, **environ)
    assert seen == [body]
