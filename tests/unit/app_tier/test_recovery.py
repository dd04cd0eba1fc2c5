"""Recovery: which of image, worker and services an error is attributed to, and what follows from a failed step."""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from app_tier.lifecycle import Lifetime
from app_tier.receiver import parse_messages
from app_tier.recovery import (
    MAX_FAILURES,
    MAX_OUTAGE_SECONDS,
    MAX_SECONDS,
    At,
    FailureBackoff,
    Step,
    StepRecovery,
    classify_error,
    is_tried_again,
)
from app_tier.task import Task, new_task
from app_tier.visibility import InFlightMessages, VisibilityExtender
from core.messages import Failure
from core.sandbox.process import PoolUnavailableError
from services.errors import SourceUnavailableError
from tests.support.clocks import ManualClock
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.sqs import VISIBILITY_SECONDS
from tests.support.worker import new_request, send_requests, worker_queue


@dataclass
class Bench:
    """One stage's step over a request queue in memory; `errors` are raised by its next attempts."""

    errors: list[Exception] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)
    passed: list[Task[None]] = field(default_factory=list)
    refused: list[tuple[Task[None], Failure]] = field(default_factory=list)
    postponed: list[Task[None]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sqs = worker_queue(self.clock)
        self.in_flight = InFlightMessages(100, VISIBILITY_SECONDS, self.clock)
        self.lifetime = Lifetime()
        self.lifetime.wait = self._wait  # type: ignore[method-assign]
        extender = VisibilityExtender(
            self.sqs.queue(), self.in_flight, VISIBILITY_SECONDS, 900, self.lifetime.fail, self.clock
        )
        self.backoff = FailureBackoff()
        recovery = StepRecovery(
            self.in_flight, extender, self.lifetime, self.backoff, self.clock, lambda _least, most: most
        )
        self.step = Step("test", self.attempt, self.refuse, self.postponed.append, recovery)

    def attempt(self, tasks: Sequence[Task[None]]) -> None:
        self.sizes.append(len(tasks))
        if self.errors:
            raise self.errors.pop(0)
        self.passed.extend(tasks)

    def refuse(self, task: Task[None], failure: Failure) -> None:
        self.refused.append((task, failure))

    def _wait(self, seconds: float | None = None) -> bool:
        self.clock.advance(seconds or 0)
        for delivery in self.in_flight.everything():  # as the extender does
            self.in_flight.extended([delivery], [], self.clock(), VISIBILITY_SECONDS)
        return self.lifetime.over

    def receive(self, count: int) -> list[Task[None]]:
        send_requests(self.sqs, [new_request() for _ in range(count)])
        deliveries, _ = parse_messages(self.sqs.queue().receive(10, 0))
        self.in_flight.hold(deliveries, self.clock())
        return [new_task(delivery) for delivery in deliveries]

    @property
    def receives(self) -> list[int]:
        """How often each visible message was received."""
        return [message.receive_count for message in self.sqs.visible]


def test_a_service_that_stays_away_ends_the_worker_and_counts_no_receive() -> None:
    bench = Bench(errors=[refusal("SlowDown")] * 1_000)
    bench.step(bench.receive(3))
    assert bench.lifetime.status == 1
    assert "test does not work" in bench.lifetime.reason
    assert "SlowDown" in bench.lifetime.reason
    assert MAX_OUTAGE_SECONDS <= bench.clock() - 1000 <= MAX_OUTAGE_SECONDS + MAX_SECONDS
    assert bench.receives == [0, 0, 0]


def test_a_source_that_cannot_be_read_delays_its_image_alone() -> None:
    bench = Bench(errors=[SourceUnavailableError("photos: SlowDown")])
    tasks = bench.receive(1)
    bench.step(tasks)
    assert (bench.lifetime.over, bench.backoff.pause_seconds(), bench.sizes) == (False, 0, [1])
    assert bench.postponed == tasks


def test_an_error_of_a_batch_is_tried_again_image_by_image() -> None:
    bench = Bench(errors=[RuntimeError("a bug")])
    tasks = bench.receive(3)
    bench.step(tasks)
    assert bench.sizes == [3, 1, 1, 1]
    assert bench.passed == tasks


def test_an_unknown_error_of_every_image_ends_the_worker_and_the_receive_counts() -> None:
    bench = Bench(errors=[RuntimeError("a bug")] * 100)
    bench.step(bench.receive(1))
    assert bench.lifetime.status == 1
    assert len(bench.sizes) == MAX_FAILURES
    bench.clock.advance(VISIBILITY_SECONDS)
    assert bench.receives == [1]


def test_failures_of_another_kind_count_anew() -> None:
    bench = Bench(
        errors=[*[refusal("SlowDown")] * 20, *[PoolUnavailableError("none")] * 4, *[RuntimeError("a bug")] * 4]
    )
    tasks = bench.receive(1)
    bench.step(tasks)
    assert bench.passed == tasks


def test_a_worker_that_ends_does_not_wait_for_a_service_and_gives_back() -> None:
    bench = Bench(errors=[refusal("SlowDown")] * 1_000)
    tasks = bench.receive(1)
    bench.lifetime.end("SIGTERM")
    bench.step(tasks)
    assert len(bench.sizes) == 1
    assert bench.lifetime.status == 0
    assert bench.receives == [0]


@pytest.mark.parametrize("works", [False, True])
@pytest.mark.parametrize(
    ("error", "receives"), [(refusal("SlowDown"), 0), (PoolUnavailableError("none"), 0), (RuntimeError("a bug"), 1)]
)
def test_a_fault_ends_no_worker_that_works_for_others_and_only_an_unknown_one_counts(
    error: Exception, receives: int, works: bool
) -> None:
    bench = Bench()

    def fail(tasks: Sequence[Task[None]]) -> None:
        if works:
            bench.step._passed += 1  # another thread has passed the step
        raise error

    bench.step._do = fail
    bench.step(bench.receive(1))
    assert bench.lifetime.over != works
    bench.clock.advance(2 * VISIBILITY_SECONDS)
    assert bench.receives == [receives]


@pytest.mark.parametrize("at", [At.SERVICE, At.LOCAL, At.UNKNOWN])
@pytest.mark.parametrize("works", [False, True])
def test_no_fault_is_tried_again_for_ever(at: At, works: bool) -> None:
    assert not is_tried_again(at, 1_000, 2 * MAX_OUTAGE_SECONDS, works_for_others=works)


def test_pauses_double_up_to_a_bound() -> None:
    backoff = FailureBackoff(jitter=lambda _least, most: most)
    pauses = []
    for _ in range(9):
        backoff.failed("put")
        pauses.append(backoff.pause_seconds())
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30, 30]


def test_a_success_forgets_the_failures_of_its_own_kind() -> None:
    backoff = FailureBackoff()
    backoff.failed("put")
    backoff.succeeded("receive")
    assert backoff.pause_seconds() > 0
    backoff.succeeded("put")
    assert backoff.pause_seconds() == 0


def skewed(code: str, words: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": f"Signature {words} 20260101T001500Z"}}, "Call")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "no room left"),
        (refusal("AccessDenied"), "access denied"),
        (refusal("AWS.SimpleQueueService.NonExistentQueue"), "check names"),
        (refusal("RequestTimeTooSkewed"), "clock is off"),
        (refusal("SignatureDoesNotMatch"), "access denied"),
        (skewed("SignatureDoesNotMatch", "expired: 20260101T000000Z is now earlier than"), "clock is off"),
        (skewed("AuthFailure", "not yet current: 20260101T000000Z is still later than"), "clock is off"),
        (NoCredentialsError(), "no credentials"),
    ],
)
def test_what_no_image_can_help_ends_the_worker_with_its_reason(error: Exception, said: str) -> None:
    fault = classify_error(error)
    assert fault.at is At.WORKER
    assert said in fault.reason


@pytest.mark.parametrize(
    "error",
    [
        refusal("SlowDown"),
        refusal("ExpiredToken"),
        EndpointConnectionError(endpoint_url="http://sqs"),
        TimeoutError("slow"),
    ],
)
def test_a_service_that_does_not_answer_is_no_fault_of_image_or_worker(error: Exception) -> None:
    assert classify_error(error).at is At.SERVICE


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug"), OSError(errno.EIO, "I/O error")])
def test_any_other_error_has_no_known_cause(error: Exception) -> None:
    assert classify_error(error).at is At.UNKNOWN
