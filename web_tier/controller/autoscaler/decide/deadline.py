"""The deadline policy: the fewest workers with which images are answered within `target_seconds`.

Two numbers, of which the greater counts:

1. **for what comes**: the fewest workers with which, at the rate of arrivals, the queue does not outgrow what they do
   within the target, by the time another one could have booted;
2. **for what waits**: at each moment at which some of it is due, and one boot later, the work due by then, less what
   the workers that are there and those that boot will have done by then, shared among new ones, each of which works
   from the end of its boot. What is due sooner than a new worker can help counts as due shortly after its boot.

Nothing is launched for a remainder that is a fraction of a worker, and never more than there are images. When nothing
waits, workers beyond a more cautious first number end, once the time that EC2 bills them for at least is over.
"""

import math
from dataclasses import dataclass

from core.config import Fleet as FleetConfig
from web_tier.controller.autoscaler.observe.observe import Observation

STARTED_DEVIATIONS = 0.5
"""By how many standard deviations of the arrivals during a boot the queue may be unlucky, and the workers that there
are still do: fewer of them than that takes are joined by others."""

KEPT_DEVIATIONS = 1.0
"""The same for workers to end. More, so that not every ripple of the arrivals costs a boot."""

CATCH_UP_SHARE = 0.3
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
    boot = observation.measured.boot_seconds or limits.boot_seconds
    stream = Stream(observation.demand.rate, image_seconds, limits.target_seconds, boot)
    needed = workers_for(stream, STARTED_DEVIATIONS, limits.max_workers)
    in_hand = observation.requests.in_flight * image_seconds / 2  # half done, as a rule
    keep = workers_for(stream, KEPT_DEVIATIONS, limits.max_workers, in_hand)
    more = _more_for_backlog(observation, limits, image_seconds) if observation.requests.waiting else 0
    most_useful = math.ceil(observation.requests.total + stream.rate * limits.target_seconds)
    backlog = min(observation.serving + more, most_useful) if more else 0
    return Want(max(needed, backlog), keep)


def _more_for_backlog(observation: Observation, limits: FleetConfig, image_seconds: float) -> int:
    """Return how many workers more than there are the backlog needs."""
    demand, booting = observation.demand, observation.measured.booting
    boot = observation.measured.boot_seconds or limits.boot_seconds
    catch_up = max(image_seconds, CATCH_UP_SHARE * limits.target_seconds)
    remaining = [max(0.0, boot - age) for age in booting if age < boot + OVERDUE_SECONDS]
    ready = observation.serving - len(booting)
    due_by, due = dict[float, int](), 0
    for age, images in (*demand.waiting, (-boot, 0)):
        due += images
        due_by[max(limits.target_seconds - age, boot + catch_up)] = due
    lacking = 0.0
    for horizon, images in due_by.items():
        to_come = demand.rate * max(0.0, horizon - limits.target_seconds)
        done = ready * horizon + sum(max(0.0, horizon - left) for left in remaining)
        lacking = max(lacking, ((images + to_come) * image_seconds - done) / (horizon - boot))
    # Without a worker to leave a remainder to, it is worth a worker of its own.
    return max(0, math.ceil(lacking - (IGNORED_SHARE if observation.serving else 0.0)))


@dataclass(frozen=True, slots=True)
class Stream:
    """Images that keep coming.

    Attributes:
        rate: images/s.
        image_seconds: that a worker takes for one.
        target_seconds: within which they are to be answered.
        boot_seconds: from a launch to the worker's first image.
    """

    rate: float
    image_seconds: float
    target_seconds: float
    boot_seconds: float

    @property
    def load(self) -> float:
        """Images in work at any time, on average."""
        return self.rate * self.image_seconds

    @property
    def slack_seconds(self) -> float:
        """Work that may wait for each worker: nearly the target where an image takes little of it, else less."""
        return self.target_seconds * (self.target_seconds / (self.target_seconds + self.image_seconds)) ** 2

    def growth(self, workers: int, deviations: float) -> float:
        """Return by how many seconds of work the queue has grown at its longest before another worker has booted.

        In t seconds ``(a - n) t + k S sqrt(λ t)`` for a load a, n workers, k deviations, images of S seconds that
        come at a rate λ: the variance of a Poisson count is its mean. For more workers than load the greatest is
        ``k² S² λ / 4 (n - a)``, as in Kingman's bound for heavy traffic, unless a boot ends before.
        """
        spare, spread = workers - self.load, deviations * self.image_seconds * math.sqrt(self.rate)
        longest = self.boot_seconds if spare <= 0 else min(self.boot_seconds, (spread / (2 * spare)) ** 2)
        return spread * math.sqrt(longest) - spare * longest


def workers_for(stream: Stream, deviations: float, most: int, backlog_seconds: float = 0.0) -> int:
    """Return the fewest workers, at most `most`, that suffice until another one could have booted.

    Never fewer than the load, rounded down: who is needed all the time would only have to be launched again.

    Args:
        stream: what comes.
        deviations: by how many standard deviations more may come than is expected.
        most: there are no more.
        backlog_seconds: of work that there is already.
    """
    if stream.rate <= 0:
        return 0
    workers = max(1, math.floor(stream.load))
    while workers < most and not _suffice(workers, stream, deviations, backlog_seconds):
        workers += 1
    return min(workers, most)


def _suffice(workers: int, stream: Stream, deviations: float, backlog_seconds: float) -> bool:
    return backlog_seconds + stream.growth(workers, deviations) <= workers * stream.slack_seconds
