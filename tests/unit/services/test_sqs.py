"""Batch calls of which some entries fail: tried again, given up, or returned."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from services.sqs import BATCH, BATCH_ATTEMPTS, MAX_BATCH_BYTES, OutgoingMessage, Queue, QueueCounts


@dataclass
class FakeSQS:
    """Takes batches, of which `fails` says for each body how it fails: None, `again` or `never`."""

    fails: Callable[[str], str | None] = lambda _body: None
    calls: list[list[dict[str, Any]]] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)

    def _batch(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        self.calls.append(entries)
        failures = []
        for entry in entries:
            failure = self.fails(entry.get("MessageBody") or entry["ReceiptHandle"])
            if failure is None:
                self.taken.append(entry)
            else:
                failures.append({"Id": entry["Id"], "SenderFault": failure == "never", "Code": "no"})
        return {"Failed": failures} if failures else {}

    def send_message_batch(self, *, Entries: list[dict[str, Any]], **_more: Any) -> dict[str, Any]:  # noqa: N803
        return self._batch(Entries)

    def delete_message_batch(self, *, Entries: list[dict[str, Any]], **_more: Any) -> dict[str, Any]:  # noqa: N803
        return self._batch(Entries)

    def change_message_visibility_batch(self, *, Entries: list[dict[str, Any]], **_more: Any) -> dict[str, Any]:  # noqa: N803
        return self._batch(Entries)


def queue(sqs: FakeSQS, url: str = "http://q/1/requests", slept: list[float] | None = None) -> Queue:
    return Queue(cast(Any, sqs), url, sleep=(slept if slept is not None else []).append)


def messages(count: int) -> list[OutgoingMessage]:
    return [OutgoingMessage(f"id-{number}", f"body-{number}") for number in range(count)]


def test_messages_go_out_ten_at_a_time_in_order() -> None:
    sqs = FakeSQS()
    assert queue(sqs).send(messages(25)) == []
    assert [len(call) for call in sqs.calls] == [10, 10, 5]
    assert [entry["MessageBody"] for entry in sqs.taken] == [message.body for message in messages(25)]


@given(st.lists(st.sampled_from([1, 1_000, 99_999, 400_000, MAX_BATCH_BYTES]), max_size=40))
def test_batches_are_as_large_as_sqs_takes_by_messages_and_bytes(
    sizes: list[int],
) -> None:
    sqs = FakeSQS()
    outgoing = [OutgoingMessage(str(number), "x" * size) for number, size in enumerate(sizes)]
    assert queue(sqs).send(outgoing) == []
    batches = [[len(entry["MessageBody"]) for entry in call] for call in sqs.calls]
    assert [size for batch in batches for size in batch] == sizes
    assert all(len(batch) <= BATCH and sum(batch) <= MAX_BATCH_BYTES for batch in batches)
    for batch, following in pairwise(batches):
        assert len(batch) == BATCH or sum(batch) + following[0] > MAX_BATCH_BYTES


def test_bytes_are_counted_and_not_characters() -> None:
    sqs = FakeSQS()
    queue(sqs).send([OutgoingMessage(str(number), "é" * 300_000) for number in range(2)])
    assert [len(call) for call in sqs.calls] == [1, 1]


def test_nothing_to_send_is_no_call() -> None:
    sqs = FakeSQS()
    assert queue(sqs).send([]) == []
    assert sqs.calls == []


def test_what_one_batch_call_did_not_take_is_sent_again_alone() -> None:
    tries: dict[str, int] = {}

    def fails(body: str) -> str | None:
        tries[body] = tries.get(body, 0) + 1
        return "again" if body in {"body-3", "body-7"} and tries[body] < 3 else None

    sqs, slept = FakeSQS(fails), cast(list[float], [])
    assert queue(sqs, slept=slept).send(messages(10)) == []
    assert [len(call) for call in sqs.calls] == [10, 2, 2]
    assert sorted(entry["MessageBody"] for entry in sqs.taken) == sorted(message.body for message in messages(10))
    assert len(slept) == 2
    assert all(0 <= pause <= 0.1 * 2**2 for pause in slept)


def test_what_is_never_taken_is_returned_after_a_bounded_number_of_tries() -> None:
    sqs = FakeSQS(lambda body: "again" if body == "body-1" else None)
    assert queue(sqs).send(messages(3)) == [OutgoingMessage("id-1", "body-1")]
    assert len(sqs.calls) == BATCH_ATTEMPTS


def test_the_senders_own_fault_is_not_tried_again() -> None:
    sqs = FakeSQS(lambda receipt: "never" if receipt == "stale" else None)
    assert queue(sqs).delete(["fresh", "stale"]) == ["stale"]
    assert len(sqs.calls) == 1


def test_each_send_to_a_fifo_queue_has_ids_of_its_own_so_that_no_repeat_is_dropped() -> None:
    sqs = FakeSQS()
    fifo = queue(sqs, "http://q/1/requests.fifo")
    fifo.send(messages(2))
    fifo.send(messages(2))
    assert len({entry["MessageDeduplicationId"] for entry in sqs.taken}) == 4
    assert len({entry["MessageGroupId"] for entry in sqs.taken}) == 4
    queue(sqs).send(messages(1))
    assert set(sqs.taken[-1]) == {"Id", "MessageBody"}


def test_visibility_is_changed_for_all_receipts() -> None:
    sqs = FakeSQS()
    assert queue(sqs).change_visibility(["a", "b"], 0) == []
    assert [entry["VisibilityTimeout"] for entry in sqs.taken] == [0, 0]


def test_everything_that_is_not_deleted_is_demand() -> None:
    assert QueueCounts(visible=1, in_flight=2, delayed=4).total == 7
