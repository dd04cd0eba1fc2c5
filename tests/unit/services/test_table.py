"""Batches that DynamoDB takes or reads only in part."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from services.table import BATCH_ATTEMPTS, Table, TableBusyError


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


def test_items_are_put_in_batches_of_twenty_five() -> None:
    client = FakeDynamoDB()
    Table(cast(Any, client), "jobs").put_all(items(60))
    assert client.calls == 3
    assert [each["PutRequest"]["Item"]["n"] for each in client.written] == [{"N": str(n)} for n in range(60)]


def test_what_a_batch_left_over_is_put_after_a_pause() -> None:
    client, slept = FakeDynamoDB([10, 0, 3]), cast(list[float], [])
    Table(cast(Any, client), "jobs", sleep=slept.append).put_all(items(25))
    assert len(client.written) == 25
    assert len(slept) == 3


def test_a_table_that_stays_busy_is_given_up_with_its_name() -> None:
    client, slept = FakeDynamoDB([0] * 100), cast(list[float], [])
    with pytest.raises(TableBusyError, match="'jobs' left 3 items after 8 tries"):
        Table(cast(Any, client), "jobs", sleep=slept.append).put_all(items(3))
    assert client.calls == BATCH_ATTEMPTS
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


def test_items_are_read_a_hundred_at_a_time_and_only_those_that_exist() -> None:
    client = FakeReads(frozenset({"3", "7", "249"}))
    found = Table(cast(Any, client), "jobs").get_all([("p", str(number)) for number in range(250)])
    assert [item["sk"] for item in found] == ["3", "7", "249"]
    assert client.asked == [100, 100, 50]


def test_what_a_batch_left_unread_is_read_after_a_pause() -> None:
    client, slept = FakeReads(frozenset("0123456789"), [4, 0, 3]), cast(list[float], [])
    found = Table(cast(Any, client), "jobs", sleep=slept.append).get_all([("p", str(n)) for n in range(10)])
    assert (len(found), client.asked, len(slept)) == (10, [10, 6, 6, 3], 3)


def test_keys_that_stay_unread_are_given_up_with_the_name_of_the_table() -> None:
    client = FakeReads(frozenset(), [0] * 100)
    with pytest.raises(TableBusyError, match="'jobs' left 3 keys unread after 8 tries"):
        Table(cast(Any, client), "jobs", sleep=lambda seconds: None).get_all([("p", str(n)) for n in range(3)])


def test_nothing_is_asked_for_no_keys() -> None:
    assert Table(cast(Any, FakeReads(frozenset(), [])), "jobs").get_all([]) == []
