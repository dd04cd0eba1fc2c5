import threading
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import pytest
from botocore.exceptions import EndpointConnectionError

from app_tier.lifecycle import Lifetime
from app_tier.receiver import MALFORMED_RECEIVES, POLL_SECONDS, UNREACHABLE_SECONDS, Receiver
from app_tier.recovery import FailureBackoff, StepRecovery
from app_tier.task import Delivery, Task, new_task, refuse
from app_tier.visibility import InFlightMessages, VisibilityExtender
from core.messages import Failure, RequestMessage
from services.sqs import BATCH, MAX_IN_FLIGHT, MAX_VISIBILITY_SECONDS
from tests.support.clocks import ManualClock
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.sqs import VISIBILITY_SECONDS, MemorySQS
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from tests.support.worker import new_request, send_requests, worker_queue

IDLE = 5.0
CAPACITY = 30


class Bench:
    """A receiver whose pipeline is a function of the test; by default it answers at once."""

    def __init__(
        self,
        sqs: MemorySQS,
        submit: Callable[[Delivery], None] | None = None,
        *,
        capacity: int = CAPACITY,
        is_protected: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sqs, self.clock = sqs, cast(ManualClock, sqs.clock)
        self.in_flight = InFlightMessages(capacity, VISIBILITY_SECONDS, self.clock)
        self.lifetime = Lifetime(on_end=self.in_flight.close, is_protected=is_protected)
        self.backoff = FailureBackoff(jitter=lambda *_: 0.001)
        self.extender = VisibilityExtender(
            sqs.queue(), self.in_flight, VISIBILITY_SECONDS, 900, self.lifetime.fail, self.clock
        )
        self.dead_letters = worker_queue(self.clock)
        self.submitted: list[str] = []
        self._submit = submit or self.answer
        self.receiver = Receiver(
            sqs.queue(),
            self.dead_letters.queue(),
            StepRecovery(self.in_flight, self.extender, self.lifetime, self.backoff, self.clock),
            self._note_and_submit,
            idle_seconds=IDLE,
        )

    def _note_and_submit(self, task: Task[None]) -> None:
        self.submitted.append(task.delivery.received.id)
        self._submit(task.delivery)

    def answer(self, one: Delivery) -> None:
        self.sqs.queue().delete([one.receipt])
        self.in_flight.remove([one])

    def run(self) -> None:
        self.receiver.run()


def sqs_with(count: int, *, fifo: bool = False) -> MemorySQS:
    sqs = worker_queue(ManualClock(), fifo=fifo)
    send_requests(sqs, [new_request() for _ in range(count)])
    return sqs


# Idle


def test_a_worker_that_never_got_a_message_idles_out() -> None:
    bench = Bench(sqs_with(0))
    started = bench.clock()
    bench.run()
    assert bench.lifetime.reason == "idle for 5 s"
    assert bench.lifetime.status == 0
    assert IDLE <= bench.clock() - started <= IDLE + POLL_SECONDS


def test_idleness_counts_from_the_last_answer() -> None:
    sqs = sqs_with(0)
    sqs.arriving = ["", "", "", new_request().to_json()]
    sqs.arriving[:3] = [new_request().to_json() for _ in range(3)]
    bench = Bench(sqs)
    started = bench.clock()
    bench.run()
    assert len(bench.submitted) == 4
    assert bench.clock() - started >= 4 * POLL_SECONDS + IDLE


def test_a_message_that_comes_as_the_idle_timer_fires_is_processed() -> None:
    bench = Bench(sqs_with(0))

    def arrives_with_the_last_poll(**arguments: int) -> object:
        if arguments["WaitTimeSeconds"] == 0 and not bench.submitted:
            send_requests(bench.sqs, [new_request()])
        return MemorySQS.receive_message(bench.sqs, **arguments)

    bench.sqs.receive_message = arrives_with_the_last_poll  # type: ignore[method-assign, assignment]
    bench.run()
    assert len(bench.submitted) == 1
    assert bench.sqs.messages == []


def test_an_idle_protected_worker_checks_again_after_each_idle_time_and_receives() -> None:
    asked: list[float] = []

    def stays() -> bool:
        asked.append(bench.clock() - started)
        if len(asked) == 2:
            send_requests(bench.sqs, [new_request()])
        return len(asked) < 4

    bench = Bench(sqs_with(0), is_protected=stays)
    started = bench.clock()
    bench.run()
    assert bench.lifetime.reason == "idle for 5 s"
    assert len(bench.submitted) == 1
    assert len(asked) == 4
    pauses = [later - earlier for earlier, later in pairwise([0.0, *asked])]
    assert all(IDLE <= pause <= IDLE + 2 * POLL_SECONDS for pause in pauses), pauses
    waits = [call["WaitTimeSeconds"] for call in bench.sqs.called("receive")]
    assert waits.count(0) == 2, "since the image was sent: a standby does not poll more often than any other"


def test_what_is_received_as_the_worker_ends_is_given_back() -> None:
    def end(one: Delivery) -> None:
        bench.lifetime.end("SIGTERM")
        bench.answer(one)

    bench = Bench(sqs_with(4), submit=end)
    bench.run()
    assert len(bench.submitted) == 1
    assert [message.receive_count for message in bench.sqs.visible] == [0] * 3


def test_a_worker_with_something_in_hand_is_not_idle() -> None:
    bench = Bench(sqs_with(1), submit=lambda _: None)

    def answer_late(**arguments: int) -> object:
        if bench.clock() > 1000 + 3 * IDLE:
            for one in bench.in_flight.everything():
                bench.answer(one)
        return MemorySQS.receive_message(bench.sqs, **arguments)

    bench.sqs.receive_message = answer_late  # type: ignore[method-assign, assignment]
    bench.run()
    assert bench.clock() >= 1000 + 4 * IDLE


# How much


def test_never_more_than_the_capacity_is_received() -> None:
    bench = Bench(sqs_with(100), submit=lambda _: None)
    thread = threading.Thread(target=bench.run, daemon=True)
    thread.start()
    wait_until(lambda: len(bench.in_flight) > CAPACITY - BATCH, "the receiver has no room for another batch")
    bench.in_flight.wait_until_empty(0.2)  # time in which it would receive more
    assert len(bench.in_flight) <= CAPACITY
    bench.lifetime.end("test over")
    thread.join(DEADLINE_SECONDS)
    assert len(bench.submitted) == len(bench.in_flight)


# What cannot be understood


@pytest.mark.parametrize("body", ["", "{}", "[1]"])
def test_a_message_that_is_no_request_is_a_dead_letter_at_its_fifth_receive(body: str) -> None:
    sqs = sqs_with(1)
    sqs.add(body)
    for receives in range(1, MALFORMED_RECEIVES):
        Bench(sqs).run()
        assert (sqs.bodies, sqs.messages[0].receive_count) == ([body], receives)
        sqs.messages[0].visible_at = 0
    bench = Bench(sqs)
    bench.dead_letters.errors["send"] = [refusal("AccessDenied")]
    bench.run()
    assert sqs.bodies == [body], "it stays until it is a dead letter"
    sqs.messages[0].visible_at = 0
    bench = Bench(sqs)
    bench.run()
    assert (sqs.bodies, bench.dead_letters.bodies, bench.submitted) == ([], [body], [])


def pack_of_images(count: int) -> RequestMessage:
    return new_request().model_copy(update={"extension": "tar", "sizes": (100,) * count})


def test_room_is_counted_in_images_and_a_large_pack_may_exceed_it() -> None:
    sqs = sqs_with(0)
    bench = Bench(sqs, submit=lambda _: None)
    held = list[Delivery]()

    def receive(*sizes: int) -> list[int]:
        """Send requests, receive once, and return for how many messages the receiver asked and what came."""
        send_requests(sqs, [pack_of_images(size) for size in sizes])
        room = bench.in_flight.wait_for_room(BATCH, 0)
        if room:
            bench.receiver._receive_once(room)
        held[:] = bench.in_flight.everything()
        return [room, *(each.images for each in held)]

    def answer(delivery: Delivery, count: int) -> None:
        for place in bench.in_flight.open_places(delivery)[:count]:
            task = new_task(delivery).image(place, None)
            bench.in_flight.add_answer(refuse(task, Failure(code="empty", message="it is empty"), "i-1"))

    assert receive(50, 50) == [1, 50], "the first may have any size"
    assert receive() == [0, 50]
    answer(held[0], 20)
    assert receive() == [0, 50]
    answer(held[0], 1)
    assert receive() == [1, 50, 50], "less than the capacity is left"
    answer(held[0], 29)
    assert len(bench.in_flight) == 1 + 50, "the answers are on their way"
    send_requests(sqs, [new_request() for _ in range(60)])
    rooms = list[int]()
    for _ in range(15):
        for each in held:
            bench.answer(each)
        assert len(bench.in_flight) == 0
        rooms.append(receive()[0])
    assert (rooms[0], rooms[-1], sorted(rooms)) == (1, BATCH, rooms), "by the mean size of the last ones"


def test_a_pack_that_is_given_back_asks_for_the_same_images_again() -> None:
    sqs = sqs_with(0)
    bench = Bench(sqs, submit=lambda _: None)
    request = pack_of_images(9).asking_for([2, 7])
    send_requests(sqs, [request])
    bench.receiver._receive_once(1)
    bench.extender.give_back(bench.in_flight.everything())
    assert sqs.bodies == [request.to_json()]


# Errors


def test_an_unreachable_queue_is_tried_again_and_loses_nothing() -> None:
    sqs = sqs_with(3)
    sqs.errors["receive"] = [EndpointConnectionError(endpoint_url="http://sqs")] * 3
    bench = Bench(sqs)
    bench.run()
    assert len(bench.submitted) == 3
    assert bench.lifetime.status == 0


def test_a_queue_that_stays_unreachable_ends_the_worker() -> None:
    bench = Bench(sqs_with(0))

    def unreachable(**_: int) -> object:
        bench.clock.advance(60)
        raise EndpointConnectionError(endpoint_url="http://sqs")

    bench.sqs.receive_message = unreachable  # type: ignore[method-assign, assignment]
    bench.run()
    assert bench.lifetime.status == 1
    assert "no answer from the request queue" in bench.lifetime.reason


def test_one_failed_receive_after_long_work_does_not_end_the_worker() -> None:
    bench = Bench(sqs_with(1))
    bench.sqs.errors["receive"] = []

    def work_long(one: Delivery) -> None:
        bench.clock.advance(2 * UNREACHABLE_SECONDS)
        bench.sqs.errors["receive"] = [EndpointConnectionError(endpoint_url="http://sqs")]
        bench.answer(one)

    bench._submit = work_long
    bench.run()
    assert (bench.lifetime.status, bench.lifetime.reason) == (0, "idle for 5 s")


# Too many messages in flight


def full_for(bench: Bench, seconds: float) -> None:
    """Let the queue have too many messages in flight for so long; a long poll of that time takes two minutes."""
    end = bench.clock() + seconds
    bench.sqs.others_in_flight = MAX_IN_FLIGHT

    def receive(**arguments: int) -> object:
        if bench.clock() >= end:
            bench.sqs.others_in_flight = 0
        if bench.sqs.others_in_flight:
            bench.clock.advance(119 * arguments["WaitTimeSeconds"])
        return MemorySQS.receive_message(bench.sqs, **arguments)

    bench.sqs.receive_message = receive  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
def test_row_56_a_worker_waits_for_hours_while_too_many_messages_are_in_flight(fifo: bool) -> None:
    bench = Bench(sqs_with(3, fifo=fifo))
    started = bench.clock()
    full_for(bench, 3 * 3600)
    bench.run()
    assert bench.clock() - started >= 3 * 3600
    assert (bench.lifetime.status, bench.lifetime.reason, len(bench.submitted)) == (0, "idle for 5 s", 3)
    last_polls = [call for call in bench.sqs.called("receive") if not call["WaitTimeSeconds"]]
    assert len(bench.sqs.called("counts")) <= (len(last_polls) if fifo else 0), "only before the worker would end"


def test_a_full_fifo_queue_in_which_no_message_waits_keeps_no_worker() -> None:
    bench = Bench(sqs_with(0, fifo=True))
    started = bench.clock()
    bench.sqs.others_in_flight = MAX_IN_FLIGHT
    bench.run()
    assert bench.clock() - started <= IDLE + POLL_SECONDS


def test_wrong_counts_keep_a_worker_no_longer_than_the_maximum_visibility_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(sqs_with(1, fifo=True))
    started = bench.clock()
    full_for(bench, 2 * MAX_VISIBILITY_SECONDS)
    bench.run()
    assert MAX_VISIBILITY_SECONDS <= bench.clock() - started <= MAX_VISIBILITY_SECONDS + 600
    assert bench.lifetime.status == 0


@pytest.mark.parametrize(
    "error", [refusal("AccessDenied", "GetQueueAttributes"), EndpointConnectionError(endpoint_url="http://sqs")]
)
def test_a_worker_that_cannot_read_the_counts_of_its_queue_ends_when_it_is_idle(error: Exception) -> None:
    bench = Bench(sqs_with(1, fifo=True))
    bench.sqs.errors["counts"] = [error]
    bench.run()
    assert (bench.lifetime.status, bench.lifetime.reason, len(bench.submitted)) == (0, "idle for 5 s", 1)


def test_denied_access_stops_receiving_and_says_so() -> None:
    sqs = sqs_with(1)
    sqs.errors["receive"] = [refusal("AccessDenied", "ReceiveMessage")]
    bench = Bench(sqs)
    bench.run()
    assert bench.lifetime.status == 1
    assert "access denied" in bench.lifetime.reason
    assert len(sqs.called("receive")) == 1
