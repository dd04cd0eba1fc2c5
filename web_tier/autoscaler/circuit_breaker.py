"""The fleet's circuit breaker: while workers end one after another without an answer, the fleet only probes.

A fault that ends each worker (a missing right, a bundle or bucket that is gone, a full disk) fails no image, so the
queue does not empty, and workers would be launched for ever.

| State       | Event                                       | Next        | The fleet starts                      |
|-------------|---------------------------------------------|-------------|---------------------------------------|
| `closed`    | `MAX_FAILED_RUNS` runs in a row have failed | `open`      | what it needs                         |
| `open`      | a worker runs or starts                     | `half_open` | one, a minute after the last launch   |
| `half_open` | the last worker ends without an answer      | `open`      | none; workers that run go on          |
| any         | a worker answers an image, or lasts for     | `closed`    |                                       |
|             | `PROVEN_SECONDS` while the queue is empty   |             |                                       |

Amazon ECS counts failed tasks in a row in the same way:
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html

Only the number of failed runs is memory, and the fleet's snapshot keeps it for the next controller. The state follows
from it and from what runs, so they cannot disagree.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from core.fleet.models import CircuitState, FleetCircuit
from services.clock import CLOCK, Clock
from web_tier.autoscaler.liveness import InstanceRecord

MAX_FAILED_RUNS: Final = 3
"""Failed runs in a row that open the circuit: the least that ECS takes. One or two may be an accident."""

PROVEN_SECONDS: Final = 60.0
"""A worker without work has proven itself after as long as the time between two probes."""

SILENT: Final = "a worker ended without a heartbeat, see its console output"
IDLE: Final = "a worker was idle while images waited"
UNEXPLAINED: Final = "a worker failed and gave no reason"

_log = logging.getLogger(__name__)


def failure_of(run: InstanceRecord) -> str | None:
    """Return why the run of an instance has failed; None if it has not, or goes on.

    A worker that has answered an image has not failed, nor has one that was asked to end: by the controller, by EC2
    (a Spot notice) or by a signal. One that was idle has failed if images waited during its whole run and no worker
    held them. One whose end is unexplained has failed if images waited, or once its last heartbeats have been read.
    """
    if run.images or run.is_excused or run.drain_requested_at is not None:
        return None
    if run.worker_state == "ended":
        if run.end == "failed":
            return run.end_reason or UNEXPLAINED
        return IDLE if run.end != "stopped" and run.images_waited and not run.images_held else None
    return SILENT if run.missing_since is not None and (run.is_read or run.images_waited) else None


def is_proven(run: InstanceRecord) -> bool:
    """Return whether a worker works that could not prove it by an answer, since the queue is empty."""
    first, last = run.first_heartbeat_at, run.last_heartbeat_at
    is_working = run.missing_since is None and run.worker_state != "ended"
    return is_working and first is not None and last is not None and last - first >= PROVEN_SECONDS


@dataclass
class CircuitBreaker:
    """Counts failed runs in a row.

    Attributes:
        circuit: what the previous controller has reported; then the state after the last round.
    """

    circuit: FleetCircuit = field(default_factory=FleetCircuit)
    clock: Clock = CLOCK
    _failed_before: int = field(init=False)
    """Failed runs in a row that have no record any more."""
    _answers: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Continue the count of the previous controller."""
        self._failed_before = self.circuit.failed_runs

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
            images: messages in the request queue.
        """
        failed = [run for run in runs if failure_of(run)]
        gone = [run for run in ended if failure_of(run)]
        if answers != self._answers or (not images and any(map(is_proven, runs))):
            self._answers, self._failed_before = answers, 0
            for run in failed:
                run.is_excused = True
            failed, gone = [], []
        self._failed_before += len(gone)
        self._change(self._failed_before + len(failed), [str(failure_of(run)) for run in (*gone, *failed)], workers)
        return self.circuit

    def _change(self, failed_runs: int, failures: Sequence[str], workers: int) -> None:
        """Take over the state after so many failed runs; `failures` are those of the last ones that are known."""
        before, state = self.circuit, CircuitState.CLOSED
        if failed_runs >= MAX_FAILED_RUNS:
            state = CircuitState.HALF_OPEN if workers else CircuitState.OPEN
        own_words = [each for each in failures if each not in {SILENT, IDLE}]
        known = (*own_words[-1:], before.reason, *failures[-1:])
        reason = next((each for each in known if each), "") if failed_runs else ""
        is_closed, was_closed = state is CircuitState.CLOSED, before.state is CircuitState.CLOSED
        since = None if is_closed else before.since or self.clock.utc_now()
        self.circuit = FleetCircuit(state=state, failed_runs=failed_runs, reason=reason, since=since)
        if was_closed and not is_closed:
            extra = {"failed_runs": failed_runs, "reason": reason}
            _log.warning("the circuit is open: workers end without an answer, and one starts a minute", extra=extra)
        elif is_closed and not was_closed:
            _log.info("the circuit is closed: the fleet starts what it needs")
