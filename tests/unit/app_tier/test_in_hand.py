import threading

from app_tier.in_hand import InFlightMessages
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS
from tests.unit.app_tier.fakes import VISIBILITY, FakeClock, deliveries, delivery


def in_hand(clock: FakeClock, capacity: int = 10) -> InFlightMessages:
    return InFlightMessages(capacity, VISIBILITY, clock)


def test_only_one_decides_what_becomes_of_a_delivery() -> None:
    held = in_hand(FakeClock())
    one = delivery()
    held.hold([one], 0)
    assert held.remove(one)
    assert not held.remove(one)


def test_two_deliveries_of_one_message_are_two() -> None:
    held = in_hand(FakeClock())
    first, second = delivery(1, count=1), delivery(1, count=2)
    held.hold([first, second], 0)
    assert len(held) == 2
    held.remove(first)
    assert held.everything() == [second]


def test_there_is_room_for_as_many_as_have_not_been_taken() -> None:
    held = in_hand(FakeClock(), capacity=10)
    taken = deliveries(4)
    held.hold(taken, 0)
    assert held.wait_for_room(6, 0)
    assert not held.wait_for_room(7, 0)
    held.remove(taken[0])
    assert held.wait_for_room(7, 0)


def test_idle_time_counts_only_while_nothing_is_in_hand() -> None:
    clock = FakeClock()
    held = in_hand(clock)
    clock.advance(3)
    assert held.idle_seconds() == 3
    one = delivery()
    held.hold([one], clock())
    clock.advance(60)
    assert held.idle_seconds() == 0
    held.remove(one)
    assert held.idle_seconds() == 0
    clock.advance(2)
    assert held.idle_seconds() == 2


def test_what_has_used_up_half_of_its_timeout_is_expiring() -> None:
    clock = FakeClock()
    held = in_hand(clock)
    old, new = delivery(1), delivery(2)
    held.hold([old], clock())
    clock.advance(VISIBILITY / 2)
    held.hold([new], clock())
    assert held.expiring() == [old]
    held.extended([old], clock())
    assert held.expiring() == []


def test_the_timeout_counts_from_when_the_receive_began() -> None:
    clock = FakeClock()
    held = in_hand(clock)
    one = delivery()
    asked_at = clock()
    clock.advance(VISIBILITY / 2)
    held.hold([one], asked_at)
    assert held.expiring() == [one]


def test_what_is_held_is_not_started() -> None:
    held = in_hand(FakeClock())
    one, two = deliveries(2)
    held.hold([one, two], 0)
    held.start(one)
    assert held.started == 1
    assert held.held() == [two]
    assert not held.wait_until_none_started(0)
    held.remove(one)
    assert held.wait_until_none_started(0)


def test_closing_ends_the_waits_of_those_who_want_more() -> None:
    held = in_hand(FakeClock(), capacity=1)
    held.hold([delivery()], 0)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(held.wait_for_room(1, NEVER_SECONDS)), daemon=True)
    waiting.start()
    held.close()
    waiting.join(DEADLINE_SECONDS)
    assert answers == [False]
    assert not held.wait_until_none_started(NEVER_SECONDS)


def test_a_drain_ends_when_the_last_one_has_left() -> None:
    held = in_hand(FakeClock())
    one = delivery()
    held.hold([one], 0)
    held.close()
    assert not held.wait_until_empty(0)
    held.remove(one)
    assert held.wait_until_empty(0)
