"""Traces: when the images come. Each is the same for the same seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NYS_HOURS: Final = (
    *(16.3, 11.5, 9.6, 10.5, 15.8, 35.2, 87.4, 144.2, 137.8, 106.7, 96.3, 99.3),
    *(105.3, 106.5, 118.9, 142.5, 168.3, 168.4, 117.3, 79.0, 62.2, 51.9, 40.3, 28.0),
)
"""Requests/s by hour of a day like the New York State thruway's.

Source: hourly fits in Ali et al., BATCH, SC'20, doi 10.1109/SC41405.2020.00073.
"""
TWITTER_HOURS: Final = (
    *(35.1, 35.1, 38.3, 43.8, 60.3, 53.8, 59.1, 77.8, 66.4, 61.1, 52.6, 47.0),
    *(44.9, 57.3, 64.3, 47.9, 63.6, 45.1, 45.6, 47.4, 67.7, 47.8, 40.6, 38.4),
)
"""Requests/s by hour of a day like Twitter's; same source."""
HOUR_SECONDS: Final = 3_600.0
PEAK_LOAD: Final = 0.8
"""Share of a full fleet's capacity that the busiest hour, or the crowd, asks for."""


@dataclass(frozen=True)
class Trace:
    """Images over time.

    Attributes:
        arrivals: seconds since its begin, ascending, float64 [images].
        finish_seconds: when all images may be answered at the latest; None for as soon as possible.
    """

    name: str
    arrivals: Floats
    seconds: float
    finish_seconds: float | None = None


def batch(images: int) -> Trace:
    """Return `images` that all come at once."""
    return Trace(f"batch-{images}", np.zeros(images), 0.0)


def poisson(rates: Sequence[float], step_seconds: float, seed: int) -> Floats:
    """Return the arrivals of a Poisson process with a rate (1/s) of `rates[k]` in the k-th step.

    The number in a step is Poisson, and given that number, arrivals are independent and uniform within the step
    (Kingman, Poisson Processes, 1993, section 2.1).
    """
    luck = np.random.default_rng((seed, 3))
    counts = luck.poisson(np.asarray(rates) * step_seconds)
    begins = np.repeat(np.arange(len(rates)) * step_seconds, counts)
    return np.sort(begins + luck.random(int(counts.sum())) * step_seconds)


def day(name: str, rates: Sequence[float], capacity: float, seed: int) -> Trace:
    """Return a day by the rates (1/s) of its hours, so scaled that the busiest asks for `PEAK_LOAD` of `capacity`."""
    scale = PEAK_LOAD * capacity / max(rates)
    arrivals = poisson([rate * scale for rate in rates], HOUR_SECONDS, seed)
    return Trace(name, arrivals, len(rates) * HOUR_SECONDS)


def flash_crowd(capacity: float, seed: int) -> Trace:
    """Return 40 minutes of a steady stream that grows tenfold within a minute, stays for 7 and falls within one."""
    crowd = PEAK_LOAD * capacity
    seconds = np.arange(2_400) + 0.5
    growth = np.interp(seconds, [600, 660, 1_080, 1_140], [0.1, 1.0, 1.0, 0.1])
    return Trace("flash-crowd", poisson((crowd * growth).tolist(), 1.0, seed), 2_400.0)


def bursts(capacity: float, seed: int) -> Trace:
    """Return two hours of a Markov-modulated Poisson process: a tenth of the crowd, and in bursts all of it.

    It stays 300 s in the first state and 100 s in the second, on average; both times are exponential.
    """
    crowd, seconds = PEAK_LOAD * capacity, 7_200.0
    luck = np.random.default_rng((seed, 4))
    parts, begin, state = [], 0.0, 0
    while begin < seconds:
        end = min(begin + luck.exponential((300.0, 100.0)[state]), seconds)
        count = luck.poisson((crowd / 10, crowd)[state] * (end - begin))
        parts.append(np.sort(begin + luck.random(count) * (end - begin)))
        begin, state = end, 1 - state
    return Trace("mmpp", np.concatenate(parts), seconds)


def named(capacity: float) -> dict[str, Callable[[int], Trace]]:
    """Return for each trace's name what makes it from a seed, for a full fleet that does `capacity` images/s."""
    return {
        "batch-100": lambda _: batch(100),
        "batch-1000": lambda _: batch(1_000),
        "batch-10000": lambda _: batch(10_000),
        "flash-crowd": lambda seed: flash_crowd(capacity, seed),
        "mmpp": lambda seed: bursts(capacity, seed),
        "nys-day": lambda seed: day("nys-day", NYS_HOURS, capacity, seed),
        "twitter-day": lambda seed: day("twitter-day", TWITTER_HOURS, capacity, seed),
    }
