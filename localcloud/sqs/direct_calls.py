"""SQS's batch calls, receives and counts, answered directly on the queues.

A call is plain if its queue exists and it has only the parameters that are listed here, in the types and limits that
SQS documents. Stock moto answers all other calls, and every error of a call as a whole.
"""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from moto.sqs.constants import DEFAULT_RECEIVED_MESSAGES, MAXIMUM_MESSAGE_LENGTH, MAXIMUM_VISIBILITY_TIMEOUT
from moto.sqs.models import Message, SQSBackend, sqs_backends
from moto.utilities.utils import md5_hash

from localcloud.dispatch import INLINE, DirectRequest, DirectResponse, WouldWaitError, json_answer
from localcloud.sqs.backend import StoredFields, approximate_counts, is_over_limit, receive, sequence_number
from localcloud.sqs.queues import MessageDelivery

MAX_ENTRIES = 10
MAX_WAIT_SECONDS = 20
_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_FIFO = {"MessageGroupId": str, "MessageDeduplicationId": str}

Parameters = dict[str, Any]


def answer(request: DirectRequest) -> DirectResponse | None:
    """Return the answer to a plain call on a queue, or None if stock moto must answer."""
    call = _CALLS.get(request.target)
    if call is None:
        return None
    parameters = request.read_json()
    url = parameters.pop("QueueUrl", None)
    backend: SQSBackend = sqs_backends[request.account][request.region]
    queue = backend.queues.get(url.rpartition("/")[2]) if type(url) is str and url.startswith("http") else None
    if queue is not None and INLINE in request.environ and call is _receive_message:
        result = _receive_message(backend, queue, parameters, may_wait=False)
    else:
        result = None if queue is None else call(backend, queue, parameters)
    return None if result is None else json_answer(json.dumps(result).encode())


def _send_message_batch(_backend: SQSBackend, queue: Any, parameters: Parameters) -> Parameters | None:
    needed = {"MessageBody": str, **(_FIFO if queue.fifo_queue else {})}
    entries = _entries(parameters, needed, {"MessageGroupId": str})
    if entries is None or queue.content_based_deduplication or queue.delay_seconds:
        return None
    sizes = [len(entry["MessageBody"].encode(errors="surrogatepass")) for entry in entries]
    if sum(sizes) > MAXIMUM_MESSAGE_LENGTH:
        return None
    sent, failed = [], []
    with queue.store.sending_batch():
        for entry, size in zip(entries, sizes, strict=True):
            if size > queue.maximum_message_size:  # SQS rejects this entry alone
                reason = f"Reason: Message must be shorter than {queue.maximum_message_size} bytes."
                failed.append(
                    {
                        "Id": entry["Id"],
                        "SenderFault": True,
                        "Code": "InvalidParameterValue",
                        "Message": f"One or more parameters are invalid. {reason}",
                    }
                )
                continue
            message = Message(str(uuid.uuid4()), entry["MessageBody"])
            message.group_id, message.deduplication_id = (
                entry.get("MessageGroupId"),
                entry.get("MessageDeduplicationId"),
            )
            message.mark_sent()
            queue.add_message(message)  # sets a duplicate's identity to that of the first message
            sent.append({"Id": entry["Id"], "MessageId": message.id, "MD5OfMessageBody": message.body_md5})
            if queue.fifo_queue:
                sent[-1]["SequenceNumber"] = message.sequence_number
    return {"Successful": sent, "Failed": failed}


def _receive_message(
    _backend: SQSBackend, queue: Any, parameters: Parameters, *, may_wait: bool = True
) -> Parameters | None:
    if not _has_types(parameters, {}, _RECEIVE):
        return None
    count = parameters.get("MaxNumberOfMessages", DEFAULT_RECEIVED_MESSAGES)
    wait = parameters.get("WaitTimeSeconds", queue.receive_message_wait_time_seconds)
    visibility = parameters.get("VisibilityTimeout", queue.visibility_timeout)
    if not (1 <= count <= MAX_ENTRIES and 0 <= wait <= MAX_WAIT_SECONDS and is_timeout(visibility)):
        return None
    wanted = parameters.get("MessageSystemAttributeNames", [])
    if "All" in wanted:
        wanted = list(_ATTRIBUTES)
    is_known = all(type(name) is str and name in _ATTRIBUTES for name in wanted)
    if not is_known or is_over_limit(queue, wait):
        return None
    deliveries = receive(queue, count, wait if may_wait else 0, visibility)
    if wait and not (deliveries or may_wait):
        raise WouldWaitError
    return {"Messages": [_received(queue, delivery, wanted) for delivery in deliveries]} if deliveries else {}


def _received(queue: Any, delivery: MessageDelivery[StoredFields], wanted: list[str]) -> Parameters:
    body = delivery.payload["body"]
    received = {
        "MessageId": delivery.message_id,
        "ReceiptHandle": delivery.receipt_handle,
        "MD5OfBody": md5_hash(body.encode()).hexdigest(),
        "Body": body,
    }
    if wanted:
        values = {name: _ATTRIBUTES[name](queue, delivery) for name in wanted}
        received["Attributes"] = {name: value for name, value in values.items() if value is not None}
    return received


def _delete_message_batch(backend: SQSBackend, queue: Any, parameters: Parameters) -> Parameters | None:
    entries = _entries(parameters, {"ReceiptHandle": str})
    if entries is None or len({entry["ReceiptHandle"] for entry in entries}) < len(entries):
        return None
    return _by_entry(*backend.delete_message_batch(queue.name, entries))


def _change_message_visibility_batch(backend: SQSBackend, queue: Any, parameters: Parameters) -> Parameters | None:
    entries = _entries(parameters, {"ReceiptHandle": str, "VisibilityTimeout": int})
    return None if entries is None else _by_entry(*backend.change_message_visibility_batch(queue.name, entries))


def _get_queue_attributes(_backend: SQSBackend, queue: Any, parameters: Parameters) -> Parameters | None:
    names = parameters.get("AttributeNames")
    if set(parameters) != {"AttributeNames"} or type(names) is not list or not names:
        return None
    if not all(name in _COUNTS for name in names):
        return None
    counts = approximate_counts(queue.store)
    return {"Attributes": {name: str(getattr(counts, _COUNTS[name])) for name in names}}


def _by_entry(done: list[str], failed: list[Any]) -> Parameters:
    return {"Successful": [{"Id": name} for name in done], "Failed": failed}


def _entries(
    parameters: Parameters, needed: Mapping[str, type], allowed: Mapping[str, type] | None = None
) -> list[Parameters] | None:
    """Return the entries of a batch if each has a unique id, the `needed` parameters and at most `allowed` others.

    If any entry has not, return None.
    """
    entries = parameters.get("Entries")
    if set(parameters) != {"Entries"} or type(entries) is not list or not 1 <= len(entries) <= MAX_ENTRIES:
        return None
    if not all(type(entry) is dict and _has_types(entry, {"Id": str, **needed}, allowed) for entry in entries):
        return None
    names = {entry["Id"] for entry in entries if _ENTRY_ID.fullmatch(entry["Id"])}
    return entries if len(names) == len(entries) else None


def _has_types(values: Parameters, needed: Mapping[str, type], allowed: Mapping[str, type] | None = None) -> bool:
    known = {**needed, **(allowed or {})}
    complete = all(name in values for name in needed)
    return complete and all(type(value) is known.get(name) for name, value in values.items())


def is_timeout(seconds: int) -> bool:
    """Return True if SQS accepts `seconds` as a visibility timeout."""
    return 0 <= seconds <= int(MAXIMUM_VISIBILITY_TIMEOUT)


_RECEIVE = {
    "MaxNumberOfMessages": int,
    "WaitTimeSeconds": int,
    "VisibilityTimeout": int,
    "MessageSystemAttributeNames": list,
}
_ATTRIBUTES: dict[str, Callable[[Any, MessageDelivery[StoredFields]], str | None]] = {
    "AWSTraceHeader": lambda _queue, delivery: (
        delivery.payload.get("system_attributes", {}).get("AWSTraceHeader", {}).get("StringValue")
    ),
    "ApproximateFirstReceiveTimestamp": lambda _queue, delivery: str(int(delivery.first_received_at * 1000)),
    "ApproximateReceiveCount": lambda _queue, delivery: str(delivery.receive_count),
    "MessageDeduplicationId": lambda _queue, delivery: delivery.payload.get("deduplication_id"),
    "MessageGroupId": lambda _queue, delivery: delivery.payload.get("group_id"),
    "SenderId": lambda _queue, delivery: str(delivery.payload["sender_id"]),
    "SentTimestamp": lambda _queue, delivery: str(delivery.payload["sent_timestamp"]),
    "SequenceNumber": lambda queue, delivery: sequence_number(delivery.sequence) if queue.fifo_queue else None,
}
_COUNTS = {
    "ApproximateNumberOfMessages": "visible",
    "ApproximateNumberOfMessagesNotVisible": "in_flight",
    "ApproximateNumberOfMessagesDelayed": "delayed",
}
_CALLS: dict[str, Callable[[SQSBackend, Any, Parameters], Parameters | None]] = {
    "SendMessageBatch": _send_message_batch,
    "ReceiveMessage": _receive_message,
    "DeleteMessageBatch": _delete_message_batch,
    "ChangeMessageVisibilityBatch": _change_message_visibility_batch,
    "GetQueueAttributes": _get_queue_attributes,
}
