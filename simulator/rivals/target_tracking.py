"""AWS: target tracking on the backlog per instance, in an EC2 Auto Scaling group.

Sources: "Scaling policy based on Amazon SQS" and "Target tracking scaling policies" in the EC2 Auto Scaling user
guide (https://docs.aws.amazon.com/autoscaling/ec2/userguide/: as-using-sqs-queue, as-scaling-target-tracking):
backlog per instance = ApproximateNumberOfMessages ÷ instances in service; its target = acceptable latency ÷ time of a
message; out in proportion to the metric, in more gradually, results rounded so that rather too many stay; an instance
that warms up counts as capacity, and nothing is removed while one does; by default it warms up for the group's
cooldown, 300 s.

Not documented, and taken from the alarms that it creates: above the target for 3 datapoints of a minute it scales
out, below 0.9 of the target for 15 it scales in, and an alarm that stays acts again each minute. In its favour here:
an instance that is removed finishes what it has first. Without an instance there is no backlog per instance, so the
group keeps one, which is ready before the trace begins.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from simulator.policy import NO_ACTION, FleetView, NamedPolicy, PolicyTerms, ScalingAction

PERIOD_SECONDS: Final = 60.0
DATAPOINTS_OUT: Final = 3
DATAPOINTS_IN: Final = 15
IN_BELOW: Final = 0.9
WARMUP_SECONDS: Final = 300.0
COOLDOWN_SECONDS: Final = 300.0
ACCEPTABLE_SECONDS: Final = 10.0
"""The acceptable latency of AWS's own example."""


def acceptable_backlog(acceptable_seconds: float, image_seconds: float) -> float:
    """Return the target value: messages that an instance may have before it."""
    return acceptable_seconds / image_seconds


def wanted(messages: int, instances: int, target: float) -> int:
    """Return the capacity that brings the backlog per instance to `target`: in proportion, rounded up."""
    backlog_per_instance = messages / instances
    # Rounded first, so that 150 ÷ 100 · 10 is 15 in spite of floats.
    return math.ceil(round(instances * backlog_per_instance / target, 9))


@dataclass
class TargetTracking:
    """An Auto Scaling group of at least one instance."""

    target: float
    maximum: int
    terms: PolicyTerms = field(default_factory=lambda: PolicyTerms(floor=1, prepared=1))
    _metric: deque[float] = field(default_factory=lambda: deque(maxlen=DATAPOINTS_IN))
    _next_datapoint: float = 0.0
    _desired: int = 1
    _not_in_before: float = 0.0

    def decide(self, view: FleetView) -> ScalingAction:
        """Return what the alarms and the group's desired capacity ask for."""
        if view.now >= self._next_datapoint:
            self._next_datapoint += PERIOD_SECONDS
            self._evaluate(view)
        supply = view.supply
        if self._desired < supply:
            return ScalingAction(drain=view.surplus(supply - self._desired))
        lacking = min(self._desired - supply, self.maximum - len(view.workers))
        return ScalingAction(lacking) if lacking > 0 else NO_ACTION

    def _evaluate(self, view: FleetView) -> None:
        in_service = view.ready
        if in_service == 0:
            return  # no datapoint: the alarms have insufficient data
        self._metric.append(view.visible / in_service)
        want = max(1, min(self.maximum, wanted(view.visible, in_service, self.target)))
        if self._is_high() and want > self._desired:
            self._desired = want
            self._not_in_before = view.now + WARMUP_SECONDS
        elif self._is_low() and want < self._desired and view.now >= self._not_in_before:
            self._desired = want
            self._not_in_before = view.now + COOLDOWN_SECONDS

    def _is_high(self) -> bool:
        latest = list(self._metric)[-DATAPOINTS_OUT:]
        return len(latest) == DATAPOINTS_OUT and min(latest) > self.target

    def _is_low(self) -> bool:
        return len(self._metric) == DATAPOINTS_IN and max(self._metric) < IN_BELOW * self.target


def target_tracking(
    max_workers: int, image_seconds: float, acceptable_seconds: float = ACCEPTABLE_SECONDS
) -> NamedPolicy:
    """Return AWS's rule for images that take `image_seconds` and may wait `acceptable_seconds`."""
    target = acceptable_backlog(acceptable_seconds, image_seconds)
    return NamedPolicy("target tracking", lambda: TargetTracking(target, max_workers))
