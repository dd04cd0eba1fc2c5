"""moto's SQS on our queues: what the API answers stays moto's, what a queue holds and when is ours.

Stock moto reads the whole queue on each call, receives without a lock (two consumers can get one message, a send
during a delete can be lost) and wakes a long poll once a second.
"""

import copy
import json
import random
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from moto.sqs import models
from moto.sqs.constants import MAXIMUM_VISIBILITY_TIMEOUT
from moto.sqs.exceptions import InvalidParameterValue, ReceiptHandleIsInvalid, SQSException

from localcloud.approximate import approximate_counts
from localcloud.fleet import fleet
from localcloud.message import DeadLetter, Delivery, NotInFlightError, StaleReceiptError
from localcloud.move_tasks import MAX_RESULTS, MoveTask
from localcloud.patches import Patch
from localcloud.queues import MessageQueue
from localcloud.receipts import MalformedReceiptError

_open_queues: "weakref.WeakSet[MessageQueue[Any]]" = weakref.WeakSet()
_creating = threading.Lock()


def end_long_polls() -> None:
    """Answer every waiting receive at once, so that the server can stop."""
    for queue in list(_open_queues):
        queue.close()


def fast_queue(stock: Any) -> Any:
    """Build the queue class: moto's attributes and policies around our messages."""

    class FastQueue(stock):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.store: MessageQueue[Any] = MessageQueue(fifo=self.fifo_queue)
            self.move_tasks: deque[MoveTask] = deque(maxlen=MAX_RESULTS)
            _open_queues.add(self.store)

        attributes = property(lambda self: QueueAttributes(self))  # noqa: PLW0108 - defined below
        approximate_number_of_messages = property(lambda self: approximate_counts(self.store).visible)
        approximate_number_of_messages_delayed = property(lambda self: approximate_counts(self.store).delayed)
        approximate_number_of_messages_not_visible = property(lambda self: approximate_counts(self.store).in_flight)

        def add_message(self, message: Any) -> None:
            sent = self.store.send(
                message.id,
                message,
                delay_seconds=max(0.0, (message.delayed_until - message.sent_timestamp) / 1000) + self._lateness(),
                group=message.group_id if self.fifo_queue else None,
                deduplication_key=_deduplication_key(self, message),
            )
            message.id = sent.message_id
            if self.fifo_queue:
                message.sequence_number = sequence_number(sent.sequence)

        def _lateness(self) -> float:
            switches = fleet.switches
            is_late = not self.fifo_queue and _happens(switches.late_deliveries)
            return switches.late_seconds if is_late else 0.0

        def bury(self, letter: DeadLetter[Any], source_arn: str) -> None:
            message = copy.copy(letter.payload)
            message.dead_letter_source_arn = source_arn
            if self.fifo_queue:
                message.deduplication_id = message.id
            self.store.send(
                letter.message_id,
                message,
                group=letter.group if self.fifo_queue else None,
                receive_count=letter.receive_count,
            )

        def delete_message(self, receipt_handle: str) -> None:
            try:
                self.store.delete(receipt_handle)
            except MalformedReceiptError:
                raise ReceiptHandleIsInvalid from None
            except StaleReceiptError:
                raise ExpiredReceiptError(receipt_handle) from None

    FastQueue.__name__ = FastQueue.__qualname__ = "Queue"
    return FastQueue


class ExpiredReceiptError(ReceiptHandleIsInvalid):  # type: ignore[misc] # moto is untyped
    """A delete with the receipt of a FIFO message that is visible again; in a batch it has its base class's code."""

    def __init__(self, receipt_handle: str) -> None:
        SQSException.__init__(
            self,
            "InvalidParameterValue",
            f"Value {receipt_handle} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
        )


class QueueAttributes(Mapping[str, Any]):
    """The attributes of a queue as GetQueueAttributes names them, each computed when it is asked for."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def __iter__(self) -> Iterator[str]:
        """Name every attribute that the queue has."""
        yield from self._queue.BASE_ATTRIBUTES
        if self._queue.fifo_queue:
            yield from self._queue.FIFO_ATTRIBUTES
        if self._queue.kms_master_key_id:
            yield from self._queue.KMS_ATTRIBUTES

    def __len__(self) -> int:
        """Count the attributes."""
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> Any:
        """Compute one attribute; booleans and the redrive policy as the text that SQS answers."""
        if name not in tuple(self):
            raise KeyError(name)
        value = getattr(self._queue, models.camelcase_to_underscores(name))
        if isinstance(value, bool):
            return str(value).lower()
        return json.dumps(value) if name == "RedrivePolicy" and value else value


def _deduplication_key(queue: Any, message: Any) -> str | None:
    if not queue.fifo_queue or message.deduplication_id is None:
        return None
    scope = message.group_id if queue.deduplication_scope == "messageGroup" else ""
    return f"{scope} {message.deduplication_id}"


def sequence_number(sequence: int) -> str:
    """Return a message's place in a FIFO queue as SQS writes it."""
    return f"{sequence:020d}"


def _create_queue(original: Any) -> Any:
    def create_queue(self: Any, name: str, tags: dict[str, str] | None = None, **kwargs: Any) -> Any:
        """Create or return a queue; of two creations at once, both get the same one."""
        with _creating:
            return original(self, name, tags, **kwargs)

    return create_queue


def _delete_queue(original: Any) -> Any:
    def delete_queue(self: Any, queue_name: str) -> None:
        """Delete a queue and end its long polls."""
        store = self.get_queue(queue_name).store
        original(self, queue_name)
        store.close()

    return delete_queue


def _happens(share: float) -> bool:
    """Return True in that share of the cases."""
    return share > 0 and random.random() < share  # noqa: S311 # nosec B311 # not a secret


def is_over_limit(queue: Any, wait_seconds: int) -> bool:
    """Return True if a receive gets the error OverLimit: a short poll of a standard queue with too much in flight.

    Any other receive from such a queue gets no message and no error: `options.MAX_IN_FLIGHT` has the source.
    """
    if wait_seconds or queue.fifo_queue:
        return False
    return bool(queue.store.counts().in_flight >= fleet.switches.max_in_flight)


def take(queue: Any, count: int, wait_seconds: int, visibility_seconds: int | None) -> list[Delivery[Any]]:
    """Receive up to `count` messages by the policies of a queue; their payloads are moto's messages.

    A receive may be short and a message of a standard queue may come twice, as the switches say. A short poll may
    return nothing, a long poll returns something if there is anything:
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html
    """
    if _happens(fleet.switches.short_receives):
        count = random.randint(1 if wait_seconds else 0, max(1, count - 1))  # noqa: S311 # nosec B311 # not a secret
    deliveries = _receive(queue, count, wait_seconds, visibility_seconds) if count else []
    for delivery in [] if queue.fifo_queue or not visibility_seconds else deliveries:
        if _happens(fleet.switches.duplicate_deliveries):
            queue.store.change_visibility(delivery.receipt_handle, 0)
    return deliveries


def _receive(queue: Any, count: int, wait_seconds: int, visibility_seconds: int | None) -> list[Delivery[Any]]:
    policy, letters = queue.redrive_policy, queue.dead_letter_queue
    return queue.store.receive(  # type: ignore[no-any-return]
        count,
        visibility_seconds or 0,
        wait_seconds=wait_seconds,
        max_in_flight=fleet.switches.max_in_flight,
        max_receive_count=policy["maxReceiveCount"] if policy and letters else None,
        retention_seconds=queue.message_retention_period,
        bury=(lambda letter: letters.bury(letter, queue.queue_arn)) if letters else None,
    )


def _receive_message(_original: Any) -> Any:
    def receive_message(
        self: Any,
        queue_name: str,
        count: int,
        wait_seconds_timeout: int,
        visibility_timeout: int,
        message_attribute_names: list[str] | None = None,
    ) -> list[Any]:
        """Receive as `MessageQueue.receive` does, as moto's message objects."""
        queue = self.get_queue(queue_name)
        if is_over_limit(queue, wait_seconds_timeout):
            raise SQSException("OverLimit", "Too many messages are in flight: delete some, or let them time out.")
        deliveries = take(queue, count, wait_seconds_timeout, visibility_timeout)
        received = [_as_received(delivery, message_attribute_names or []) for delivery in deliveries]
        if queue.fifo_queue:
            for message, delivery in zip(received, deliveries, strict=True):
                message.sequence_number = sequence_number(delivery.sequence)
        return received

    return receive_message


def _as_received(delivery: Delivery[Any], attribute_names: list[str]) -> Any:
    """Copy the sent message, so that a later receive does not change this answer while it is written."""
    message = copy.copy(delivery.payload)
    message.receipt_handle = delivery.receipt_handle
    message.approximate_receive_count = delivery.receive_count
    message.approximate_first_receive_timestamp = int(delivery.first_received_at * 1000)
    models._filter_message_attributes(message, attribute_names)
    return message


def _change_message_visibility(_original: Any) -> Any:
    def change_message_visibility(self: Any, queue_name: str, receipt_handle: str, visibility_timeout: int) -> None:
        """Change the visibility of a message in flight, with SQS's errors for one that is not."""
        queue = self.get_queue(queue_name)
        try:
            queue.store.change_visibility(receipt_handle, int(visibility_timeout))
        except MalformedReceiptError:
            raise ReceiptHandleIsInvalid from None
        except StaleReceiptError:
            raise InvalidParameterValue(
                f"Value {receipt_handle} for parameter ReceiptHandle is invalid. Reason: Message does not exist "
                "or is not available for visibility timeout change."
            ) from None
        except NotInFlightError:
            raise SQSException("MessageNotInflight", "The specified message isn't in flight.") from None

    return change_message_visibility


def _change_message_visibility_batch(_original: Any) -> Any:
    def change_message_visibility_batch(
        self: Any, queue_name: str, entries: list[dict[str, Any]]
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """Change each entry by itself; one that fails does not touch the others."""
        done: list[str] = []
        failed: list[dict[str, Any]] = []
        for entry in entries:
            try:
                _check_timeout(entry)
                self.change_message_visibility(queue_name, entry["ReceiptHandle"], entry["VisibilityTimeout"])
                done.append(entry["Id"])
            except SQSException as error:
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": error.code, "Message": error.message})
        return done, failed

    return change_message_visibility_batch


def _check_timeout(entry: dict[str, Any]) -> None:
    seconds = entry.get("VisibilityTimeout", 0)
    if not 0 <= int(seconds) <= MAXIMUM_VISIBILITY_TIMEOUT:
        raise InvalidParameterValue(
            f"Value {seconds} for parameter VisibilityTimeout is invalid. "
            f"Reason: Must be between 0 and {MAXIMUM_VISIBILITY_TIMEOUT}."
        )


def _purge_queue(original: Any) -> Any:
    def purge_queue(self: Any, queue_name: str) -> None:
        """Forget every message of the queue."""
        original(self, queue_name)
        self.get_queue(queue_name).store.purge()

    return purge_queue


_QUEUE = "moto.sqs.models:SQSBackend"
PATCHES = (
    Patch(
        "moto.sqs.models:Queue",
        ("name", "region", "account_id", "kwargs"),
        fast_queue,
        "keeps messages in a list that is read as a whole and changed without a lock",
    ),
    Patch(
        f"{_QUEUE}.create_queue",
        ("self", "name", "tags", "kwargs"),
        _create_queue,
        "two creations at once make two queues, one of which is lost with what it holds",
    ),
    Patch(f"{_QUEUE}.delete_queue", ("self", "queue_name"), _delete_queue, "leaves long polls hanging"),
    Patch(
        f"{_QUEUE}.receive_message",
        (
            "self",
            "queue_name",
            "count",
            "wait_seconds_timeout",
            "visibility_timeout",
            "message_attribute_names",
        ),
        _receive_message,
        "receives without a lock, scans the queue, polls once a second",
    ),
    Patch(
        f"{_QUEUE}.change_message_visibility",
        ("self", "queue_name", "receipt_handle", "visibility_timeout"),
        _change_message_visibility,
        "scans the queue, lets a stale receipt act on a later delivery",
    ),
    Patch(
        f"{_QUEUE}.change_message_visibility_batch",
        ("self", "queue_name", "entries"),
        _change_message_visibility_batch,
        "fails the whole batch for one entry",
    ),
    Patch(f"{_QUEUE}.purge_queue", ("self", "queue_name"), _purge_queue, "empties the list that is not used"),
)
