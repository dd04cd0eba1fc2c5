"""Who leads: taken, lost, regained, handed over."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from botocore.exceptions import EndpointConnectionError

from web_tier.controller.leadership import lead


@dataclass
class FakeLease:
    """A lease whose renewals go as told: held, not held, or no answer (None)."""

    answers: Iterator[bool | None]
    length_seconds: float = 6.0
    held: bool = False
    released: bool = False

    def take_or_renew(self) -> bool:
        answer = next(self.answers)
        if answer is None:
            raise EndpointConnectionError(endpoint_url="table")
        self.held = answer
        return answer

    def release(self) -> None:
        self.released = True


@dataclass
class FakeWork:
    """Work that notes what is done with it."""

    events: list[str]
    over: bool = False
    dies: bool = False
    ends: bool = True

    def start(self) -> None:
        self.events.append("start")

    def dead(self) -> list[str]:
        return ["collector"] if self.dies else []

    def stop(self) -> bool:
        self.events.append("stop")
        return self.ends


@dataclass
class Run:
    """One run of `lead` over a list of renewals, told to stop after the last."""

    answers: list[bool | None]
    dies: bool = False
    ends: bool = True
    over_after: int | None = None
    events: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    works: list[FakeWork] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Run it."""
        self.lease = FakeLease(iter(self.answers))
        self.status = lead(self.lease, self.new_work, self.wait)

    def new_work(self) -> FakeWork:
        self.works.append(FakeWork(self.events, dies=self.dies, ends=self.ends))
        return self.works[-1]

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        if len(self.waits) == self.over_after:
            self.works[-1].over = True
        return len(self.waits) == len(self.answers)


def test_a_standby_does_nothing_and_releases_nothing() -> None:
    run = Run([False, False, False])
    assert (run.status, run.events, run.lease.released) == (0, [], False)


def test_the_holder_works_until_told_to_stop_then_releases() -> None:
    run = Run([True, True, True])
    assert (run.status, run.events, run.lease.released) == (0, ["start", "stop"], True)
    assert run.waits == [2.0] * 3, "renewed every third of its length"


def test_a_standby_that_gets_the_lease_begins_to_work() -> None:
    run = Run([False, True])
    assert run.events == ["start", "stop"]


def test_a_lost_lease_ends_the_work_and_a_regained_one_begins_new_work() -> None:
    run = Run([True, False, True])
    assert run.events == ["start", "stop", "start", "stop"]
    assert len(run.works) == 2


def test_a_renewal_without_an_answer_changes_nothing_as_long_as_the_lease_is_held() -> None:
    run = Run([True, None, None, True])
    assert run.events == ["start", "stop"]


def test_work_that_is_over_because_a_renewal_came_late_is_begun_anew() -> None:
    run = Run([True, True, True], over_after=1)
    assert run.events == ["start", "stop", "start", "stop"]
    assert run.status == 0


def test_a_loop_that_died_ends_the_process_so_that_it_is_started_again() -> None:
    run = Run([True, True], dies=True)
    assert run.status == 1


def test_a_lease_is_not_released_while_a_loop_may_still_act() -> None:
    run = Run([True], ends=False)
    assert (run.status, run.lease.released) == (1, False)


def test_loops_that_do_not_end_after_the_lease_was_lost_end_the_process() -> None:
    assert Run([True, False, True], ends=False).status == 1
