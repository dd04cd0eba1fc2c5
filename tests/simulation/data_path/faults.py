"""What may befall a call of a service, before its effect, after it, or instead of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal, get_args

from botocore.exceptions import ClientError, HTTPClientError

from tests.simulation.data_path.scheduler import KilledError, Scheduler

Passing = Literal["throttled", "unavailable", "request lost", "reply lost", "repeated", "refused after its effect"]
Fault = Passing | Literal["killed before", "killed after"]
PASSING: Final[tuple[Passing, ...]] = get_args(Passing)
ALL: Final[tuple[Fault, ...]] = (*PASSING, "killed before", "killed after")


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
        armed: what befalls the next call of a kind of process, by an operation (or any, if empty).
        calls: how many calls met each fault.
    """

    scheduler: Scheduler
    random: Random
    kill: Callable[[Any], None]
    note_lost_reply: Callable[[str, Any], None]
    share: float = 0.0
    outages: dict[str, float] = field(default_factory=dict)
    armed: list[tuple[str, str, Fault]] = field(default_factory=list)
    met: int = 0

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
        fault = self._draw(process.kind, service, operation)
        if fault is None:
            return effect()
        self.met += 1
        if fault == "killed before":
            self.kill(process)
            raise KilledError
        if fault == "throttled":
            raise refusal("ThrottlingException", 400, retries=0)
        if fault == "unavailable":
            raise refusal("ServiceUnavailable", 503, retries=2)
        if fault == "request lost":
            raise HTTPClientError(error="the request was lost")
        self.note_lost_reply(f"{service}.{operation}", effect())
        if fault == "repeated":
            return effect()
        if fault == "killed after":
            self.kill(process)
            raise KilledError
        if fault == "refused after its effect":
            raise refusal("ThrottlingException", 400, retries=1)
        raise HTTPClientError(error="the reply was lost")

    def _draw(self, kind: str, service: str, operation: str) -> Fault | None:
        if self.outages.get(service, 0.0) > self.scheduler.now:
            return "unavailable"
        for index, (armed_kind, where, fault) in enumerate(self.armed):
            if armed_kind == kind and f"{service}.{operation}".startswith(where):
                del self.armed[index]
                return fault
        if self.share and self.random.random() < self.share:
            return self.random.choice(PASSING)
        return None
