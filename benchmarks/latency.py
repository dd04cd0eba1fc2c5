"""From the moments at which images were accepted and counts of results were seen to seconds of latency."""

from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` (0 to 100) of `values` do not exceed: the nearest rank, no interpolation."""
    ranked = sorted(values)
    rank = -int(-percent * len(ranked) // 100)
    return ranked[max(0, rank - 1)]


def result_moments(looks: Sequence[tuple[float, int]], count: int) -> list[float]:
    """Return when each of the first `count` results was seen, from looks of (moment, results so far).

    A result is older than the look that sees it, so these moments are late by up to the time between two looks.

    Raises:
        ValueError: the looks do not see that many.
    """
    moments: list[float] = []
    for moment, results in looks:
        moments += [moment] * (min(results, count) - len(moments))
    if len(moments) < count:
        raise ValueError(f"{len(moments)} of {count} results were seen: look until all have arrived")
    return moments


def latencies(accepted: Sequence[float], seen: Sequence[float]) -> list[float]:
    """Return the seconds from acceptance to result, first to first, second to second.

    Results are counted, not named, while a batch runs. Pairing in order gives the true mean; where images overtake
    each other, by less than a poll of a worker, the percentiles are those of a fleet that keeps their order.
    """
    return [after - before for before, after in zip(sorted(accepted), sorted(seen), strict=True)]
