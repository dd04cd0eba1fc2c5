"""Random histories of the data path, by a hypothesis state machine: clients, faults, kills, and time."""

from collections import Counter
from functools import partial
from typing import ClassVar, Final, get_args

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from core.jobs.models import Job
from tests.simulation.data_path.clients import Content, Trouble
from tests.simulation.data_path.faults import ALL, FREEZES, Fault, Freeze
from tests.simulation.data_path.processes import MODELS
from tests.simulation.data_path.world import World
from tests.support.memory_aws.sqs import Habits
from tests.support.state_machines import play_seeded

STEPS: Final = 25
SERVICES: Final = (
    "table",
    "inputs",
    "outputs",
    "requests",
    "responses",
    "dead_letters",
    "sources",
    "models",
    "messages",
)
OPERATIONS: Final = (
    "",
    "table",
    "table.BatchWriteItem",
    "table.PutItem",
    "table.TransactWriteItems",
    "inputs.put",
    "inputs.get",
    "inputs.delete",
    "outputs.put",
    "outputs.get",
    "requests.send",
    "requests.delete",
    "requests.receive",
    "responses.send",
    "responses.receive",
    "responses.delete",
    "sources.list",
    "messages.send",
)
CALLS: Final = tuple(
    (kind, where)
    for kind, operations in (
        (
            "web",
            ("", "table.BatchWriteItem", "table.PutItem", "table.TransactWriteItems", "inputs.put", "requests.send"),
        ),
        ("worker", ("requests.receive", "inputs.get", "outputs.put", "responses.send", "requests.delete")),
        ("controller", ("", "table.TransactWriteItems", "table.PutItem", "table.DeleteItem", "outputs.put")),
        ("controller", ("requests.send", "responses.receive", "responses.delete")),
        ("controller", ("sources.list", "inputs.put", "messages.send")),
    )
    for where in operations
)
"""Calls of a kind of process, by its operation, in which it is frozen."""
KINDS: Final = ("web", "worker", "controller")
MAX_JOBS: Final = 3
ORDERS: Final = ("redrive", "redrive twice", "redrive all", "discard")

contents = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from((*["good"] * 7, "broken", "heavy", "poison", "hang", "slow"))),
    min_size=1,
    max_size=6,
)
spans = st.sampled_from(((2, 2), (10, 4), (60, 4), (150, 5), (700, 6), (3_700, 8)))
jobs = st.integers(0, 9)
troubles = st.none() | st.sampled_from(get_args(Trouble))
rarely = st.sampled_from((*[False] * 31, True))
ways = st.sampled_from(("plain", "keyed", "direct", "single"))
skews = st.sampled_from((0.0, *(sign * days * 86_400 for sign in (-1, 1) for days in (0.0005, 0.2, 8, 400))))


class History(RuleBasedStateMachine):
    """One history; `tally` counts what all of them did."""

    tally: ClassVar[Counter[str]] = Counter()

    world: World

    @initialize(
        seed=st.integers(0, 2**32),
        fifo=st.booleans(),
        busy=rarely,
        keep=st.booleans(),
        most=st.sampled_from((1, 4, 50)),
    )
    def begin(self, seed: int, fifo: bool, busy: bool, keep: bool, most: int) -> None:
        """A system without images, with packs of up to so many; some never rest."""
        self.world = World(seed, fifo=fifo, busy=busy, max_images=most)
        self.world.clients.new_job(keep=keep)

    @rule(job=jobs, contents=contents, span=spans)
    def clients_upload(self, job: int, contents: list[Content], span: tuple[int, int]) -> None:
        """Images arrive in a form."""
        self.world.clients.upload(self._job(job), contents, "plain")
        self.world.run(*span)

    @rule(job=jobs, contents=contents, span=spans)
    def clients_upload_under_a_key(self, job: int, contents: list[Content], span: tuple[int, int]) -> None:
        """Images arrive in a form with an idempotency key."""
        self.world.clients.upload(self._job(job), contents, "keyed")
        self.world.run(*span)

    @rule(job=jobs, contents=contents, span=spans)
    def clients_upload_directly(self, job: int, contents: list[Content], span: tuple[int, int]) -> None:
        """Images arrive in the bucket."""
        self.world.clients.upload(self._job(job), contents, "direct")
        self.world.run(*span)

    @rule(number=jobs, content=st.none() | st.tuples(st.integers(0, 5), st.just("good")), span=spans)
    def a_form_is_used_again(self, number: int, content: Content | None, span: tuple[int, int]) -> None:
        """A browser or a proxy sends a form twice, or a client sends another picture by it."""
        self.world.clients.use_form_again(number, content)
        self.world.run(*span)

    @rule(span=spans)
    def a_client_repeats_its_upload(self, span: tuple[int, int]) -> None:
        """A client sends its last upload again, though it may have been answered."""
        self.world.clients.repeat_upload()
        self.world.run(*span)

    @rule(job=jobs, span=spans, room=st.booleans())
    def a_client_retries(self, job: int, span: tuple[int, int], room: bool) -> None:
        """Failed images are tried again, perhaps by workers that have more memory."""
        self.world.has_room = room
        self.world.clients.retry(self._job(job))
        self.world.run(*span)

    @rule(job=jobs, span=spans)
    def a_client_cancels_a_job(self, job: int, span: tuple[int, int]) -> None:
        """A job is cancelled, as a whole or in part."""
        self.world.clients.cancel(self._job(job))
        self.world.run(*span)

    @rule(job=jobs, contents=contents, how=ways, span=spans)
    def a_job_is_cancelled_and_resumed_as_images_arrive(
        self, job: int, contents: list[Content], how: str, span: tuple[int, int]
    ) -> None:
        """Two clients disagree while a third one uploads."""
        world, ours = self.world, self._job(job)
        world.clients.upload(ours, contents, how)
        world.clients.cancel(ours)
        world.clients.retry(ours)
        world.clients.cancel(ours)
        world.run(*span)

    @rule(number=jobs, order=st.sampled_from(ORDERS), span=spans, room=st.booleans())
    def an_operator_decides(self, number: int, order: str, span: tuple[int, int], room: bool) -> None:
        """Dead letters are redriven or discarded."""
        self.world.has_room = room
        match order:
            case "redrive":
                self.world.clients.redrive(number, times=1)
            case "redrive twice":
                self.world.clients.redrive(number, times=2)
            case "redrive all":
                self.world.clients.redrive_all()
            case _:
                self.world.clients.discard(number)
        self.world.run(*span)

    @precondition(lambda self: len(self.world.clients.existing_jobs()) < MAX_JOBS)
    @rule(keep=st.booleans())
    def a_client_makes_a_job(self, keep: bool) -> None:
        """There is another job."""
        self.world.clients.new_job(keep=keep)

    @precondition(lambda self: len(self.world.clients.existing_jobs()) < MAX_JOBS)
    @rule(contents=contents, keep=st.booleans(), span=spans, changes=st.booleans(), trouble=troubles)
    def a_client_makes_a_job_from_s3(
        self, contents: list[Content], keep: bool, span: tuple[int, int], changes: bool, trouble: Trouble | None
    ) -> None:
        """A job takes its images from a bucket, which may change meanwhile."""
        self.world.clients.import_job(contents, keep=keep)
        self.world.run(*span)
        if changes:
            self.world.clients.change_source()
        if trouble is not None:
            self.world.clients.trouble_source(len(contents), trouble)

    @rule(job=jobs, what=st.sampled_from(("border", "truth", "share")), number=st.integers(1, 3), span=spans)
    def a_client_changes_a_job(self, job: int, what: str, number: int, span: tuple[int, int]) -> None:
        """A border of doubt is moved, true labels are set, or a share begins or ends."""
        match what:
            case "border":
                self.world.clients.move_border(self._job(job), number / 4)
            case "truth":
                self.world.clients.review(self._job(job))
            case _:
                self.world.clients.share(self._job(job), number)
        self.world.run(*span)

    @precondition(lambda self: len(self.world.clients.jobs) > 1)
    @rule(job=jobs, span=spans)
    def a_client_deletes_a_job(self, job: int, span: tuple[int, int]) -> None:
        """A job is deleted."""
        self.world.clients.delete(self._job(job))
        self.world.run(*span)

    @rule(span=spans)
    def time_passes(self, span: tuple[int, int]) -> None:
        """Nothing new happens."""
        self.world.run(*span)

    @rule(span=st.sampled_from(((3_600, 3), (6 * 3_600, 6), (24 * 3_600, 12))))
    def the_fleet_is_paused(self, span: tuple[int, int]) -> None:
        """No worker runs for hours."""
        self.world.pause(on=True)
        self.world.run(*span)
        self.world.pause(on=False)

    @rule(days=st.sampled_from((3, 8)))
    def days_pass(self, days: int) -> None:
        """Jobs grow old."""
        self.world.run(days * 86_400, 20)

    @rule(job=jobs, contents=contents, act=st.sampled_from(("plain", "keyed", "direct", "retry")))
    def a_job_is_used_as_it_expires(self, job: int, contents: list[Content], act: str) -> None:
        """A client uploads into a job, or retries it, when its seven days are over."""
        world, old = self.world, self._job(job)
        use = (
            partial(world.clients.retry, old) if act == "retry" else partial(world.clients.upload, old, contents, act)
        )
        world.run_until_expiry(old, use)

    @rule(kind=st.sampled_from(KINDS), where=st.sampled_from(OPERATIONS), fault=st.sampled_from(ALL))
    def a_fault_is_near(self, kind: str, where: str, fault: Fault) -> None:
        """The next such call of such a process meets a fault, or is its last."""
        self.world.faults.armed.append((kind, where, fault))

    @rule(share=st.sampled_from((0.02, 0.1, 0.3)), job=jobs, contents=contents, how=ways, span=spans)
    def images_arrive_while_calls_fail(
        self, share: float, job: int, contents: list[Content], how: str, span: tuple[int, int]
    ) -> None:
        """For a while a share of all calls meets a fault."""
        self.world.faults.share = share
        self.world.clients.upload(self._job(job), contents, how)
        self.world.run(*span)
        self.world.faults.share = 0.0

    @rule(service=st.sampled_from(SERVICES), minutes=st.sampled_from((1, 10, 30)))
    def a_service_is_away(self, service: str, minutes: int) -> None:
        """A service answers nothing for minutes."""
        self.world.faults.outages[service] = self.world.scheduler.now + 60 * minutes
        self.world.run(60 * minutes + 1, 10)

    @rule(kind=st.sampled_from(KINDS), span=spans)
    def a_process_is_killed(self, kind: str, span: tuple[int, int]) -> None:
        """A process ends at once."""
        for process in self.world.processes(kind)[:1]:
            self.world.kill(process)
        self.world.run(*span)

    @rule(kind=st.sampled_from(KINDS), span=spans)
    def a_process_is_frozen(self, kind: str, span: tuple[int, int]) -> None:
        """A process stands still while another takes its place."""
        for process in self.world.processes(kind)[:1]:
            self.world.freeze(process)
        self.world.run(*span)

    @rule(
        calls=st.lists(st.sampled_from(CALLS), min_size=1, max_size=2),
        freeze=st.sampled_from(FREEZES),
        job=jobs,
        contents=contents,
        how=ways,
        span=spans,
    )
    def processes_are_frozen_in_calls(
        self,
        calls: list[tuple[str, str]],
        freeze: Freeze,
        job: int,
        contents: list[Content],
        how: str,
        span: tuple[int, int],
    ) -> None:
        """Processes stand still before such calls take effect, or before they know of that, while images arrive."""
        self.world.faults.armed.extend((*call, freeze) for call in calls)
        self.world.clients.upload(self._job(job), contents, how)
        self.world.run(*span)

    @rule(span=spans)
    def frozen_processes_go_on(self, span: tuple[int, int]) -> None:
        """They do not know how long they stood still."""
        self.world.thaw()
        self.world.run(*span)

    @rule(
        short=st.sampled_from((0.0, 0.05, 0.5)),
        twice=st.sampled_from((0.0, 0.05, 0.3)),
        late=st.sampled_from((0.0, 0.05)),
        stale=st.sampled_from((0.0, 60.0)),
    )
    def queues_behave_badly(self, short: float, twice: float, late: float, stale: float) -> None:
        """Receives are short, messages come twice and late, counts are old."""
        for queue in (self.world.requests, self.world.responses, self.world.dead_letters):
            queue.habits = Habits(short, twice, late, stale)

    @rule(minutes=st.sampled_from((0, 0, 1, 10, 70)))
    def the_response_queue_is_deleted(self, minutes: int) -> None:
        """The response queue is gone with its messages, and made again at once or later."""
        self.world.delete_response_queue(60 * minutes)
        self.world.run(60 * minutes + 1, 8)

    @rule(span=st.sampled_from(((3_700, 6), (6 * 3_600, 8))))
    def the_consumer_of_responses_is_away(self, span: tuple[int, int]) -> None:
        """No controller runs for an hour or more."""
        self.world.run_without_consumer(*span)

    @rule(model=st.sampled_from(("model-a", "model-b")))
    def workers_get_another_model(self, model: str) -> None:
        """Workers that begin from now on have another model, for jobs that name none."""
        self.world.model = model

    @rule(model=st.sampled_from(MODELS), span=spans)
    def new_jobs_get_another_model(self, model: str, span: tuple[int, int]) -> None:
        """New jobs get another model, or one with a bundle that is gone."""
        self.world.clients.use_model(model)
        self.world.run(*span)

    @rule(service=st.sampled_from(("inputs", "outputs", "models")), job=jobs, contents=contents, how=ways, span=spans)
    def every_worker_ends_with_a_fault(
        self, service: str, job: int, contents: list[Content], how: str, span: tuple[int, int]
    ) -> None:
        """For a while workers are denied a service, so that each of them ends."""
        self.world.faults.denied.add(service)
        self.world.clients.upload(self._job(job), contents, how)
        self.world.run(*span)
        self.world.faults.denied.clear()

    @rule(span=spans)
    def the_engine_of_a_worker_breaks(self, span: tuple[int, int]) -> None:
        """A worker's engine fails for every image."""
        for worker in list(self.world.workers.values())[:1]:
            worker.is_broken = True
        self.world.run(*span)

    @rule(span=spans)
    def workers_drain(self, span: tuple[int, int]) -> None:
        """All workers end in good order."""
        self.world.drain()
        self.world.run(*span)

    @rule(clock=st.sampled_from(("web", "controller")), seconds=skews, span=spans)
    def a_clock_jumps(self, clock: str, seconds: float, span: tuple[int, int]) -> None:
        """From now on a clock is wrong, by seconds or by a year, or right again."""
        self.world.skew_seconds[clock] = seconds
        self.world.run(*span)

    def teardown(self) -> None:
        """When every fault is over, everything is answered, once."""
        if not hasattr(self, "world"):
            return
        self.world.settle()
        self.tally.update(
            histories=1,
            calls=self.world.scheduler.calls,
            faults=self.world.faults.met,
            kills=self.world.kills,
            images=sum(file.acknowledged is not None for file in self.world.clients.files.values()),
            redriven=self.world.clients.redriven.total(),
            freezes=self.world.freezes,
            cancelled=len(self.world.clients.cancelled),
            poisoned=self.world.poisoned.total(),
            children=self.world.children.total(),
            **self.world.used_as_it_expires,
        )

    def _job(self, number: int) -> Job:
        """Return one of the last jobs, which may be gone by now."""
        recent = self.world.clients.jobs[-MAX_JOBS:]
        return recent[number % len(recent)]


def play(histories: int, first_seed: int = 0, *, shrink: bool = True, steps: int = STEPS) -> Counter[str]:
    """Play so many random histories; return what happened in all of them.

    Raises:
        BrokenError: something happened that must never happen; the notes are the shortest history found.
    """
    History.tally = Counter()
    play_seeded(History, histories, first_seed, steps=steps, shrink=shrink)
    return History.tally
