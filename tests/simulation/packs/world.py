"""Everything at one moment: services, processes and time. Turns and faults are those of `data_path`."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final

from services.table import CLOUD_ERRORS
from tests.simulation.data_path.faults import READS, Fault, Faults
from tests.simulation.data_path.scheduler import Process, Scheduler
from tests.simulation.packs.checks import Checks
from tests.simulation.packs.clients import Clients
from tests.simulation.packs.controller import Controller
from tests.simulation.packs.machine import Machine
from tests.simulation.packs.rules import ALL, Guard
from tests.simulation.packs.services import Bucket, Queue, RefusedError, Table
from tests.simulation.packs.store import Cloud, UnansweredError
from tests.simulation.packs.worker import Worker

WORKERS: Final = 2
REDRIVE: Final = 20
"""Receives after which a request is a dead letter; 100 in the product."""
MAX_SETTLE_ROUNDS: Final = 300
DAYS: Final = 5
"""Once all is answered so many days pass, in rounds of half a day."""
MAX_STANDSTILL_SECONDS: Final = 2 * 86_400.0
"""A machine of the web tier that stands still for longer does not go on: no sweep finds what it stores then."""


@dataclass
class WriteFaults(Faults):
    """Faults of which one may befall the write with a number, counted over all processes of a kind."""

    at_write: tuple[str, int, Fault] | None = None
    writes: Counter[str] = field(default_factory=Counter)

    def _draw(self, process: Process, service: str, operation: str) -> Fault | None:
        if operation not in READS:
            self.writes[process.kind] += 1
            if self.at_write and self.at_write[:2] == (process.kind, self.writes[process.kind]):
                return self.at_write[2]
        return super()._draw(process, service, operation)


class World:
    """The whole system and its clients.

    Args:
        seed: of all that is random.
        off: the guard that is taken out.

    Attributes:
        in_turn: the image that each worker classifies.
        deaths: workers that an image ended which spares the machine.
        children: those that an image ended, or in which it hung.
        interrupted: workers that ended or stood still while they classified an image.
        last_reading: when each job was read to close it, as a number of calls.
    """

    def __init__(self, seed: int, off: Guard | None = None) -> None:
        self.scheduler = Scheduler(Random(seed + 1))
        self.faults = WriteFaults(
            self.scheduler, Random(seed + 2), self.kill, self.freeze, lambda process: None, lambda call, result: None
        )
        hook, clock, random = self.faults.hook, self.scheduler.clock, Random(seed)
        has_kms = random.random() < 0.5
        letters = Queue(hook("letters"), clock, random)
        self.cloud = Cloud(
            table=Table(hook("table"), clock),
            inputs=Bucket(hook("inputs"), clock, has_kms),
            outputs=Bucket(hook("outputs"), clock, has_kms),
            sources=Bucket(hook("sources"), clock, has_kms),
            requests=Queue(hook("requests"), clock, random, letters, REDRIVE),
            responses=Queue(hook("responses"), clock, random),
            letters=letters,
            clock=clock,
            random=random,
            guards=ALL - {off},
        )
        self.is_paused = False
        self.processes: dict[Process, Any] = {}
        self.frozen: dict[Process, float] = {}
        self.started: Counter[str] = Counter()
        self.in_turn: dict[Process, tuple[str, int]] = {}
        self.deaths, self.children, self.interrupted = (Counter[tuple[str, int]]() for _ in range(3))
        self.failed_workers = self.kills = self.freezes = 0
        self.last_reading: dict[str, int] = {}
        self.clients, self.checks = Clients(self), Checks(self)
        self._fill()

    # Processes

    def kill(self, process: Process) -> None:
        """End a process, as kill -9 does."""
        self.kills += 1
        self._interrupt(process)
        self._forget(process)
        self.scheduler.kill(process)

    def freeze(self, process: Process) -> None:
        """Stop a process, as SIGSTOP does; another one takes its place."""
        self.freezes += 1
        self._interrupt(process)
        process.frozen = True
        self.frozen[process] = self.scheduler.now

    def thaw(self, count: int | None = None) -> None:
        """Resume the frozen processes, or so many that were frozen first."""
        for process in list(self.frozen)[:count]:
            process.frozen = False
            if self.scheduler.now - self.frozen.pop(process) > MAX_STANDSTILL_SECONDS and process.kind == "web":
                self.kill(process)

    def _interrupt(self, process: Process) -> None:
        if (image := self.in_turn.pop(process, None)) is not None:
            self.interrupted[image] += 1

    def _forget(self, process: Process) -> None:
        self.processes.pop(process, None)
        self.frozen.pop(process, None)
        if process.kind == "worker":
            self.cloud.ended.add(process.name)

    def running(self, kind: str) -> list[Process]:
        """Return the processes of a kind that are at work."""
        return [process for process in self.processes if process.kind == kind and not process.frozen]

    def _fill(self) -> None:
        """Start the processes that there should be."""
        if not self.running("controller"):
            self._start_controller()
        while len(self.running("worker")) < WORKERS and not self.is_paused:
            self._start_worker()

    def _process(self, kind: str) -> Process:
        self.started[kind] += 1
        return Process(f"{kind} {self.started[kind]}", kind)

    def _start_worker(self) -> None:
        process = self._process("worker")
        machine = self.processes[process] = Machine(self, process)
        worker = Worker(self.cloud, machine, process.name)

        def run() -> None:
            while not machine.is_draining:
                self._try(worker.tick)
            self._forget(process)

        self.scheduler.spawn(process, process.name, run)

    def _start_controller(self) -> None:
        process = self._process("controller")
        controller = Controller(self.cloud, lambda job: self.last_reading.update({job: self.scheduler.calls}))
        self.processes[process] = controller

        def run(tick: Callable[[], float]) -> None:
            while self._try(tick):
                pass
            self._forget(process)
            process.alive = False

        def begin() -> None:
            with suppress(RefusedError, *CLOUD_ERRORS):
                controller.begin()
            for tick in (controller.collect, controller.reconcile):
                self.scheduler.spawn(process, process.name, partial(run, tick))

        self.scheduler.spawn(process, process.name, begin)

    def _try(self, tick: Callable[[], float]) -> bool:
        """Make a round of a loop; a call that fails ends the round. Return False if the tenure is over."""
        pause = 1.0
        try:
            pause = tick()
        except RefusedError as error:
            if error.writes:
                return False
        except CLOUD_ERRORS:
            pass
        self.scheduler.sleep(pause)
        return True

    def serve(self, operation: Callable[[], None], kind: str = "web") -> None:
        """Let a process serve a request; without an answer the outcome is unknown to its client."""
        process = self._process(kind)
        self.processes[process] = None

        def run() -> None:
            with suppress(UnansweredError, RefusedError, *CLOUD_ERRORS):
                operation()
            self._forget(process)

        self.scheduler.spawn(process, process.name, run)

    # Time

    def run(self, seconds: float, rounds: int) -> None:
        """Let time pass, in so many rounds in which every process has its turn."""
        for _ in range(rounds):
            self.scheduler.now += seconds / rounds
            self.cloud.table.expire()
            self._fill()
            self.scheduler.round()
            self.checks.check_always()

    def settle(self) -> None:
        """End every fault, let clients repeat what was not answered and the system rest; check what must hold."""
        self.faults.share, self.faults.at_write = 0.0, None
        self.cloud.requests.twice, self.is_paused = 0.0, False
        for refused in (self.faults.denied, self.faults.armed, self.cloud.sources.denied):
            refused.clear()
        self.thaw()
        for process in self.running("worker"):
            self.processes[process].has_memory = True
        self.run(1, 2)
        self.clients.repeat(is_answered=False)
        for _ in range(MAX_SETTLE_ROUNDS):
            self.run(30, 1)
            if self._is_resting():
                break
        self.run(DAYS * 86_400, 2 * DAYS)
        self.checks.check_rest()

    def _is_resting(self) -> bool:
        cloud = self.cloud
        is_open = any(item.get("is_open") and not item.get("is_deleted") for item in cloud.table.items.values())
        return not (is_open or cloud.requests.messages or cloud.responses.messages or cloud.letters.messages)
