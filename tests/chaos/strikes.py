"""The strikes of a campaign: kill -9, freeze, no memory, or disk full, at moments that a seed determines.

All strikes except kill -9 end after some seconds, as real shortages do.

**Disk full** is a file size limit of 0 (RLIMIT_FSIZE) for a process and its descendants: every write to a file fails,
while those of other processes do not, and no root is needed. The error is EFBIG where a full disk has ENOSPC. Python
ignores the signal SIGXFSZ, which would end the process.
"""

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

from localcloud.machines.machine import Machine, Process
from scripts.run.system import System
from tests.support.processes import children_of

Victim = Literal["worker", "decoder", "controller", "web", "hypervisor"]
Action = Literal["kill", "freeze", "no_memory", "disk_full"]
VICTIMS: Final[dict[Victim, int]] = {"worker": 8, "decoder": 3, "controller": 3, "web": 2, "hypervisor": 1}
"""Relative frequency of each kind of process."""

ACTIONS: Final[dict[Action, int]] = {"kill": 8, "freeze": 2, "no_memory": 1, "disk_full": 1}
SPARED: Final[dict[Action, frozenset[Victim]]] = {
    "no_memory": frozenset({"hypervisor"}),
    "disk_full": frozenset({"hypervisor", "decoder"}),
}
"""The kinds of processes that an action spares. Decoders cannot write to files. On AWS the hypervisor is not ours;
without memory, its `Thread.start` may wait for ever for a thread that could not start.
"""

MAX_SECONDS: Final = 8.0
"""The longest strike: longer than the lease of a controller and the visibility timeout in a campaign."""


@dataclass(frozen=True)
class Strike:
    """A strike against a process.

    Attributes:
        after_seconds: since the previous strike.
        place: selects one of the processes of this kind, 0 to 1.
        lasts_seconds: how long the process is frozen, or has no memory or no disk; a killed one stays dead.
    """

    after_seconds: float
    victim: Victim
    action: Action
    place: float
    lasts_seconds: float


def strikes(seed: int, every_seconds: float) -> Iterator[Strike]:
    """Yield strikes without end, on average one every so many seconds; the seed determines them."""
    draw = Random(seed)  # nosec B311 # reproducible by its seed
    while True:
        action = draw.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        victims = {victim: share for victim, share in VICTIMS.items() if victim not in SPARED.get(action, ())}
        yield Strike(
            after_seconds=draw.uniform(0.0, 2 * every_seconds),
            victim=draw.choices(list(victims), list(victims.values()))[0],
            action=action,
            place=draw.random(),
            lasts_seconds=draw.uniform(0.5, MAX_SECONDS),
        )


class Striker(threading.Thread):
    """Executes and logs strikes until it is stopped.

    Args:
        system: the system under test.
        seed: of the strikes.
        every_seconds: the average time between two strikes.
        log: receives the fields of a JSON line about each strike.

    Attributes:
        moments: of the strikes, in seconds of the wall clock.
        kills: the number of strikes by kill -9.
    """

    def __init__(
        self, system: System, seed: int, every_seconds: float, log: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__(name="strikes", daemon=True)
        self._system, self._strikes, self._log = system, strikes(seed, every_seconds), log
        self._stopped = threading.Event()
        self._lasting: list[tuple[float, Process, Callable[[], None]]] = []
        self.moments: list[float] = []
        self.kills = 0

    def run(self) -> None:
        """Strike until stopped; then end all lasting strikes."""
        for strike in self._strikes:
            ends = time.monotonic() + strike.after_seconds
            while not self._stopped.wait(min(0.1, max(0.0, ends - time.monotonic()))) and time.monotonic() < ends:
                self._end_lasting(time.monotonic())
            if self._stopped.is_set():
                break
            self._strike(strike)
        self._end_lasting(float("inf"))

    def stop(self) -> None:
        """Stop striking."""
        self._stopped.set()
        self.join()

    def _strike(self, strike: Strike) -> None:
        if strike.victim in {"worker", "decoder"}:
            pids = [worker.pid for worker in workers(self._system)]
            if strike.victim == "decoder":
                pids = sorted(pid for each in pids for pid in descendants(each))
        else:
            first = self._system.supervisor.pid(strike.victim)
            pids = [] if first is None else [first, *descendants(first)]
        process = Process.with_pid(pids[int(strike.place * len(pids))]) if pids else None
        if process is None:
            return
        with contextlib.suppress(OSError):  # the process has just ended
            self._do(strike, process)
            self.moments.append(time.time())
            self._log({"event": "strike", "pid": process.pid, **asdict(strike)})

    def _do(self, strike: Strike, process: Process) -> None:
        pid = process.pid
        match strike.action:
            case "kill":
                os.kill(pid, signal.SIGKILL)
                self.kills += 1
            case "freeze":
                self._later(strike, process, lambda: os.kill(pid, signal.SIGCONT))
                os.kill(pid, signal.SIGSTOP)
            case "no_memory":
                self._later(strike, process, lambda: _lift_limit(pid, resource.RLIMIT_AS))
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])  # of its present address space
                _limit(pid, resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE"))
            case "disk_full":
                self._later(strike, process, lambda: _lift_limit(pid, resource.RLIMIT_FSIZE))
                for each in (pid, *descendants(pid)):
                    _limit(each, resource.RLIMIT_FSIZE, 0)

    def _later(self, strike: Strike, process: Process, end: Callable[[], None]) -> None:
        self._lasting.append((time.monotonic() + strike.lasts_seconds, process, end))

    def _end_lasting(self, now: float) -> None:
        due = [(process, end) for until, process, end in self._lasting if until <= now]
        self._lasting = [each for each in self._lasting if each[0] > now]
        for process, end in due:
            with contextlib.suppress(OSError):  # the process has just ended
                if process.alive():
                    end()


def workers(system: System) -> list[Process]:
    """Return the running processes of the instances; ids of ended ones may belong to other processes."""
    machines = (Machine(path) for path in (system.state_dir / "instances").glob("*"))
    found = (machine.process() for machine in machines)
    return sorted((each for each in found if each is not None and each.alive()), key=lambda each: each.pid)


def descendants(pid: int) -> list[int]:
    """Return the ids of all descendants of a process, in order."""
    children = children_of(pid)
    return sorted([*children, *(each for child in children for each in descendants(child))])


def _limit(pid: int, kind: int, maximum: int) -> None:
    resource.prlimit(pid, kind, (maximum, resource.prlimit(pid, kind)[1]))


def _lift_limit(pid: int, kind: int) -> None:
    """Lift a limit of a process and its descendants as far as possible."""
    for each in (pid, *descendants(pid)):
        _limit(each, kind, resource.prlimit(each, kind)[1])
