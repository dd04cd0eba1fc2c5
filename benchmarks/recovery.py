"""How long throughput stays down after kill -9 of each kind of process, while images keep coming.

Images are uploaded at a steady rate. Once results come as steadily, one process is killed. Throughput is back when
the results fall behind no further. The bars leave out the start of the new process, from when it is there until it is
ready, and, where the killed process held messages, their visibility timeout.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from benchmarks.report import Bar, Report
from benchmarks.running import ALWAYS_WARM, PATIENCE_SECONDS, WORKERS, running
from fleetsight_client.api import ApiClient, ApiError
from localcloud.machines.machine import Process, children_of
from scripts.chaos.strikes import workers
from scripts.demo_model.signs import samples
from scripts.run.system import System

SLICE: Final = 4
"""Images of one request."""

IMAGES_PER_SECOND: Final = 20.0
STEADY_SECONDS: Final = 4.0
"""Before each kill, for which the level of throughput is measured."""

SENDERS: Final = 64
"""Requests that may wait for an answer at once; those of twelve seconds."""

POLL_SECONDS: Final = 0.05
VISIBILITY_SECONDS: Final = 5
MAX_TIMEOUTS: Final = 1.0
"""Bar: beyond the start of the new process and the visibility timeout, in visibility timeouts."""
SETTINGS: Final = {
    **ALWAYS_WARM,
    "FLEETSIGHT__QUEUES__VISIBILITY_TIMEOUT_SECONDS": str(VISIBILITY_SECONDS),
    "FLEETSIGHT__CONTROLLER__LEASE_SECONDS": "2",
    # Every image is to reach a worker: the same pictures are sent again and again.
    "FLEETSIGHT__RETENTION__REPEAT_DAYS": "0",
}


@dataclass(frozen=True)
class Victim:
    """A kind of process.

    Attributes:
        processes: returns those that run now; the first is killed.
        logs: pattern of their logs, in the folder of the system.
        ready: text that a process logs when it does its work; None if it does at once.
        holds_messages: whether messages that it has received come again after their visibility timeout.
    """

    name: str
    processes: Callable[[System], Sequence[Process]]
    logs: str = ""
    ready: str | None = None
    holds_messages: bool = False

    def ready_count(self, system: System) -> int:
        """Return how often such a process has become ready so far."""
        return sum(log.read_text().count(self.ready) for log in system.state_dir.glob(self.logs)) if self.ready else 0


def _service(name: str) -> Callable[[System], Sequence[Process]]:
    return lambda system: _alive([pid] if (pid := system.supervisor.pid(name)) is not None else [])


def _decoders(system: System) -> Sequence[Process]:
    zygotes = [zygote for worker in workers(system) for zygote in children_of(worker.pid)]
    return _alive(decoder for zygote in zygotes for decoder in children_of(zygote))


def _alive(pids: Iterable[int]) -> list[Process]:
    return [process for pid in pids if (process := Process.of(pid)) is not None]


VICTIMS: Final = (
    Victim("decoder", _decoders),
    Victim("worker", workers, "instances/*/console.log", '"started"', holds_messages=True),
    Victim("controller", _service("controller"), "logs/controller.log", "holds the lease", holds_messages=True),
    Victim("web", _service("web"), "logs/web.log", "Booting worker"),
)


@dataclass(frozen=True)
class MeasuredRecovery:
    """What followed a kill.

    Attributes:
        replaced_s: until another process was there.
        start_s: from then until that process was ready.
        down_s: from the kill until throughput was back.
        beyond_s: what of that neither the start nor a visibility timeout explains.
    """

    replaced_s: float
    start_s: float
    down_s: float
    beyond_s: float


def run(quick: bool) -> Report:
    """Kill each kind of process in turn, three times or, if `quick`, once; the slowest recovery counts."""
    figures: dict[str, float] = {"images_per_second": IMAGES_PER_SECOND, "visibility_timeout_s": VISIBILITY_SECONDS}
    bars, rounds = [], 1 if quick else 3
    with tempfile.TemporaryDirectory() as home, running(Path(home), SETTINGS) as bench:
        bench.wait_for_workers(WORKERS)
        with load(bench.api) as results:
            found = [(each, [recovery(bench.system, each, results) for _ in range(rounds)]) for each in VICTIMS]
    for victim, recoveries in found:
        slowest = max(recoveries, key=lambda each: (each.beyond_s, each.down_s))
        figures |= {
            f"{victim.name}_replaced_s": slowest.replaced_s,
            f"{victim.name}_start_s": slowest.start_s,
            f"{victim.name}_down_s": slowest.down_s,
        }
        beyond = "start and visibility timeout" if victim.holds_messages else "start"
        what = f"{victim.name} killed: time until throughput is back, beyond {beyond} ÷ visibility timeout"
        bars.append(Bar(what, slowest.beyond_s / VISIBILITY_SECONDS, at_most=MAX_TIMEOUTS))
    return Report("recovery", figures, tuple(bars))


@dataclass
class Results:
    """How many images were accepted so far, and when there were how many results, oldest first."""

    accepted: int = 0
    moments: list[tuple[float, int]] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def count(self) -> int:
        """How many results there are."""
        return self.moments[-1][1] if self.moments else 0

    def accept(self, images: int) -> None:
        """Count images that were accepted."""
        with self._turn:
            self.accepted += images

    def see(self, results: int) -> None:
        """Count results, now."""
        if results > self.count:
            self.moments.append((time.monotonic(), results))


def seconds_down(moments: Sequence[tuple[float, int]], killed_at: float, results: int, level: float) -> float:
    """Return the seconds from a kill until results come at the level before again; 0 if they never fell short.

    Results fall behind by at most what half a second brings without anything being wrong: batches and polls.

    Args:
        moments: when there were how many results, oldest first.
        killed_at: when the process was killed.
        results: how many there were then.
        level: results in a second before.
    """
    behind, before = [], results
    for moment, now in moments:
        if moment > killed_at:
            behind.append((moment - killed_at, level * (moment - killed_at) - (before - results)))
            before = now
    furthest = max((lack for _, lack in behind), default=0.0)
    usual = level / 2
    return next((seconds for seconds, lack in behind if lack >= furthest - usual), 0.0) if furthest > usual else 0.0


def recovery(system: System, victim: Victim, results: Results) -> MeasuredRecovery:
    """Kill one process of a kind while results come steadily; return what followed.

    Raises:
        TimeoutError: the system was not steady before, or not again, within `PATIENCE_SECONDS`.
    """
    _await(lambda: results.accepted - results.count < IMAGES_PER_SECOND, "results are steady")
    began, had = time.monotonic(), results.count
    time.sleep(STEADY_SECONDS)
    before, ready = victim.processes(system), victim.ready_count(system)
    killed_at, had_before, had = time.monotonic(), had, results.count
    level = (had - had_before) / (killed_at - began)
    os.kill(before[0].pid, signal.SIGKILL)
    _await(lambda: set(victim.processes(system)) - set(before), f"another {victim.name} is running")
    replaced_at = ready_at = time.monotonic()
    if victim.ready is not None:
        _await(lambda: victim.ready_count(system) > ready, f"the new {victim.name} is ready")
        ready_at = time.monotonic()
    due = had + level * (ready_at - killed_at + VISIBILITY_SECONDS)
    _await(lambda: results.count >= due, "results have caught up")
    down = seconds_down(list(results.moments), killed_at, had, level)
    explained = ready_at - replaced_at + (VISIBILITY_SECONDS if victim.holds_messages else 0.0)
    return MeasuredRecovery(
        replaced_at - killed_at, ready_at - replaced_at, down, beyond_s=max(0.0, down - explained)
    )


@contextmanager
def load(api: ApiClient) -> Iterator[Results]:
    """Upload images at a steady rate, also while the system is down; yield the results as they come."""
    results, over = Results(), threading.Event()
    pictures = [sample.data for sample in samples(200, seed=1, sizes=(((64, 64), 1.0),))]
    job_id = api.create_job("recovery")

    def send(number: int) -> None:
        files = [(f"{each}.jpg", pictures[each % len(pictures)]) for each in range(number, number + SLICE)]
        while not over.wait(POLL_SECONDS):
            with suppress(ApiError):  # repeated under its key, until it is answered
                results.accept(len(api.add_images(job_id, files, key=f"slice-{number}").accepted))
                return

    def send_all() -> None:
        due = time.monotonic()
        with ThreadPoolExecutor(SENDERS) as senders:
            for number in count(0, SLICE):
                due += SLICE / IMAGES_PER_SECOND
                if over.wait(max(0.0, due - time.monotonic())):
                    return
                senders.submit(send, number)

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            with suppress(ApiError):
                results.see(int(api.status(job_id)["done"]))

    threads = [threading.Thread(target=target, daemon=True) for target in (send_all, watch)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _await(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(POLL_SECONDS / 5)
