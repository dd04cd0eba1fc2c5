"""The result waiter: many requests wait, one thread polls."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import pytest

from core.ids import ImageRef, new_id
from core.jobs.store import JobStore
from core.messages import ClassificationResult
from services.table import TableBusyError
from services.threads import DaemonThread
from tests.support.clocks import PlayedClock
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.results.waiter import ResultWaiter

SOON = DEADLINE_SECONDS


def response(ref: ImageRef, label: str = "stop") -> ClassificationResult:
    return ClassificationResult(
        job_id=ref.job_id, image_id=ref.image_id, status="done", label=label, score=0.9, worker="i-1", attempts=1
    )


def new_ref() -> ImageRef:
    return ImageRef(new_id(), new_id())


@dataclass
class FakeStore:
    """Holds results; `before_poll` is called at each poll, which it may make fail."""

    results: dict[ImageRef, ClassificationResult] = field(default_factory=dict)
    polls: list[list[ImageRef]] = field(default_factory=list)
    before_poll: Callable[[int], None] = lambda number: None

    def results_of(self, refs: Collection[ImageRef]) -> Mapping[ImageRef, ClassificationResult]:
        self.polls.append(list(refs))
        self.before_poll(len(self.polls))
        return {ref: self.results[ref] for ref in refs if ref in self.results}


@dataclass
class Pauses:
    """Replaces sleep: each pause lasts until the test has allowed it; `allow` allows so many in advance."""

    turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def sleep(self, _seconds: float) -> None:
        assert self.turns.acquire(timeout=SOON)

    def allow(self, pauses: int) -> None:
        for _ in range(pauses):
            self.turns.release()


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def waiter(store: FakeStore, pauses: Pauses) -> Iterator[ResultWaiter]:
    yield ResultWaiter(cast(JobStore, store), PlayedClock(sleep=pauses.sleep))
    pauses.allow(1_000)
    wait_until(lambda: not is_polling(), "the polling thread has ended")


def is_polling() -> bool:
    return any(thread.name == "result-waiter" for thread in threading.enumerate())


def test_two_hundred_waiting_requests_share_one_poll_and_each_gets_its_own_result(
    store: FakeStore, pauses: Pauses, waiter: ResultWaiter
) -> None:
    refs = [new_ref() for _ in range(200)]
    store.results = {ref: response(ref, f"label {number}") for number, ref in enumerate(refs)}
    with ThreadPoolExecutor(200) as clients:
        answers = [clients.submit(waiter.wait, ref, SOON) for ref in refs]
        wait_until(lambda: len(waiter._waiters) == 200, "all 200 wait")
        pauses.allow(1)
        labels = [found.label for answer in answers if (found := answer.result(SOON))]
    assert labels == [f"label {number}" for number in range(200)]
    assert [len(poll) for poll in store.polls] == [200]


def test_the_table_is_not_polled_without_a_waiting_request(
    store: FakeStore, pauses: Pauses, waiter: ResultWaiter
) -> None:
    ref = new_ref()
    store.results[ref] = response(ref)
    pauses.allow(2)
    assert waiter.wait(ref, SOON) is not None
    wait_until(lambda: not is_polling(), "the polling thread has ended")
    assert len(store.polls) == 1
    pauses.allow(2)
    assert waiter.wait(ref, SOON) is not None, "the next request starts another thread"
    assert len(store.polls) == 2


def test_a_wait_without_a_result_ends_in_time_and_is_removed(
    store: FakeStore, pauses: Pauses, waiter: ResultWaiter
) -> None:
    assert waiter.wait(new_ref(), 0.01) is None
    pauses.allow(1)
    wait_until(lambda: not is_polling(), "the polling thread has ended")
    assert store.polls == []


def test_two_requests_that_wait_for_the_same_image_both_get_it(
    store: FakeStore, pauses: Pauses, waiter: ResultWaiter
) -> None:
    ref = new_ref()
    store.results[ref] = response(ref)
    with ThreadPoolExecutor(2) as clients:
        answers = [clients.submit(waiter.wait, ref, SOON) for _ in range(2)]
        wait_until(lambda: len(waiter._waiters.get(ref, [])) == 2, "both wait")
        pauses.allow(1)
        assert [bool(answer.result(SOON)) for answer in answers] == [True, True]
    assert store.polls == [[ref]]


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_wait_ends_without_a_result_while_no_thread_can_be_started(
    store: FakeStore, pauses: Pauses, waiter: ResultWaiter, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = new_ref()
    store.results[ref] = response(ref)

    def fail(_self: DaemonThread) -> None:
        raise error

    with monkeypatch.context() as without_threads:
        without_threads.setattr(DaemonThread, "start", fail)
        assert waiter.wait(ref, SOON) is None
    pauses.allow(1)
    assert waiter.wait(ref, SOON) is not None


@pytest.mark.parametrize("error", [TableBusyError("busy"), ValueError("a fault of ours")])
def test_a_failed_poll_is_repeated(store: FakeStore, pauses: Pauses, waiter: ResultWaiter, error: Exception) -> None:
    ref = new_ref()
    store.results[ref] = response(ref)

    def fail_once(number: int) -> None:
        if number == 1:
            raise error

    store.before_poll = fail_once
    pauses.allow(2)
    assert waiter.wait(ref, SOON) is not None
