"""SQS's message move tasks, which moto lacks: they move dead letters to their source queues, or to another queue.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_StartMessageMoveTask.html

A moved message is a new message with a new id, retention period and receive count. On its way to a FIFO dead-letter
queue a message gets its own id as deduplication id, so that no message is dropped as a duplicate:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-configure-dead-letter-queue-redrive.html
"""

import copy
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from moto.core.responses import ActionResult
from moto.sqs.exceptions import InvalidParameterValue, SQSException

from localcloud.clock import wall_seconds
from localcloud.patches import Patches

MAX_PER_SECOND = 500
"""Largest rate of a task in messages per second, as on SQS."""

MAX_RESULTS = 10
"""Largest number of tasks that ListMessageMoveTasks returns."""

VISIBILITY_SECONDS = 30
"""Visibility timeout in seconds, in the source queue, of a message that is being moved."""


class MoveTaskStatus(StrEnum):
    """The status of a task, by SQS's names."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"


@dataclass
class MoveTask:
    """Moves the messages that are visible at its start, oldest first.

    Attributes:
        source: the dead-letter queue.
        destination: queue for all messages; None moves each to its own source queue.
        per_second: rate in messages per second; None moves them as fast as possible.
        find: returns the queue of an ARN, or None.
    """

    source: Any
    destination: Any | None
    per_second: int | None
    find: Callable[[str | None], Any | None]
    handle: str = field(default_factory=lambda: str(uuid.uuid4()))
    started_at: float = field(default_factory=wall_seconds)
    status: MoveTaskStatus = MoveTaskStatus.RUNNING
    moved: int = 0
    to_move: int = field(init=False)
    failure: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Count the messages to move."""
        self.to_move = self.source.store.counts().visible

    @property
    def is_active(self) -> bool:
        """Whether the task may still move messages."""
        return self.status in {MoveTaskStatus.RUNNING, MoveTaskStatus.CANCELLING}

    def run(self) -> None:
        """Move messages until none is left, a message cannot be moved, or the task is cancelled."""
        pause = 1 / self.per_second if self.per_second else 0.0
        while self.moved < self.to_move and not self._cancelled.is_set() and self._move_one():
            self._cancelled.wait(pause)
        with self._lock:
            if self.failure is not None:
                self.status = MoveTaskStatus.FAILED
            elif self.status is MoveTaskStatus.CANCELLING:
                self.status = MoveTaskStatus.CANCELLED
            else:
                self.status = MoveTaskStatus.COMPLETED

    def cancel(self) -> None:
        """Stop moving messages.

        Raises:
            SQSException: UnsupportedOperation, if the task is not running.
        """
        with self._lock:
            if self.status is not MoveTaskStatus.RUNNING:
                raise SQSException("UnsupportedOperation", f"The task is {self.status}, not RUNNING.")
            self.status = MoveTaskStatus.CANCELLING
        self._cancelled.set()

    def described(self) -> dict[str, Any]:
        """Return the task as in the answer of ListMessageMoveTasks; only a running task has a handle."""
        entry = {
            "TaskHandle": self.handle if self.status is MoveTaskStatus.RUNNING else None,
            "Status": str(self.status),
            "SourceArn": self.source.queue_arn,
            "DestinationArn": self.destination.queue_arn if self.destination else None,
            "MaxNumberOfMessagesPerSecond": self.per_second,
            "ApproximateNumberOfMessagesMoved": self.moved,
            "ApproximateNumberOfMessagesToMove": self.to_move,
            "FailureReason": self.failure,
            "StartedTimestamp": int(self.started_at * 1000),
        }
        return {name: value for name, value in entry.items() if value is not None}

    def _move_one(self) -> bool:
        store = self.source.store
        received = store.receive(1, VISIBILITY_SECONDS, retention_seconds=self.source.message_retention_period)
        for delivery in received:
            target = self.destination or self.find(getattr(delivery.payload, "dead_letter_source_arn", None))
            if target is None:
                store.change_visibility(delivery.receipt_handle, 0)
                self.failure = "CouldNotDetermineMessageSource"
                return False
            message = copy.copy(delivery.payload)
            message.id = str(uuid.uuid4())
            message.mark_sent()
            target.add_message(message)
            store.delete(delivery.receipt_handle)
            self.moved += 1
        return bool(received)


_starting = threading.Lock()

_RESPONSE = "moto.sqs.responses:SQSResponse"

_WHY = "has no message move tasks"

PATCHES = Patches()


@PATCHES.add(f"{_RESPONSE}.start_message_move_task", _WHY)
def start_message_move_task(self: Any) -> ActionResult:
    """Start a task in the background.

    Raises:
        SQSException: ResourceNotFoundException if the queue does not exist; UnsupportedOperation if a task is active.
        InvalidParameterValue: the source is not a dead-letter queue, the two differ in kind or are one, or the rate
            is not allowed.
    """
    source = _dead_letter_queue(self)
    destination_arn, per_second = self._get_param("DestinationArn"), self._get_param("MaxNumberOfMessagesPerSecond")
    destination = _existing(self, destination_arn) if destination_arn else None
    if destination is not None and (destination is source or destination.fifo_queue != source.fifo_queue):
        raise InvalidParameterValue("The destination must be another queue of the same kind as the source.")
    if per_second is not None and not 1 <= per_second <= MAX_PER_SECOND:
        raise InvalidParameterValue(f"MaxNumberOfMessagesPerSecond must be between 1 and {MAX_PER_SECOND}.")
    with _starting:
        if source.move_tasks and source.move_tasks[-1].is_active:
            raise SQSException("UnsupportedOperation", "A message move task of this queue is already active.")
        task = MoveTask(source, destination, per_second, lambda arn: _found(self.sqs_backend, arn))
        source.move_tasks.append(task)
    threading.Thread(target=task.run, name="move-task", daemon=True).start()
    return ActionResult({"TaskHandle": task.handle})


@PATCHES.add(f"{_RESPONSE}.list_message_move_tasks", _WHY)
def list_message_move_tasks(self: Any) -> ActionResult:
    """Describe the latest tasks of a dead-letter queue, the latest first.

    Raises:
        SQSException: ResourceNotFoundException if the queue does not exist.
        InvalidParameterValue: it is not a dead-letter queue, or MaxResults is not allowed.
    """
    limit = self._get_param("MaxResults", 1)
    if not 1 <= limit <= MAX_RESULTS:
        raise InvalidParameterValue(f"MaxResults must be between 1 and {MAX_RESULTS}.")
    tasks = list(reversed(_dead_letter_queue(self).move_tasks))[:limit]
    return ActionResult({"Results": [task.described() for task in tasks]})


@PATCHES.add(f"{_RESPONSE}.cancel_message_move_task", _WHY)
def cancel_message_move_task(self: Any) -> ActionResult:
    """Cancel a running task.

    Raises:
        SQSException: ResourceNotFoundException if the task does not exist; UnsupportedOperation if it is not running.
    """
    handle = self._get_param("TaskHandle")
    for queue in list(self.sqs_backend.queues.values()):
        for task in list(queue.move_tasks):
            if task.handle == handle:
                task.cancel()
                return ActionResult({"ApproximateNumberOfMessagesMoved": task.moved})
    raise SQSException("ResourceNotFoundException", "The task does not exist.")


def _dead_letter_queue(response: Any) -> Any:
    source = _existing(response, response._get_param("SourceArn"))
    if not any(queue.dead_letter_queue is source for queue in response.sqs_backend.queues.values()):
        raise InvalidParameterValue("Source queue must be configured as a Dead Letter Queue.")
    return source


def _existing(response: Any, arn: str) -> Any:
    if (queue := _found(response.sqs_backend, arn)) is None:
        raise SQSException("ResourceNotFoundException", f"The queue {arn} does not exist.")
    return queue


def _found(backend: Any, arn: str | None) -> Any | None:
    return next((queue for queue in list(backend.queues.values()) if queue.queue_arn == arn), None)
