"""Calls that are repeated: the pauses between tries, and batches that SQS and DynamoDB accept only in part."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from services.backoff import Backoff, pause_seconds
from services.side_by_side import side_by_side
from services.sqs import BATCH, MAX_BATCH_BYTES, OutgoingMessage
from services.table import BATCH_ATTEMPTS, TableBusyError
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.sqs import MemorySQS

FAILURES = st.integers(1, 10_000)
SECONDS = st.floats(0.001, 1_000)


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


@given(st.lists(st.sampled_from([1, 1_000, 99_999, 400_000, MAX_BATCH_BYTES]), max_size=40))
def test_batches_are_as_large_as_sqs_takes_by_messages_and_bytes(
    sizes: list[int],
) -> None:
    sqs = MemorySQS()
    outgoing = [OutgoingMessage(str(number), f"{number:02}".ljust(size, "x")) for number, size in enumerate(sizes)]
    assert sqs.queue().send(outgoing) == []
    assert sqs.bodies == [message.body for message in outgoing]
    batches = [[len(body) for body in call] for call in sqs.called("send")]
    assert all(len(batch) <= BATCH and sum(batch) <= MAX_BATCH_BYTES for batch in batches)
    for batch, following in pairwise(batches):
        assert len(batch) == BATCH or sum(batch) + following[0] > MAX_BATCH_BYTES


def test_bytes_are_counted_and_not_characters() -> None:
    sqs = MemorySQS()
    sqs.queue().send([OutgoingMessage(str(number), "é" * 300_000) for number in range(2)])
    assert [len(call) for call in sqs.called("send")] == [1, 1]


@pytest.mark.parametrize("fifo", [False, True])
def test_only_a_standard_queue_delays_a_message_and_knows_its_group(fifo: bool) -> None:
    sqs = MemorySQS(fifo=fifo)
    sqs.queue().send([OutgoingMessage("1", "now"), OutgoingMessage("2", "later", "user", delay_seconds=7)])
    assert [message.visible_at for message in sqs.messages] == [0, 0 if fifo else 7]
    assert [message.group == "user" for message in sqs.messages] == [False, not fifo]


def items(count: int) -> list[dict[str, str | int]]:
    return [{"pk": "p", "sk": f"{number:03}", "n": number} for number in range(count)]


def test_a_table_that_stays_busy_is_given_up_with_its_name() -> None:
    slept = list[float]()
    table = MemoryTable(leave=lambda entries: entries - 1, sleep=slept.append)
    with pytest.raises(TableBusyError, match="'memory' left 17 items after 8 attempts"):
        table.put_all(items(25))
    assert len(table.items) == BATCH_ATTEMPTS
    with pytest.raises(TableBusyError, match="'memory' left 17 keys unread after 8 attempts"):
        table.get_all([("p", str(number)) for number in range(25)])
    assert 0 < max(slept) <= 5


def test_other_refusals_than_a_failed_condition_pass_through() -> None:
    def refuse(operation: str, _effect: Callable[[], Any]) -> Any:
        raise refusal("AccessDeniedException", operation)

    with pytest.raises(ClientError, match="AccessDenied"):
        MemoryTable(refuse).put_if({"pk": "a", "sk": "b"}, "attribute_not_exists( #pk )")


def test_items_of_a_batch_that_fails_are_returned_with_its_error() -> None:
    calls = count(1)

    def refuse_second(operation: str, effect: Callable[[], Any]) -> Any:
        if next(calls) == 2:
            raise refusal("ValidationException", operation)
        return effect()

    left = MemoryTable(refuse_second).put_each(items(60))
    assert [item["n"] for item, _ in left] == list(range(25, 50))
    assert all("ValidationException" in str(error) for _, error in left)


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
