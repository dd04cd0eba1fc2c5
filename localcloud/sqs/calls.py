"""SQS's calls in the JSON protocol.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_Operations.html
"""

import functools
import hashlib
import json
import random
import re
from dataclasses import dataclass, replace
from typing import Final

from localcloud.dispatch import INLINE, DirectRequest, DirectResponse, ErrorReason, error_response, json_answer
from localcloud.ec2.fleet import fleet
from localcloud.sqs.parameters import Answer, Parameters, SqsError, invalid
from localcloud.sqs.queue import OutgoingMessage, Queue, QueueName, Queues, queue_of_arn
from localcloud.sqs.rows import StoredMessage
from localcloud.store import Store, data

MAX_BYTES: Final = 1_048_576
"""Largest message, and largest sum of those of a batch, in bytes."""

MAX_VISIBILITY_SECONDS: Final = 43_200
"""Longest visibility timeout in seconds."""

COUNTS: Final = tuple(f"ApproximateNumberOfMessages{state}" for state in ("", "NotVisible", "Delayed"))
"""The attributes that are counts of messages."""

_NUMBERS: Final = {
    "DelaySeconds": (0, 900, 0),
    "MaximumMessageSize": (1_024, MAX_BYTES, MAX_BYTES),
    "MessageRetentionPeriod": (60, 1_209_600, 345_600),
    "ReceiveMessageWaitTimeSeconds": (0, 20, 0),
    "VisibilityTimeout": (0, MAX_VISIBILITY_SECONDS, 30),
}
"""Least, largest and default value of each attribute that is a number."""

_OF_FIFO: Final = {"FifoQueue": "true", "ContentBasedDeduplication": "false"}
"""Attributes that only FIFO queues have, and their only values."""

_UNAVAILABLE: Final = ("MessageAttributes", "MessageSystemAttributes", "tags", "MaxResults", "NextToken")
"""Parameters that the local cloud refuses, since it would ignore them."""

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")
_HANDLE = re.compile("[0-9]{1,18}-[0-9a-f]{16}")
_GROUP = re.compile(r"[!-~]{1,128}")
_OF_MESSAGES: Final = (
    *("ApproximateFirstReceiveTimestamp", "ApproximateReceiveCount", "MessageGroupId", "SentTimestamp"),
    "SequenceNumber",
)


@dataclass(frozen=True, slots=True)
class Call:
    """A call; the methods of operations return its answer."""

    queues: Queues
    parameters: Parameters
    request: DirectRequest

    @property
    def queue(self) -> Queue:
        """The queue that the call names by its address."""
        return self.queues.named(self.full_name(self.parameters.text("QueueUrl").rpartition("/")[2]))

    def full_name(self, name: str) -> QueueName:
        """Return the name of a queue of the account and region."""
        return QueueName(self.request.account, self.request.region, name)

    def url(self, name: QueueName) -> str:
        """Return the address of a queue."""
        return f"http://{self.request.environ['HTTP_HOST']}/{name.account}/{name.name}"

    def _create_queue(self) -> Answer:
        name, given = self.full_name(self.parameters.text("QueueName")), self.parameters.attributes()
        if not _QUEUE_NAME.fullmatch(name.name):
            text = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"
            raise SqsError("InvalidParameterValue", text)
        if (given.get("FifoQueue") == "true") != name.is_fifo:
            raise invalid("QueueName", name.name, "A FIFO queue has FifoQueue=true and a name that ends in .fifo.")
        attributes, queue = _checked(self.queues, name, given), self.queues.by_name.get(name)
        if queue is None:
            self.queues.create(name, attributes)
        elif not attributes.items() <= _described(queue).items():
            text = "A queue already exists with the same name and a different value for an attribute."
            raise SqsError("QueueNameExists", text, "QueueAlreadyExists")
        return {"QueueUrl": self.url(name)}

    def _get_queue_url(self) -> Answer:
        return {"QueueUrl": self.url(self.queues.named(self.full_name(self.parameters.text("QueueName"))).name)}

    def _list_queues(self) -> Answer:
        prefix = self.full_name(self.parameters.text("QueueNamePrefix", ""))
        names = [each for each in self.queues.by_name if each[:2] == prefix[:2] and each.name.startswith(prefix.name)]
        return {"QueueUrls": [self.url(each) for each in sorted(names)]}

    def _get_queue_attributes(self) -> Answer:
        """Return attributes; counts are as late and as wrong as the switches say.

        SQS's own counts may lag by a minute, and are close to exact only while little changes.
        """
        queue, names, switches = self.queue, set(self.parameters.texts("AttributeNames")), fleet.switches
        _check_names(names)
        counts = [str(int(switches.count_factor * each + 0.5)) for each in queue.counts(switches.stale_count_seconds)]
        found = _described(queue) | dict(zip(COUNTS, counts, strict=True))
        return {"Attributes": {name: value for name, value in found.items() if value and names & {"All", name}}}

    def _set_queue_attributes(self) -> Answer:
        queue = self.queue
        queue.update(_checked(self.queues, queue.name, self.parameters.attributes()))
        return {}

    def _delete_queue(self) -> Answer:
        self.queues.delete(self.queue)
        return {}

    def _purge_queue(self) -> Answer:
        self.queue.purge()
        return {}

    def _send_message(self) -> Answer:
        return _send(self.queue, [_outgoing(self.queue, self.parameters)])[0]

    def _send_message_batch(self) -> Answer:
        queue = self.queue
        return self.parameters.batch(lambda entry: _outgoing(queue, entry), lambda some: _send(queue, some))

    def _receive_message(self) -> Answer:
        """Receive messages; the switches may make a receive short, and deliver a message of a standard queue twice.

        A short poll may return nothing; a long poll returns at least one message if any is visible:
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html
        Too many messages in flight are an error of short polls of standard queues only: see `options.MAX_IN_FLIGHT`.
        """
        queue, given, switches = self.queue, self.parameters, fleet.switches
        limit = given.number("MaxNumberOfMessages", 1, 1, 10)
        wait = given.number("WaitTimeSeconds", _number_of(queue, "ReceiveMessageWaitTimeSeconds"), 0, 20)
        hidden = given.number("VisibilityTimeout", _number_of(queue, "VisibilityTimeout"), 0, MAX_VISIBILITY_SECONDS)
        wanted = [*given.texts("MessageSystemAttributeNames"), *given.texts("AttributeNames")]
        if unknown := set(wanted) - {"All", *_OF_MESSAGES}:
            raise SqsError("InvalidAttributeName", f"Messages of the local cloud have no attribute {min(unknown)}.")
        if not (wait or queue.is_fifo) and queue.counts().in_flight >= switches.max_in_flight:
            raise SqsError("OverLimit", "Too many messages are in flight: delete some, or let them time out.")
        if _happens(switches.short_receives):
            limit = random.randint(1 if wait else 0, max(1, limit - 1))  # noqa: S311 # nosec B311 # not a secret
        may_wait = INLINE not in self.request.environ
        deliveries = queue.receive(limit, hidden, wait, may_wait=may_wait) if limit else []
        for each in deliveries:
            if hidden and not queue.is_fifo and _happens(switches.duplicate_deliveries):
                queue.change_visibility([(each.handle, 0)])
        wanted = list(_OF_MESSAGES) if "All" in wanted else wanted
        return {"Messages": [_received(queue, each, wanted) for each in deliveries]} if deliveries else {}

    def _delete_message(self) -> Answer:
        return _single(self.queue.delete([_handle(self.parameters)]))

    def _delete_message_batch(self) -> Answer:
        return self.parameters.batch(_handle, self.queue.delete)

    def _change_message_visibility(self) -> Answer:
        return _single(self.queue.change_visibility([_visibility(self.parameters)]))

    def _change_message_visibility_batch(self) -> Answer:
        return self.parameters.batch(_visibility, self.queue.change_visibility)


_CALLS: Final = {
    "".join(map(str.capitalize, name.split("_"))): method
    for name, method in vars(Call).items()
    if callable(method) and re.match("_[a-z]", name)
}
"""The methods of a call by operation."""


def _number_of(queue: Queue, attribute: str) -> int:
    """Return an attribute that is a number."""
    return int(queue.attributes.get(attribute, _NUMBERS[attribute][2]))


def _described(queue: Queue) -> dict[str, str]:
    """Return the attributes of a queue by name, but for the counts."""
    default = {"QueueArn": queue.name.arn} | {name: str(number) for name, (_, _, number) in _NUMBERS.items()}
    return default | (_OF_FIFO if queue.is_fifo else {}) | queue.attributes


def _check_names(names: set[str]) -> None:
    """Raise `SqsError` unless queues have attributes of these names."""
    if unknown := names - {"All", "QueueArn", "RedrivePolicy", *COUNTS, *_NUMBERS, *_OF_FIFO}:
        raise SqsError("InvalidAttributeName", f"The local cloud has no attribute {min(unknown)}.")


def _checked(queues: Queues, name: QueueName, attributes: dict[str, str]) -> dict[str, str]:
    """Return the attributes of a queue as they are stored; raises `SqsError` if one is not allowed."""
    _check_names(set(attributes))
    for key, value in attributes.items():
        if key in _NUMBERS:
            low, high, _ = _NUMBERS[key]
            is_valid = re.fullmatch("[0-9]{1,9}", value) is not None and low <= int(value) <= high
        else:
            is_valid = key == "RedrivePolicy" or (name.is_fifo and value == _OF_FIFO[key])
        if not is_valid:
            raise SqsError("InvalidAttributeValue", f"Invalid value for the parameter {key}.")
    if not (policy := attributes.get("RedrivePolicy")):
        return attributes
    try:
        given = json.loads(policy)
        receives, letters = int(given["maxReceiveCount"]), queue_of_arn(str(given["deadLetterTargetArn"]))
    except (ArithmeticError, KeyError, RecursionError, TypeError, ValueError):
        raise invalid("RedrivePolicy", policy, "It needs deadLetterTargetArn and maxReceiveCount.") from None
    if not 1 <= receives <= 1_000:
        raise invalid("maxReceiveCount", receives, "Must be between 1 and 1000.")
    if letters == name or queues.named(letters).is_fifo != name.is_fifo:
        raise invalid("deadLetterTargetArn", letters, "It must be another queue of the same kind.")
    return attributes | {"RedrivePolicy": json.dumps(given | {"maxReceiveCount": receives})}


def _happens(share: float) -> bool:
    """Return True with this probability."""
    return share > 0 and random.random() < share  # noqa: S311 # nosec B311 # not a secret


def _handle(given: Parameters) -> str:
    if not _HANDLE.fullmatch(handle := given.text("ReceiptHandle")):
        raise SqsError("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
    return handle


def _visibility(given: Parameters) -> tuple[str, int]:
    return _handle(given), given.number("VisibilityTimeout", 0, 0, MAX_VISIBILITY_SECONDS)


def _single(results: list[Answer | SqsError]) -> Answer:
    if isinstance(results[0], SqsError):
        raise results[0]
    return results[0]


def _outgoing(queue: Queue, given: Parameters) -> OutgoingMessage:
    _refuse_unavailable(given)
    body, delay = given.text("MessageBody"), given.number("DelaySeconds", _number_of(queue, "DelaySeconds"), 0, 900)
    if not body:
        raise SqsError("MissingParameter", "The request must contain the parameter MessageBody.")
    if _FORBIDDEN.search(body):
        raise SqsError("InvalidMessageContents", "The message contains characters outside the allowed set.")
    if len(body.encode()) > (most := _number_of(queue, "MaximumMessageSize")):
        text = f"One or more parameters are invalid. Reason: Message must be shorter than {most} bytes."
        raise SqsError("InvalidParameterValue", text)
    group, key = given.text("MessageGroupId", ""), given.text("MessageDeduplicationId", "")
    for name, value in (("MessageGroupId", group), ("MessageDeduplicationId", key)):
        if value and not _GROUP.fullmatch(value):
            raise invalid(name, value, "Can only include 1 to 128 alphanumeric and punctuation characters.")
    if queue.is_fifo and not (group and key):
        raise SqsError("MissingParameter", "The request must contain MessageGroupId and MessageDeduplicationId.")
    if queue.is_fifo and given.given.get("DelaySeconds"):
        raise invalid("DelaySeconds", delay, "The parameter is not valid for this queue type.")
    is_late = not queue.is_fifo and _happens(fleet.switches.late_deliveries)
    late = fleet.switches.late_seconds if is_late else 0.0
    return OutgoingMessage(body, group or None, delay + late, key if queue.is_fifo else None)


def _send(queue: Queue, messages: list[OutgoingMessage]) -> list[Answer]:
    if (size := sum(len(message.body.encode()) for message in messages)) > MAX_BYTES:
        text = f"Batch requests cannot be longer than {MAX_BYTES} bytes. You have sent {size} bytes."
        raise SqsError("BatchRequestTooLong", text, "AWS.SimpleQueueService.BatchRequestTooLong")
    return [
        {"MessageId": sent.id, "MD5OfMessageBody": _md5(message.body)}
        | ({"SequenceNumber": f"{sent.sequence:020d}"} if queue.is_fifo else {})
        for message, sent in zip(messages, queue.send(messages), strict=True)
    ]


def _received(queue: Queue, message: StoredMessage, wanted: list[str]) -> Answer:
    known = {
        "ApproximateFirstReceiveTimestamp": str(int((message.first_received or 0) * 1000)),
        "ApproximateReceiveCount": str(message.receives),
        "MessageGroupId": message.group,
        "SentTimestamp": str(int(message.sent * 1000)),
        "SequenceNumber": f"{message.sequence:020d}" if queue.is_fifo else None,
    }
    attributes = {name: known[name] for name in wanted if known[name] is not None}
    received = {"MessageId": message.id, "ReceiptHandle": message.handle, "MD5OfBody": _md5(message.body)}
    received["Body"] = message.body
    return received | ({"Attributes": attributes} if attributes else {})


def _md5(body: str) -> str:
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


@functools.lru_cache(maxsize=1)
def _queues_of(store: Store) -> Queues:
    """Return the queues of a store; the caller holds its lock."""
    return Queues(store, lambda: fleet.switches)


def end_long_polls() -> None:
    """End every waiting receive, so that the server can stop."""
    with data().lock:
        _queues_of(data()).close()


def answer(request: DirectRequest) -> DirectResponse:
    """Return the answer to a call.

    Raises:
        WouldWaitError: it must wait, and the main thread makes it.
    """
    if (method := _CALLS.get(request.target)) is None:
        text = f"{request.target or 'The Query protocol'} is not available in the local cloud."
        return error_response(request.environ, "sqs", ErrorReason.NOT_KEPT, text)
    try:
        parameters = Parameters(request.read_json())
        _refuse_unavailable(parameters)
        with data().lock:
            result = method(Call(_queues_of(data()), parameters, request))
        return json_answer(json.dumps(result).encode())
    except SqsError as error:
        body = json.dumps({"__type": f"com.amazonaws.sqs#{error.name}", "message": error.message}).encode()
        refusal = json_answer(body, ("x-amzn-query-error", f"{error.code};Sender"))
        return replace(refusal, status="403 Forbidden" if error.name == "OverLimit" else "400 Bad Request")


def _refuse_unavailable(given: Parameters) -> None:
    for name in _UNAVAILABLE:
        if given.given.get(name):
            raise SqsError("InvalidParameterValue", f"The parameter {name} is not available in the local cloud.")
