"""What may befall a call of a service, before its effect, after it, or instead of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal, get_args

from botocore.exceptions import ClientError, HTTPClientError

from tests.simulation.data_path.scheduler import KilledError, Process, Scheduler

Passing = Literal[
    "throttled", "unavailable", "request lost", "reply lost", "repeated", "refused after its effect", "partial"
]
Freeze = Literal["frozen before", "frozen after"]
Fault = Passing | Freeze | Literal["killed before", "killed after", "queue missing", "denied"]
PASSING: Final[tuple[Passing, ...]] = get_args(Passing)
FREEZES: Final[tuple[Freeze, ...]] = get_args(Freeze)
READS: Final = frozenset({"GetItem", "BatchGetItem", "Query", "get", "head", "list", "receive", "counts"})
ALL: Final[tuple[Fault, ...]] = (*PASSING, *FREEZES, "killed before", "killed after")


def refusal(code: str, status: int, retries: int) -> ClientError:
    """Return the error with which AWS refuses a call that botocore has repeated `retries` times."""
    reply: Any = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status, "RetryAttempts": retries},
    }
    return ClientError(reply, "Call")


@dataclass
class Faults:
    """Draws the faults of calls.

    Attributes:
        share: of all calls that meet a passing fault.
        outages: services that answer nothing until so many seconds.
        missing: queues that do not exist until so many seconds.
        denied: services that workers may not use.
        armed: what befalls the next call of a kind of process, by an operation (or any, if empty).
        writes: how many writes processes of a kind have begun.
        at_write: a kind of process, the number of a write of such processes, and what befalls it.
        met: how many calls met a fault, and how many of these froze their process. A batch may be processed in part.
    """

    scheduler: Scheduler
    random: Random
    kill: Callable[[Any], None]
    freeze: Callable[[Any], None]
    reply: Callable[[Process], None]
    share: float = 0.0
    outages: dict[str, float] = field(default_factory=dict)
    missing: dict[str, float] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    armed: list[tuple[str, str, Fault]] = field(default_factory=list)
    writes: Counter[str] = field(default_factory=Counter)
    at_write: tuple[str, int, Fault] | None = None
    met: int = 0
    _is_partial: bool = False

    def leave(self, entries: int) -> int:
        """Return how many entries of a batch the service does not process: some, if its call is answered in part."""
        return self.random.randint(1, entries) if self._is_partial else 0

    def hook(self, service: str) -> Callable[[str, Callable[[], Any]], Any]:
        """Return what makes the calls of a service."""

        def call(operation: str, effect: Callable[[], Any]) -> Any:
            return self._call(service, operation, effect)

        return call

    def _call(self, service: str, operation: str, effect: Callable[[], Any]) -> Any:
        scheduler = self.scheduler
        scheduler.before_call()
        process = scheduler.process
        if process is None:
            return effect()
        fault = self._draw(process, service, operation)
        if fault is None:
            result = effect()
            self.reply(process)
            return result
        self.met += 1
        self._befall_before(process, fault)
        self._is_partial = fault == "partial"
        try:
            result = effect()
        finally:
            self._is_partial = False
        if fault == "frozen before":
            return result
        if fault == "repeated":
            return effect()
        self._befall_after(process, fault)
        return result

    def _befall_before(self, process: Process, fault: Fault) -> None:
        """Do what befalls a call before its effect, or instead of it."""
        match fault:
            case "killed before":
                self.kill(process)
                raise KilledError
            case "frozen before":
                self._freeze(process)
            case "throttled":
                raise refusal("ThrottlingException", 400, retries=0)
            case "unavailable":
                raise refusal("ServiceUnavailable", 503, retries=2)
            case "queue missing":
                raise refusal("AWS.SimpleQueueService.NonExistentQueue", 400, retries=0)
            case "denied":
                raise refusal("AccessDenied", 403, retries=0)
            case "request lost":
                raise HTTPClientError(error="the request was lost")

    def _befall_after(self, process: Process, fault: Fault) -> None:
        """Do what befalls a call after its effect."""
        match fault:
            case "killed after":
                self.kill(process)
                raise KilledError
            case "frozen after":
                self._freeze(process)
            case "refused after its effect":
                raise refusal("ThrottlingException", 400, retries=1)
            case "reply lost":
                raise HTTPClientError(error="the reply was lost")

    def _freeze(self, process: Process) -> None:
        """Freeze a process in the middle of a call; return when it resumes."""
        self.freeze(process)
        self.scheduler.stand_still()

    def _draw(self, process: Process, service: str, operation: str) -> Fault | None:
        if process.was_away and process.kind == "controller":
            # After its last write it checks whether the job still exists. No protocol survives its death in between.
            return None
        if operation not in READS and service != "lease":
            self.writes[process.kind] += 1
            if self.at_write and self.at_write[:2] == (process.kind, self.writes[process.kind]):
                return self.at_write[2]
        if (fault := self._lasting(process, service)) is not None:
            return fault
        for index, (armed_kind, where, fault) in enumerate(self.armed):
            if armed_kind == process.kind and f"{service}.{operation}".startswith(where):
                del self.armed[index]
                return fault
        if self.share and self.random.random() < self.share:
            return self.random.choice(PASSING)
        return None

    def _lasting(self, process: Process, service: str) -> Fault | None:
        """Return the fault that all calls of a service meet for a while."""
        if self.missing.get(service, 0.0) > self.scheduler.now:
            return "queue missing"
        if service in self.denied and process.kind == "worker":
            return "denied"
        return "unavailable" if self.outages.get(service, 0.0) > self.scheduler.now else None
