"""The approximate counts of a queue, as wrong as the switches say: late, too low, too high.

SQS promises no more: its counts may lag by a minute, and come near the truth only while little changes.
"""

import math
from typing import Any

from localcloud.fleet import fleet
from localcloud.message import Counts
from localcloud.options import Switches
from localcloud.queues import MessageQueue


def approximate_counts(store: MessageQueue[Any], switches: Switches | None = None) -> Counts:
    """Return what GetQueueAttributes tells of a queue.

    Args:
        store: the queue.
        switches: None for those of this cloud.
    """
    told = switches or fleet.switches
    counts = store.counts(told.stale_count_seconds)
    if told.count_factor == 1:
        return counts
    return Counts(*(_times(told.count_factor, count) for count in (counts.visible, counts.in_flight, counts.delayed)))


def _times(factor: float, count: int) -> int:
    return math.floor(factor * count + 0.5)
