"""Something to time: what is called, and how much a call does."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from app_tier.engines import Batch, Engine


@dataclass(frozen=True)
class Run:
    """An action, and how much (images, 10^9 operations) one call does."""

    action: Callable[[], object]
    amount: float


def side_by_side(engine: Engine, pixels: Batch, threads: int) -> Run:
    """Return `threads` threads that each ask an engine with as many streams about all of `pixels` at once."""
    pool = ThreadPoolExecutor(threads)
    return Run(lambda: list(pool.map(engine.infer, [pixels] * threads)), threads * len(pixels))
