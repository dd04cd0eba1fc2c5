"""Everything at one moment: services, processes, and the time; what clients do and what must hold are beside it."""

from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any, Final

from ulid import ULID

from core import ids
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.listings import ListingStore
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.clock import CHECK_SECONDS, Clock
from tests.simulation.data_path.billing import BILLING_SECONDS
from tests.simulation.data_path.checks import BrokenError, Checks
from tests.simulation.data_path.clients import Clients, Content
from tests.simulation.data_path.faults import Faults
from tests.simulation.data_path.processes import (
    GONE_BUCKET,
    MAX_RECEIVE_COUNT,
    UNKEPT_LIFETIME,
    Controller,
    Web,
    Worker,
)
from tests.simulation.data_path.scheduler import EPOCH, Process, Scheduler
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket, MemorySource
from tests.support.memory_aws.sqs import Habits, MemorySQS
from web_tier.controller.cleanup import EXPIRY_SECONDS, LINGER_SECONDS
from web_tier.features.notifications.outbox import Outbox

WORKERS: Final = 2
SETTLE_STRIDES: Final = (*[10.0] * 60, *[300.0] * 40)
"""Seconds that pass, round by round, once every fault is over: ten minutes in small steps, then three hours."""
SWEEPS: Final = 6
SWEEP_SECONDS: Final = 86_400.0 + 60.0
"""Time between two sweeps of a job; four days after the first one, objects of a job that was never created go."""
CLOCK_SECONDS: Final = 3_600.0
"""Time in which another controller leads, and what a wrong clock has changed is right again."""
BUSY_STRIDES: Final = (15.0,) * 60
"""As `SETTLE_STRIDES`, while images arrive all the time: a quarter of an hour, in which lost images must be found."""
WEB_TIMEOUT_SECONDS: Final = 30.0
"""For so long may a web process stand still; as `timeout` in `web_tier/gunicorn.py`."""


class VirtualIds:
    """Makes ids as `core.ids` does, in order for each process, by the clock of the process that is running."""

    def __init__(self, world: "World", random: Random) -> None:
        self._world, self._random, self._last = world, random, dict[Process | None, int]()

    def next(self) -> ULID:
        """Return the next id."""
        process = self._world.scheduler.process
        milliseconds = int(self._world.clock_of(process).epoch_seconds() * 1000)
        fresh = milliseconds << 80 | self._random.getrandbits(26) << 54 | self._random.getrandbits(47)  # at place 0
        last = self._last.get(process, 0)
        self._last[process] = fresh if fresh >> 80 > last >> 80 else last + 1
        return ULID.from_int(self._last[process])


class ProcessClock(Clock):
    """The product's clock in a process, over its machine's clock, which may be wrong."""

    def __init__(self, machine: Callable[[], float], scheduler: Scheduler) -> None:
        super().__init__(machine, scheduler.clock)
        self._scheduler = scheduler

    def monotonic(self) -> float:
        """Return the seconds of the schedule."""
        return self._scheduler.now

    def boot_seconds(self) -> float:
        """Return the rounds: a lease lasts for some of them."""
        return self._scheduler.rounds

    def sleep(self, seconds: float) -> None:
        """Let other tasks run."""
        self._scheduler.sleep(seconds)


class World:
    """The whole system and its clients.

    Args:
        fifo: whether the queues are FIFO queues.
        busy: whether images still arrive all the time, once every fault is over, before the system may come to rest.
        max_images: maximum images of a pack.
        seed: of all that is random.

    Attributes:
        deaths: how often an image was in a worker that ended or stood still.
        poisoned: how many workers ended at an image, without the machine, or as they loaded a model.
        children: how many children ended at an image, or did not answer.
        unseen_seconds: time between the ends of workers and the rounds of the meter that saw them.
    """

    def __init__(self, seed: int, *, fifo: bool, busy: bool = False, max_images: int = 50) -> None:
        self.is_busy, self.max_images = busy, max_images
        self.random = Random(seed)
        self.scheduler = Scheduler(Random(seed + 1))
        self.faults = Faults(self.scheduler, Random(seed + 2), self.kill, self.freeze, self._reply)
        self.table = MemoryTable(self.faults.hook("table"), self.faults.leave, self.scheduler.sleep, "jobs")
        self.inputs = MemoryBucket(self._call_inputs, leave=self.faults.leave, now=self.now)
        self.outputs = MemoryBucket(self.faults.hook("outputs"), leave=self.faults.leave)
        self.sources = MemorySource(self.faults.hook("sources"))
        self.sources.gone.add(GONE_BUCKET)
        clock, random = self.scheduler.clock, Random(seed + 3)
        leave = self.faults.leave
        self.dead_letters = MemorySQS(clock, fifo, random, self.faults.hook("dead_letters"), leave=leave)
        self.requests = MemorySQS(
            clock, fifo, random, self._call_requests, self.dead_letters, MAX_RECEIVE_COUNT, leave=leave
        )
        self.responses = MemorySQS(clock, fifo, random, self.faults.hook("responses"), leave=leave)
        self.model, self.has_room, self.paused, self.has_consumer = "model-a", False, False, True
        self.has_children = True
        self.web_timeout_seconds = WEB_TIMEOUT_SECONDS
        self.skew_seconds: defaultdict[str, float] = defaultdict(float)
        self._clocks: dict[Process | None, ProcessClock] = {}
        self._confirmed: dict[Process, float] = {}
        self.is_capped = False
        self.billed_seconds = self.unseen_seconds = 0.0
        self.ended_at: list[float] = []
        self.deaths: Counter[str] = Counter()
        self.poisoned: Counter[str] = Counter()
        self.children: Counter[str] = Counter()
        self.given_back: Counter[str] = Counter()
        self.resent: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.used_as_it_expires: Counter[str] = Counter()
        self.controllers: dict[Process, Controller] = {}
        self.workers: dict[Process, Worker] = {}
        self.web_processes: list[Web] = []
        self.frozen: dict[Process, float] = {}
        self.started: Counter[str] = Counter()
        self.kills = self.freezes = 0
        self.clients, self.checks = Clients(self), Checks(self)
        ids._ids = VirtualIds(self, Random(seed + 4))  # type: ignore[assignment]
        self._fill()

    def _call_inputs(self, operation: str, effect: Callable[[], Any]) -> Any:
        """Make a call of the input bucket; look for images that are deleted too early."""

        def checked() -> Any:
            result = effect()
            if operation == "delete":
                self.checks.note_deletion()
            return result

        return self.faults.hook("inputs")(operation, checked)

    def _call_requests(self, operation: str, effect: Callable[[], Any]) -> Any:
        """Make a call of the request queue; count by their body what controllers send again and workers give back."""
        process = self.scheduler.process
        counts = {"controller": self.resent, "worker": self.given_back}
        count = counts.get(process.kind) if process is not None and operation == "send" else None
        if count is None:
            return self.faults.hook("requests")(operation, effect)

        def counted() -> Any:
            before = self.requests.sent.copy()
            result = effect()
            sent = self.requests.sent - before
            count.update(sent)
            if count is self.resent and process is not self.leader:
                self.late.update(sent)
            return result

        return self.faults.hook("requests")(operation, counted)

    def now(self) -> datetime:
        """Return the true time of day."""
        return EPOCH + timedelta(seconds=self.scheduler.now)

    def clock_of(self, process: Process | None) -> ProcessClock:
        """Return the product's clock in a process, over its machine's clock, which may be wrong."""

        def machine() -> float:
            return self.now().timestamp() + (self.skew_seconds[process.kind] if process else 0.0)

        if process not in self._clocks:
            self._clocks[process] = ProcessClock(machine, self.scheduler)
        return self._clocks[process]

    def _reply(self, process: Process) -> None:
        """Let a process see the date of a reply, as botocore does, unless its clock would not read it."""
        at = self.clock_of(process).boot_seconds()
        if at - self._confirmed.get(process, float("-inf")) >= CHECK_SECONDS:
            self._confirmed[process] = at
            self.clock_of(process).confirm(format_datetime(self.now()))

    # What happens to processes

    def kill(self, process: Process) -> None:
        """End a process, as kill -9 does."""
        self.kills += 1
        if (worker := self.workers.pop(process, None)) is not None:
            self.deaths.update(ref.image_id for each in worker.in_flight.everything() for ref in each.request.refs)
            self.ended_at.append(self.scheduler.now)
        self.controllers.pop(process, None)
        self.web_processes = [web for web in self.web_processes if web.process is not process]
        self.scheduler.kill(process)

    def freeze(self, process: Process) -> None:
        """Stop a process, as SIGSTOP does; another takes its place."""
        self.freezes += 1
        if (worker := self.workers.get(process)) is not None:
            self.deaths.update(ref.image_id for each in worker.in_flight.everything() for ref in each.request.refs)
        process.frozen = True
        self.frozen[process] = self.scheduler.now
        self.web_processes = [web for web in self.web_processes if web.process is not process]

    def thaw(self, count: int | None = None) -> None:
        """Resume the frozen processes, or so many that were frozen first."""
        for process in list(self.frozen)[:count]:
            process.frozen = False
            process.was_away |= self.scheduler.now - self.frozen.pop(process) >= LINGER_SECONDS

    def worker_ended(self, process: Process) -> None:
        """Know that a worker ended in good order."""
        if self.workers.pop(process, None) is not None:
            self.ended_at.append(self.scheduler.now)

    def controller_ended(self, process: Process) -> None:
        """Know that a controller ended, since it lost the lease."""
        self.controllers.pop(process, None)

    @property
    def leader(self) -> Process | None:
        """The controller that holds the lease of the job table and is not frozen."""
        found = (process for process in self.processes("controller") if self.controllers[process].lease.held)
        return next(found, None)

    def processes(self, kind: str) -> list[Process]:
        """Return the processes of a kind that are at work."""
        if kind == "web":
            return [web.process for web in self.web_processes]
        if kind == "worker":
            return [process for process in self.workers if not process.frozen]
        leading = [process for process, each in self.controllers.items() if each.table is self.table]
        return [process for process in leading if not process.frozen]

    def pause(self, *, on: bool) -> None:
        """Pause the fleet: workers end in good order, and none begins."""
        self.paused = on
        if on:
            self.drain()

    def drain(self) -> None:
        """Let all workers end in good order."""
        for worker in self.workers.values():
            worker.lifetime.end("drained")

    def run_without_consumer(self, seconds: float, rounds: int) -> None:
        """Kill the controller, and let time pass before another one begins."""
        for process in self.processes("controller"):
            self.kill(process)
        self.has_consumer = False
        self.run(seconds, rounds)
        self.has_consumer = True

    def delete_response_queue(self, seconds: float) -> None:
        """Delete the response queue with its messages; it is made again after so many seconds."""
        self.responses.purge()
        self.faults.missing["responses"] = self.scheduler.now + seconds

    # Time

    def run_until_expiry(self, job: Job, use: Callable[[], None]) -> None:
        """Let a client use a job in the round in which the controller checks whether it has expired."""
        store = JobStore(self.table)
        if job.keep or not store.existing([job.job_id]):
            return
        status = store.status_of(job)
        used = (job.created_at, status.counts.last_result_at, status.retried_at)
        end = max(moment for moment in used if moment is not None) + UNKEPT_LIFETIME
        now = self.now()
        # It checks now and finds that the job has some seconds left; the next time is the one that counts.
        self.run(max(1.0, (end - now).total_seconds() - 5), 4)
        is_due = bool(store.existing([job.job_id])) and not OpenJobs(store.table).is_open(job.job_id)
        use()
        self.run(EXPIRY_SECONDS, 1)
        if is_due:
            self.used_as_it_expires["kept" if store.existing([job.job_id]) else "expired"] += 1

    def run(self, seconds: float, rounds: int) -> None:
        """Let time pass, in so many rounds in which every process has its turn."""
        for _ in range(rounds):
            self.scheduler.now += seconds / rounds
            self.billed_seconds += seconds / rounds * len(self.workers)
            self._fill()
            self.scheduler.round()
            self.checks.check_visible()

    def _fill(self) -> None:
        """Start the processes that there should be; gunicorn kills a web process that stands still."""
        for process, since in list(self.frozen.items()):
            if process.kind == "web" and self.scheduler.now - since > self.web_timeout_seconds:
                del self.frozen[process]
                self.kill(process)
        while len(self.web_processes) < 2:
            self.web_processes.append(Web(self, self._process("web")))
        if self.has_consumer and not self.processes("controller"):
            process = self._process("controller")
            self.controllers[process] = Controller(self, process)
        while len(self.processes("worker")) < WORKERS and not (self.paused or self.is_capped):
            process = self._process("worker")
            self.billed_seconds += 60.0
            self.workers[process] = Worker(self, process)

    def _process(self, kind: str) -> Process:
        self.started[kind] += 1
        return Process(f"{kind} {self.started[kind]}", kind)

    # The end

    def settle(self) -> None:
        """End every fault, let the system finish, and check what must hold then."""
        had_wrong_clocks = any(self.skew_seconds.values())
        self.faults.share = 0.0
        self.faults.outages.clear()
        self.faults.missing.clear()
        self.faults.denied.clear()
        self.faults.armed.clear()
        self.faults.at_write, self.has_children = None, True
        self.skew_seconds.clear()
        self._set_habits(Habits())
        self.thaw()
        self.run(1, 3)  # a controller that was frozen learns by its next renewal that another leads
        self.pause(on=False)
        for worker in self.workers.values():
            worker.is_broken = False
        if had_wrong_clocks:
            self.run(CLOCK_SECONDS, 12)
        if self.is_busy:
            self._set_habits(Habits(0.05, 0.05, 0.05, 60.0))
            self._keep_busy()
            self._set_habits(Habits())
        self.rest()
        if had_wrong_clocks:
            self.run(BILLING_SECONDS, 1)
            self.checks.check_bill()
        self.checks.check_rest()
        self.run(SWEEPS * SWEEP_SECONDS, SWEEPS)
        self.checks.check_orphans()

    def rest(self) -> None:
        """Let the system finish what is under way."""
        for seconds in SETTLE_STRIDES:
            self.run(seconds, 1)
            if self._is_settled():
                return

    def _set_habits(self, habits: Habits) -> None:
        for queue in (self.requests, self.responses, self.dead_letters):
            queue.habits = habits

    def _keep_busy(self) -> None:
        """Lose requests while images arrive without a pause: what waits at the beginning has a result at the end."""
        # The images of a model that cannot be loaded are answered too slowly to overtake others.
        self.clients.new_job(keep=False, is_limited=False, has_model=False)
        job = self.clients.jobs[-1]
        self.pause(on=True)
        self.clients.upload(job, [(0, "good"), (1, "good")], "plain")
        self.run(10, 5)
        self.requests.purge()
        self.pause(on=False)
        for process in self.processes("controller"):
            self.kill(process)  # the next one counts from now on how long images have waited
        waiting = self.checks.waiting()
        for number, seconds in enumerate(BUSY_STRIDES):
            images: list[Content] = [(6 + index % 240, "good") for index in range(4 * number, 4 * number + 4)]
            self.clients.upload(job, images, "plain")
            self.run(seconds, 1)
        if left := waiting & self.checks.waiting():
            raise BrokenError(f"{len(left)} of {len(waiting)} images wait for ever while others are classified")

    def _is_settled(self) -> bool:
        store, messages = JobStore(self.table), Outbox(self.table)
        return not (
            OpenJobs(store.table).find_all()
            or DeletedJobs(store.table).find_all()
            or ListingStore(store).pending()
            or messages.pending()
        ) and not any(queue.counts().total for queue in (self.requests, self.responses, self.dead_letters))
