"""The rows of the cost report: answers are counted by day, job and model, with one writer and a bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import cast

import pytest

from core.fleet.costs import COSTS, CostStore
from core.fleet.store import KEPT_DAYS
from core.ids import ImageRef, new_id
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Model
from services.lease import Tenure
from services.table import EXPIRES_AT, Item, TableBusyError
from tests.support.jobs import MODEL, NOW, done, failed, record
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.result_path import ResultPath, Statistics
from web_tier.autoscaler.billing import CostAttribution
from web_tier.features.costs.rows import WRITE_SECONDS, CostRowWriter

DAY, NEXT_DAY = date(2026, 3, 1), date(2026, 3, 2)
JOB = Job(new_id(), "signs", NOW, owner="ann")


def results(count: int, model: Model | None = MODEL) -> list[ClassificationResult]:
    return [done(record(JOB)).model_copy(update={"model": model}) for _ in range(count)]


@dataclass
class Desk:
    """A writer over a table in memory."""

    table: MemoryTable = field(default_factory=MemoryTable)
    token: int = 7
    max_rows: int = 100
    is_active: bool = True
    day_of: Callable[[int], date | None] = lambda period: DAY if period < 10 else NEXT_DAY

    def __post_init__(self) -> None:
        self.store = CostStore(self.table)
        tenure = Tenure(token=self.token, active=lambda: self.is_active)
        self.writer = CostRowWriter(self.store, tenure, cast(CostAttribution, self), self.max_rows)

    def images(self, day: date = DAY, owner: str | None = None) -> dict[tuple[str, str, int], int]:
        """Return the stored images by user, model and billing period."""
        found: dict[tuple[str, str, int], int] = {}
        for row in self.store.rows(day, owner):
            key = (row.owner, row.model, row.period)
            found[key] = found.get(key, 0) + row.images
        return found


def test_answers_add_up_by_billing_period_and_model_and_are_stored_as_absolute_sums() -> None:
    desk, other = Desk(), Model(name="resnet50", digest="sha256:0011223344556677889900")
    desk.writer.add("ann", JOB.job_id, 3, results(4))
    assert (desk.writer.tick(), desk.images()) == (WRITE_SECONDS, {("ann", "demo", 3): 4})
    desk.writer.add("ann", JOB.job_id, 3, [*results(2), *results(5, other), *results(1, None)])
    desk.writer.add("ann", JOB.job_id, 4, results(1))
    desk.writer.tick()
    desk.writer.tick()
    assert desk.images() == {
        ("ann", "demo", 3): 6,
        ("ann", "resnet50", 3): 5,
        ("ann", "", 3): 1,
        ("ann", "demo", 4): 1,
    }
    assert {row.digest for row in desk.store.rows(DAY)} == {"4b1e8899", "0011223344556677", ""}


def test_rows_belong_to_the_day_of_their_period_and_expire_with_it() -> None:
    desk = Desk()
    desk.writer.add("ann", JOB.job_id, 9, results(1))
    desk.writer.add("ann", JOB.job_id, 10, results(2))
    desk.writer.tick()
    assert (desk.images(DAY), desk.images(NEXT_DAY)) == ({("ann", "demo", 9): 1}, {("ann", "demo", 10): 2})
    [item] = desk.table.query(f"{COSTS}{DAY.isoformat()}", "#", "~")
    assert int(item[EXPIRES_AT]) == int((datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=KEPT_DAYS)).timestamp())


def test_a_write_that_fails_is_repeated_and_one_that_may_not_act_writes_nothing() -> None:
    desk = Desk()
    desk.writer.add("ann", JOB.job_id, 3, results(4))
    desk.is_active = False
    desk.writer.tick()
    assert desk.images() == {}
    desk.is_active, put = True, desk.table.put_all

    def busy(items: Sequence[Item]) -> None:
        raise TableBusyError("busy")

    desk.writer.add("ann", JOB.job_id, 3, results(1))
    desk.table.put_all = busy  # type: ignore[method-assign]
    with pytest.raises(TableBusyError):
        desk.writer.tick()
    desk.table.put_all = put  # type: ignore[method-assign]
    desk.writer.tick()
    assert desk.images() == {("ann", "demo", 3): 5}


def test_a_late_answer_of_the_period_before_is_added_to_those_that_are_stored() -> None:
    desk = Desk()
    desk.writer.add("ann", JOB.job_id, 3, results(4))
    desk.writer.tick()
    desk.writer.add("ann", JOB.job_id, 4, results(1))
    desk.writer.tick()
    desk.writer.add("ann", JOB.job_id, 3, results(1))
    desk.writer.tick()
    assert desk.images() == {("ann", "demo", 3): 5, ("ann", "demo", 4): 1}


def test_rows_of_a_day_and_what_is_remembered_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(max_rows=3)
    for period in (3, 3, 4, 5, 10):
        desk.writer.add("ann", new_id(), period, results(1))
        desk.writer.tick()
    assert (len(desk.store.rows(DAY)), len(desk.store.rows(NEXT_DAY))) == (3, 1)
    [warning] = caplog.records
    assert warning.message == "the cost report of a day is full: further jobs are not in it"
    for period in range(11, 40):
        desk.writer.add("ann", new_id(), period, results(1))
        desk.writer.tick()
    assert len(desk.writer._images) <= 3


def test_each_answer_is_reported_once_with_the_owner_and_no_cancelled_image() -> None:
    store, statistics = JobStore(MemoryTable()), Statistics(period=5)
    store.create(JOB)
    images = [ImageRecord(ImageRef(JOB.job_id, new_id()), "a.jpg", "k", 1, NOW, owner="ann") for _ in range(3)]
    store.record_images(images, NOW)
    results = ResultPath(store, statistics=statistics).results
    first, second, third = images
    cancelled = failed(third, code="cancelled")
    results.record([done(first), done(second), cancelled])
    results.record([done(first)])
    assert statistics.answers == [("ann", JOB.job_id, 5, 2)]
