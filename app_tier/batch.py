"""Batch: as many as are wanted or as many as came in time, whichever is first."""

import time
from collections.abc import Callable
from typing import TypeVar

from app_tier.channel import Channel

T = TypeVar("T")


def take_batch(
    channel: Channel[T],
    most: int,
    wait_seconds: float,
    more_to_come: Callable[[int], bool],
    clock: Callable[[], float] = time.monotonic,
) -> list[T]:
    """Wait for one item, then take what follows it: up to `most` in all, for up to `wait_seconds`.

    Args:
        channel: where they come from.
        most: the size of a full batch.
        wait_seconds: how long the first item waits for the others.
        more_to_come: whether waiting can help, given how many have been taken; what is there is taken in any case.
        clock: monotonic seconds.

    Returns:
        The batch; empty once the channel is closed and empty.
    """
    first = channel.get()
    if first is None:
        return []
    batch = [first]
    deadline = clock() + wait_seconds
    while len(batch) < most:
        patience = max(0.0, deadline - clock()) if more_to_come(len(batch)) else 0.0
        following = channel.get(patience)
        if following is None:
            break
        batch.append(following)
    return batch
