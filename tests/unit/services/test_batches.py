"""Calls that are repeated: the pauses between tries, and batches that SQS and DynamoDB accept only in part."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Barrier
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from services import sqs as sqs_module
from services import table as table_module
from services.backoff import Backoff, pause_seconds
from services.side_by_side import side_by_side
from services.sqs import BATCH, MAX_BATCH_BYTES, OutgoingMessage, Queue
from services.table import Table, TableBusyError
from tests.support.waiting import DEADLINE_SECONDS

FAILURES = st.integers(1, 10_000)
SECONDS = st.floats(0.001, 1_000)


def test_waits_double_up_to_the_most() -> None:
    longest = [pause_seconds(failures, 1, 10, lambda _least, most: most) for failures in range(1, 7)]
    assert longest == [1, 2, 4, 8, 10, 10]


def test_a_success_begins_again_with_the_shortest_wait() -> None:
    backoff = Backoff(1.0, 30.0, uniform=lambda _low, high: high)
    assert [backoff.after_failure() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    backoff.reset()
    assert backoff.after_failure() == 1


@given(failures=FAILURES, first=SECONDS, most=SECONDS)
def test_a_wait_is_never_longer_than_the_most_nor_shorter_than_half_of_it_in_the_end(
    failures: int, first: float, most: float
) -> None:
    wait = pause_seconds(failures, first, most)
    assert 0 < wait <= most
    if failures > 60:
        assert wait >= most / 2


def test_those_who_wait_spread() -> None:
    assert len({pause_seconds(3, 1, 60) for _ in range(20)}) > 15


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


@given(st.lists(st.sampled_from([1, 1_000, 99_999, 400_000, MAX_BATCH_BYTES]), max_size=40))
def test_batches_are_as_large_as_sqs_takes_by_messages_and_bytes(
    sizes: list[int],
) -> None:
    sqs = FakeSQS()
    outgoing = [OutgoingMessage(str(number), f"{number:02}".ljust(size, "x")) for number, size in enumerate(sizes)]
    assert queue(sqs).send(outgoing) == []
    assert [entry["MessageBody"] for entry in sqs.taken] == [message.body for message in outgoing]
    batches = [[len(entry["MessageBody"]) for entry in call] for call in sqs.calls]
    assert all(len(batch) <= BATCH and sum(batch) <= MAX_BATCH_BYTES for batch in batches)
    for batch, following in pairwise(batches):
        assert len(batch) == BATCH or sum(batch) + following[0] > MAX_BATCH_BYTES


def test_bytes_are_counted_and_not_characters() -> None:
    sqs = FakeSQS()
    queue(sqs).send([OutgoingMessage(str(number), "é" * 300_000) for number in range(2)])
    assert [len(call) for call in sqs.calls] == [1, 1]


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
    assert len(sqs.calls) == sqs_module.BATCH_ATTEMPTS


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


def test_only_a_standard_queue_delays_a_message() -> None:
    for url in ("http://sqs/queue", "http://sqs/queue.fifo"):
        sqs = FakeSQS()
        queue(sqs, url).send([OutgoingMessage("1", "now"), OutgoingMessage("2", "later", delay_seconds=7)])
        delays = [entry.get("DelaySeconds") for entry in sqs.taken]
        assert delays == [None, None if url.endswith("fifo") else 7]


def test_a_message_of_a_standard_queue_is_sent_with_its_group() -> None:
    sqs = FakeSQS()
    queue(sqs).send([OutgoingMessage("1", "body", "user")])
    assert sqs.taken == [{"Id": "0", "MessageBody": "body", "MessageGroupId": "user"}]


@dataclass
class FakeDynamoDB:
    """Takes at most so many items of each batch, as given by `takes`, then all."""

    takes: list[int] = field(default_factory=list)
    written: list[Any] = field(default_factory=list)
    calls: int = 0

    def batch_write_item(self, RequestItems: dict[str, list[Any]]) -> dict[str, Any]:  # noqa: N803
        self.calls += 1
        requests = RequestItems["jobs"]
        taken = self.takes.pop(0) if self.takes else len(requests)
        self.written += requests[:taken]
        return {"UnprocessedItems": {"jobs": requests[taken:]}} if requests[taken:] else {"UnprocessedItems": {}}


def items(count: int) -> list[dict[str, str | int]]:
    return [{"pk": "p", "sk": f"{number:03}", "n": number} for number in range(count)]


def test_what_a_batch_left_over_is_put_after_a_pause() -> None:
    client, slept = FakeDynamoDB([10, 0, 3]), cast(list[float], [])
    Table(cast(Any, client), "jobs", sleep=slept.append).put_all(items(25))
    assert len(client.written) == 25
    assert len(slept) == 3


def test_a_table_that_stays_busy_is_given_up_with_its_name() -> None:
    client, slept = FakeDynamoDB([0] * 100), cast(list[float], [])
    with pytest.raises(TableBusyError, match="'jobs' left 3 items after 8 tries"):
        Table(cast(Any, client), "jobs", sleep=slept.append).put_all(items(3))
    assert client.calls == table_module.BATCH_ATTEMPTS
    assert max(slept) <= 5


def test_other_refusals_than_a_failed_condition_pass_through() -> None:
    class Refusing:
        def put_item(self, **_call: Any) -> None:
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "PutItem")

    with pytest.raises(ClientError, match="AccessDenied"):
        Table(cast(Any, Refusing()), "jobs").put_if({"pk": "a", "sk": "b"}, "attribute_not_exists( #pk )")


@dataclass
class FakeReads:
    """Holds the items `n`, and reads at most so many of each batch, as given by `reads`, then all."""

    there: frozenset[str]
    reads: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        keys, consistent = RequestItems["jobs"]["Keys"], RequestItems["jobs"]["ConsistentRead"]
        assert consistent
        self.asked.append(len(keys))
        read = self.reads.pop(0) if self.reads else len(keys)
        found = [{**key, "n": {"N": "1"}} for key in keys[:read] if key["sk"]["S"] in self.there]
        left = {"jobs": {"Keys": keys[read:]}} if keys[read:] else {}
        return {"Responses": {"jobs": found}, "UnprocessedKeys": left}


def test_what_a_batch_left_unread_is_read_after_a_pause() -> None:
    client, slept = FakeReads(frozenset("0123456789"), [4, 0, 3]), cast(list[float], [])
    found = Table(cast(Any, client), "jobs", sleep=slept.append).get_all([("p", str(n)) for n in range(10)])
    assert (len(found), client.asked, len(slept)) == (10, [10, 6, 6, 3], 3)


def test_keys_that_stay_unread_are_given_up_with_the_name_of_the_table() -> None:
    client = FakeReads(frozenset(), [0] * 100)
    with pytest.raises(TableBusyError, match="'jobs' left 3 keys unread after 8 tries"):
        Table(cast(Any, client), "jobs", sleep=lambda seconds: None).get_all([("p", str(n)) for n in range(3)])


def test_items_of_a_busy_partition_are_returned_and_all_others_are_put() -> None:
    client = FakeDynamoDB([10, 0])
    left = Table(cast(Any, client), "jobs").put_each(items(60))
    assert [item["n"] for item, _ in left] == [*range(10, 25), *range(25, 50)]
    assert {type(error) for _, error in left} == {TableBusyError}
    assert (len(client.written), client.calls) == (20, 3), "each batch is tried once"


def test_items_of_a_batch_that_fails_are_returned_with_its_error() -> None:
    class Refusing(FakeDynamoDB):
        def batch_write_item(self, RequestItems: dict[str, list[Any]]) -> dict[str, Any]:  # noqa: N803
            if self.calls == 1:
                self.calls += 1
                raise ClientError({"Error": {"Code": "ValidationException", "Message": "no"}}, "BatchWriteItem")
            return super().batch_write_item(RequestItems)

    left = Table(cast(Any, Refusing()), "jobs").put_each(items(60))
    assert [item["n"] for item, _ in left] == list(range(25, 50))
    assert all("ValidationException" in str(error) for _, error in left)


def test_the_batches_of_one_operation_are_made_side_by_side() -> None:
    """Each waits until all have begun."""
    together = Barrier(3)

    class Meeting(FakeDynamoDB):
        def batch_write_item(self, RequestItems: dict[str, list[Any]]) -> dict[str, Any]:  # noqa: N803
            together.wait(DEADLINE_SECONDS)
            return super().batch_write_item(RequestItems)

    class MeetingSQS(FakeSQS):
        def delete_message_batch(self, *, Entries: list[dict[str, Any]], **_more: Any) -> dict[str, Any]:  # noqa: N803
            together.wait(DEADLINE_SECONDS)
            return self._batch(Entries)

    with ThreadPoolExecutor(3) as pool:
        Table(cast(Any, Meeting()), "jobs", pool=pool).put_all(items(60))
        sqs = MeetingSQS()
        Queue(cast(Any, sqs), "http://q/1/requests", pool=pool).delete([str(number) for number in range(30)])
    assert len(sqs.taken) == 30


def test_a_call_that_fails_stops_no_other_that_is_made_side_by_side() -> None:
    made = list[int]()

    def call(number: int) -> int:
        made.append(number)
        if number % 2:
            raise ValueError(number)
        return number

    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(ValueError, match="1"):
            side_by_side(pool, call, range(6))
        assert sorted(made) == list(range(6))
        assert side_by_side(pool, call, (2, 0, 4)) == [2, 0, 4]
    with pytest.raises(ValueError, match="1"):
        side_by_side(None, call, range(6))
    assert made[-2:] == [0, 1], "without a pool nothing follows an error"
