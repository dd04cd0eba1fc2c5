"""Recovery: what an error of a step is attributed to, and what follows.

A fault of the system keeps the image in flight: its thread retries the step after a pause, while the visibility
timeout is extended and the receiver pauses, too.

| at fault           | tried again                                                           | then            |
|--------------------|-----------------------------------------------------------------------|-----------------|
| the image          | never                                                                 | a failed result |
| the worker         | never; the worker ends                                                | given back      |
| a user's bucket    | never; other images are not delayed, nor those of the same pack       | given back      |
| a service          | for `MAX_OUTAGE_SECONDS`                                              | given back      |
| engine or decoders | until `MAX_FAILURES`                                                  | given back      |
| unknown            | alone, until `MAX_FAILURES`, or `MAX_FAILURES_ALONE` if others do work | left            |

A worker ends if the step has worked for no other image meanwhile, and gives everything else back. A request that is
given back is a new message; for images that a bucket did not return, it asks for these alone. One that is left is
received again, and then classified alone in a child process.
"""

import errno
import logging
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, Generic, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, NoCredentialsError

from app_tier.bundle import EngineError
from app_tier.lifecycle import Lifetime
from app_tier.task import Task
from app_tier.visibility import InFlightMessages, VisibilityExtender
from core.images import ImageRejectedError
from core.messages import GONE, Failure, source_unreadable
from core.sandbox.process import PoolUnavailableError
from core.tracing import common_traceparent, use_traceparent
from services.backoff import Jitter, pause_seconds
from services.clock import CLOCK, Clock
from services.errors import NotFoundError, ObjectRefusedError, SourceUnavailableError

_DENIED = frozenset(
    {
        *("AccessDenied", "AccessDeniedException", "AuthFailure", "InvalidAccessKeyId", "InvalidClientTokenId"),
        *("InvalidSignatureException", "KMS.AccessDeniedException", "SignatureDoesNotMatch", "UnauthorizedOperation"),
        "UnrecognizedClientException",
    }
)
_MISSING = frozenset({"NoSuchBucket", "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
_SKEW_TEXT = re.compile(r"Signature (expired|not yet current)", re.IGNORECASE)
"""Message of a wrong clock under codes that also mean wrong credentials.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
"""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE})

FIRST_SECONDS = 1.0
MAX_SECONDS = 30.0
MAX_OUTAGE_SECONDS: Final = 1_800.0
"""How long a step is retried while a service fails: a worker bills no longer than that without working."""

SOURCE_SECONDS: Final = 60
"""How long images are delayed that cannot be read from a bucket of their user: they are tried once a minute."""

MAX_FAILURES: Final = 5
"""Failures in a row, 8 to 15 s, after which an engine or decoder that works for no image counts as broken."""

MAX_FAILURES_ALONE: Final = 2
"""Failures of an image alone, while the step works for others, after which it is left."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class At(Enum):
    """What an error is attributed to."""

    IMAGE = auto()
    WORKER = auto()
    SOURCE = auto()
    SERVICE = auto()
    LOCAL = auto()
    UNKNOWN = auto()


@dataclass(frozen=True)
class Fault:
    """An attributed error with its reason, for the log; an image that is at fault gets the `failure`."""

    at: At
    reason: str
    failure: Failure | None = None


def classify_error(error: Exception) -> Fault:  # noqa: PLR0911 (one return for each kind of error)
    """Return the fault that an error of a step is attributed to, after botocore's retries."""
    reason = f"{type(error).__name__}: {error}"
    match error:
        case ImageRejectedError():
            return Fault(At.IMAGE, error.message, Failure(code=error.code, message=error.message))
        case NotFoundError() | ObjectRefusedError():
            failure = source_unreadable(error.code) if isinstance(error, ObjectRefusedError) else GONE
            return Fault(At.IMAGE, failure.message, failure)
        case MemoryError():
            return Fault(At.WORKER, "out of memory: use a larger instance type, or lower worker.batch_size")
        case OSError() if error.errno in _NO_ROOM:
            return Fault(At.WORKER, f"the machine has no room left: {error}")
        case NoCredentialsError() | CredentialRetrievalError():
            return Fault(At.WORKER, f"no credentials: {error}; give the instance its role (fleet.launch_template)")
        case ClientError():
            return _classify_refusal(error)
        case SourceUnavailableError() | BotoCoreError() | ConnectionError() | TimeoutError():
            return Fault(At.SOURCE if isinstance(error, SourceUnavailableError) else At.SERVICE, reason)
        case EngineError():
            return Fault(At.WORKER, f"the engine is broken: {error}")
        case PoolUnavailableError():
            return Fault(At.LOCAL, reason)
    return Fault(At.UNKNOWN, reason)


def _classify_refusal(error: ClientError) -> Fault:
    code = error.response.get("Error", {}).get("Code", "")
    if code in _SKEWED or _SKEW_TEXT.search(str(error)):
        return Fault(At.WORKER, f"this machine's clock is off: {error}; check its time synchronisation")
    if code in _DENIED:
        return Fault(At.WORKER, f"access denied: {error}; allow it in the worker's role")
    if code in _MISSING:
        return Fault(At.WORKER, f"{error}; check names in config.yaml and that the stack exists")
    return Fault(At.SERVICE, str(error))


class FailureBackoff:
    """Counts failures in a row of each activity, over all threads; a success forgets those of its activity."""

    def __init__(self, jitter: Jitter = random.uniform) -> None:
        self._jitter = jitter
        self._lock = threading.Lock()
        self._failures: Counter[str] = Counter()

    def failed(self, activity: str) -> None:
        """Count a failure."""
        with self._lock:
            self._failures[activity] += 1

    def succeeded(self, activity: str) -> None:
        """Forget the failures of `activity`."""
        with self._lock:
            del self._failures[activity]

    def pause_seconds(self) -> float:
        """Return how long to wait before the next try: 0 without a failure."""
        with self._lock:
            failures = max(self._failures.values(), default=0)
        return pause_seconds(failures, FIRST_SECONDS, MAX_SECONDS, self._jitter)


def is_tried_again(at: At, failures: int, seconds: float, *, works_for_others: bool) -> bool:
    """Return whether a step is tried again after its last `failures` in a row, the first of them `seconds` ago.

    `works_for_others` is whether another thread has passed the step since then.
    """
    if at is At.SERVICE:
        return seconds < MAX_OUTAGE_SECONDS
    return failures < (MAX_FAILURES_ALONE if at is At.UNKNOWN and works_for_others else MAX_FAILURES)


@dataclass(frozen=True)
class StepRecovery:
    """What the steps of all stages share.

    Attributes:
        in_flight: records which steps are running, so that one that hangs is noticed.
        extender: gives deliveries back, or leaves them to the queue.
        lifetime: ends when the worker cannot continue.
        backoff: pauses the receiver while a step fails.
        jitter: returns a random number between its arguments.
    """

    in_flight: InFlightMessages
    extender: VisibilityExtender
    lifetime: Lifetime
    backoff: FailureBackoff
    clock: Clock = CLOCK
    jitter: Jitter = random.uniform


class Step(Generic[T]):
    """The step of one stage, called by the stage's threads; it does not raise.

    Args:
        do: does the work for some tasks and passes them on.
        refuse: passes on a task of an image that cannot be classified, with the reason.
        postpone: leaves a task to a later message.
        recovery: shared by all stages.
        check: does the same work for those tasks without any image, if that is possible; raises if it fails.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[Sequence[Task[T]]], None],
        refuse: Callable[[Task[T], Failure], None],
        postpone: Callable[[Task[T]], None],
        recovery: StepRecovery,
        check: Callable[[Sequence[Task[T]]], object] | None = None,
    ) -> None:
        self._name, self._do, self._refuse, self._postpone = name, do, refuse, postpone
        self._recovery, self._check = recovery, check
        # Changes whenever the step succeeds. Threads may overwrite each other's counts, but never undo a change.
        self._passed = 0

    def __call__(self, tasks: Sequence[Task[T]]) -> None:
        """Do the step for `tasks`; return when each has been passed on, given back or left to the queue."""
        with use_traceparent(common_traceparent(task.traceparent for task in tasks)):
            self._do_until_settled(tasks)

    def _do_until_settled(self, tasks: Sequence[Task[T]]) -> None:
        clock, in_flight, extender = self._recovery.clock, self._recovery.in_flight, self._recovery.extender
        deliveries = [task.delivery for task in tasks]
        at: At | None = None
        failures, since, passed_before = 0, 0.0, 0
        while (failed := self._attempt(tasks)) is not None:
            error, fault = failed
            if fault.at is At.WORKER:
                self._recovery.lifetime.fail(fault.reason)
                extender.give_back(deliveries)
                return
            if fault.at is At.UNKNOWN and len(tasks) > 1:
                for task in tasks:
                    self([task])
                return
            if fault.at is not at:
                at, failures, since, passed_before = fault.at, 0, clock.monotonic(), self._passed
            failures += 1
            seconds, works_for_others = clock.monotonic() - since, self._passed != passed_before
            is_again = is_tried_again(at, failures, seconds, works_for_others=works_for_others)
            more = {"step": self._name, "images": _images(tasks), "failures": failures, "is_tried_again": is_again}
            _log.warning("a step failed", extra={**more, "error": fault.reason}, exc_info=error)
            if is_again:
                self._recovery.backoff.failed(self._name)
                pause = pause_seconds(failures, FIRST_SECONDS, MAX_SECONDS, self._recovery.jitter)
                if not self._recovery.lifetime.wait(pause):
                    continue
            elif not works_for_others:
                tries = f"{failures} tries in {seconds:.0f} s failed, the last with {fault.reason}"
                self._recovery.lifetime.fail(f"{self._name} does not work: {tries}")
            is_left = at is At.UNKNOWN and not is_again
            (in_flight.remove if is_left else extender.give_back)(deliveries)
            return

    def _attempt(self, tasks: Sequence[Task[T]]) -> tuple[Exception, Fault] | None:
        """Do the step once; return its error and the fault, or None if it settled each task."""
        try:
            with self._recovery.in_flight.step(lambda: [task.delivery for task in tasks]):
                self._do(tasks)
        except Exception as error:  # noqa: BLE001 (the edge: the next image must get its turn)
            fault = self._classify(error, tasks)
            if fault.at is At.SOURCE:
                _log.warning("a source cannot be read", extra={"images": _images(tasks), "error": fault.reason})
                for task in tasks:
                    self._postpone(task)
                return None
            if fault.failure is None:
                return error, fault
            _log.info("cannot be classified", extra={"images": _images(tasks), "code": fault.failure.code})
            for task in tasks:
                self._refuse(task, fault.failure)
        self._pass()
        return None

    def _pass(self) -> None:
        self._passed += 1
        self._recovery.backoff.succeeded(self._name)

    def _classify(self, error: Exception, tasks: Sequence[Task[T]]) -> Fault:
        """Return the fault; an unknown error is the worker's fault if the step also fails without any image."""
        fault = classify_error(error)
        if fault.at is not At.UNKNOWN or self._check is None:
            return fault
        try:
            self._check(tasks)
        except Exception as broken:  # noqa: BLE001 (no image is involved, so no image is at fault)
            fault = classify_error(broken)
            return replace(fault, at=At.LOCAL) if fault.at is At.UNKNOWN else fault
        self._pass()
        return fault


def _images(tasks: Sequence[Task[object]]) -> list[str]:
    return [task.ref.image_id for task in tasks]
