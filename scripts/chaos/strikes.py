"""What a campaign does to processes: kill -9, freeze, and take away memory, at moments that a seed decides."""

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

from scripts.run.system import System
from services.embedded.machines.machine import Machine, children_of

Victim = Literal["worker", "decoder", "controller", "web", "hypervisor"]
Action = Literal["kill", "freeze", "no_memory"]

VICTIMS: Final[dict[Victim, int]] = {"worker": 8, "decoder": 3, "controller": 3, "web": 2, "hypervisor": 1}
"""How often each kind of process is chosen, relative to the others."""

ACTIONS: Final[dict[Action, int]] = {"kill": 8, "freeze": 2, "no_memory": 1}
MAX_FREEZE_SECONDS: Final = 8.0
"""Longer than the lease of a controller and the visibility timeout of a message in a campaign."""


@dataclass(frozen=True)
class Strike:
    """One thing that is done to one process.

    Attributes:
        after_seconds: since the strike before.
        place: which of the processes of that kind, 0 to 1.
        freeze_seconds: how long a frozen process stands still.
    """

    after_seconds: float
    victim: Victim
    action: Action
    place: float
    freeze_seconds: float


def strikes(seed: int, every_seconds: float) -> Iterator[Strike]:
    """Yield strikes without end, on average one every so many seconds; the same ones for the same seed."""
    draw = Random(seed)  # noqa: S311 # nosec B311 # played again by its seed
    while True:
        yield Strike(
            after_seconds=draw.uniform(0.0, 2 * every_seconds),
            victim=draw.choices(list(VICTIMS), list(VICTIMS.values()))[0],
            action=draw.choices(list(ACTIONS), list(ACTIONS.values()))[0],
            place=draw.random(),
            freeze_seconds=draw.uniform(0.5, MAX_FREEZE_SECONDS),
        )


class Striker(threading.Thread):
    """Carries strikes out until it is stopped, and logs each.

    Args:
        system: the system under test.
        seed: of the strikes.
        every_seconds: between two strikes, on average.
        log: takes what was done, as the fields of a JSON line.

    Attributes:
        moments: when something was struck, in monotonic seconds.
    """

    def __init__(
        self, system: System, seed: int, every_seconds: float, log: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__(name="strikes", daemon=True)
        self._system, self._strikes, self._log = system, strikes(seed, every_seconds), log
        self._stopped = threading.Event()
        self._frozen: dict[int, float] = {}
        self.moments: list[float] = []

    def run(self) -> None:
        """Strike until stopped; then let every frozen process go on."""
        for strike in self._strikes:
            ends = time.monotonic() + strike.after_seconds
            while not self._stopped.wait(min(0.1, max(0.0, ends - time.monotonic()))) and time.monotonic() < ends:
                self._thaw(time.monotonic())
            if self._stopped.is_set():
                break
            self._strike(strike)
        self._thaw(float("inf"))

    def stop(self) -> None:
        """End the strikes."""
        self._stopped.set()
        self.join()

    def _strike(self, strike: Strike) -> None:
        pids = self._pids(strike.victim)
        if not pids:
            return
        pid = pids[int(strike.place * len(pids))]
        with contextlib.suppress(OSError):  # it has ended in this moment
            self._do(strike, pid)
            self.moments.append(time.monotonic())
            self._log({"event": "strike", "pid": pid, **asdict(strike)})

    def _do(self, strike: Strike, pid: int) -> None:
        match strike.action:
            case "kill":
                os.kill(pid, signal.SIGKILL)
            case "freeze":
                os.kill(pid, signal.SIGSTOP)
                self._frozen[pid] = time.monotonic() + strike.freeze_seconds
            case "no_memory":
                _, most = resource.prlimit(pid, resource.RLIMIT_AS)
                resource.prlimit(pid, resource.RLIMIT_AS, (_address_space(pid), most))

    def _thaw(self, now: float) -> None:
        for pid in [pid for pid, until in self._frozen.items() if until <= now]:
            del self._frozen[pid]
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)

    def _pids(self, victim: Victim) -> list[int]:
        """Return the processes of a kind, in order."""
        if victim in {"worker", "decoder"}:
            workers = self._workers()
            return workers if victim == "worker" else sorted(pid for each in workers for pid in descendants(each))
        first = self._system.supervisor.pid(victim)
        return [] if first is None else [first, *descendants(first)]

    def _workers(self) -> list[int]:
        """Return the processes of the instances, but for those that have ended: their numbers may be others' now."""
        machines = (Machine(path) for path in (self._system.state_dir / "instances").glob("*"))
        found = (machine.process() for machine in machines)
        return sorted(process.pid for process in found if process is not None and process.alive())


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have, in order."""
    children = children_of(pid)
    return sorted([*children, *(each for child in children for each in descendants(child))])


def _address_space(pid: int) -> int:
    """Return the bytes of address space that a process has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")
