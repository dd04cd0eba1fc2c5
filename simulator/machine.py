"""The machines that are rented: how long they take to boot, and what is billed for them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

NEVER: Final = math.inf


@dataclass(frozen=True, slots=True)
class Machine:
    """A make of instance. All times in seconds.

    Attributes:
        pending_seconds: from the launch to `running`; not billed.
        init_seconds: from `running` to the first receive, as a rule; billed.
        slow_share: of all boots, those that take `slow_boot_seconds` in all.
        never_share: of all boots, those that never report.
        minimum_seconds: billed at least for each start (Linux on EC2: 60 s).
        boot_allowance_seconds: a machine that has not reported by then is ended, under each policy.
    """

    pending_seconds: float = 17.0
    init_seconds: float = 25.0
    slow_share: float = 0.05
    slow_boot_seconds: float = 80.0
    never_share: float = 0.02
    minimum_seconds: float = 60.0
    boot_allowance_seconds: float = 120.0

    @classmethod
    def booting_in(cls, seconds: float) -> "Machine":
        """Return an instance that boots in so long as a rule, its parts and its tail in proportion to the usual."""
        usual = cls()
        scale = seconds / usual.boot_seconds
        return cls(
            pending_seconds=usual.pending_seconds * scale,
            init_seconds=usual.init_seconds * scale,
            slow_boot_seconds=usual.slow_boot_seconds * scale,
            boot_allowance_seconds=max(usual.boot_allowance_seconds, 2.5 * seconds),
        )

    @property
    def boot_seconds(self) -> float:
        """From the launch to the first receive, as a rule."""
        return self.pending_seconds + self.init_seconds

    def boots(self, seed: int) -> Iterator[float]:
        """Yield the seconds that one boot after the other takes, `NEVER` for those that do not report."""
        luck = np.random.default_rng((seed, 1))
        while True:
            for chance in luck.random(256).tolist():
                yield self._boot(chance)

    def _boot(self, chance: float) -> float:
        if chance < self.never_share:
            return NEVER
        return self.slow_boot_seconds if chance < self.never_share + self.slow_share else self.boot_seconds

    def billed(self, launched_at: float, ended_at: float) -> int:
        """Return the seconds billed: whole ones from `running` to the end, at least the minimum; 0 if it never ran.

        Source: EC2 bills Linux instances per second from `running`, with a minimum of 60 s for each start
        (https://aws.amazon.com/ec2/pricing/on-demand/).
        """
        ran = ended_at - launched_at - self.pending_seconds
        # A sum of floats may exceed a whole number of seconds by a rounding error.
        return math.ceil(max(self.minimum_seconds, ran - 1e-6)) if ran > 0 else 0


USUAL: Final = Machine()
"""An instance of which one boot in twenty is slow and one in fifty never ends."""

CERTAIN: Final = Machine(slow_share=0.0, never_share=0.0)
"""The same without bad luck: each boot takes 42 s."""
