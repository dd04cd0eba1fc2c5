"""Queues by our wrapper, of both kinds: in memory, in the local cloud and in the emulator."""

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from services.sqs import BATCH_ATTEMPTS, OutgoingMessage, Queue, ReceivedMessage
from tests.integration.services.conftest import ALL_ATTEMPTS, Place
from tests.support.memory_aws.calls import InjectedFault, repeat_fault
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

KINDS = pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])


def receive(queue: Queue, wanted: int = 1) -> list[ReceivedMessage]:
    """Receive until so many messages have come."""
    found: list[ReceivedMessage] = []

    def has_come() -> bool:
        found.extend(queue.receive(wait_seconds=0))
        return len(found) >= wanted

    wait_until(has_come, f"{wanted} messages have come")
    return found


@KINDS
def test_a_message_is_hidden_given_back_counted_and_deleted(place: Place, fifo: bool) -> None:
    queue = place.queue(fifo=fifo)
    assert queue.send([OutgoingMessage("1", "one"), OutgoingMessage("2", "two")]) == []
    first = receive(queue, 2)
    assert sorted(message.body for message in first) == ["one", "two"]
    assert queue.receive(wait_seconds=0) == []
    assert queue.counts().in_flight == 2
    assert queue.change_visibility([message.receipt for message in first], 0) == []
    again = receive(queue, 2)
    assert [message.receive_count for message in again] == [2, 2]
    assert queue.change_visibility([first[0].receipt], 0) == [first[0].receipt]
    assert queue.delete([message.receipt for message in again]) == []
    assert queue.counts().total == 0


@KINDS
def test_a_receive_may_hide_its_messages_for_another_time_than_the_queues(place: Place, fifo: bool) -> None:
    queue = place.queue(fifo=fifo)
    queue.send([OutgoingMessage("1", "one")])
    [first] = queue.receive(1, wait_seconds=1, visibility_seconds=0)
    [again] = queue.receive(1, wait_seconds=1)
    assert (again.id, again.receive_count) == (first.id, 2)
    assert queue.receive(wait_seconds=0) == []


@KINDS
def test_a_message_that_was_received_too_often_is_a_dead_letter(place: Place, fifo: bool) -> None:
    letters = place.queue(fifo=fifo)
    queue = place.queue(fifo=fifo, letters=letters)
    queue.send([OutgoingMessage("1", "poison")])
    for _ in range(2):
        queue.change_visibility([receive(queue)[0].receipt], 0)
    assert queue.receive(wait_seconds=0) == []
    assert [message.body for message in receive(letters)] == ["poison"]
    assert queue.counts().total == 0


@KINDS
def test_all_that_is_sent_of_one_image_within_five_minutes_arrives(place: Place, fifo: bool) -> None:
    """Row 45: the request and the response of an image that failed and is retried at once."""
    queue = place.queue(fifo=fifo)
    sent = [f"attempt {attempt}" for attempt in range(3)]
    for body in sent:
        assert queue.send([OutgoingMessage("the same image", body)]) == []
    assert sorted(each.body for each in receive(queue, wanted=3)) == sent


@KINDS
def test_a_receipt_expires_with_the_visibility_timeout_on_a_fifo_queue_alone(place: Place, fifo: bool) -> None:
    """Row 5."""
    queue = place.queue(fifo=fifo)
    queue.send([OutgoingMessage("a", "1")])
    [message] = receive(queue)
    queue.change_visibility([message.receipt], 0)
    assert queue.delete([message.receipt]) == ([message.receipt] if fifo else [])
    assert queue.counts().total == (1 if fifo else 0)


@KINDS
def test_the_time_of_the_first_receive_stays_when_a_message_comes_again(place: Place, fifo: bool) -> None:
    queue = place.queue(fifo=fifo)
    queue.send([OutgoingMessage("a", "body")])
    (first,) = queue.receive(wait_seconds=0)
    assert queue.change_visibility([first.receipt], 0) == []
    (second,) = queue.receive(wait_seconds=1)
    assert abs(second.first_received_at - first.first_received_at) < 0.01
    assert second.sent_at <= second.first_received_at


@KINDS
def test_entries_that_fail_in_a_batch_are_sent_again_alone(stand_in: Place, fifo: bool) -> None:
    queue = stand_in.queue(fifo=fifo)
    stand_in.fail("SendMessageBatch", "partial", "partial")
    assert queue.send([OutgoingMessage(str(number), f"body {number}") for number in range(8)]) == []
    assert [0 < pause <= 1 for pause in stand_in.slept] == [True, True], "between the attempts"
    assert sorted(each.body for each in receive(queue, 8)) == [f"body {number}" for number in range(8)]
    assert queue.receive(wait_seconds=0) == []


@KINDS
def test_entries_that_fail_in_each_attempt_are_returned_and_the_others_are_sent(stand_in: Place, fifo: bool) -> None:
    queue = stand_in.queue(fifo=fifo)
    stand_in.fail("SendMessageBatch", *repeat_fault("partial", BATCH_ATTEMPTS))
    failed = queue.send([OutgoingMessage(str(number), f"body {number}") for number in range(10)])
    assert (len(failed), len(stand_in.slept)) == (1, BATCH_ATTEMPTS - 1)
    sent = {f"body {number}" for number in range(10)} - {each.body for each in failed}
    assert {each.body for each in receive(queue, 9)} == sent


@KINDS
def test_messages_that_a_batch_did_not_delete_are_deleted_by_the_next(stand_in: Place, fifo: bool) -> None:
    queue = stand_in.queue(fifo=fifo)
    queue.send([OutgoingMessage(str(number), "body") for number in range(5)])
    receipts = [each.receipt for each in receive(queue, 5)]
    stand_in.fail("DeleteMessageBatch", "partial")
    assert queue.delete(receipts) == []
    assert queue.counts().total == 0


@KINDS
def test_a_stale_receipt_fails_alone_in_a_batch_that_is_processed_in_part(stand_in: Place, fifo: bool) -> None:
    """A failure for which SQS is the reason is tried again, and one for which the receipt is the reason is not."""
    queue = stand_in.queue(fifo=fifo)
    queue.send([OutgoingMessage(str(number), "body") for number in range(4)])
    receipts = [each.receipt for each in receive(queue, 4)]
    assert queue.delete(receipts[:1]) == []
    stand_in.fail("ChangeMessageVisibilityBatch", "partial")
    assert queue.change_visibility(receipts, 0) == receipts[:1]
    assert len(stand_in.slept) == 1
    assert len(receive(queue, 3)) == 3


@KINDS
@pytest.mark.parametrize("fault", ["throttled", "unavailable", "reset"])
def test_a_call_that_may_pass_is_made_again_and_takes_effect_once(
    stand_in: Place, fifo: bool, fault: InjectedFault
) -> None:
    queue = stand_in.queue(fifo=fifo)
    stand_in.fail("SendMessageBatch", fault)
    assert queue.send([OutgoingMessage("1", "one")]) == []
    stand_in.fail("ReceiveMessage", fault)
    [message] = receive(queue)
    stand_in.fail("DeleteMessageBatch", fault)
    assert queue.delete([message.receipt]) == []
    assert queue.counts().total == 0


@KINDS
@pytest.mark.parametrize("fault", ["lost_reply", "repeated"])
def test_a_send_with_a_lost_reply_arrives_once_on_fifo_and_twice_on_standard_queues(
    stand_in: Place, fifo: bool, fault: InjectedFault
) -> None:
    queue = stand_in.queue(fifo=fifo)
    stand_in.fail("SendMessageBatch", fault)
    assert queue.send([OutgoingMessage("1", "one")]) == []
    assert queue.counts().visible == (1 if fifo else 2)


@KINDS
def test_a_receive_with_a_lost_reply_hides_its_messages_and_loses_none(stand_in: Place, fifo: bool) -> None:
    queue = stand_in.queue(fifo=fifo)
    queue.send([OutgoingMessage(str(number), "body") for number in range(11)])
    stand_in.fail("ReceiveMessage", "lost_reply")
    assert len(queue.receive(wait_seconds=0)) == 1
    assert (queue.counts().visible, queue.counts().in_flight) == (0, 11)


@KINDS
def test_a_service_that_stays_away_is_an_error_and_nothing_was_sent(stand_in: Place, fifo: bool) -> None:
    queue = stand_in.queue(fifo=fifo)
    stand_in.fail("SendMessageBatch", *repeat_fault("unavailable", ALL_ATTEMPTS))
    with pytest.raises((BotoCoreError, ClientError)):
        queue.send([OutgoingMessage("1", "one")])
    assert queue.counts().total == 0


@KINDS
def test_a_receive_may_be_short_and_loses_nothing(stand_in: Place, fifo: bool) -> None:
    queue = stand_in.queue(fifo=fifo)
    queue.send([OutgoingMessage(str(number), f"body {number}") for number in range(10)])
    stand_in.shorten_receives()
    first = queue.receive(wait_seconds=0)
    assert len(first) < 10
    assert sorted(each.body for each in first + receive(queue, 10 - len(first))) == [
        f"body {number}" for number in range(10)
    ]
