"""Recovery: what an error of a step is attributed to, and what follows.

A fault of the system keeps the image in flight: its thread retries the step after a pause, while the visibility
timeout is extended and the receiver pauses, too. So a service that is down costs no image a try.

| at fault           | tried again                 | then, if it works for others     | if it works for none        |
|--------------------|-----------------------------|----------------------------------|-----------------------------|
| the image          | never                       | a failed result                  | a failed result             |
| the worker         | never                       | given back; the worker ends      | given back; the worker ends |
| a service          | for `MAX_OUTAGE_SECONDS`    | left                             | given back; the worker ends |
| engine or decoders | until `MAX_FAILURES`        | given back                       | given back; the worker ends |
| unknown            | alone, until `MAX_FAILURES` | left, after `MAX_FAILURES_ALONE` | left; the worker ends       |

An engine that reports a failed run is the worker's fault: its later answers could be wrong.

A request that is given back counts as not received. One that is left to its queue is received again and has one
try less; after `max_receive_count` tries the image fails. A worker that ends gives back everything else.
"""

import errno
import logging
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Generic, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, NoCredentialsError

from app_tier.bundle import EngineError
from app_tier.lifecycle import Lifetime
from app_tier.task import Task
from app_tier.visibility import InFlightMessages, VisibilityExtender
from core.images import ImageRejectedError
from core.messages import GONE, Failure
from core.sandbox.process import PoolUnavailableError
from core.tracing import common_traceparent, use_traceparent
from services.backoff import Jitter, pause_seconds
from services.clock import CLOCK, Clock
from services.errors import NotFoundError

_DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "KMS.AccessDeniedException",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
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

MAX_FAILURES: Final = 5
"""Failures in a row, 8 to 15 s, after which an engine or decoder that works for no image counts as broken."""

MAX_FAILURES_ALONE: Final = 2
"""Failures of an image alone, while the step works for others, after which the try counts."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFault:
    """The image cannot be classified by any worker: its owner gets the reason."""

    failure: Failure

    @property
    def reason(self) -> str:
        """The reason, for the log."""
        return self.failure.message


@dataclass(frozen=True)
class _ReasonedFault:
    """A fault with its reason, for the log."""

    reason: str


class FatalError(_ReasonedFault):
    """This worker cannot continue: it returns its messages to the queue and ends with the reason."""


class ServiceFault(_ReasonedFault):
    """S3 or SQS does not answer, or throttles. No image is at fault."""


class LocalFault(_ReasonedFault):
    """The engine or the decoding processes do not work on this worker. No image is at fault."""


class UnknownFault(_ReasonedFault):
    """Any other error: the image, this worker or the program may be at fault."""


TransientError = ServiceFault | LocalFault | UnknownFault
"""Faults that the next try may not meet."""

Fault = ImageFault | FatalError | TransientError


def classify_error(error: Exception) -> Fault:  # noqa: PLR0911 (one return for each kind of error)
    """Return the fault that an error of a step is attributed to, after botocore's retries."""
    reason = f"{type(error).__name__}: {error}"
    match error:
        case ImageRejectedError():
            return ImageFault(Failure(code=error.code, message=error.message))
        case NotFoundError():
            return ImageFault(GONE)
        case MemoryError():
            return FatalError("out of memory: use a larger instance type, or lower worker.batch_size")
        case OSError() if error.errno in _NO_ROOM:
            return FatalError(f"the machine has no room left: {error}")
        case NoCredentialsError() | CredentialRetrievalError():
            return FatalError(f"no credentials: {error}; give the instance its role (fleet.launch_template)")
        case ClientError():
            return _classify_refusal(error)
        case BotoCoreError() | ConnectionError() | TimeoutError():
            return ServiceFault(reason)
        case EngineError():
            return FatalError(f"the engine is broken: {error}")
        case PoolUnavailableError():
            return LocalFault(reason)
    return UnknownFault(reason)


def _classify_refusal(error: ClientError) -> Fault:
    code = error.response.get("Error", {}).get("Code", "")
    if code in _SKEWED or _SKEW_TEXT.search(str(error)):
        return FatalError(f"this machine's clock is off: {error}; check its time synchronisation")
    if code in _DENIED:
        return FatalError(f"access denied: {error}; allow it in the worker's role")
    if code in _MISSING:
        return FatalError(f"{error}; check names in config.yaml and that the stack exists")
    return ServiceFault(str(error))


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


class FailureAction(Enum):
    """What to do about tasks after their step has failed."""

    TRY_AGAIN = auto()
    GIVE_BACK = auto()
    LEAVE = auto()
    END_AND_GIVE_BACK = auto()
    END_AND_LEAVE = auto()


def decide(fault: TransientError, failures: int, seconds: float, *, works_for_others: bool) -> FailureAction:
    """Return what follows from a fault.

    Args:
        fault: of the last try.
        failures: of this step for the same tasks, in a row.
        seconds: since the first of them.
        works_for_others: whether another thread has passed the step since then.
    """
    match fault:
        case ServiceFault():
            is_patient = seconds < MAX_OUTAGE_SECONDS
        case LocalFault():
            is_patient = failures < MAX_FAILURES
        case UnknownFault():
            is_patient = failures < (MAX_FAILURES_ALONE if works_for_others else MAX_FAILURES)
    if is_patient:
        return FailureAction.TRY_AGAIN
    if works_for_others:
        return FailureAction.GIVE_BACK if isinstance(fault, LocalFault) else FailureAction.LEAVE
    return FailureAction.END_AND_LEAVE if isinstance(fault, UnknownFault) else FailureAction.END_AND_GIVE_BACK


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
        recovery: shared by all stages.
        check: does the same work for those tasks without any image, if that is possible; raises if it fails.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[Sequence[Task[T]]], None],
        refuse: Callable[[Task[T], Failure], None],
        recovery: StepRecovery,
        check: Callable[[Sequence[Task[T]]], object] | None = None,
    ) -> None:
        self._name, self._do, self._refuse, self._recovery, self._check = name, do, refuse, recovery, check
        # Changes whenever the step succeeds. Threads may overwrite each other's counts, but never undo a change.
        self._passed = 0

    def __call__(self, tasks: Sequence[Task[T]]) -> None:
        """Do the step for `tasks`; return when each has been passed on, given back or left to the queue."""
        with use_traceparent(common_traceparent(task.traceparent for task in tasks)):
            self._do_until_settled(tasks)

    def _do_until_settled(self, tasks: Sequence[Task[T]]) -> None:
        clock = self._recovery.clock
        kind: type[TransientError] | None = None
        failures, since, passed_before = 0, 0.0, 0
        while (error := self._attempt(tasks)) is not None:
            fault = self._classify(error, tasks)
            if isinstance(fault, ImageFault | FatalError):
                self._stop_trying(tasks, fault)
                return
            if isinstance(fault, UnknownFault) and len(tasks) > 1:
                for task in tasks:
                    self([task])
                return
            if type(fault) is not kind:
                kind, failures, since, passed_before = type(fault), 0, clock.monotonic(), self._passed
            failures += 1
            seconds = clock.monotonic() - since
            decision = decide(fault, failures, seconds, works_for_others=self._passed != passed_before)
            more = {"step": self._name, "images": _images(tasks), "failures": failures, "decision": decision.name}
            _log.warning("a step failed", extra={**more, "error": fault.reason}, exc_info=error)
            if decision is FailureAction.TRY_AGAIN:
                self._recovery.backoff.failed(self._name)
                pause = pause_seconds(failures, FIRST_SECONDS, MAX_SECONDS, self._recovery.jitter)
                if not self._recovery.lifetime.wait(pause):
                    continue
            if decision in {FailureAction.END_AND_GIVE_BACK, FailureAction.END_AND_LEAVE}:
                tries = f"{failures} tries in {seconds:.0f} s failed, the last with {fault.reason}"
                self._recovery.lifetime.fail(f"{self._name} does not work: {tries}")
            self._release(tasks, is_left=decision in {FailureAction.LEAVE, FailureAction.END_AND_LEAVE})
            return

    def _attempt(self, tasks: Sequence[Task[T]]) -> Exception | None:
        """Do the step once; return its exception, or None."""
        try:
            with self._recovery.in_flight.step(lambda: [task.delivery for task in tasks]):
                self._do(tasks)
        except Exception as error:  # noqa: BLE001 (the edge: the next image must get its turn)
            return error
        self._pass()
        return None

    def _pass(self) -> None:
        self._passed += 1
        self._recovery.backoff.succeeded(self._name)

    def _classify(self, error: Exception, tasks: Sequence[Task[T]]) -> Fault:
        """Return the fault; an unknown error is the worker's fault if the step also fails without any image."""
        fault = classify_error(error)
        if not isinstance(fault, UnknownFault) or self._check is None:
            return fault
        try:
            self._check(tasks)
        except Exception as broken:  # noqa: BLE001 (no image is involved, so no image is at fault)
            fault = classify_error(broken)
            return LocalFault(fault.reason) if isinstance(fault, UnknownFault) else fault
        self._pass()
        return fault

    def _stop_trying(self, tasks: Sequence[Task[T]], fault: ImageFault | FatalError) -> None:
        if isinstance(fault, FatalError):
            self._recovery.lifetime.fail(fault.reason)
            self._release(tasks)
            return
        self._pass()
        _log.info("cannot be classified", extra={"images": _images(tasks), "code": fault.failure.code})
        for task in tasks:
            self._refuse(task, fault.failure)

    def _release(self, tasks: Sequence[Task[T]], *, is_left: bool = False) -> None:
        deliveries = [task.delivery for task in tasks]
        if is_left:
            self._recovery.extender.leave(deliveries)
        else:
            self._recovery.extender.give_back(deliveries)


def _images(tasks: Sequence[Task[object]]) -> list[str]:
    return [task.delivery.request.image_id for task in tasks]
