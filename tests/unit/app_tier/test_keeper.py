import threading

from botocore.exceptions import EndpointConnectionError

from app_tier.in_hand import InHand
from app_tier.keeper import TIMEOUTS_PER_IMAGE, Keeper
from app_tier.receive import understood
from app_tier.task import Delivery
from tests.support.waiting import DEADLINE_SECONDS
from tests.unit.app_tier.fakes import VISIBILITY, FakeClock, FakeSqs, new_request, send_requests


class Bench:
    """A keeper over a queue from which messages have been received."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sqs = FakeSqs(self.clock)
        self.in_hand = InHand(100, VISIBILITY, self.clock)
        self.hung: list[str] = []
        self.keeper = Keeper(self.sqs.queue(), self.in_hand, VISIBILITY, self.hung.append, self.clock)

    def receive(self, count: int) -> list[Delivery]:
        send_requests(self.sqs, [new_request() for _ in range(count)])
        received = [message for _ in range(0, count, 10) for message in self.sqs.queue().receive(10, 0)]
        self.sqs.calls.clear()
        deliveries = understood(received)
        self.in_hand.hold(deliveries, self.clock())
        return deliveries


def test_nobody_else_gets_what_takes_longer_than_the_visibility_timeout() -> None:
    bench = Bench()
    bench.receive(3)
    for _ in range(20):
        bench.clock.advance(VISIBILITY / 4)
        bench.keeper.look()
        assert bench.sqs.visible == []


def test_visibility_is_extended_once_in_half_a_timeout_and_in_batches_of_ten() -> None:
    bench = Bench()
    bench.receive(25)
    bench.keeper.look()
    assert bench.sqs.calls == []
    bench.clock.advance(VISIBILITY / 2)
    bench.keeper.look()
    bench.keeper.look()
    assert [len(changes) for changes in bench.sqs.called("visibility")] == [10, 10, 5]


def test_what_was_given_back_is_visible_at_once_and_never_hidden_again() -> None:
    bench = Bench()
    given, kept = bench.receive(2)
    bench.clock.advance(VISIBILITY / 2)
    bench.keeper.give_back([given])
    bench.keeper.look()
    assert [message.id for message in bench.sqs.visible] == [given.received.id]
    assert bench.in_hand.everything() == [kept]


def test_what_was_answered_is_neither_extended_nor_given_back() -> None:
    bench = Bench()
    (answered,) = bench.receive(1)
    bench.in_hand.remove(answered)
    bench.clock.advance(VISIBILITY / 2)
    bench.keeper.look()
    bench.keeper.give_back([answered])
    assert bench.sqs.calls == []


def test_an_extension_in_flight_is_finished_before_anything_is_given_back() -> None:
    bench = Bench()
    (one,) = bench.receive(1)
    bench.clock.advance(VISIBILITY / 2)
    extending, go_on = threading.Event(), threading.Event()
    change = bench.sqs.change_message_visibility_batch

    def slow(**arguments: object) -> object:
        extending.set()
        go_on.wait(DEADLINE_SECONDS)
        return change(**arguments)

    bench.sqs.change_message_visibility_batch = slow  # type: ignore[method-assign, assignment]
    looking = threading.Thread(target=bench.keeper.look, daemon=True)
    looking.start()
    assert extending.wait(DEADLINE_SECONDS)
    giving = threading.Thread(target=bench.keeper.give_back, args=([one],), daemon=True)
    giving.start()
    go_on.set()
    for thread in (looking, giving):
        thread.join(DEADLINE_SECONDS)
    assert len(bench.sqs.visible) == 1


def test_a_failed_extension_is_tried_again_at_the_next_look() -> None:
    bench = Bench()
    bench.receive(1)
    bench.clock.advance(VISIBILITY / 2)
    bench.sqs.errors["visibility"] = [EndpointConnectionError(endpoint_url="http://sqs")]
    bench.keeper.look()
    bench.clock.advance(VISIBILITY / 4)
    bench.keeper.look()
    bench.clock.advance(VISIBILITY / 2)
    assert bench.sqs.visible == []


def test_what_is_no_longer_ours_does_not_stop_the_extension_of_the_rest() -> None:
    bench = Bench()
    lost, _kept = bench.receive(2)
    bench.sqs.refuse = {lost.receipt}
    bench.clock.advance(VISIBILITY / 2)
    bench.keeper.look()
    bench.clock.advance(VISIBILITY * 0.75)
    assert [message.id for message in bench.sqs.visible] == [lost.received.id]


def test_giving_back_survives_an_unreachable_queue() -> None:
    bench = Bench()
    given = bench.receive(1)
    bench.sqs.errors["visibility"] = [EndpointConnectionError(endpoint_url="http://sqs")]
    bench.keeper.give_back(given)
    assert len(bench.in_hand) == 0
    bench.clock.advance(VISIBILITY)
    assert len(bench.sqs.visible) == 1


def test_an_image_that_never_ends_is_given_up_and_ends_the_worker() -> None:
    bench = Bench()
    (hung,) = bench.receive(1)
    bench.clock.advance(TIMEOUTS_PER_IMAGE * VISIBILITY + 1)
    bench.keeper.look()
    assert len(bench.in_hand) == 0
    assert bench.sqs.calls == []
    assert hung.request.image_id in bench.hung[0]


def test_the_keeper_looks_by_itself_until_it_is_stopped() -> None:
    clock = FakeClock()
    looked = threading.Semaphore(0)

    class Counting(Keeper):
        def look(self) -> None:
            looked.release()
            raise RuntimeError("one bad look does not end the keeper")

    keeper = Counting(FakeSqs(clock).queue(), InHand(1, 0.01, clock), 0.01, print, clock)  # type: ignore[arg-type]
    keeper.start()
    assert looked.acquire(timeout=DEADLINE_SECONDS)
    assert looked.acquire(timeout=DEADLINE_SECONDS)
    keeper.stop()
