"""KEDA's ScaledJob with the `accurate` strategy, over an SQS queue.

Sources: kedacore/keda `pkg/scaling/executor/scale_jobs.go` (``accurateScalingStrategy.GetEffectiveMaxScale`` and
``createJobs``), https://keda.sh/docs/latest/reference/scaledjob-spec/ (polling every 30 s; `accurate` is for queues
with a length that leaves out what is being processed) and https://keda.sh/docs/latest/scalers/aws-sqs/ (`queueLength`
5 by default; `scaleOnInFlight: false` leaves out what is in flight).
"""

import math
from dataclasses import dataclass
from typing import Final

from simulator.policy import NO_ACTION, FleetView, NamedPolicy, PolicyTerms, ScalingAction

POLLING_SECONDS: Final = 30.0
QUEUE_LENGTH: Final = 5


def jobs_to_create(queue: int, running: int, pending: int, maximum: int, queue_length: int = QUEUE_LENGTH) -> int:
    """Return how many jobs KEDA creates.

    Args:
        queue: messages that wait.
        running: jobs that have not finished, those that have not started among them (as in KEDA's count).
        pending: of these, the ones that have not started.
        maximum: `maxReplicaCount`.
        queue_length: messages that one job is for.
    """
    max_scale = min(maximum, math.ceil(queue / queue_length))
    scale_to = max_scale
    effective = maximum - running if max_scale + running > maximum else max_scale - pending
    return max(0, min(scale_to, effective))


@dataclass
class Keda:
    """Creates jobs, each a worker that takes messages until there are none; they end themselves."""

    terms: PolicyTerms
    maximum: int
    _next_poll: float = 0.0

    def decide(self, view: FleetView) -> ScalingAction:
        """Return the jobs to create, once in a polling interval."""
        if view.now < self._next_poll:
            return NO_ACTION
        self._next_poll = view.now + POLLING_SECONDS
        pending = sum(worker.ready_at > view.now for worker in view.workers)
        return ScalingAction(jobs_to_create(view.visible, len(view.workers), pending, self.maximum))


def keda_accurate(max_workers: int, idle_seconds: float = 10.0) -> NamedPolicy:
    """Return KEDA's accurate strategy with its defaults."""
    terms = PolicyTerms(idle_seconds=idle_seconds)
    return NamedPolicy("KEDA accurate", lambda: Keda(terms, max_workers))
