"""Queries over the wire."""

from typing import Any

import pytest

from services.table import PAGE, Table

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(("limit", "asked"), [(None, [PAGE, PAGE]), (3, [3]), (PAGE + 1, [PAGE, PAGE])])
def test_no_call_of_a_query_reads_more_than_a_page_or_than_is_wanted(
    table: Table, limit: int | None, asked: list[int]
) -> None:
    table.put_all([{"pk": "p", "sk": f"{number:04}"} for number in range(PAGE + 10)])
    limits: list[int] = []

    def note(params: dict[str, Any], **_: object) -> None:
        limits.append(params["Limit"])

    events = table.client.meta.events
    events.register("provide-client-params.dynamodb.Query", note)
    try:
        found = [item["sk"] for item in table.query("p", "0", "9", limit=limit)]
    finally:
        events.unregister("provide-client-params.dynamodb.Query", note)
    assert found == [f"{number:04}" for number in range(limit or PAGE + 10)]
    assert limits == asked
