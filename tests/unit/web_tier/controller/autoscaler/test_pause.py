"""The pause is read now and then."""

import pytest

from services.messages import FleetPause
from tests.unit.web_tier.controller.fakes import EPOCH, Clock, refusal
from web_tier.controller.autoscaler.pause import READ_SECONDS, PauseWatch


class Store:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.pause: FleetPause | None = None
        self.error: Exception | None = None
        self.reads = 0

    def paused(self) -> FleetPause | None:
        self.reads += 1
        if self.error:
            raise self.error
        return self.pause


def test_a_pause_is_seen_within_a_second_and_read_no_more_often() -> None:
    clock, store = Clock(), Store()
    watch = PauseWatch(store, clock)
    assert [watch.current() for _ in range(9)] == [None] * 9
    assert store.reads == 1
    store.pause = FleetPause(since=EPOCH)
    clock.now += READ_SECONDS
    assert watch.current() == store.pause


def test_when_it_cannot_be_read_there_is_no_answer() -> None:
    clock, store = Clock(), Store()
    watch = PauseWatch(store, clock)
    assert watch.current() is None
    store.error = refusal("InternalServerError", "GetItem")
    clock.now += READ_SECONDS
    for _ in range(2):
        with pytest.raises(type(store.error)):
            watch.current()
