"""Leader election: the controller that holds the lease runs the loops; any others stand by.

The main thread does nothing but renew the lease, so no slow round of a loop can lose it. Every loop asks `lease.held`
before it acts, which turns false by itself when a renewal is late. Then the loops wait. If the renewal succeeds after
all, no other controller has acted meanwhile, and they go on. If they began anew each time, a machine that is too busy
to renew in time would never finish their work.

| State   | Event                                         | Next    | Action                                     |
|---------|-----------------------------------------------|---------|--------------------------------------------|
| standby | the lease is acquired                         | leading | start the loops                            |
| leading | a renewal is late                             | leading | the loops wait for it                      |
| leading | another contender has taken the lease         | standby | stop the loops; exit with 1 if they hang   |
| leading | a loop has died                               | (exit)  | exit with 1; the supervisor restarts it    |
| leading | SIGTERM or SIGINT                             | (exit)  | stop the loops, release the lease          |
| standby | SIGTERM or SIGINT                             | (exit)  |                                            |
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from botocore.exceptions import BotoCoreError, ClientError
from prometheus_client import Counter

from services.backoff import Backoff
from services.lease import Lease, Tenure
from services.threads import DaemonThread

_log = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 10.0

MAX_STOP_SECONDS = 5.0
"""Time in which all loops must end their present round when the process is asked to stop."""

MAX_HANG_SECONDS = 45
"""Time in which all loops must end their present round after the lease was lost, in whole seconds: longer than all
attempts of a call, since a service that does not answer for a while is why a lease is lost. They act no more."""


LATE_RENEWAL_CHECK_SECONDS = 0.05
"""Time between two looks of a loop at the lease while a renewal is late."""


class LoopWork(Protocol):
    """What a loop does."""

    def tick(self) -> float:
        """Do one round; return the seconds until the next."""


@dataclass(frozen=True)
class Loop:
    """A loop of the controller.

    Attributes:
        every: time between two rounds.
        reads, writes: what a round needs, and what it changes.
        on_failure: what follows from a failed round, which is tried again after a backoff.
    """

    name: str
    work: LoopWork
    every: str
    reads: str
    writes: str
    on_failure: str


def run_loop(
    loop: Loop,
    tenure: Tenure,
    wait: Callable[[float], object],
    failures: Counter,
    backoff: Backoff | None = None,
) -> None:
    """Run rounds of the loop in its tenure; log and count every exception, and try again after a backoff.

    A loop survives exceptions, since one refused call must not end the fleet's only controller.
    """
    backoff = backoff or Backoff(max_seconds=MAX_BACKOFF_SECONDS)
    while tenure.active():
        try:
            pause = loop.work.tick()
        except Exception:  # noqa: BLE001 (the edge of the loop)
            pause = backoff.after_failure()
            failures.labels(loop.name).inc()
            extra = {"loop": loop.name, "next_try_seconds": round(pause, 2)}
            _log.warning("a round of the loop failed", extra=extra, exc_info=True)
        else:
            backoff.reset()
        wait(pause)


class LoopGroup:
    """The loops of one tenure, each in its own thread, from `start` until `stop` or until the lease is not held.

    Args:
        lease: is held.
        new_loops: returns the loops of a tenure, which remember nothing of an earlier one.
        failures: counts failed rounds by the name of their loop.
    """

    def __init__(self, lease: Lease, new_loops: Callable[[Tenure], Sequence[Loop]], failures: Counter) -> None:
        self._lease = lease
        self._stopped = threading.Event()
        tenure = Tenure(lease.holder, lease.token, self.active)
        self._threads = [
            # Daemons, so that a call that hangs cannot keep a process alive that must stop.
            DaemonThread(run_loop, loop, tenure, self._stopped.wait, failures, name=loop.name)
            for loop in new_loops(tenure)
        ]
        for thread in self._threads:
            failures.labels(thread.name)  # begins at 0

    @property
    def is_stopped(self) -> bool:
        """Whether the loops must not act any more: they were stopped, or another contender has taken the lease."""
        return self._stopped.is_set()

    def active(self) -> bool:
        """Return whether the loops may act; wait while a renewal is late. Once they may not, they never may again."""
        while not (self._lease.held or self.is_stopped):
            if self._lease.is_last_holder:
                self._stopped.wait(LATE_RENEWAL_CHECK_SECONDS)
            else:
                self._stopped.set()
        return not self.is_stopped

    def start(self) -> None:
        """Start every loop."""
        for thread in self._threads:
            thread.start()

    def dead(self) -> list[str]:
        """Return the names of loops that have ended although they should run."""
        return [thread.name for thread in self._threads if not (self.is_stopped or thread.is_alive())]

    def stop(self, within_seconds: float = MAX_STOP_SECONDS) -> bool:
        """Stop every loop after its present round; return whether all have ended."""
        self._stopped.set()
        deadline = time.monotonic() + within_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def run_elected(lease: Lease, new_loops: Callable[[], LoopGroup], wait: Callable[[float], bool]) -> int:
    """Contend for the lease until the process must stop, and run the loops while it is held.

    Args:
        lease: renewed every third of its length.
        new_loops: returns the loops of a new tenure.
        wait: waits for so many seconds; returns True if the process must stop.

    Returns:
        The exit status: 0 after a signal to stop, 1 if a loop has died or does not end.
    """
    loops: LoopGroup | None = None
    while True:
        try:
            lease.take_or_renew()
        except (BotoCoreError, ClientError) as error:
            _log.warning("the lease could not be renewed or taken", extra={"error": str(error)})
        if loops is not None and (loops.is_stopped or not lease.is_last_holder):
            _log.warning("the lease was lost: this controller stops acting")
            if (status := _end_tenure(loops, wait)) is not None:
                return status
            loops = None
        if loops is None and lease.held:
            _log.info("this controller holds the lease and acts")
            loops = new_loops()
            loops.start()
        if loops is not None and (dead := loops.dead()):
            return _exit_fatal(f"the loops {', '.join(dead)} have died")
        if wait(lease.length_seconds / 3):
            return 0 if loops is None else _hand_over(lease, loops)


def _end_tenure(loops: LoopGroup, wait: Callable[[float], bool]) -> int | None:
    """Wait until the loops of a lost tenure have ended; return the exit status if the process must end before."""
    for _ in range(MAX_HANG_SECONDS):
        if loops.stop(1.0):
            return None
        if wait(0.0):
            return 0
    return _exit_fatal("the loops did not end after the lease was lost")


def _hand_over(lease: Lease, loops: LoopGroup) -> int:
    if not loops.stop():
        # Not released: the loops may still act, so a standby must wait until the lease has expired.
        return _exit_fatal("the loops did not end in time")
    try:
        lease.release()
    except (BotoCoreError, ClientError) as error:
        _log.warning("the lease could not be released and expires by itself", extra={"error": str(error)})
    return 0


def _exit_fatal(reason: str) -> int:
    _log.critical("%s: this process ends, and its supervisor starts a new one", reason)
    return 1
