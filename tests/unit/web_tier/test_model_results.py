"""The counts of results by model: one writer, continued at a takeover, begun anew by a roll-out, and bounded."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from ulid import ULID

from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.models import Job
from core.messages import CANCELLED, ClassificationResult, Model
from core.model_catalog import CatalogStore
from core.model_results import MAX_MODELS
from services.lease import Tenure
from services.table import TableBusyError
from tests.support.clocks import PlayedClock
from tests.support.jobs import MODEL, NOW, client_error, done, failed, record
from tests.support.memory_aws.calls import failing_writes
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.features.models.results import MAX_PENDING, WRITE_SECONDS, ModelResultsWriter

JOB = Job(new_id(), "signs", NOW)
EARLY = NOW - timedelta(days=30)
"""Before the jobs of these tests."""
CANARY = Model(name="canary", digest="c" * 64)


def results(count: int, model: Model | None = MODEL, job: Job = JOB) -> list[ClassificationResult]:
    return [done(record(job)).model_copy(update={"model": model}) for _ in range(count)]


@dataclass
class Counting:
    """A controller's tenure over a table in memory."""

    table: MemoryTable = field(default_factory=MemoryTable)
    token: int = 7
    is_active: bool = True
    canary_since: datetime | None = None
    at: datetime = NOW

    def __post_init__(self) -> None:
        self.store = FleetStore(self.table)
        tenure = Tenure(token=self.token, active=lambda: self.is_active)
        self.writer = ModelResultsWriter(
            self.store, tenure, cast(CatalogStore, self), PlayedClock(utc_now=lambda: self.at)
        )

    def find(self) -> "Counting":
        """Return a catalogue that only says since when a share of the new jobs gets another model."""
        return self

    def record(self, found: Sequence[ClassificationResult]) -> None:
        self.writer.add(found)
        assert self.writer.tick() == WRITE_SECONDS

    def stored(self) -> dict[str, int]:
        """Return the stored number of labelled images by the model's name."""
        return {each.name: each.done for each in self.store.model_results().models}


def test_results_are_counted_by_model_without_cancelled_images_and_those_of_no_model() -> None:
    tenure = Counting()
    broken = failed(record(JOB), code="undecodable").model_copy(update={"model": CANARY})
    cancelled = broken.model_copy(update={"error": CANCELLED})
    tenure.record([*results(3), *results(2, CANARY), *results(4, None), broken, cancelled])
    tenure.record(results(1, CANARY))
    assert tenure.stored() == {"demo": 3, "canary": 3}
    assert [each.failed for each in tenure.store.model_results().models] == [0, 1]


def test_nothing_is_written_while_nothing_changes() -> None:
    tenure, writes = Counting(), list[str]()
    tenure.table.call = failing_writes(writes.append)
    tenure.writer.tick()
    tenure.record(results(1))
    for _ in range(3):
        tenure.writer.tick()
    assert writes == ["before", "after"]


def test_the_next_tenure_continues_the_counts_and_the_frozen_one_changes_nothing() -> None:
    frozen = Counting()
    frozen.record([*results(3), *results(2, CANARY)])
    frozen.writer.add(results(1))  # lost: the controller is frozen before it stores it
    successor = Counting(frozen.table, token=8)
    successor.record(results(10, CANARY))
    assert successor.stored() == {"canary": 12, "demo": 3}
    frozen.record(results(5))
    assert successor.stored() == {"canary": 12, "demo": 3}
    successor.record(results(1))
    assert successor.stored() == {"canary": 12, "demo": 4}


def test_a_write_that_fails_is_repeated_and_one_that_may_not_act_writes_nothing() -> None:
    tenure = Counting()
    tenure.is_active = False
    tenure.record(results(4))
    assert tenure.stored() == {}
    tenure.is_active = True

    def fail(when: str) -> None:
        raise client_error(503)

    tenure.table.call, call = failing_writes(fail), tenure.table.call
    with pytest.raises(Exception, match="SomeError"):
        tenure.writer.tick()
    tenure.table.call = call
    tenure.writer.tick()
    assert tenure.stored() == {"demo": 4}


def test_counts_that_cannot_be_read_at_a_takeover_are_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = Counting()
    earlier.record(results(3))
    successor = Counting(earlier.table, token=8)

    def busy(_store: FleetStore) -> None:
        raise TableBusyError("busy")

    successor.writer.add(results(2))
    with monkeypatch.context() as patched:
        patched.setattr(FleetStore, "model_results", busy)
        with pytest.raises(TableBusyError):
            successor.writer.tick()
    successor.writer.tick()
    assert successor.stored() == {"demo": 5}


def test_a_roll_out_begins_new_counts_of_later_jobs_also_after_a_takeover() -> None:
    tenure = Counting()
    tenure.record(results(9))
    tenure.canary_since = EARLY + timedelta(hours=1)
    before = Job(str(ULID.from_datetime(EARLY + timedelta(minutes=59))), "before", EARLY)
    tenure.record([*results(2, job=before), *results(3), *results(1, CANARY)])
    assert tenure.stored() == {"demo": 3, "canary": 1}
    assert tenure.store.model_results().since == tenure.canary_since
    successor = Counting(tenure.table, token=8, canary_since=tenure.canary_since)
    successor.record([*results(4, CANARY), *results(5, job=before)])
    assert successor.stored() == {"canary": 5, "demo": 3}
    later = Counting(tenure.table, token=9, canary_since=EARLY + timedelta(hours=2))
    later.record(results(1))
    assert later.stored() == {"demo": 1}


def test_no_counts_of_the_time_before_are_left_when_a_roll_out_has_no_results_yet() -> None:
    tenure = Counting()
    tenure.record(results(9))
    tenure.canary_since = datetime.now(UTC) + timedelta(hours=1)
    tenure.record(results(2))
    assert tenure.stored() == {}


def test_results_that_wait_for_a_write_are_bounded_and_counted() -> None:
    tenure = Counting()
    for found in (results(MAX_PENDING - 10), results(20), results(5)):
        tenure.writer.add(found)
    assert len(tenure.writer._pending) == 5
    tenure.writer.tick()
    assert tenure.stored() == {"demo": MAX_PENDING + 15}


def test_the_counts_go_on_when_the_roll_out_ends() -> None:
    tenure = Counting(canary_since=EARLY)
    tenure.record([*results(3), *results(1, CANARY)])
    tenure.canary_since = None
    tenure.record(results(1))
    successor = Counting(tenure.table, token=8)
    successor.record(results(1))
    assert successor.stored() == {"demo": 5, "canary": 1}
    assert successor.store.model_results().since == EARLY


def test_models_are_bounded_and_those_used_last_stay() -> None:
    tenure = Counting()
    for number in range(MAX_MODELS + 5):
        tenure.at += timedelta(seconds=1)
        tenure.record([*results(1), *results(1, Model(name=f"m{number}", digest=f"d{number}"))])
    assert len(tenure.stored()) == MAX_MODELS
    assert tenure.stored()["demo"] == MAX_MODELS + 5
    assert set(tenure.stored()) == {"demo", *(f"m{number}" for number in range(6, MAX_MODELS + 5))}
