from app_tier.batch import take_batch
from app_tier.channel import Channel
from tests.unit.app_tier.fakes import FakeClock


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
