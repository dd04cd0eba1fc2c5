"""What AWS bills for calls, what follows for an image, and the tables of the documentation."""

import re
from pathlib import Path

import pytest

from benchmarks.billed_calls import EMPTY, Billed, s3_requests, sqs_requests, table_requests
from benchmarks.cost import CALLS_OF, COUNTS, PART_OF, WAYS, WHAT_TOTALS_ARE, ImageCost, JobCalls
from benchmarks.report import DocumentPart
from core.cost import Requests
from tests.support.autoscaler import PRICES

KB = 1024


@pytest.mark.parametrize("operation", ["PUT", "COPY", "POST", "LIST", "GET", "HEAD", "DELETE"])
def test_s3_bills_two_kinds_of_requests_and_no_deletes(operation: str) -> None:
    """https://aws.amazon.com/s3/pricing/ has a price for 1,000 of each kind."""
    expected = {"GET": 0.0004, "HEAD": 0.0004, "DELETE": 0.0}
    thousand = (s3_requests(operation) * 1_000).dollars(PRICES)
    assert thousand == pytest.approx(expected.get(operation, 0.005))


@pytest.mark.parametrize(
    ("sizes", "requests"), [((), 1), ((1,), 1), ((64 * KB,), 1), ((256 * KB,), 4), ((32 * KB,) * 10, 5)]
)
def test_sqs_bills_a_request_for_each_64_kb_of_a_call(sizes: tuple[int, ...], requests: int) -> None:
    """A call with 256 KB is billed as four requests: https://aws.amazon.com/sqs/pricing/."""
    bodies = ["x" * size for size in sizes]
    assert sqs_requests(bodies, has_group=False) == Requests(sqs=requests)
    assert sqs_requests(bodies, has_group=True) == Requests(sqs=requests, sqs_fair=requests)


def test_dynamodb_bills_the_units_that_it_answers_and_those_of_a_refused_write() -> None:
    tables = [{"TableName": "a", "CapacityUnits": 2.0}, {"TableName": "b", "CapacityUnits": 0.5}]
    assert table_requests("Query", {}, {"ConsumedCapacity": tables[0]}) == Requests(table_read=2)
    assert table_requests("BatchWriteItem", {}, {"ConsumedCapacity": tables}) == Requests(table_write=2.5)
    assert table_requests("PutItem", {}, {"__type": "refused"}) == Requests(table_write=1)
    refused = table_requests("TransactWriteItems", {"TransactItems": [{}, {}, {}]}, {"__type": "refused"})
    assert refused == Requests(table_write=6)


def test_an_image_costs_what_a_larger_job_costs_more_without_polls_and_calls_by_the_clock() -> None:
    def billed(calls: float) -> Billed:
        return Billed(calls, Requests(s3_put=calls))

    put, lease, poll = ("web", "s3 PUT"), ("controller", "s3 POST"), ("worker", f"sqs {EMPTY}")
    smaller = JobCalls({put: billed(3 + 10), lease: billed(20)}, seconds=10, shown=0.5)
    larger = JobCalls({put: billed(3 + 30), lease: billed(60), poll: billed(9)}, seconds=30, shown=0.9)
    cost = ImageCost.of_difference(smaller, larger, 20, {lease: billed(2), poll: billed(1)})
    assert cost.calls == {put: billed(1), lease: billed(0)}
    assert cost.million_dollars(PRICES) == pytest.approx(5.0)
    assert cost.shown == pytest.approx(0.02)


def test_the_documents_have_the_tables_of_the_benchmark() -> None:
    page, heading = PART_OF
    text = page.read_text(encoding="utf-8")
    [section] = re.findall(rf"\n### {heading}\n\n(.*?)\n\n#", text, re.DOTALL)
    texts, tables = section.split("\n\n")[::2], section.split("\n\n")[1::2]
    totals, calls = (table.splitlines() for table in tables)
    assert texts == [WHAT_TOTALS_ARE, CALLS_OF.format(min(COUNTS))]
    sizes = " | ".join(f"{size:g} MB" for size in COUNTS)
    assert (totals[0], calls[0]) == (f"| US dollars | {sizes} |", f"| calls: US dollars | {' | '.join(WAYS)} |")
    cells = [row.strip("|").split("|") for row in totals[2:]]
    assert [way.strip() for way, *_ in cells] == list(WAYS)
    assert all(float(dollars) > 0 for _, *row in cells for dollars in row)
    for row in calls[2:]:
        assert re.fullmatch(r"\| (web|controller|worker|client), \w+ \w+ \|( ([\d,]+: \d+\.\d\d)? \|)+", row), row


def test_a_section_of_a_page_is_replaced_and_a_missing_one_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n### Table\n\nold\n\nold\n\n## B\n\nkept\n")
    DocumentPart(page, "Table", r"new \1").write()
    assert page.read_text() == "# A\n\n### Table\n\nnew \\1\n\n## B\n\nkept\n"
    with pytest.raises(ValueError, match="no section 'Tables' of the level ###: add its heading"):
        DocumentPart(page, "Tables", "").write()
