"""How sure a share is that was measured on a few images."""

import math
from typing import Final

Z_95: Final = 1.959964
"""Two-sided 95 % quantile of the standard normal distribution."""


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of the share `right` of `count`, 0 to 1; `count` is not 0.

    Source: https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval#Wilson_score_interval
    """
    share = right / count
    centre = share + Z_95**2 / (2 * count)
    width = Z_95 * math.sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2))
    scale = 1 + Z_95**2 / count
    # Rounding may leave the share itself out, where every image or none is right.
    return max(0.0, min(share, (centre - width) / scale)), min(1.0, max(share, (centre + width) / scale))
