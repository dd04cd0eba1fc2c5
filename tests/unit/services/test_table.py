"""Batch writes that DynamoDB takes only in part."""

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
