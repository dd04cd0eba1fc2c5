import threading

import pytest

from app_tier.channel import Channel, ChannelClosedError
from tests.support.waiting import DEADLINE_SECONDS


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
