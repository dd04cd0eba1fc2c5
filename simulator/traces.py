"""Traces: when the images come. Each is the same for the same seed."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.errors import FleetsightError

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
"""Of all that a full fleet can do, what the busiest hour, or the crowd, asks for."""


class TraceError(FleetsightError):
    """Raised when a trace cannot be had; the message names it and what would do."""


@dataclass(frozen=True)
class Trace:
    """Images over time.

    Attributes:
        arrivals: seconds since its begin, ascending, float64 [images].
        deadline_seconds: an image that is answered later than this after it came counts as missed.
        finish_seconds: when all images may be answered at the latest; None for as soon as possible.
    """

    name: str
    arrivals: Floats
    seconds: float
    deadline_seconds: float
    finish_seconds: float | None = None


TraceOf = Callable[[int], Trace]
"""Makes a trace from a seed."""


def batch(images: int, deadline_seconds: float) -> Trace:
    """Return `images` that all come at once."""
    return Trace(f"batch {images:,}", np.zeros(images), 0.0, deadline_seconds)


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
    return Trace(name, arrivals, len(rates) * HOUR_SECONDS, deadline_seconds=10.0)


def flash_crowd(capacity: float, seed: int) -> Trace:
    """Return 40 minutes of a steady stream that grows tenfold within a minute, stays for 7 and falls within one."""
    crowd = PEAK_LOAD * capacity
    seconds = np.arange(2_400) + 0.5
    growth = np.interp(seconds, [600, 660, 1_080, 1_140], [0.1, 1.0, 1.0, 0.1])
    return Trace("flash crowd", poisson((crowd * growth).tolist(), 1.0, seed), 2_400.0, deadline_seconds=60.0)


@dataclass(frozen=True, slots=True)
class Mmpp:
    """A Markov-modulated Poisson process of two states.

    Attributes:
        rates: arrivals a second in each state.
        stays: mean seconds in each state.
    """

    rates: tuple[float, float]
    stays: tuple[float, float]

    def arrivals(self, seconds: float, seed: int) -> Floats:
        """Return the arrivals of so many seconds, which begin in the first state."""
        luck = np.random.default_rng((seed, 4))
        parts, begin, state = [], 0.0, 0
        while begin < seconds:
            end = min(begin + luck.exponential(self.stays[state]), seconds)
            count = luck.poisson(self.rates[state] * (end - begin))
            parts.append(np.sort(begin + luck.random(count) * (end - begin)))
            begin, state = end, 1 - state
        return np.concatenate(parts)


def bursty(capacity: float) -> Mmpp:
    """Return the process of the trace `mmpp`: a tenth of the crowd, and for 100 s every few minutes all of it."""
    crowd = PEAK_LOAD * capacity
    return Mmpp(rates=(crowd / 10, crowd), stays=(300.0, 100.0))


def bursts(capacity: float, seed: int) -> Trace:
    """Return two hours of that process."""
    return Trace("MMPP", bursty(capacity).arrivals(7_200.0, seed), 7_200.0, deadline_seconds=60.0)


def from_csv(path: Path, deadline_seconds: float = 60.0) -> Trace:
    """Return the trace of a CSV file; its first column is the arrivals in seconds; a first line may name it.

    They may stand in any order and begin at any time; the trace begins with the first.

    Raises:
        TraceError: when the file cannot be read, or a line does not begin with a number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            cells = [(number, row[0].strip()) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"cannot read the trace {path}: {error}; expected CSV with arrival seconds") from error
    if cells and not _is_number(cells[0][1]):
        cells = cells[1:]
    if wrong := [(number, cell) for number, cell in cells if not _is_number(cell)]:
        raise TraceError(f"{path}, line {wrong[0][0]}: {wrong[0][1]!r} is not a time in seconds, such as 12.5")
    if not cells:
        raise TraceError(f"{path} has no arrivals: expected one time in seconds a line, such as 12.5")
    times = np.sort(np.array([float(cell) for _, cell in cells]))
    return Trace(path.stem, times - times[0], float(times[-1] - times[0]), deadline_seconds)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def named(capacity: float) -> dict[str, TraceOf]:
    """Return every trace by its name, for a full fleet that does `capacity` images/s."""
    return {
        "batch-100": lambda _: batch(100, 90.0),
        "batch-1000": lambda _: batch(1_000, 180.0),
        "batch-10000": lambda _: batch(10_000, 900.0),
        "flash-crowd": lambda seed: flash_crowd(capacity, seed),
        "mmpp": lambda seed: bursts(capacity, seed),
        "nys-day": lambda seed: day("NYS day", NYS_HOURS, capacity, seed),
        "twitter-day": lambda seed: day("Twitter day", TWITTER_HOURS, capacity, seed),
    }
