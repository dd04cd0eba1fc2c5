"""The deadline policy: the fewest workers with which images are answered within `target_seconds`.

Two numbers, of which the greater counts:

1. **for what comes**: the fewest workers with which, at the rate of arrivals, 95% of the images wait no longer than
   the target leaves beside their own time: Erlang's C formula (A. K. Erlang 1917), as for the lines of an exchange;
2. **for what waits**: at each moment at which some of it is due, and one boot later, the work due by then, less what
   the workers that are there and those that boot will have done by then, shared among new ones, each of which works
   from the end of its boot. What is due sooner than a new worker can help counts as due shortly after its boot.

Nothing is launched for a remainder that is a fraction of a worker, and never more than there are images. When nothing
waits, workers above the first number end, once the time that EC2 bills them for at least is over.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from services.config import Fleet as FleetConfig
from web_tier.controller.autoscaler.observe import Observation

LATE_SHARE = 0.05
"""Of the images at a steady rate, how many may miss the target; fewer where it is shorter than an image takes."""

STEADINESS = 2.0
"""How much faster waits fade when every image takes the same time than when times are exponential, as Erlang has it:
the wait for one worker is half as long (Pollaczek and Khinchine)."""

KEPT_DEVIATIONS = 1.0
"""Of the rate's own uncertainty: workers end only if they would not be needed at a rate that is so much higher."""

CATCH_UP_SHARE = 0.15
"""Of the target: after its boot a new worker has at least so long to help with what is late, or one image's time."""

IGNORED_SHARE = 0.3
"""Of a worker's work: a remainder up to so much is left to the workers that there are."""

OVERDUE_SECONDS = 2.0
"""A worker that should have reported so long ago is not counted on, though it stays one of the fleet."""


@dataclass(frozen=True, slots=True)
class Want:
    """How many workers there should be: at least `workers`, and when nothing waits no more than `keep`."""

    workers: int
    keep: int


def wanted(observation: Observation, limits: FleetConfig) -> Want:
    """Return how many workers the deadline asks for, before any clamp but the maximum's."""
    image_seconds = observation.measured.image_seconds or limits.image_seconds
    demand = observation.demand
    needed, keep = (
        _for_rate(rate, image_seconds, limits)
        for rate in (demand.rate, demand.rate + KEPT_DEVIATIONS * demand.deviation)
    )
    more = _more_for_backlog(observation, limits, image_seconds)
    most_useful = math.ceil(observation.requests.total + demand.rate * limits.target_seconds)
    backlog = min(observation.serving + more, most_useful) if more else 0
    return Want(max(needed, backlog), keep)


def _for_rate(rate: float, image_seconds: float, limits: FleetConfig) -> int:
    """Return the workers for `rate` images/s."""
    target = limits.target_seconds / image_seconds
    late = LATE_SHARE * min(1.0, target)
    # Rounded, since it is asked many times with nearly the same.
    return workers_for_load(round(rate * image_seconds, 2), round(max(0.0, target - 1), 2), late, limits.max_workers)


def _more_for_backlog(observation: Observation, limits: FleetConfig, image_seconds: float) -> int:
    """Return how many workers more than there are the backlog needs."""
    demand, booting = observation.demand, observation.measured.booting
    boot = observation.measured.boot_seconds or limits.boot_seconds
    catch_up = max(image_seconds, CATCH_UP_SHARE * limits.target_seconds)
    remaining = [max(0.0, boot - age) for age in booting if age < boot + OVERDUE_SECONDS]
    ready = observation.serving - len(booting)
    lacking, due = 0.0, 0
    for age, images in (*demand.waiting, (-boot, 0)):
        due += images
        horizon = max(limits.target_seconds - age, boot + catch_up)
        to_come = demand.rate * max(0.0, horizon - limits.target_seconds)
        done = ready * horizon + sum(max(0.0, horizon - left) for left in remaining)
        lacking = max(lacking, ((due + to_come) * image_seconds - done) / (horizon - boot))
    # Where nobody is there to leave a remainder to, it is worth a worker of its own.
    return max(0, math.ceil(lacking - (IGNORED_SHARE if observation.serving else 0.0)))


@lru_cache(maxsize=4096)
def workers_for_load(load: float, slack: float, late: float, most: int) -> int:
    """Return the fewest workers for `load`, at most `most`.

    Args:
        load: images in work at any time, on average: arrival rate times the time of an image.
        slack: longest wait that meets the target, in times of an image.
        late: share of the images that may wait for longer.
        most: there are no more.
    """
    if load <= 0:
        return 0
    workers = math.floor(load) + 1
    while workers < most and _late_share(workers, load, slack) > late:
        workers += 1
    return min(workers, most)


def _late_share(workers: int, load: float, slack: float) -> float:
    return waiting_share(workers, load) * math.exp(-STEADINESS * (workers - load) * slack)


def waiting_share(workers: int, load: float) -> float:
    """Return the share of images that find all workers busy: Erlang's C formula, for more workers than `load`.

    ``B(0) = 1, B(k) = a B(k-1) / (k + a B(k-1)); C = B(c) / (1 - a / c (1 - B(c)))`` for a load a and c workers.
    Source: Kleinrock, Queueing Systems I (1975), eq. 3.40 and 3.43 (Erlang's C and B formulas).
    """
    blocked = 1.0
    for count in range(1, workers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / workers * (1 - blocked))
