"""The cost report by API and CSV: right sums, a user's own jobs only, bounded, and safe to open."""

import csv
import io
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from html import unescape

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from core.cost import WHOLE_IMAGE
from core.fleet.costs import CostRow, CostStore
from core.fleet.models import BillingPeriod, FleetDay
from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from tests.conftest import ConfigMaker
from tests.support.autoscaler import PRICES, fleet_snapshot
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.people import SignInSite, sign_in_site
from web_tier.features.costs import report as costs_module
from web_tier.features.costs.report import CSV_HEADER, NOT_ATTRIBUTED, CostReports, Grouping

TODAY = datetime.now(UTC).date()
"""The day on which the tests began; requests name it, since the next one may begin before they end."""
YESTERDAY = TODAY - timedelta(days=1)
JOBS = sorted(new_id() for _ in range(3))


def period(number: int, images: int, cost: float, saved: float = 0.0, *, is_open: bool = False) -> BillingPeriod:
    return BillingPeriod(
        number=number, images=images, billed_seconds=1_000 * cost, cost=cost, saved=saved, is_open=is_open
    )


def row(owner: str, job: int, number: int, images: int, day: date = TODAY, model: str = "demo") -> CostRow:
    return CostRow(day, owner, JOBS[job], number, model, f"{model}-digest", 7, images)


def store_costs(
    store: JobStore, rows: Sequence[CostRow], periods: Sequence[BillingPeriod], days: Sequence[FleetDay] = ()
) -> None:
    """Let controllers have stored these; the last period is the current one."""
    fleet = FleetStore(store.table)
    CostStore(store.table).put_rows(rows)
    for each in periods[:-1]:
        fleet.put_run(each)
    for day in days:
        if day.day != TODAY:
            fleet.put_day(day)
    today = next((day for day in days if day.day == TODAY), None)
    fleet.put_snapshot(fleet_snapshot(datetime.now(UTC), run=periods[-1] if periods else None, today=today))


@pytest.fixture
def used(store: JobStore) -> JobStore:
    """Two users with three jobs, one of which was deleted, on two days."""
    for job, owner, name in ((0, "ann", "=HYPERLINK(evil)"), (1, "bob", "<b>lorry</b>")):
        store.create(Job(JOBS[job], name, datetime.now(UTC), owner=owner))
    rows = [
        row("ann", 0, 1, 5, day=YESTERDAY),
        row("ann", 0, 2, 60),
        row("bob", 1, 2, 40),
        row("bob", 1, 3, 10, model="resnet50"),
        row("ann", 2, 3, 90),
    ]
    periods = [period(1, 5, 0.5), period(2, 100, 1.0, 0.4), period(3, 100, 2.0, 0.0, is_open=True)]
    days = [FleetDay(day=TODAY, images=200, billed_seconds=3_500, cost=3.5, saved=0.5)]
    days.append(FleetDay(day=YESTERDAY, images=5, billed_seconds=500, cost=0.5))
    store_costs(store, rows, periods, days)
    return store


def reports(store: JobStore, owner: str | None = None) -> CostReports:
    return CostReports(FleetStore(store.table), store, PRICES, owner)


def test_an_operators_lines_and_what_is_not_attributed_are_the_bill_of_the_fleet(used: JobStore) -> None:
    report = reports(used).report(TODAY, 1, "job")
    assert [(line.job_id, line.images) for line in report.lines] == [(JOBS[2], 90), (JOBS[0], 60), (JOBS[1], 50)]
    assert [line.bill.dollars for line in report.lines] == pytest.approx([1.8, 0.6, 0.6])
    assert [line.bill.saved for line in report.lines] == pytest.approx([0.0, 0.24, 0.16])
    assert report.rest is not None
    assert (report.rest.bill.dollars, report.rest.bill.saved) == pytest.approx((0.5, 0.1))
    assert report.total.bill.dollars == pytest.approx(3.5)
    assert report.lines[0].requests == pytest.approx((WHOLE_IMAGE * 90).dollars(PRICES))


@pytest.mark.parametrize(
    ("by", "days", "lines"),
    [
        ("user", 1, [("ann", 150, 2.4), ("bob", 50, 0.6)]),
        ("user", 7, [("ann", 155, 2.9), ("bob", 50, 0.6)]),
        ("model", 1, [("demo", 190, 2.8), ("resnet50", 10, 0.2)]),
        ("day", 7, [(TODAY, 200, 3.5), (YESTERDAY, 5, 0.5)]),
    ],
)
def test_costs_are_grouped_by_user_model_and_day(
    used: JobStore, by: Grouping, days: int, lines: list[tuple[object, int, float]]
) -> None:
    report = reports(used).report(TODAY, days, by)
    assert [(line.owner or line.model or line.day, line.images) for line in report.lines] == [
        (name, images) for name, images, _ in lines
    ]
    assert [line.bill.dollars for line in report.lines] == pytest.approx([cost for _, _, cost in lines])


@pytest.fixture
def site(make_config: ConfigMaker, store: JobStore) -> SignInSite:
    return sign_in_site(make_config(auth={"mode": "cognito"}), store)


def test_by_the_api_operators_see_all_users_by_their_address_and_a_user_sees_one(
    site: SignInSite, used: JobStore
) -> None:
    api = site.anonymous()
    bob = site.with_token("bob", "read")
    site.operator()
    ops, without_operate = site.with_token("ops", "read", "operate"), site.with_token("ops", "read")
    for query in ("by=job", "by=user", "by=job&days=31", "by=model", "by=day"):
        answer = api.get(f"/api/v1/costs?day={TODAY}&{query}", headers=bob)
        body = answer.get_json()
        assert (answer.status_code, body["total"]["images"], body["not_attributed"]) == (200, 50, None), query
        assert JOBS[0] not in answer.text
        assert "ann" not in answer.text
    users = api.get(f"/api/v1/costs?day={TODAY}&by=user", headers=ops).get_json()
    assert [each["user"] for each in users["costs"]] == ["ann", "bob@example.org"], "ann's account is gone"
    assert users["not_attributed"]["user"] == NOT_ATTRIBUTED
    assert api.get("/api/v1/costs", headers=without_operate).get_json()["costs"] == []
    assert api.get("/api/v1/costs").status_code == 401


def test_the_api_names_jobs_and_counts_the_omitted_rows(client: FlaskClient, used: JobStore) -> None:
    body = client.get(f"/api/v1/costs?day={TODAY}&limit=2").get_json()
    assert [(each["job_id"], each["job_name"]) for each in body["costs"]] == [
        (JOBS[2], None),
        (JOBS[0], "=HYPERLINK(evil)"),
    ]
    assert (body["omitted"], body["is_complete"], body["first_day"]) == (1, True, TODAY.isoformat())
    assert body["total"]["instances_dollars"] == pytest.approx(3.5)
    assert body["not_attributed"]["instances_dollars"] == pytest.approx(0.5)
    assert body["costs"][1]["spot_saved_dollars"] == pytest.approx(0.24)


@pytest.mark.parametrize("query", ["by=owner", "days=0", "days=32", "day=yesterday", "day=0001-01-01", "limit=0"])
def test_a_wrong_query_gets_400(client: FlaskClient, query: str) -> None:
    assert client.get(f"/api/v1/costs?{query}").status_code == 400


def test_the_csv_is_safe_to_open_and_ends_with_what_is_not_attributed(client: FlaskClient, used: JobStore) -> None:
    answer = client.get(f"/api/v1/costs.csv?day={TODAY}")
    assert answer.headers["Content-Disposition"] == (
        f"attachment; filename=costs-{TODAY.isoformat()}-{TODAY.isoformat()}-by-job.csv"
    )
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert tuple(rows[0]) == CSV_HEADER
    assert [each["job_name"] for each in rows] == ["", "'=HYPERLINK(evil)", "<b>lorry</b>", ""]
    assert [each["user"] for each in rows] == ["ann", "ann", "bob", NOT_ATTRIBUTED]
    assert sum(float(each["instances_dollars"]) for each in rows) == pytest.approx(3.5)
    by_model = client.get(f"/api/v1/costs.csv?day={TODAY}&bom=true&by=model")
    assert by_model.text.startswith("\ufeffday,user,")
    assert ",2.80000000," in by_model.text


def test_the_fleet_page_links_to_the_csv_of_the_longest_report(client: FlaskClient, used: JobStore) -> None:
    (link,) = re.findall(r'href="(/api/v1/costs[^"]*)" download', client.get("/fleet").text)
    rows = list(csv.DictReader(io.StringIO(client.get(unescape(link)).data.decode("utf-8-sig"))))
    assert sum(int(row["images"]) for row in rows) == 205


def test_images_of_a_forgotten_billing_period_are_counted_and_have_no_cost(store: JobStore) -> None:
    store_costs(store, [row("ann", 0, 1, 60), row("ann", 0, 10_001, 40)], [period(10_001, 40, 1.0)])
    report = reports(store).report(TODAY, 1, "job")
    assert (report.unknown_images, report.lines[0].images, report.lines[0].bill.dollars) == (60, 100, 1.0)


def test_a_report_reads_a_bounded_number_of_rows_and_says_that_there_are_more(
    client: FlaskClient, used: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs_module, "MAX_REPORT_ROWS", 3)
    body = client.get("/api/v1/costs?days=7").get_json()
    assert (body["is_complete"], sum(each["images"] for each in body["costs"])) == (False, 190)


_rows = st.lists(
    st.tuples(st.sampled_from(("", "a", "b")), st.integers(0, 2), st.integers(1, 4), st.integers(1, 50)), max_size=12
)


@given(_rows, st.floats(0, 5), st.sampled_from(("user", "job", "model")))
def test_the_parts_of_a_report_add_up_to_the_bill_in_every_grouping(
    drawn: list[tuple[str, int, int, int]], idle: float, by: Grouping
) -> None:
    store, answered = JobStore(MemoryTable()), dict.fromkeys(range(1, 5), 0)
    rows = {}
    for owner, job, number, images in drawn:
        rows[(owner, job, number)] = row(owner, job, number, images)
    for (_, _, number), each in rows.items():
        answered[number] += each.images
    periods = [period(number, images, 0.01 * images, 0.002 * images) for number, images in answered.items()]
    cost, images = sum(each.cost for each in periods) + idle, sum(answered.values())
    store_costs(store, list(rows.values()), periods, [FleetDay(day=TODAY, images=images, cost=cost)])
    report = reports(store).report(TODAY, 1, by)
    assert report.rest is not None
    assert report.rest.bill.dollars == pytest.approx(idle, abs=1e-9)
    assert report.total.bill.dollars == pytest.approx(cost)
    assert sum(line.images for line in report.lines) == images == report.total.images
    own = [reports(store, owner).report(TODAY, 1, by).total.bill.dollars for owner in ("", "a", "b")]
    assert sum(own) == pytest.approx(cost - idle)
