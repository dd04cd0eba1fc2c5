"""Looks at the CPU that several things have used, taken now and then; what was used between any two moments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

SAME_SEND_SECONDS: Final = 0.005
"""Results that are closer to each other went out with one call."""

MARGIN: Final = 0.1
"""Share of the results that is left out at either end: the pipeline fills, and drains."""


@dataclass(frozen=True)
class Look:
    """One look, at epoch seconds `at`: CPU seconds so far, by name."""

    at: float
    cpu_seconds: Mapping[str, float]


@dataclass(frozen=True)
class Window:
    """The steady state: from `start` to `end` (epoch seconds) that many images were answered."""

    start: float
    end: float
    images: int

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end - self.start


def used(looks: Sequence[Look], name: str, window: Window) -> float:
    """Return the CPU seconds that `name` used within the window; between two looks it counts as even."""
    return _until(looks, name, window.end) - _until(looks, name, window.start)


def steady(moments: Sequence[float]) -> Window:
    """Return the steady state of results that came at these moments (epoch seconds).

    Results go out ten at a time, so the window begins and ends right after such a send.

    Raises:
        ValueError: there are too few of them for that.
    """
    ordered = sorted(moments)
    last_of_send = [
        index
        for index, (moment, following) in enumerate(zip(ordered, [*ordered[1:], float("inf")], strict=True))
        if following - moment > SAME_SEND_SECONDS
    ]
    margin = MARGIN * len(ordered)
    within = [index for index in last_of_send if margin <= index < len(ordered) - margin]
    if len(within) < 2:
        raise ValueError(
            f"{len(ordered)} results in {len(last_of_send)} sends have no steady state: take more images"
        )
    return Window(ordered[within[0]], ordered[within[-1]], within[-1] - within[0])


def _until(looks: Sequence[Look], name: str, moment: float) -> float:
    for before, after in pairwise(looks):
        if before.at <= moment <= after.at:
            share = (moment - before.at) / (after.at - before.at)
            return before.cpu_seconds[name] + share * (after.cpu_seconds[name] - before.cpu_seconds[name])
    raise ValueError(f"there was no look around {moment}, only from {looks[0].at} to {looks[-1].at}")
