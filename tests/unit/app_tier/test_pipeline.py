"""The parts of the pipeline: channels, stages and batches."""

import threading

import pytest

from app_tier.pipeline import Channel, ChannelClosedError, Stage, take_batch
from app_tier.task import Task, new_task
from tests.support.waiting import DEADLINE_SECONDS
from tests.support.worker import FakeClock, deliveries


def test_items_come_out_in_the_order_they_went_in() -> None:
    channel: Channel[int] = Channel(3)
    for number in range(3):
        channel.put(number)
    assert [channel.get() for _ in range(3)] == [0, 1, 2]


def test_a_full_channel_makes_the_putter_wait_until_something_is_taken() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(1)
    second = threading.Thread(target=channel.put, args=(2,), daemon=True)
    second.start()
    second.join(0.05)
    assert second.is_alive()
    assert len(channel) == 1
    assert channel.get() == 1
    second.join(DEADLINE_SECONDS)
    assert not second.is_alive()
    assert channel.get() == 2


def test_an_empty_channel_answers_none_when_the_wait_is_over() -> None:
    assert Channel[int](1).get(0.001) is None


def test_closing_ends_a_wait() -> None:
    channel: Channel[int] = Channel(1)
    got: list[int | None] = []
    waiting = threading.Thread(target=lambda: got.append(channel.get()), daemon=True)
    waiting.start()
    channel.close()
    waiting.join(DEADLINE_SECONDS)
    assert got == [None]


def test_what_waits_in_a_closed_channel_is_still_taken() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(1)
    channel.close()
    assert channel.get() == 1
    assert channel.get() is None


def test_a_closed_channel_takes_no_more() -> None:
    channel: Channel[int] = Channel(1)
    channel.close()
    with pytest.raises(ChannelClosedError):
        channel.put(1)


def test_draining_takes_everything_at_once_and_makes_room() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(1)
    channel.put(2)
    assert channel.drain() == [1, 2]
    assert len(channel) == 0
    channel.put(3)
    assert channel.get() == 3


def test_a_stage_does_its_step_for_everything_until_its_channel_is_closed() -> None:
    inbox: Channel[Task[None]] = Channel(3)
    tasks = [new_task(each) for each in deliveries(3)]
    for task in tasks:
        inbox.put(task)
    inbox.close()
    done: list[Task[None]] = []

    def take() -> list[Task[None]]:
        task = inbox.get()
        return [] if task is None else [task]

    stage = Stage("test", 1, take, done.extend)
    stage.start()
    assert stage.join(DEADLINE_SECONDS)
    assert done == tasks


def test_a_stage_that_hangs_is_reported_and_not_waited_for() -> None:
    let_go = threading.Event()

    def take() -> list[Task[None]]:
        let_go.wait(DEADLINE_SECONDS)
        return []

    stage = Stage("test", 2, take, lambda _: None)
    stage.start()
    assert not stage.join(0.01)
    let_go.set()
    assert stage.join(DEADLINE_SECONDS)


class TimedChannel(Channel[int]):
    """Each wait takes its time on a clock; items arrive at given moments."""

    def __init__(self, clock: FakeClock, arrivals: dict[int, float]) -> None:
        super().__init__(100)
        self._clock, self._arrivals = clock, arrivals
        self.waits: list[float | None] = []

    def get(self, wait_seconds: float | None = None) -> int | None:
        self.waits.append(wait_seconds)
        for number, at in self._arrivals.items():
            if wait_seconds is None or at <= self._clock() + wait_seconds:
                self._clock.now = max(self._clock.now, at)
                del self._arrivals[number]
                return number
        self._clock.advance(wait_seconds or 0)
        return None


def always(_: int) -> bool:
    return True


def test_a_full_batch_does_not_wait() -> None:
    clock = FakeClock(0)
    channel = TimedChannel(clock, {1: 0, 2: 0, 3: 0})
    assert take_batch(channel, 2, 5.0, always, clock) == [1, 2]
    assert clock.now == 0


def test_the_deadline_is_that_of_the_first_item_however_many_follow() -> None:
    clock = FakeClock(0)
    channel = TimedChannel(clock, {1: 0, 2: 3, 3: 4.5, 4: 5.1})
    assert take_batch(channel, 10, 5.0, always, clock) == [1, 2, 3]
    assert clock.now == 5.0


def test_nobody_waits_for_what_cannot_come() -> None:
    clock = FakeClock(0)
    channel = TimedChannel(clock, {1: 0, 2: 0, 3: 1})
    assert take_batch(channel, 10, 5.0, lambda taken: taken < 2, clock) == [1, 2]
    assert clock.now == 0


def test_a_closed_channel_gives_no_batch() -> None:
    channel: Channel[int] = Channel(1)
    channel.close()
    assert take_batch(channel, 10, 5.0, always) == []
