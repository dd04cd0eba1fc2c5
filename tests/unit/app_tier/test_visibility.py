"""Messages in flight: what is held, for how long it is invisible, and how it is given back."""

import threading
from collections import Counter
from dataclasses import replace
from itertools import count
from typing import Any

from botocore.exceptions import EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from app_tier.receiver import parse_messages
from app_tier.task import Delivery
from app_tier.visibility import InFlightMessages, VisibilityExtender
from services.sqs import OutgoingMessage
from tests.support.clocks import ManualClock
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.sqs import VISIBILITY_SECONDS
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS
from tests.support.worker import delivery, new_request, send_requests, worker_queue


def in_flight(clock: ManualClock, capacity: int = 10) -> InFlightMessages:
    return InFlightMessages(capacity, VISIBILITY_SECONDS, clock)


@given(st.lists(st.lists(st.sampled_from(["a", "a", "a", "b", None]), max_size=10), max_size=8))
def test_only_a_small_share_of_the_messages_in_flight_has_priority(receives: list[list[str | None]]) -> None:
    held, numbers = in_flight(ManualClock(), capacity=40), count()
    for groups in receives[:4]:
        before = Counter(each.received.group for each in held.everything())
        now = before + Counter(groups)
        added = held.hold([delivery(next(numbers), group=group) for group in groups], 0)
        assert held.everything()[-len(added) :] == added or not added
        for each in added:
            is_quiet = each.received.group is not None and now[each.received.group] <= now.total() / 10
            is_quiet &= max(now.values()) > now.total() / 10
            assert is_quiet or not each.has_priority
            assert each.has_priority or not is_quiet or sum(one.has_priority for one in held.everything()) == 4
        assert sum(each.has_priority for each in held.everything()) <= 4


def test_a_lone_image_has_priority_beside_a_large_pack_of_another_user_and_a_pack_has_none() -> None:
    held = in_flight(ManualClock(), capacity=40)
    packs = [new_request().model_copy(update={"extension": "tar", "sizes": (1,) * size}) for size in (50, 5, 1)]
    held.hold([delivery(0, request=packs[0], group="a")], 0)
    few, one = held.hold([delivery(number, request=packs[number], group=f"user {number}") for number in (1, 2)], 0)
    assert (few.has_priority, one.has_priority) == (False, True)


def test_no_image_has_priority_where_many_users_send_alike() -> None:
    held = in_flight(ManualClock(), capacity=40)
    added = held.hold([delivery(number, group=f"user {number % 12}") for number in range(36)], 0)
    assert not any(each.has_priority for each in added)


def test_closing_ends_the_waits_of_those_who_want_more() -> None:
    held = in_flight(ManualClock(), capacity=1)
    held.hold([delivery()], 0)
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(held.wait_for_room(1, NEVER_SECONDS)), daemon=True)
    waiting.start()
    held.close()
    waiting.join(DEADLINE_SECONDS)
    assert answers == [0]
    assert not held.start(held.everything()[0])


STEP_SECONDS = 400.0


class Bench:
    """A extender over a queue from which messages have been received."""

    def __init__(self, *, fifo: bool = False, first_seconds: int = VISIBILITY_SECONDS) -> None:
        self.clock = ManualClock()
        self.sqs = worker_queue(self.clock, fifo=fifo)
        self.in_flight = InFlightMessages(100, first_seconds, self.clock)
        self.hung: list[str] = []
        self.extender = VisibilityExtender(
            self.sqs.queue(), self.in_flight, VISIBILITY_SECONDS, STEP_SECONDS, self.hung.append, self.clock
        )

    def receive(self, count: int) -> list[Delivery]:
        send_requests(self.sqs, [new_request() for _ in range(count)])
        return self.receive_again(count)

    def receive_again(self, count: int) -> list[Delivery]:
        queue, seconds = self.sqs.queue(), self.in_flight.first_seconds
        received = [message for _ in range(0, count, 10) for message in queue.receive(10, 0, seconds)]
        self.sqs.calls.clear()
        deliveries, _ = parse_messages(received)
        self.in_flight.hold(deliveries, self.clock())
        return deliveries


def test_a_message_is_hidden_for_long_only_once_a_heartbeat_has_named_it() -> None:
    """Row 1."""
    bench = Bench(first_seconds=4)
    named, unnamed = bench.receive(2)
    bench.in_flight.mark_named([named.receipt, "one that was answered"])
    for _ in range(10):
        bench.clock.advance(2)
        bench.extender.check()
        assert bench.sqs.visible == [], "its worker lives"
    hidden = [message.visible_at - bench.clock() for message in bench.sqs.messages]
    assert (hidden[0] >= VISIBILITY_SECONDS / 2, hidden[1]) == (True, 4)
    assert 11 <= len(bench.sqs.called("visibility")) <= 12, "one is extended ten times, the other once or twice"
    bench.clock.advance(5)  # the worker was killed
    assert [message.body for message in bench.sqs.visible] == [unnamed.request.to_json()]


def test_no_other_worker_gets_what_takes_longer_than_the_visibility_timeout() -> None:
    bench = Bench()
    bench.receive(3)
    for _ in range(20):
        bench.clock.advance(VISIBILITY_SECONDS / 4)
        bench.extender.check()
        assert bench.sqs.visible == []


def test_images_given_back_with_a_delay_are_visible_after_it_also_if_a_send_fails() -> None:
    bench = Bench()
    sent, refused = bench.receive(2)
    bench.sqs.refuse = {refused.request.pack_id}
    bench.extender.give_back([sent, refused], 5)
    assert bench.sqs.visible == []
    bench.clock.advance(5)
    assert sorted(each.receives for each in bench.receive_again(2)) == [1, 2]


def test_images_that_are_left_out_of_a_fifo_pack_are_asked_for_alone_after_the_delay() -> None:
    bench = Bench(fifo=True)
    send_requests(bench.sqs, [request := new_request().model_copy(update={"sizes": (9,) * 3, "extension": "tar"})])
    [pack] = bench.receive_again(1)
    gathered = [bench.in_flight.leave_out(pack, place) for place in (2, 0, 1)]
    assert (gathered, bench.in_flight.left_out(pack)) == ([None, None, []], [0, 1, 2])
    bench.extender.give_back([replace(pack, request=request.asking_for([1]))], 5)
    bench.extender.check()
    assert (bench.sqs.visible, len(bench.in_flight), bench.in_flight.left_out(pack)) == ([], 1, [])
    bench.clock.advance(5)
    bench.extender.check()
    assert [each.request.places for each in bench.receive_again(1)] == [(1,)]
    assert len(bench.sqs.messages) == 1


def test_what_was_given_back_keeps_its_message_group() -> None:
    bench = Bench()
    bench.sqs.queue().send([OutgoingMessage("1", new_request().to_json(), "user")])
    bench.extender.give_back(bench.receive_again(1))
    assert [message.group for message in bench.sqs.visible] == ["user"]


def test_a_request_is_sent_anew_before_its_message_is_deleted() -> None:
    bench = Bench()
    given = bench.receive(2)
    bench.extender.give_back(given)
    assert [operation for operation, _ in bench.sqs.calls] == ["send", "delete"]
    bench.sqs.errors["delete"] = [EndpointConnectionError(endpoint_url="http://sqs")]
    bench.extender.give_back(bench.receive_again(2))
    assert (len(bench.sqs.messages), len(bench.sqs.visible)) == (4, 2)


def test_a_request_that_cannot_be_sent_anew_is_made_visible_itself() -> None:
    bench = Bench()
    bench.extender.give_back(bench.receive(2))
    given = bench.receive_again(2)
    bench.sqs.errors["send"] = [refusal("AccessDenied")]
    bench.extender.give_back(given)
    assert [message.id for message in bench.sqs.visible] == [each.received.id for each in given]
    bench.sqs.refuse = {given[0].request.pack_id}
    again = bench.receive_again(2)
    bench.extender.give_back(again)
    assert len(bench.sqs.visible) == len(bench.sqs.messages) == 2
    assert [each.receives for each in bench.receive_again(2)] == [3, 1]


def test_what_has_come_back_by_itself_is_not_sent_a_second_time() -> None:
    bench = Bench()
    given = bench.receive(2)
    bench.clock.advance(VISIBILITY_SECONDS)
    another = bench.sqs.queue().receive(10, 0)
    bench.extender.give_back(given)
    assert len(bench.in_flight) == 0
    assert [message.id for message in bench.sqs.messages] == [message.id for message in another]


def test_an_extension_in_flight_is_finished_before_anything_is_given_back() -> None:
    bench = Bench()
    (one,) = bench.receive(1)
    bench.clock.advance(VISIBILITY_SECONDS / 2)
    extending, go_on = threading.Event(), threading.Event()
    change = bench.sqs.change_message_visibility_batch

    def slow(**arguments: Any) -> object:
        extending.set()
        go_on.wait(DEADLINE_SECONDS)
        return change(**arguments)

    bench.sqs.change_message_visibility_batch = slow  # type: ignore[method-assign, assignment]
    looking = threading.Thread(target=bench.extender.check, daemon=True)
    looking.start()
    assert extending.wait(DEADLINE_SECONDS)
    giving = threading.Thread(target=bench.extender.give_back, args=([one],), daemon=True)
    giving.start()
    go_on.set()
    for thread in (looking, giving):
        thread.join(DEADLINE_SECONDS)
    assert len(bench.sqs.visible) == 1


def test_a_failed_extension_is_tried_again_at_the_next_look() -> None:
    bench = Bench()
    bench.receive(1)
    bench.clock.advance(VISIBILITY_SECONDS / 2)
    bench.sqs.errors["visibility"] = [EndpointConnectionError(endpoint_url="http://sqs")]
    bench.extender.check()
    bench.clock.advance(VISIBILITY_SECONDS / 4)
    bench.extender.check()
    bench.clock.advance(VISIBILITY_SECONDS / 2)
    assert bench.sqs.visible == []


def test_what_is_no_longer_ours_does_not_stop_the_extension_of_the_rest() -> None:
    bench = Bench()
    lost, _kept = bench.receive(2)
    bench.sqs.refuse = {lost.receipt}
    bench.clock.advance(VISIBILITY_SECONDS / 2)
    bench.extender.check()
    bench.clock.advance(VISIBILITY_SECONDS * 0.5)
    assert [message.id for message in bench.sqs.visible] == [lost.received.id]


def test_what_is_no_longer_ours_is_neither_extended_again_nor_sent_again() -> None:
    bench = Bench()
    lost, kept = bench.receive(2)
    bench.sqs.refuse = {lost.receipt}
    bench.clock.advance(VISIBILITY_SECONDS / 2)
    bench.extender.check()
    bench.sqs.calls.clear()
    bench.extender.check()
    assert bench.sqs.calls == []
    bench.extender.give_back([lost, kept])
    assert len(bench.in_flight) == 0
    assert len(bench.sqs.messages) == 2


def test_giving_back_survives_an_unreachable_queue() -> None:
    bench = Bench()
    given = bench.receive(1)
    bench.sqs.errors["send"] = [EndpointConnectionError(endpoint_url="http://sqs")]
    bench.extender.give_back(given)
    assert [operation for operation, _ in bench.sqs.calls] == ["send"]
    assert len(bench.in_flight) == 0
    bench.clock.advance(VISIBILITY_SECONDS)
    assert len(bench.sqs.visible) == 1


def test_an_image_that_never_ends_its_step_is_given_up_and_ends_the_worker() -> None:
    bench = Bench()
    hung, waiting = bench.receive(2)
    bench.clock.advance(1_000)
    with bench.in_flight.step(lambda: [hung]):
        bench.clock.advance(STEP_SECONDS)
        bench.extender.check()
        assert bench.hung == []
        bench.sqs.calls.clear()
        bench.clock.advance(1)
        bench.extender.check()
    assert bench.in_flight.everything() == [waiting]
    assert bench.sqs.calls == [], "it is received again, and not for the first time"
    assert hung.request.pack_id in bench.hung[0]


def test_an_image_that_is_tried_again_and_again_for_hours_does_not_hang() -> None:
    bench = Bench()
    received = bench.receive(10)
    for _ in range(100):
        with bench.in_flight.step(lambda: received[:1]):
            bench.clock.advance(STEP_SECONDS)
            bench.extender.check()
    assert bench.hung == []
    assert len(bench.in_flight) == 10


def test_the_extender_runs_by_itself_until_it_is_stopped() -> None:
    clock = ManualClock()
    checked = threading.Semaphore(0)

    class Counting(VisibilityExtender):
        def check(self) -> None:
            checked.release()
            raise RuntimeError("one failed check does not end the extender")

    extender = Counting(worker_queue(clock).queue(), InFlightMessages(1, 0.01, clock), 0.01, 1, print, clock)  # type: ignore[arg-type]
    extender.start()
    assert checked.acquire(timeout=DEADLINE_SECONDS)
    assert checked.acquire(timeout=DEADLINE_SECONDS)
    extender.stop()


def test_an_extended_timeout_is_random_between_one_and_two_visibility_timeouts() -> None:
    timeouts = set()
    for _ in range(30):
        bench = Bench()
        bench.in_flight.mark_named([each.receipt for each in bench.receive(1)])
        bench.clock.advance(VISIBILITY_SECONDS / 2)
        bench.extender.check()
        timeouts.add(bench.sqs.messages[0].visible_at - bench.clock())
    assert len(timeouts) > 1
    assert VISIBILITY_SECONDS <= min(timeouts) <= max(timeouts) <= 2 * VISIBILITY_SECONDS
