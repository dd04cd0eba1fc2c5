"""moto's SQS on the queues of `sqs.queues`: moto provides the API and attributes, `MessageQueue` the messages.

Stock moto reads the whole queue on each call, receives without a lock (two consumers can receive one message, a send
during a delete can be lost) and checks a long poll once a second.
"""

import math
import random
import threading
import weakref
from typing import Any

from moto.sqs import models
from moto.sqs.constants import MAXIMUM_VISIBILITY_TIMEOUT
from moto.sqs.exceptions import InvalidParameterValue, ReceiptHandleIsInvalid, SQSException

from localcloud.ec2.fleet import fleet
from localcloud.options import Switches
from localcloud.patches import Patch, Patches
from localcloud.sqs.messages import StoredMessage
from localcloud.sqs.queues import (
    MalformedReceiptError,
    MessageCounts,
    MessageDelivery,
    MessageQueue,
    NotInFlightError,
    StaleReceiptError,
)
from localcloud.state.recorder import recorder

_open_queues: "weakref.WeakSet[MessageQueue[Any]]" = weakref.WeakSet()

_creating = threading.Lock()

_QUEUE = "moto.sqs.models:SQSBackend"

PATCHES = Patches()


_FIELDS = ("message_attributes", "system_attributes", "sender_id", "sent_timestamp", "deduplication_id", "group_id")

StoredFields = dict[str, Any]
"""What a queue stores of one of moto's messages: its body, and those of `_FIELDS` that are not empty."""


def end_long_polls() -> None:
    """End every waiting receive, so that the server can stop."""
    for queue in list(_open_queues):
        queue.close()


class FastQueue(models.Queue):  # type: ignore[misc] # moto is untyped
    """A queue with moto's attributes and policies, and messages in a `MessageQueue`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.store: MessageQueue[StoredFields] = MessageQueue(
            fifo=self.fifo_queue, record=recorder.queue_recorder(self)
        )
        _open_queues.add(self.store)

    approximate_number_of_messages = property(lambda self: approximate_counts(self.store).visible)
    approximate_number_of_messages_delayed = property(lambda self: approximate_counts(self.store).delayed)
    approximate_number_of_messages_not_visible = property(lambda self: approximate_counts(self.store).in_flight)

    def add_message(self, message: Any) -> None:
        """Send a message; a duplicate gets the identity of the first message."""
        delay_seconds = max(0.0, (message.delayed_until - message.sent_timestamp) / 1000)
        if not self.fifo_queue and _happens(fleet.switches.late_deliveries):
            delay_seconds += fleet.switches.late_seconds
        key = None
        if self.fifo_queue and message.deduplication_id is not None:
            scope = message.group_id if self.deduplication_scope == "messageGroup" else ""
            key = f"{scope} {message.deduplication_id}"
        sent = self.store.send(
            message.id,
            {"body": message.body, **{name: value for name in _FIELDS if (value := getattr(message, name))}},
            delay_seconds=delay_seconds,
            group=message.group_id,
            deduplication_key=key,
        )
        message.id = sent.message_id
        if self.fifo_queue:
            message.sequence_number = sequence_number(sent.sequence)

    def add_dead_letter(self, letter: StoredMessage[StoredFields]) -> None:
        """Store a dead letter of another queue."""
        self.store.send(
            letter.message_id,
            letter.payload | ({"deduplication_id": letter.message_id} if self.fifo_queue else {}),
            group=letter.group,
            receive_count=letter.receive_count,
        )

    def delete_message(self, receipt_handle: str) -> None:
        """Delete a message; fail with SQS's errors."""
        try:
            self.store.delete(receipt_handle)
        except MalformedReceiptError:
            raise ReceiptHandleIsInvalid from None
        except StaleReceiptError:
            raise ExpiredReceiptError(receipt_handle) from None


FastQueue.__name__ = FastQueue.__qualname__ = "Queue"


class ExpiredReceiptError(ReceiptHandleIsInvalid):  # type: ignore[misc] # moto is untyped
    """Raised for a delete with an expired receipt handle of a FIFO message; a batch reports its base class's code."""

    def __init__(self, receipt_handle: str) -> None:
        SQSException.__init__(
            self,
            "InvalidParameterValue",
            f"Value {receipt_handle} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
        )


PATCHES.append(
    Patch(
        "moto.sqs.models:Queue",
        ("name", "region", "account_id", "kwargs"),
        lambda _stock: FastQueue,
        "stores messages in a list that is read as a whole and changed without a lock",
    )
)


def sequence_number(sequence: int) -> str:
    """Return SQS's sequence number of a message of a FIFO queue."""
    return f"{sequence:020d}"


@PATCHES.wrap(
    f"{_QUEUE}.create_queue", "two creations at once make two queues, one of which is lost with what it holds"
)
def create_queue(original: Any, self: Any, name: str, tags: dict[str, str] | None = None, **kwargs: Any) -> Any:
    """Create or return a queue; two concurrent calls return the same queue."""
    with _creating:
        return original(self, name, tags, **kwargs)


@PATCHES.wrap(f"{_QUEUE}.delete_queue", "leaves long polls hanging")
def delete_queue(original: Any, self: Any, queue_name: str) -> None:
    """Delete a queue and end its long polls."""
    store = self.get_queue(queue_name).store
    original(self, queue_name)
    store.discard()


def _happens(share: float) -> bool:
    """Return True with this probability."""
    return share > 0 and random.random() < share  # noqa: S311 # nosec B311 # not a secret


def is_over_limit(queue: Any, wait_seconds: int) -> bool:
    """Return True if a receive fails with OverLimit: a short poll of a standard queue with too many in flight.

    Any other receive from such a queue returns no message and no error: `options.MAX_IN_FLIGHT` has the source.
    """
    if wait_seconds or queue.fifo_queue:
        return False
    return bool(queue.store.counts().in_flight >= fleet.switches.max_in_flight)


def receive(
    queue: Any, count: int, wait_seconds: int, visibility_seconds: int | None
) -> list[MessageDelivery[StoredFields]]:
    """Receive up to `count` messages by the policies of a queue.

    The switches may make a receive short and deliver a message of a standard queue twice. A short poll may return
    nothing; a long poll returns at least one message if any is visible:
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html
    """
    if _happens(fleet.switches.short_receives):
        count = random.randint(1 if wait_seconds else 0, max(1, count - 1))  # noqa: S311 # nosec B311 # not a secret
    if not count:
        return []
    policy, letters = queue.redrive_policy, queue.dead_letter_queue
    deliveries: list[MessageDelivery[StoredFields]] = queue.store.receive(
        count,
        visibility_seconds or 0,
        wait_seconds=wait_seconds,
        max_in_flight=fleet.switches.max_in_flight,
        max_receive_count=policy["maxReceiveCount"] if policy and letters else None,
        retention_seconds=queue.message_retention_period,
        on_dead_letter=letters.add_dead_letter if letters else None,
    )
    for delivery in [] if queue.fifo_queue or not visibility_seconds else deliveries:
        if _happens(fleet.switches.duplicate_deliveries):
            queue.store.change_visibility(delivery.receipt_handle, 0)
    return deliveries


@PATCHES.replace(f"{_QUEUE}.receive_message", "receives without a lock, scans the queue, polls once a second")
def receive_message(
    self: Any,
    queue_name: str,
    count: int,
    wait_seconds_timeout: int,
    visibility_timeout: int,
    message_attribute_names: list[str] | None = None,
) -> list[Any]:
    """Receive by `MessageQueue.receive`; return new messages of moto's."""
    queue = self.get_queue(queue_name)
    if is_over_limit(queue, wait_seconds_timeout):
        raise SQSException("OverLimit", "Too many messages are in flight: delete some, or let them time out.")
    received = []
    for delivery in receive(queue, count, wait_seconds_timeout, visibility_timeout):
        message = models.Message(delivery.message_id, delivery.payload["body"])
        vars(message).update(delivery.payload)
        message.receipt_handle = delivery.receipt_handle
        message.approximate_receive_count = delivery.receive_count
        message.approximate_first_receive_timestamp = int(delivery.first_received_at * 1000)
        models._filter_message_attributes(message, message_attribute_names or [])
        if queue.fifo_queue:
            message.sequence_number = sequence_number(delivery.sequence)
        received.append(message)
    return received


@PATCHES.replace(
    f"{_QUEUE}.change_message_visibility", "scans the queue, lets a stale receipt act on a later delivery"
)
def change_message_visibility(self: Any, queue_name: str, receipt_handle: str, visibility_timeout: int) -> None:
    """Change the visibility of a message in flight; fail with SQS's errors for any other."""
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


@PATCHES.replace(f"{_QUEUE}.change_message_visibility_batch", "fails the whole batch for one entry")
def change_message_visibility_batch(
    self: Any, queue_name: str, entries: list[dict[str, Any]]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Change each entry independently; a failed entry does not affect the others."""
    done: list[str] = []
    failed: list[dict[str, Any]] = []
    for entry in entries:
        seconds = entry.get("VisibilityTimeout", 0)
        try:
            if not 0 <= int(seconds) <= MAXIMUM_VISIBILITY_TIMEOUT:
                raise InvalidParameterValue(
                    f"Value {seconds} for parameter VisibilityTimeout is invalid. "
                    f"Reason: Must be between 0 and {MAXIMUM_VISIBILITY_TIMEOUT}."
                )
            self.change_message_visibility(queue_name, entry["ReceiptHandle"], entry["VisibilityTimeout"])
            done.append(entry["Id"])
        except SQSException as error:
            failed.append({"Id": entry["Id"], "SenderFault": True, "Code": error.code, "Message": error.message})
    return done, failed


@PATCHES.wrap(f"{_QUEUE}.purge_queue", "empties the list that is not used")
def purge_queue(original: Any, self: Any, queue_name: str) -> None:
    """Delete every message of the queue."""
    original(self, queue_name)
    self.get_queue(queue_name).store.purge()


def approximate_counts(store: MessageQueue[Any], switches: Switches | None = None) -> MessageCounts:
    """Return the counts of GetQueueAttributes, which the switches can make late, too low or too high.

    SQS's own counts may lag by a minute, and are close to exact only while little changes.
    """
    active = switches or fleet.switches
    counts = store.counts(active.stale_count_seconds)
    if active.count_factor == 1:
        return counts
    multiplied = (active.count_factor * each for each in (counts.visible, counts.in_flight, counts.delayed))
    return MessageCounts(*(math.floor(each + 0.5) for each in multiplied))
