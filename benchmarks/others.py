"""How much of the machine other work took during a measurement: torch suffers more from it than OpenVINO does."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TRUSTED: Final = 0.05
"""Share of the CPUs that others may take before ratios of two-thread runs mean little."""

_IDLE_COLUMNS: Final = (3, 4)  # idle and iowait, in the first line of /proc/stat


@dataclass
class Share:
    """What others took.

    Attributes:
        ratio: their share of all CPUs while it was watched, 0 to 1.
    """

    ratio: float = 0.0

    @property
    def trusted(self) -> bool:
        """Whether the machine was ours."""
        return self.ratio <= TRUSTED


@contextmanager
def watch_others(stat: Path = Path("/proc/stat")) -> Iterator[Share]:
    """Yield a share that is known once the block has ended."""
    share = Share()
    busy, own, started = _busy_seconds(stat), time.process_time(), time.perf_counter()
    yield share
    took = (_busy_seconds(stat) - busy) - (time.process_time() - own)
    share.ratio = max(0.0, took / (time.perf_counter() - started) / (os.cpu_count() or 1))


def _busy_seconds(stat: Path) -> float:
    ticks = [int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - sum(ticks[column] for column in _IDLE_COLUMNS)) / os.sysconf("SC_CLK_TCK")
