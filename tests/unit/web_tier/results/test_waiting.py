"""Many wait, one looks."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from core.ids import ImageRef, new_id
from core.messages import Response
from services.table import TableBusyError
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.results.waiting import LOOK_SECONDS, REST_SHARE, ResultWaiter

SOON = DEADLINE_SECONDS


def response(ref: ImageRef, label: str = "stop") -> Response:
    return Response(
        job_id=ref.job_id, image_id=ref.image_id, status="done", label=label, score=0.9, worker="i-1", attempts=1
    )


def a_ref() -> ImageRef:
    return ImageRef(new_id(), new_id())


@dataclass
class FakeStore:
    """Holds results; `before_look` is run with each look, which it may make fail."""

    results: dict[ImageRef, Response] = field(default_factory=dict)
    looks: list[list[ImageRef]] = field(default_factory=list)
    before_look: Callable[[int], None] = lambda number: None

    def results_of(self, refs: Collection[ImageRef]) -> Mapping[ImageRef, Response]:
        self.looks.append(list(refs))
        self.before_look(len(self.looks))
        return {ref: self.results[ref] for ref in refs if ref in self.results}


@dataclass
class Pauses:
    """The watch's pauses: each waits for the test to end it, which `allow` does in advance, for so many."""

    lengths: list[float] = field(default_factory=list)
    turns: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def sleep(self, seconds: float) -> None:
        self.lengths.append(seconds)
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
def watch(store: FakeStore, pauses: Pauses) -> Iterator[ResultWaiter]:
    yield ResultWaiter(store.results_of, pauses.sleep)
    pauses.allow(1_000)
    wait_until(lambda: not watching(), "no thread watches any more")


def watching() -> bool:
    return any(thread.name == "result-watch" for thread in threading.enumerate())


def test_two_hundred_that_wait_are_looked_for_together_and_each_gets_its_own(
    store: FakeStore, pauses: Pauses, watch: ResultWaiter
) -> None:
    refs = [a_ref() for _ in range(200)]
    store.results = {ref: response(ref, f"label {number}") for number, ref in enumerate(refs)}
    with ThreadPoolExecutor(200) as clients:
        answers = [clients.submit(watch.wait, ref, SOON) for ref in refs]
        wait_until(lambda: len(watch._waiters) == 200, "all 200 wait")
        pauses.allow(1)
        labels = [found.label for answer in answers if (found := answer.result(SOON))]
    assert labels == [f"label {number}" for number in range(200)]
    assert [len(look) for look in store.looks] == [200]


def test_nobody_is_looked_for_when_nobody_waits(store: FakeStore, pauses: Pauses, watch: ResultWaiter) -> None:
    ref = a_ref()
    store.results[ref] = response(ref)
    pauses.allow(2)
    assert watch.wait(ref, SOON) is not None
    wait_until(lambda: not watching(), "no thread watches any more")
    assert len(store.looks) == 1
    pauses.allow(2)
    assert watch.wait(ref, SOON) is not None, "the next to wait is looked for again"
    assert len(store.looks) == 2


def test_who_waits_in_vain_is_told_so_in_time_and_forgotten(
    store: FakeStore, pauses: Pauses, watch: ResultWaiter
) -> None:
    assert watch.wait(a_ref(), 0.01) is None
    pauses.allow(1)
    wait_until(lambda: not watching(), "no thread watches any more")
    assert store.looks == []


def test_two_that_wait_for_the_same_image_both_get_it(store: FakeStore, pauses: Pauses, watch: ResultWaiter) -> None:
    ref = a_ref()
    store.results[ref] = response(ref)
    with ThreadPoolExecutor(2) as clients:
        answers = [clients.submit(watch.wait, ref, SOON) for _ in range(2)]
        wait_until(lambda: len(watch._waiters.get(ref, [])) == 2, "both wait")
        pauses.allow(1)
        assert [bool(answer.result(SOON)) for answer in answers] == [True, True]
    assert store.looks == [[ref]]


@pytest.mark.parametrize("error", [TableBusyError("busy"), ValueError("a fault of ours")])
def test_a_look_that_fails_is_taken_again(
    store: FakeStore, pauses: Pauses, watch: ResultWaiter, error: Exception
) -> None:
    ref = a_ref()
    store.results[ref] = response(ref)

    def fail_once(number: int) -> None:
        if number == 1:
            raise error

    store.before_look = fail_once
    pauses.allow(2)
    assert watch.wait(ref, SOON) is not None


def test_a_slow_table_is_looked_at_less_often(store: FakeStore, pauses: Pauses) -> None:
    now = [0.0]

    def take(number: int) -> None:
        now[0] += 1.0
        if number == 2:
            store.results[ref] = response(ref)

    ref, store.before_look = a_ref(), take
    watch = ResultWaiter(store.results_of, pauses.sleep, lambda: now[0])
    pauses.allow(3)
    assert watch.wait(ref, SOON) is not None
    wait_until(lambda: not watching(), "no thread watches any more")
    assert pauses.lengths[:2] == [LOOK_SECONDS, REST_SHARE * 1.0]
