"""The machines and workers of a simulated fleet: boots, idleness, draining, and what is billed for them."""

import heapq
import math
import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from simulator.policy import WorkerView

NEVER: Final = math.inf


@dataclass(frozen=True, slots=True)
class InstanceProfile:
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
    def booting_in(cls, seconds: float) -> "InstanceProfile":
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
                if chance < self.never_share:
                    yield NEVER
                else:
                    is_slow = chance < self.never_share + self.slow_share
                    yield self.slow_boot_seconds if is_slow else self.boot_seconds

    def billed(self, launched_at: float, ended_at: float) -> int:
        """Return the seconds billed: whole ones from `running` to the end, at least the minimum; 0 if it never ran.

        Source: EC2 bills Linux instances per second from `running`, with a minimum of 60 s for each start
        (https://aws.amazon.com/ec2/pricing/on-demand/).
        """
        ran = ended_at - launched_at - self.pending_seconds
        # A sum of floats may exceed a whole number of seconds by a rounding error.
        return math.ceil(max(self.minimum_seconds, ran - 1e-6)) if ran > 0 else 0


USUAL: Final = InstanceProfile()
"""An instance of which one boot in twenty is slow and one in fifty never ends."""

CERTAIN: Final = InstanceProfile(slow_share=0.0, never_share=0.0)
"""The same without bad luck: each boot takes 42 s."""

BOOTS_KEPT: Final = 20
"""Of so many boots, the latest, the median counts as measured, as in the product's own `BootTimeEstimator`."""


class Crew:
    """Every worker that has not ended.

    Attributes:
        free: heap of (when it is free, number) of those that receive or will, the longest free one first. A booting
            worker is one that is free when its boot ends; the code that hands out an image puts the time of its end
        there.
        workers: all of them, oldest first.
        changes: grows with every launch, end, begin of draining and change to `running`.
        boot_seconds: the median of the latest boots; None before the first.
        launched: how many have been launched, prepared ones among them.
        billed_seconds: of those that have ended.
        peak: most at once.
    """

    def __init__(self, machine: InstanceProfile, idle_seconds: float, seed: int) -> None:
        self._machine, self._idle_seconds = machine, idle_seconds
        self._boots = machine.boots(seed)
        self.free: list[tuple[float, int]] = []
        self.changes = self.launched = self.billed_seconds = self.peak = 0
        self.boot_seconds: float | None = None
        self._there: dict[int, WorkerView] = {}
        self._booting: list[tuple[float, int]] = []
        self._leaving: list[tuple[float, int]] = []
        self._silent: deque[tuple[float, int]] = deque()
        self._not_running: deque[float] = deque()
        self._booted: deque[float] = deque(maxlen=BOOTS_KEPT)
        self._workers: tuple[WorkerView, ...] = ()
        self._seen_changes = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._there)

    @property
    def workers(self) -> tuple[WorkerView, ...]:
        """All that have not ended, oldest first; the same tuple as long as nothing has changed."""
        if self.changes != self._seen_changes:
            self._workers, self._seen_changes = tuple(self._there.values()), self.changes
        return self._workers

    @property
    def receiving(self) -> int:
        """How many receive."""
        return len(self.free) - len(self._booting)

    def busy(self, now: float) -> int:
        """Return how many have an image in flight; `settle` comes first."""
        return sum(at > now for at, _ in self.free) - len(self._booting) + len(self._leaving)

    def idle(self, now: float) -> frozenset[str]:
        """Return the names of those that receive and have no image in flight; `settle` comes first."""
        return frozenset(self._there[number].name for at, number in self.free if at <= now)

    def prepare(self, count: int) -> None:
        """Have workers that are ready at second 0, their boots behind them."""
        for _ in range(count):
            self._launch(-self._machine.boot_seconds, self._machine.boot_seconds)

    def launch(self, count: int, now: float) -> None:
        """Launch workers, each with the boot that it is lucky or unlucky enough to have."""
        for _ in range(count):
            self._launch(now, next(self._boots))

    def settle(self, now: float) -> None:
        """Let everything that was due by `now` take place: `running`, booted, idled out, drained, given up."""
        while self._not_running and self._not_running[0] <= now:
            self._not_running.popleft()
            self.changes += 1
        if booted := [number for ready_at, number in self._booting if ready_at <= now]:
            self._booting = [each for each in self._booting if each[0] > now]
            # A worker that has idled out within the same interval has ended already.
            workers = [self._there[number] for number in booted if number in self._there]
            self._booted.extend(each.ready_at - each.launched_at for each in workers)
            self.boot_seconds = statistics.median(self._booted) if self._booted else None
        while self.free and self.free[0][0] + self._idle_seconds <= now:
            self.end_idle()
        for at, number in [each for each in self._leaving if each[0] <= now]:
            self._leaving.remove((at, number))
            self._end(number, at)
        while self._silent and self._silent[0][0] <= now:
            at, number = self._silent.popleft()
            if number in self._there:  # else it was drained before
                self._end(number, at)

    def end_idle(self) -> None:
        """End the one that has been free longest, at the moment when that was too long; a protected one stays."""
        since, number = heapq.heappop(self.free)
        if self._there[number].protected:
            heapq.heappush(self.free, (since + self._idle_seconds, number))
        else:
            self._end(number, since + self._idle_seconds)

    def set_protection(self, protect: frozenset[str], unprotect: frozenset[str]) -> None:
        """Protect the named workers, so that they stay when they are idle, or no longer."""
        for each in self._there.values():
            each.protected = (each.protected or each.name in protect) and each.name not in unprotect

    def drain(self, names: frozenset[str], now: float) -> None:
        """Let the named ones finish what they have in flight; who has nothing ends now."""
        chosen = {number for number, each in self._there.items() if each.name in names and not each.draining}
        booting = {number for _, number in self._booting}
        in_hand = {number: at for at, number in self.free if number in chosen - booting and at > now}
        self.free[:] = [each for each in self.free if each[1] not in chosen]
        heapq.heapify(self.free)
        self._booting = [each for each in self._booting if each[1] not in chosen]
        for number in sorted(chosen):
            self._there[number].draining = True
            self.changes += 1
            if number in in_hand:
                self._leaving.append((in_hand[number], number))
            else:
                self._end(number, now)

    def end_all(self, now: float) -> None:
        """End everyone."""
        for number in list(self._there):
            self._end(number, now)
        self.free.clear()
        self._booting.clear()

    def _launch(self, at: float, boot_seconds: float) -> None:
        number = self.launched
        self.launched += 1
        running_at, ready_at = at + self._machine.pending_seconds, at + boot_seconds
        self._there[number] = WorkerView(f"i-{number:08x}", at, running_at, ready_at)
        self._not_running.append(running_at)
        if ready_at == NEVER:
            self._silent.append((at + self._machine.boot_allowance_seconds, number))
        else:
            heapq.heappush(self.free, (ready_at, number))
            self._booting.append((ready_at, number))
        self.peak = max(self.peak, len(self._there))
        self.changes += 1

    def _end(self, number: int, at: float) -> None:
        self.billed_seconds += self._machine.billed(self._there.pop(number).launched_at, at)
        self.changes += 1
