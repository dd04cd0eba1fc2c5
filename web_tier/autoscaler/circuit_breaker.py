"""The fleet's circuit breaker: while workers end one after another without an answer, the fleet only probes.

A fault that ends each worker (a missing right, a bundle or bucket that is gone, a full disk) fails no image, so the
queue does not empty, and workers would be launched for ever.

A run **fails** if its worker reports a fault, or was idle while images waited. A run that a signal, a stop or a Spot
notice ends, or that ends without a heartbeat, proves no fault: nothing tells a kill from outside from one by the
kernel. It counts too, but the first pause after three of them is short, and doubles.

| State       | Event                                       | Next        | The fleet starts                      |
|-------------|---------------------------------------------|-------------|---------------------------------------|
| `closed`    | `MAX_FAILED_RUNS` runs in a row without an  | `open`      | what it needs                         |
|             | answer                                      |             |                                       |
| `open`      | a worker runs or starts                     | `half_open` | one, `probe_seconds` after the last   |
|             |                                             |             | launch                                |
| `half_open` | the last worker ends without an answer      | `open`      | none; workers that run go on          |
| any         | a worker answers an image, or lasts for     | `closed`    |                                       |
|             | `PROVEN_SECONDS` while the queue is empty   |             |                                       |

Amazon ECS counts failed tasks in a row in the same way:
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html

Only the numbers of such runs are memory, and the fleet's snapshot keeps them for the next controller. State and pause
follow from them and from what runs, so they cannot disagree.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from core.fleet.models import MAX_FAILED_RUNS, CircuitState, FleetCircuit
from services.clock import CLOCK, Clock
from web_tier.autoscaler.liveness import InstanceRecord

PROVEN_SECONDS: Final = 60.0
"""A worker without work has proven itself after as long as the time between two probes."""

SILENT: Final = "a worker ended without a heartbeat, see its console output"
STOPPED: Final = "a worker was stopped from outside"
IDLE: Final = "a worker was idle while images waited"
UNEXPLAINED: Final = "a worker failed and gave no reason"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnansweredRun:
    """Why the run of an instance has ended without an answer.

    Attributes:
        is_own: whether its worker has failed: no signal, stop or Spot notice has ended it.
    """

    reason: str
    is_own: bool = False


def unanswered_run(run: InstanceRecord) -> UnansweredRun | None:
    """Return why the run of an instance has ended without an answer; None if it has answered, or goes on.

    An end that the controller has asked for does not count, nor one without work: a worker that was idle counts if
    images waited during its whole run and no worker held them. An end without a heartbeat counts if images waited, or
    once the last heartbeats of the worker have been read.
    """
    if run.images or run.is_excused or run.drain_requested_at is not None:
        return None
    if run.worker_state != "ended":
        return UnansweredRun(SILENT) if run.missing_since is not None and (run.is_read or run.images_waited) else None
    if run.end == "failed":
        return UnansweredRun(run.end_reason or UNEXPLAINED, is_own=True)
    if run.end == "stopped":
        return UnansweredRun(f"{STOPPED}: {run.end_reason}" if run.end_reason else STOPPED)
    return UnansweredRun(IDLE, is_own=True) if run.images_waited and not run.images_held else None


def is_proven(run: InstanceRecord) -> bool:
    """Return whether a worker works that could not prove it by an answer, since the queue is empty."""
    first, last = run.first_heartbeat_at, run.last_heartbeat_at
    is_working = run.missing_since is None and run.worker_state != "ended"
    return is_working and first is not None and last is not None and last - first >= PROVEN_SECONDS


@dataclass
class CircuitBreaker:
    """Counts runs in a row that ended without an answer.

    Attributes:
        circuit: what the previous controller has reported; then the state after the last round.
    """

    circuit: FleetCircuit = field(default_factory=FleetCircuit)
    clock: Clock = CLOCK
    _failed_before: int = field(init=False)
    """Runs in a row without an answer that have no record any more."""
    _own_before: int = field(init=False)
    """Those of them that ended by a fault of their own."""
    _answers: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Continue the counts of the previous controller."""
        self._failed_before, self._own_before = self.circuit.failed_runs, self.circuit.own_failures

    def update(
        self,
        runs: Collection[InstanceRecord],
        ended: Iterable[InstanceRecord],
        *,
        answers: int,
        workers: int,
        images: int,
    ) -> FleetCircuit:
        """Apply a round; return the state.

        Args:
            runs: the present records. Each counts for as long as it is a failure, since its end may yet be explained.
            ended: the records that were dropped in this round.
            answers: of all workers so far, without repeated predictions.
            workers: number of workers that run or start.
            images: in the request queue.
        """
        failed = [(run, found) for run in runs if (found := unanswered_run(run))]
        gone = [found for run in ended if (found := unanswered_run(run))]
        if answers != self._answers or (not images and any(map(is_proven, runs))):
            self._answers, self._failed_before, self._own_before = answers, 0, 0
            for run, _ in failed:
                run.is_excused = True
            failed, gone = [], []
        self._failed_before += len(gone)
        self._own_before += sum(each.is_own for each in gone)
        self._change([each for _, each in failed], gone, workers)
        return self.circuit

    def _change(self, failed: Sequence[UnansweredRun], gone: Sequence[UnansweredRun], workers: int) -> None:
        """Take over the state after the runs that still have a record and those of this round that have none."""
        before, state = self.circuit, CircuitState.CLOSED
        failed_runs = self._failed_before + len(failed)
        if failed_runs >= MAX_FAILED_RUNS:
            state = CircuitState.HALF_OPEN if workers else CircuitState.OPEN
        runs = (*gone, *failed)
        reported = [each.reason for each in runs if each.is_own and each.reason != IDLE]
        known = (*reported[-1:], before.reason, *(each.reason for each in runs[-1:]))
        is_closed, was_closed = state is CircuitState.CLOSED, before.state is CircuitState.CLOSED
        self.circuit = FleetCircuit(
            state=state,
            failed_runs=failed_runs,
            own_failures=self._own_before + sum(each.is_own for each in failed),
            reason=next((each for each in known if each), "") if failed_runs else "",
            since=None if is_closed else before.since or self.clock.utc_now(),
        )
        if was_closed and not is_closed:
            extra = {"failed_runs": failed_runs, "reason": self.circuit.reason}
            _log.warning("the circuit is open: workers end without an answer, and one at a time starts", extra=extra)
        elif is_closed and not was_closed:
            _log.info("the circuit is closed: the fleet starts what it needs")
