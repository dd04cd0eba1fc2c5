"""How many workers answer the images within `fleet.target_seconds`: the calculation of the policy `deadline`.

Two numbers, of which the larger counts:

1. **For arrivals**: the fewest workers with which, at the estimated rate, the queue stays within the work that they
   can do in the target, until another worker could have booted.
2. **For the backlog**: at each time at which a part of it is due, and one boot time from now, the work due by then
   minus the work that running and booting workers will have done by then, divided among new workers, each of which
   works from the end of its boot. What is due before a new worker can help counts as due shortly after its boot.

No worker is launched for a fraction of one worker's work, and never more workers than packs. While no image waits,
workers beyond a more cautious first number are drained, once they have run for the minimum that EC2 bills.
"""

import math
from dataclasses import dataclass

from core.config import FleetSettings
from web_tier.autoscaler.observe import Observation

LAUNCH_DEVIATIONS = 0.5
"""Standard deviations of the arrivals during a boot that the running workers must be able to absorb. If they cannot,
more are launched."""

KEEP_DEVIATIONS = 1.0
"""The same for workers that are kept. It is more, so that not every fluctuation of the arrivals costs a boot."""

CATCH_UP_SHARE = 0.3
"""Share of the target for which a new worker helps with what is late, after its boot; at least one image's time."""

IGNORED_SHARE = 0.3
"""Share of one worker's work that is left to the running workers instead of launching another."""

LATER_SHARE = 0.9
"""Share of the time that a job leaves by its `finish_by` in which it is planned to be finished; the rest is for boots
that take long, and for images that take longer than others."""

OVERDUE_SECONDS = 2.0
"""A booting worker that is so much later than usual is not counted on, though it remains in the fleet."""


def desired_range(observation: Observation, settings: FleetSettings) -> tuple[int, int, int]:
    """Return the workers needed, those for images that may not wait, and how many to keep while none waits."""
    image_seconds = observation.metrics.image_seconds or settings.image_seconds
    boot = observation.metrics.boot_seconds or settings.boot_seconds
    arrivals = Arrivals(observation.demand.rate, image_seconds, settings.target_seconds, boot)
    needed = workers_for(arrivals, LAUNCH_DEVIATIONS, settings.max_workers)
    in_flight_seconds = observation.requests.in_flight * image_seconds / 2  # on average, half of an image is done
    keep = workers_for(arrivals, KEEP_DEVIATIONS, settings.max_workers, in_flight_seconds)
    max_useful = math.ceil(observation.packs.total + arrivals.rate * settings.target_seconds)

    def minimum(later: tuple[tuple[float, int], ...]) -> int:
        is_waiting = observation.requests.waiting > 0
        more = _more_for_backlog(observation, later, settings, image_seconds, boot) if is_waiting else 0
        return max(needed, min(observation.available + more, max_useful) if more else 0)

    return minimum(observation.demand.later), minimum(()), keep


def can_wait(observation: Observation, settings: FleetSettings) -> bool:
    """Return whether each image that may be finished later leaves time for two launches, one after the other."""
    image_seconds = observation.metrics.image_seconds or settings.image_seconds
    boot = observation.metrics.boot_seconds or settings.boot_seconds
    launch_seconds = boot + _catch_up_seconds(image_seconds, settings)
    return all(LATER_SHARE * seconds > 2 * launch_seconds for seconds, _ in observation.demand.later)


def _catch_up_seconds(image_seconds: float, settings: FleetSettings) -> float:
    return max(image_seconds, CATCH_UP_SHARE * settings.target_seconds)


def _more_for_backlog(
    observation: Observation,
    later: tuple[tuple[float, int], ...],
    settings: FleetSettings,
    image_seconds: float,
    boot: float,
) -> int:
    """Return how many workers the backlog and the images of `later` need in addition to the available ones."""
    demand, booting = observation.demand, observation.metrics.unregistered.values()
    catch_up = _catch_up_seconds(image_seconds, settings)
    remaining_boots = [max(0.0, boot - age) for age in booting if age < boot + OVERDUE_SECONDS]
    waiting = [(settings.target_seconds - age, images) for age, images in (*demand.waiting, (-boot, 0))]
    waiting += [(LATER_SHARE * seconds, images) for seconds, images in later]
    due_by, due = dict[float, int](), 0
    for seconds, images in sorted(waiting):
        due += images
        due_by[max(seconds, boot + catch_up)] = due
    missing = 0.0
    for horizon, images in due_by.items():
        arriving = demand.rate * max(0.0, horizon - settings.target_seconds)
        # Every boot ends before the horizon, which is more than a whole boot away.
        done = observation.ready * horizon + sum(horizon - left for left in remaining_boots)
        missing = max(missing, ((images + arriving) * image_seconds - done) / (horizon - boot))
    # A fraction is left to the running workers; if there are none, it needs a worker of its own.
    return max(0, math.ceil(missing - (IGNORED_SHARE if observation.available else 0.0)))


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A stream of images.

    Attributes:
        rate: images/s.
        image_seconds: time of one worker for one image.
        target_seconds: time within which an image must be answered.
        boot_seconds: time from a launch to the worker's first image.
    """

    rate: float
    image_seconds: float
    target_seconds: float
    boot_seconds: float

    @property
    def load(self) -> float:
        """Average number of busy workers."""
        return self.rate * self.image_seconds

    @property
    def slack_seconds(self) -> float:
        """Work that may wait for each worker: nearly the target if an image takes little of it, else less."""
        return self.target_seconds * (self.target_seconds / (self.target_seconds + self.image_seconds)) ** 2

    def growth(self, workers: int, deviations: float) -> float:
        """Return the largest growth of the queue, in seconds of work, before another worker has booted.

        After t seconds it is ``(a - n) t + k S sqrt(λ t)`` for a load a, n workers, k deviations, and images of S
        seconds that arrive at rate λ: the variance of a Poisson count is its mean. With more workers than load its
        maximum is ``k² S² λ / 4 (n - a)``, as in Kingman's bound for heavy traffic, unless a boot ends before.
        """
        spare, spread = workers - self.load, deviations * self.image_seconds * math.sqrt(self.rate)
        longest = self.boot_seconds if spare <= 0 else min(self.boot_seconds, (spread / (2 * spare)) ** 2)
        return spread * math.sqrt(longest) - spare * longest


def workers_for(arrivals: Arrivals, deviations: float, max_workers: int, backlog_seconds: float = 0.0) -> int:
    """Return the fewest workers, at most `max_workers`, that suffice until another one could have booted.

    It is never less than the load, rounded down: a worker that is always needed would only have to be launched again.

    Args:
        arrivals: the images that arrive.
        deviations: standard deviations by which arrivals may exceed the mean.
        max_workers: upper limit of the fleet.
        backlog_seconds: work that is in the queue already.
    """
    if arrivals.rate <= 0:
        return 0
    workers = max(1, math.floor(arrivals.load))
    while workers < max_workers:
        if backlog_seconds + arrivals.growth(workers, deviations) <= workers * arrivals.slack_seconds:
            break
        workers += 1
    return min(workers, max_workers)
