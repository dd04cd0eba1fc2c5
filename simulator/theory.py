"""The simulator against queueing theory: a fleet that is always there, and formulas that say what it must do."""

import math
from dataclasses import dataclass

import numpy as np

from simulator.engine import COLUMNS, Conditions, SimulationOutcome, simulate
from simulator.policies import fixed
from simulator.traces import Floats, Trace, poisson
from simulator.workers import CERTAIN


def waiting_share(workers: int, load: float) -> float:
    """Return the share of images that find all workers busy: Erlang's C formula, for more workers than `load`.

    ``B(0) = 1, B(k) = a B(k-1) / (k + a B(k-1)); C = B(c) / (1 - a / c (1 - B(c)))`` for a load a and c workers.
    Source: Kleinrock, Queueing Systems I (1975), eq. 3.40 and 3.43 (Erlang's C and B formulas).
    """
    blocked = 1.0
    for count in range(1, workers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / workers * (1 - blocked))


def md1_wait_seconds(load: float, service_seconds: float) -> float:
    """Return the mean wait before service, in M/D/1: ``a S / (2 (1 - a))`` with `load` a = λ·S.

    Source: Kleinrock, Queueing Systems I (1975), eq. 5.73 (Pollaczek and Khinchin's mean value formula) with a
    coefficient of variation of 0.
    """
    return load * service_seconds / (2 * (1 - load))


@dataclass(frozen=True, slots=True)
class Check:
    """A figure of the simulator beside theory's."""

    what: str
    simulated: float
    theory: float

    @property
    def deviation(self) -> float:
        """By which share of theory's figure the simulator's differs."""
        return abs(self.simulated / self.theory - 1)


def waiting_probability(images: int, servers: int = 8, load: float = 6.0, seed: int = 0) -> Check:
    """Compare the share of images that wait in M/M/c with Erlang's C formula.

    An image waits when it comes while all are busy, so by PASTA (Wolff, 1982) the share of time in which all are busy
    is the same. The samples of the fleet, which do not depend on arrivals, measure that share.
    """
    outcome = _steady(servers, load, images, seed, exponential=True)
    busy = _settled(outcome)[:, COLUMNS.index("in_flight")]
    return Check(
        "M/M/8 waiting probability (Erlang C)", float(np.mean(busy == servers)), waiting_share(servers, load)
    )


def mean_wait(images: int, load: float = 0.7, seed: int = 0) -> Check:
    """Compare the mean wait in M/D/1 with Pollaczek and Khinchin's formula."""
    outcome = _steady(1, load, images, seed)
    waits = outcome.latencies[images // 50 :] - 1.0
    return Check("M/D/1 mean wait, s", float(waits.mean()), md1_wait_seconds(load, 1.0))


def littles_law(images: int, servers: int = 8, load: float = 6.8, seed: int = 0) -> Check:
    """Compare the images in the system, as samples count them, with arrival rate times latency.

    ``L = λ W``. Source: Little, A proof for the queuing formula L = λW, Operations Research 9 (1961), 383-387.
    """
    outcome = _steady(servers, load, images, seed, exponential=True)
    seen = _settled(outcome)
    there = seen[:, COLUMNS.index("visible")] + seen[:, COLUMNS.index("in_flight")]
    return Check("Little's law, images in the system", float(there.mean()), load * float(outcome.latencies.mean()))


def checks(images: int) -> tuple[Check, ...]:
    """Return every comparison, each over so many images."""
    return waiting_probability(images), mean_wait(images), littles_law(images)


def _steady(servers: int, load: float, images: int, seed: int, *, exponential: bool = False) -> SimulationOutcome:
    """Simulate servers that are always there, and images of 1 s that come at `load` a second."""
    seconds = math.ceil(images / load)
    trace = Trace("steady", poisson([load], float(seconds), seed), float(seconds), deadline_seconds=math.inf)
    conditions = Conditions(CERTAIN, image_seconds=1.0, exponential=exponential, max_workers=servers)
    return simulate(trace, fixed(servers), conditions, seed)


def _settled(outcome: SimulationOutcome) -> Floats:
    """Return the history without its first fiftieth, in which an empty system fills, and without its end."""
    rows = len(outcome.history)
    return outcome.history[rows // 50 : -1]
